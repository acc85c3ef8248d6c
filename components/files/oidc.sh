#!/bin/sh
# Runs oauth2-proxy, which exits if the identity provider does not answer at its start. API keys must keep working, so
# the container stays and tries again. Meanwhile HAProxy answers that sign-in is not available.
stop() {
  trap - TERM
  kill -TERM "$child" 2>/dev/null
  wait "$child"
  exit 0
}
trap stop TERM
while :; do
  oauth2-proxy --config=/etc/oauth2-proxy/oauth2-proxy.cfg --alpha-config=/etc/oauth2-proxy/oauth2-proxy.yaml &
  child=$!
  wait "$child"
  echo "oauth2-proxy exited: trying again in 5 s" >&2
  sleep 5 &
  child=$!
  wait "$child"
done
