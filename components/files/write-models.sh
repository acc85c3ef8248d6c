#!/bin/sh
# Fills the model store: write-models.sh PLAN
#
# PLAN has a line for each model, fields parted by one space; paths are below OLLAMA_MODELS/manifests:
#   pull    NAME  SOURCE  SOURCE_PATH  NAME_PATH  DIGEST|-  [OPTIONS]   pull SOURCE, compare its digest, and offer it as NAME
#   create  NAME  MODELFILE  NAME_PATH                                 create NAME from a Modelfile
#   prune                                                              remove what was pulled once and is not in PLAN any more
# Every line is tried, so that one update reports all bad models; the exit code is 1 if any failed, and the last lines say which and why.
#
# With MODE=check nothing changes that serves: a model that the store has not, or not as locked, is a failure; sources are pulled and compared, and
# a difference is an exit code of 3.
set -eu

plan=$1
mode=${MODE:-write}
tries=${TRIES:-5}               # per model; with the back-off below, about 75 s of registry trouble
backoff=${BACKOFF:-5}           # seconds before the second try, doubled each time
start_limit=${START_LIMIT:-120} # seconds for the local server to answer
lock_limit=${LOCK_LIMIT:-3600}  # seconds to wait for another writer: an hour of downloads
termination_log=${TERMINATION_LOG:-/dev/termination-log}
store=$OLLAMA_MODELS
stage=$HOME/stage
unwritten="its manifest could not be written to $OLLAMA_MODELS: see the lines above for whether it is full or read-only"

report() { # what the Job's status, and so the update's error, will show
  printf '%s\n' "$1" >&2
  printf '%s\n' "$1" >>"$termination_log" || true
}

# One writer at a time: two would race for the same partial downloads.
take_lock() {
  exec 9>"$store/.writer.lock"
  flock -n 9 && return 0
  echo "another writer is at work, waiting up to $lock_limit s for it"
  flock -w "$lock_limit" 9 || { report "another writer still holds $store/.writer.lock after $lock_limit s"; exit 1; }
}

# Ollama works on a stage: its blobs are the store's, its manifests a copy. What serves is changed by `offer` only, whole and verified.
make_stage() {
  rm -rf "$stage"
  mkdir -p "$stage"
  ln -s "$store/blobs" "$stage/blobs"
  cp -R "$store/manifests" "$stage/manifests"
}

start_server() {
  OLLAMA_MODELS=$stage ollama serve 9>&- &
  server=$!
  trap stop EXIT
  trap 'exit 143' TERM INT
  waited=0
  until ollama list >/dev/null 2>&1; do
    if ! kill -0 "$server" 2>/dev/null; then
      report "ollama serve ended before it answered: see the lines above"
      exit 1
    fi
    if [ "$waited" -ge "$start_limit" ]; then
      report "ollama serve did not answer within $start_limit s"
      exit 1
    fi
    sleep 1
    waited=$((waited + 1))
  done
}

stop() {
  kill "$server" 2>/dev/null || true
  wait "$server" 2>/dev/null || true
}

# heartbeat NAME: a line every 30 s, since the client's own progress is drawn for a terminal.
heartbeat() {
  elapsed=0
  while sleep 30 >/dev/null 2>&1; do
    elapsed=$((elapsed + 30))
    echo "model $1: $elapsed s, the store holds $(du -sh "$store" | cut -f 1)"
  done
}

# attempt NAME COMMAND...: runs COMMAND up to $tries times; leaves in $reason why the last one failed.
attempt() {
  name=$1
  shift
  try=1
  pause=$backoff
  while :; do
    heartbeat "$name" 9>&- &
    beat=$!
    code=0
    said=$("$@" 2>&1 </dev/null 9>&-) || code=$?
    # KILL, not TERM: a shell that has just forked still has our trap, and would take a TERM for its own and live on.
    kill -9 "$beat" 2>/dev/null || true
    wait "$beat" 2>/dev/null || true
    [ "$code" -ne 0 ] || return 0
    reason=$(printf '%s' "$said" | tr '\r' '\n' | grep -v '^[[:space:]]*$' | tail -n 1)
    if [ "$try" -ge "$tries" ]; then
      reason="\"$*\" failed $tries times, at last with: $reason"
      return 1
    fi
    echo "model $name: try $try of $tries failed ($reason), again in $pause s" >&2
    sleep "$pause"
    try=$((try + 1))
    pause=$((pause * 2))
  done
}

