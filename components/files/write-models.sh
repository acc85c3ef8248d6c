#!/bin/sh
# Fills the model store: write-models.sh PLAN
#
# PLAN has a line for each model, with fields separated by one space. Paths are below OLLAMA_MODELS/manifests:
#   pull    NAME  SOURCE  SOURCE_PATH  NAME_PATH  DIGEST|-  [OPTIONS]
#       pull SOURCE, compare its digest, and offer it as NAME
#   create  NAME  MODELFILE  NAME_PATH
#       create NAME from a Modelfile
#   prune
#       remove models that were pulled once and are no longer in PLAN
# The script tries every line, so that one update reports all bad models. The exit code is 1 if any failed, and the last
# lines say which and why.
#
# With MODE=check, nothing changes for the servers. A model that is missing in the store, or is not as locked, is a
# failure. Sources are pulled and compared, and if one differs, the exit code is 3.
set -eu

plan=$1
mode=${MODE:-write}
tries=${TRIES:-5}               # per model; with the back-off below, they cover about 75 s
backoff=${BACKOFF:-5}           # seconds before the second try, doubled each time
start_limit=${START_LIMIT:-120} # seconds for the local server to answer
lock_limit=${LOCK_LIMIT:-3600}  # seconds to wait for another writer: an hour of downloads
termination_log=${TERMINATION_LOG:-/dev/termination-log}
store=$OLLAMA_MODELS
stage=$HOME/stage
unwritten="its manifest could not be written to $OLLAMA_MODELS: the lines above say whether it is full or read-only"

report() { # for the Job's status, and so for the update's error
  printf '%s\n' "$1" >&2
  printf '%s\n' "$1" >>"$termination_log" || true
}

# One writer at a time: two would race for the same partial downloads.
take_lock() {
  exec 9>"$store/.writer.lock"
  flock -n 9 && return 0
  echo "another writer is at work: waiting up to $lock_limit s"
  flock -w "$lock_limit" 9 || { report "another writer still holds $store/.writer.lock after $lock_limit s"; exit 1; }
}

# Ollama works on a stage, which has the blobs of the store and a copy of its manifests. Only `offer` changes what
# servers see, after a model is complete and verified.
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
      report "ollama serve exited before it answered: see the lines above"
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

# heartbeat NAME prints a line every 30 s, because Ollama draws its own progress only for a terminal.
heartbeat() {
  elapsed=0
  while sleep 30 >/dev/null 2>&1; do
    elapsed=$((elapsed + 30))
    echo "model $1: $elapsed s, the store holds $(du -sh "$store" | cut -f 1)"
  done
}

# attempt NAME COMMAND... runs COMMAND up to $tries times. $reason is then why the last try failed.
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
    # KILL, not TERM: a shell that has just forked still has our trap, so it would handle TERM and go on.
    kill -9 "$beat" 2>/dev/null || true
    wait "$beat" 2>/dev/null || true
    [ "$code" -ne 0 ] || return 0
    reason=$(printf '%s' "$said" | tr '\r' '\n' | grep -v '^[[:space:]]*$' | tail -n 1)
    if [ "$try" -ge "$tries" ]; then
      reason="\"$*\" failed $tries times; the last error: $reason"
      return 1
    fi
    echo "model $name: try $try of $tries failed ($reason), trying again in $pause s" >&2
    sleep "$pause"
    try=$((try + 1))
    pause=$((pause * 2))
  done
}

# digest_of MANIFEST prints its digest, as `ollama list` shows it, or nothing if there is no such file.
digest_of() {
  [ ! -f "$1" ] || echo "sha256:$(sha256sum "$1" | cut -d ' ' -f 1)"
}

# blobs_of MANIFEST prints the file names of the blobs in it.
blobs_of() {
  grep -o '"digest":"sha256:[0-9a-f]*"' "$1" | cut -d '"' -f 4 | tr ':' '-' | sort -u
}

# whole MANIFEST succeeds if all its blobs are in the store. Ollama gives a blob its name only when it is complete and
# verified.
whole() {
  [ -f "$1" ] || return 1
  needed=$(blobs_of "$1")
  [ -n "$needed" ] || return 1 # a manifest that a crash left empty
  for blob in $needed; do
    [ -f "$store/blobs/$blob" ] || return 1
  done
}

