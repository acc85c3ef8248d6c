#!/bin/sh
# Checks every file by its own checker. STATICCHECK names that binary.
set -eu
cd "$(dirname "$0")/.."

vetted=". local tools test/clients test/charts test/decoder"
modules="$vetted $(find local/tools -name go.mod -exec dirname {} \;)"
failed=0
check() { # check NAME COMMAND...: runs the command and reports its result under the name
  name=$1
  shift
  if "$@"; then echo "ok    $name"; else
    echo "FAIL  $name"
    failed=1
  fi
}
files() { git ls-files -co --exclude-standard "$@"; } # files PATTERN...

# shellcheck disable=SC2317 # called by name
unformatted() { ! files '*.go' | xargs gofmt -l | grep .; }
check "gofmt" unformatted

# A tab is one column. HAProxy cannot continue a directive on the next line, so only its comments are checked.
# shellcheck disable=SC2317
narrow_code() {
  ! { files '*.go' '*.sh' '*.lua' .ci/run | xargs grep -nH '' && grep -nH '^ *#' components/files/haproxy.cfg.tmpl; } |
    wider
}
# Tables, code blocks and the generated docs/config.md are exempt, and URLs do not count: none of them can be wrapped.
# shellcheck disable=SC2016,SC2317 # the fields are awk's
narrow_prose() {
  ! files '*.md' | grep -v '^docs/config\.md$' | xargs awk '
    FNR == 1 { code = 0 }
    /^ *```/ { code = !code; next }
    !code && !/^\|/ { gsub(/https?:\/\/[^ )>]*/, ""); print FILENAME ":" FNR ":" $0 }' | wider
}
# shellcheck disable=SC2317
wider() { LC_ALL=C.UTF-8 grep -E '^[^:]+:[0-9]+:.{121}'; } # prints the lines FILE:LINE:TEXT with more than 120 columns
check "code of at most 120 columns" narrow_code
check "prose of at most 120 columns" narrow_prose

# shellcheck disable=SC2317
short_functions() {
  mkdir -p bin && go build -C tools -o ../bin/funclen ./cmd/funclen &&
    files 'components/*.go' 'stacks/*.go' 'internal/*.go' 'cmd/*.go' 'local/*.go' |
    grep -v '_test\.go$' | xargs bin/funclen 60
}
check "functions of at most 60 lines" short_functions

for module in $vetted; do
  for tags in "" "e2e attack"; do
    check "go vet $module ${tags:+(tags $tags)}" go -C "$module" vet -tags "$tags" ./...
    check "staticcheck $module ${tags:+(tags $tags)}" sh -c "cd $module && $STATICCHECK -tags '$tags' ./..."
  done
done
for module in $modules; do
  check "go mod verify $module" sh -c "cd $module && go list -m >/dev/null"
done
# shellcheck disable=SC2046 # file names of ours contain no spaces
check "shellcheck" shellcheck $(files '*.sh' components/testdata/stub/ollama \
  components/testdata/oidc-stub/oauth2-proxy .ci/run)
# shellcheck disable=SC2046
check "yamllint" yamllint -s $(files '*.yaml' '*.yml' | grep -v /golden/)
exit $failed