# digest_of MANIFEST: its digest, as `ollama list` shows it; nothing if there is none.
digest_of() {
  [ ! -f "$1" ] || echo "sha256:$(sha256sum "$1" | cut -d ' ' -f 1)"
}

# blobs_of MANIFEST: the file names of the blobs that it names.
blobs_of() {
  grep -o '"digest":"sha256:[0-9a-f]*"' "$1" | cut -d '"' -f 4 | tr ':' '-' | sort -u
}

# whole MANIFEST: are all its blobs in the store? Ollama gives a blob its name only when it is complete and verified.
whole() {
  [ -f "$1" ] || return 1
  needed=$(blobs_of "$1")
  [ -n "$needed" ] || return 1 # a manifest that a crash left empty
  for blob in $needed; do
    [ -f "$store/blobs/$blob" ] || return 1
  done
}

# replace FOLDER PATH: standard input becomes the file PATH in FOLDER in one step; a server that reads it sees the former one or the new one.
# It is written outside the manifests: there, what an interrupted writer leaves would be listed as a model.
replace() {
  new=$1/.new
  file=$1/$2
  mkdir -p "${file%/*}" && cat >"$new" && mv -f "$new" "$file"
}

# offer FROM_PATH NAME_PATH: what the stage has as FROM_PATH is offered as NAME_PATH, in the stage (for a Modelfile's FROM) and in the store.
offer() {
  { [ "$1" = "$2" ] || replace "$stage" "manifests/$2" <"$stage/manifests/$1"; } &&
    { cmp -s "$stage/manifests/$2" "$store/manifests/$2" || replace "$store" "manifests/$2" <"$stage/manifests/$2"; }
}

# fail NAME NAME_PATH REASON reports it, and takes from the stage what was not verified: a Modelfile's FROM shall find what the store has. Where
# that is nothing, an empty manifest makes FROM fail; for a missing one Ollama would turn to its own library, whatever the plan says.
fail() {
  report "model $1: $3"
  { cat "$store/manifests/$2" 2>/dev/null || true; } | replace "$stage" "manifests/$2"
  return 1
}

# note_pulled NAME_PATH keeps the list of the manifests that the writer pulled; only these may ever be pruned.
note_pulled() {
  { cat "$store/.pulled" 2>/dev/null || true; echo "$1"; } | sort -u | replace "$store" .pulled
}

# note_created NAME_PATH: what was pulled once under this name is not what is there now.
note_created() {
  [ ! -f "$store/.pulled" ] || grep -Fvx -- "$1" "$store/.pulled" | replace "$store" .pulled
}

pull() { # NAME SOURCE SOURCE_PATH NAME_PATH DIGEST [OPTIONS]
  name=$1 source=$2 source_path=$3 name_path=$4 locked=$5
  shift 5
  present=$store/manifests/$name_path
  if [ "$locked" != - ] && [ "$(digest_of "$present")" = "$locked" ] && whole "$present"; then
    echo "model $name: is in place, $locked"
    note_pulled "$name_path"
    return 0
  fi
  if ! attempt "$name" ollama pull "$@" "$source"; then
    if [ "$locked" = - ] && whole "$present"; then
      echo "model $name: $reason; what is in the store stays" >&2
      return 0
    fi
    fail "$name" "$name_path" "$reason"
    return
  fi
  found=$(digest_of "$stage/manifests/$source_path")
  if [ "$locked" != - ] && [ "$found" != "$locked" ]; then
    fail "$name" "$name_path" "the registry has $found, models.lock.yaml says $locked: run \`make lock\` to take the new one, or restore the tag"
    return
  fi
  { offer "$source_path" "$name_path" && note_pulled "$name_path"; } || fail "$name" "$name_path" "$unwritten"
}

create() { # NAME MODELFILE NAME_PATH
  if ! attempt "$1" ollama create "$1" -f "$2"; then
    fail "$1" "$3" "$reason"
    return
  fi
  { offer "$3" "$3" && note_created "$3"; } || fail "$1" "$3" "$unwritten"
}