# replace FOLDER PATH writes standard input to the file PATH in FOLDER in one step, so that a server reads either the
# old or the new file. It first writes outside the manifests, where Ollama would list what an interrupted writer leaves
# as a model.
replace() {
  new=$1/.new
  file=$1/$2
  mkdir -p "${file%/*}" && cat >"$new" && mv -f "$new" "$file"
}

# offer FROM_PATH NAME_PATH offers the FROM_PATH of the stage as NAME_PATH, in the stage (for the FROM of a Modelfile)
# and in the store.
offer() {
  { [ "$1" = "$2" ] || replace "$stage" "manifests/$2" <"$stage/manifests/$1"; } &&
    { cmp -s "$stage/manifests/$2" "$store/manifests/$2" || replace "$store" "manifests/$2" <"$stage/manifests/$2"; }
}

# fail NAME NAME_PATH REASON reports the failure and removes what was not verified from the stage, so that the FROM of a
# Modelfile finds what the store has. If the store has nothing, an empty manifest makes FROM fail. If the manifest were
# missing, Ollama would pull from its own library, whatever the plan says.
fail() {
  report "model $1: $3"
  { cat "$store/manifests/$2" 2>/dev/null || true; } | replace "$stage" "manifests/$2"
  return 1
}

# note_pulled NAME_PATH adds to the list of the manifests that the writer pulled. Only these may ever be pruned.
note_pulled() {
  { cat "$store/.pulled" 2>/dev/null || true; echo "$1"; } | sort -u | replace "$store" .pulled
}

# note_created NAME_PATH removes the name from that list, because the model is now a created one.
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
      echo "model $name: $reason; the store keeps its version" >&2
      return 0
    fi
    fail "$name" "$name_path" "$reason"
    return
  fi
  found=$(digest_of "$stage/manifests/$source_path")
  if [ "$locked" != - ] && [ "$found" != "$locked" ]; then
    fail "$name" "$name_path" \
      "the registry has $found, but models.lock.yaml says $locked: run \`make lock\` to accept it, or restore the tag"
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

# stored NAME NAME_PATH DIGEST|- succeeds if the store has the model as locked, with all its blobs.
stored() {
  if ! whole "$store/manifests/$2"; then
    delete="kubectl delete job -l app.kubernetes.io/component=model-writer"
    report "model $1: is missing in the store, or incomplete: run \`$delete\` and \`pulumi up --refresh\` to restore it"
    return 1
  fi
  here=$(digest_of "$store/manifests/$2")
  if [ "$3" != - ] && [ "$here" != "$3" ]; then
    why="something else wrote there, or the writer has failed since the lock changed"
    report "model $1: is $here in the store, but models.lock.yaml says $3: $why"
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
    accept="run \`make lock\` and \`pulumi up\` to accept it; it is already downloaded"
    report "drift: $name is $found in the registry, ${locked:-nothing} here: $accept"
    drifted=1
  fi
}

# pulled_paths prints the NAME_PATHs that the plan pulls.
pulled_paths() {
  grep '^pull ' "$plan" | cut -d ' ' -f 5
}

# prune removes the manifests that were pulled once and are no longer in the plan, and then the blobs that no manifest
# names.
prune() {
  [ -f "$store/.pulled" ] || return 0
  while read -r path; do
    if ! pulled_paths | grep -Fqx -- "$path"; then
      echo "pruning $path"
      rm -f "$store/manifests/$path"
    fi
  done <"$store/.pulled"
  pulled_paths | sort -u | replace "$store" .pulled
  # grep exits with 2 if it cannot read a manifest, whose blobs must not count as unused.
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

# A server with a read-only store does not start without these two folders.
mkdir -p "$store/blobs" "$store/manifests"
take_lock
make_stage
start_server

total=$(grep -c -v '^prune$' "$plan") || true # grep exits with 1 for a plan without models
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
# Ollama's own pruning is off, so what an interrupted pull left would stay forever. All pulls are done, so nothing needs
# it.
rm -f "$store"/blobs/*-partial*
[ -z "$wants_prune" ] || prune
[ -z "$drifted" ] || exit 3
[ "$mode" = check ] && echo "all models match models.lock.yaml" || echo "all $total models are in place"
