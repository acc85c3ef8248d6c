#!/bin/sh
# Checks every file by its own checker. STATICCHECK names that binary.
set -eu
cd "$(dirname "$0")/.."

modules=". local tools test/clients test/charts test/decoder $(find local/tools -name go.mod -exec dirname {} \;)"
failed=0
check() { # check NAME COMMAND...: runs it, says what it was
  name=$1
  shift
  if "$@"; then echo "ok    $name"; else
    echo "FAIL  $name"
    failed=1
  fi
}

# shellcheck disable=SC2317 # called by name
unformatted() { ! git ls-files -co --exclude-standard '*.go' | xargs gofmt -l | grep .; }
check "gofmt" unformatted
for module in . local test/clients test/charts test/decoder; do
  for tags in "" "e2e attack"; do
    check "go vet $module ${tags:+(tags $tags)}" go -C "$module" vet -tags "$tags" ./...
    check "staticcheck $module ${tags:+(tags $tags)}" sh -c "cd $module && $STATICCHECK -tags '$tags' ./..."
  done
done
for module in $modules; do
  check "go mod verify $module" sh -c "cd $module && go list -m >/dev/null"
done
# shellcheck disable=SC2046 # file names of ours hold no spaces
check "shellcheck" shellcheck $(git ls-files -co --exclude-standard '*.sh' components/testdata/stub/ollama components/testdata/oidc-stub/oauth2-proxy .ci/run)
# shellcheck disable=SC2046
check "yamllint" yamllint -s $(git ls-files -co --exclude-standard '*.yaml' '*.yml' | grep -v /golden/)
exit $failed