# stored NAME NAME_PATH DIGEST|-: has the store the model, with all its blobs, as it was locked?
stored() {
  if ! whole "$store/manifests/$2"; then
    report "model $1: is not in the store, or not whole: \`kubectl delete job -l app.kubernetes.io/component=model-writer\` and \`pulumi up --refresh\` put it back"
    return 1
  fi
  here=$(digest_of "$store/manifests/$2")
  if [ "$3" != - ] && [ "$here" != "$3" ]; then
    report "model $1: is $here in the store, models.lock.yaml says $3: somebody else wrote there, or the writer has failed since the lock was changed"
    return 1
  fi
}

check() { # NAME SOURCE SOURCE_PATH NAME_PATH DIGEST [OPTIONS]
  name=$1 source=$2 source_path=$3 name_path=$4 locked=$5
  shift 5
  stored "$name" "$name_path" "$locked" || return 1
  if ! attempt "$name" ollama pull "$@" "$source"; then
    report "model $name: $reason"
    return 1
  fi
  found=$(digest_of "$stage/manifests/$source_path")
  if [ "$locked" = - ]; then
    locked=$(digest_of "$store/manifests/$name_path")
  fi
  if [ "$found" != "$locked" ]; then
    report "drift: $name is $found in the registry, ${locked:-nothing} here: run \`make lock\` and \`pulumi up\` to take it; it is downloaded already"
    drifted=1
  fi
}

# pulled_paths are the NAME_PATHs that the plan pulls.
pulled_paths() {
  grep '^pull ' "$plan" | cut -d ' ' -f 5
}

# prune removes the manifests that were pulled once and are not in the plan, then the blobs that no manifest names.
prune() {
  [ -f "$store/.pulled" ] || return 0
  while read -r path; do
    if ! pulled_paths | grep -Fqx -- "$path"; then
      echo "pruning $path"
      rm -f "$store/manifests/$path"
    fi
  done <"$store/.pulled"
  pulled_paths | sort -u | replace "$store" .pulled
  # grep ends with 2 for a manifest that cannot be read; its blobs must not pass for unused.
  used=$(grep -rho 'sha256:[0-9a-f]*' "$store/manifests") || [ $? -eq 1 ] || {
    report "not pruning blobs: a manifest in $store/manifests cannot be read, see the line above"
    exit 1
  }
  for blob in "$store"/blobs/sha256-*; do
    case $used in
    *"sha256:${blob##*/sha256-}"*) ;;
    *) rm -f "$blob" ;;
    esac
  done
}

# A read-only server refuses to start without these two.
mkdir -p "$store/blobs" "$store/manifests"
take_lock
make_stage
start_server

total=$(grep -c -v '^prune$' "$plan") || true # 1 for a plan of no model
number=0
failed=""
drifted=""
wants_prune=""
while read -r action name rest; do
  [ "$action" = prune ] || number=$((number + 1))
  case $mode:$action in
  write:pull | write:create)
    echo "[$number/$total] $action $name"
    # shellcheck disable=SC2086 # the fields are words
    "$action" "$name" $rest || failed="$failed $name"
    ;;
  write:prune) wants_prune=1 ;;
  check:pull)
    echo "[$number/$total] check $name"
    # shellcheck disable=SC2086
    check "$name" $rest || failed="$failed $name"
    ;;
  check:create)
    echo "[$number/$total] check $name"
    stored "$name" "${rest##* }" - || failed="$failed $name"
    ;;
  check:prune) ;;
  *)
    report "$plan: unknown action \"$action\" in mode $mode"
    failed="$failed $name"
    ;;
  esac
done <"$plan"

if [ -n "$failed" ]; then
  report "failed models:$failed"
  exit 1
fi
# Without Ollama's own pruning, what an interrupted pull left would stay for ever. Every pull is done, so it is nobody's.
rm -f "$store"/blobs/*-partial*
[ -z "$wants_prune" ] || prune
[ -z "$drifted" ] || exit 3
[ "$mode" = check ] && echo "all models are as models.lock.yaml says" || echo "all $total models are in place"
