#!/bin/sh
# Installs the named Debian packages that are missing: debian-packages.sh PACKAGE...
set -eu

missing=""
for package; do
  dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed$' || missing="$missing $package"
done
[ -n "$missing" ] || exit 0
if ! command -v apt-get >/dev/null || [ "$(id -u)" -ne 0 ]; then
  echo "these Debian packages are missing:$missing. Install them, as root:  apt-get install$missing" >&2
  exit 1
fi
echo "installing$missing" >&2
apt-get update -qq
# shellcheck disable=SC2086 # a list of names
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >&2
