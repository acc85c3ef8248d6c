#!/bin/sh
# Fills the model store: write-models.sh PLAN
#
# PLAN has a line for each model, fields parted by spaces:
#   pull    NAME  SOURCE  [OPTIONS]   pull SOURCE, and offer it as NAME
#   create  NAME  MODELFILE           create NAME from a Modelfile
# Every line is tried, so that one update reports all bad models; the exit code is 1 if any failed, and the last lines say which and why.
set -eu

plan=$1
tries=${TRIES:-5}             # per model; with the back-off below, about 75 s of registry trouble
backoff=${BACKOFF:-5}         # seconds before the second try, doubled each time
start_limit=${START_LIMIT:-120} # seconds for the local server to answer
termination_log=${TERMINATION_LOG:-/dev/termination-log}

report() { # what the Job's status, and so the update's error, will show
  echo "$1" >&2
  echo "$1" >>"$termination_log" || true
}

# A read-only server refuses to start without these two.
mkdir -p "$OLLAMA_MODELS/blobs" "$OLLAMA_MODELS/manifests"

ollama serve &
server=$!
stop() {
  kill "$server" 2>/dev/null || true
  wait "$server" 2>/dev/null || true
}
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

# heartbeat NAME: a line every 30 s, since the client's own progress is drawn for a terminal.
heartbeat() {
  elapsed=0
  while sleep 30 >/dev/null 2>&1; do
    elapsed=$((elapsed + 30))
    echo "model $1: $elapsed s, the store holds $(du -sh "$OLLAMA_MODELS" | cut -f 1)"
  done
}

# attempt NAME COMMAND...: runs COMMAND up to $tries times; says why the last one failed.
attempt() {
  name=$1
  shift
  try=1
  pause=$backoff
  while :; do
    heartbeat "$name" &
    beat=$!
    code=0
    said=$("$@" 2>&1 </dev/null) || code=$?
    # KILL, not TERM: a shell that has just forked still has our trap, and would take a TERM for its own and live on.
    kill -9 "$beat" 2>/dev/null || true
    wait "$beat" 2>/dev/null || true
    [ "$code" -ne 0 ] || return 0
    reason=$(printf '%s' "$said" | tr '\r' '\n' | grep -v '^[[:space:]]*$' | tail -n 1)
    if [ "$try" -ge "$tries" ]; then
      report "model $name: \"$*\" failed $tries times, at last with: $reason"
      return 1
    fi
    echo "model $name: try $try of $tries failed ($reason), again in $pause s" >&2
    sleep "$pause"
    try=$((try + 1))
    pause=$((pause * 2))
  done
}

total=$(grep -c . "$plan")
number=0
failed=""
while read -r action name source options; do
  number=$((number + 1))
  echo "[$number/$total] $action $name"
  case $action in
  pull)
    # shellcheck disable=SC2086 # no option means no argument, not an empty one
    attempt "$name" ollama pull $options "$source" || { failed="$failed $name"; continue; }
    if [ "$source" != "$name" ]; then
      # A copy is a second manifest for the same blobs: users ask for NAME wherever it came from, and see no other.
      attempt "$name" ollama cp "$source" "$name" || { failed="$failed $name"; continue; }
      attempt "$name" ollama rm "$source" || { failed="$failed $name"; continue; }
    fi
    ;;
  create)
    attempt "$name" ollama create "$name" -f "$source" || { failed="$failed $name"; continue; }
    ;;
  *)
    report "$plan: unknown action \"$action\""
    failed="$failed $name"
    ;;
  esac
done <"$plan"

if [ -n "$failed" ]; then
  report "failed models:$failed"
  exit 1
fi
# Without Ollama's own pruning, what an interrupted pull left would stay for ever. Every pull is done, so it is nobody's.
rm -f "$OLLAMA_MODELS"/blobs/*-partial*
echo "all $total models are in place"
