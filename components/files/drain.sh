#!/bin/sh
# A preStop hook: drain.sh PORT LIMIT [TABLE...]
#
# Returns when no client has been connected to PORT for three seconds in a row, or after LIMIT seconds. Ollama cuts its
# streams on SIGTERM, so the signal must come after the last answer. Each TABLE is a file in which the kernel lists
# connections (default: /proc/net/tcp and tcp6).
set -eu

port=$(printf '%04X' "$1")
limit=$2
shift 2
[ "$#" -gt 0 ] || set -- /proc/net/tcp /proc/net/tcp6

# connected succeeds if a client is connected to the port. The fields are slot, local:port, remote:port and state; 01 is
# ESTABLISHED.
connected() {
  for table in "$@"; do
    [ -r "$table" ] || continue
    while read -r _ local _ state _; do
      case $local:$state in
      *:"$port":01) return 0 ;;
      esac
    done <"$table"
  done
  return 1
}

# The Endpoints and the front's resolver drop this pod within a few seconds of its deletion. Until then requests still
# arrive and are answered. Wait at least 8 s, because the front asks DNS every 2 s, which may answer from a cache for 5
# s.
waited=0
quiet=0
while [ "$waited" -lt "$limit" ]; do
  if connected "$@"; then
    quiet=0
  else
    quiet=$((quiet + 1))
  fi
  if [ "$quiet" -ge 3 ] && [ "$waited" -ge 8 ]; then
    exit 0
  fi
  sleep 1
  waited=$((waited + 1))
done
echo "drain: connections to port $((0x$port)) are still open after $limit s" >&2
