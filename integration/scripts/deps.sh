#!/bin/bash
# Installs the Debian packages that building and testing need, only those that are missing. Arguments: further packages.
set -eu
packages="gcc libc6-dev make git musl-tools libseccomp-dev pkg-config busybox-static curl iproute2 iptables nftables e2fsprogs file python3-minimal util-linux openssh-client strace ca-certificates mmdebstrap debian-archive-keyring $*"

missing=""
for package in $packages; do
  state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
  [ "$state" = installed ] || missing="$missing $package"
done
if [ -n "$missing" ]; then
  if [ "$(id -u)" != 0 ]; then
    echo "these packages are missing and only root can install them:$missing" >&2
    exit 1
  fi
  echo "installing:$missing"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update -q </dev/null
  # shellcheck disable=SC2086
  apt-get install -q -y --no-install-recommends $missing </dev/null
fi

want=$(sed -n 's/^go \([0-9]*\.[0-9]*\).*/\1/p' "$(dirname "$0")/../../go.mod")
if ! command -v go >/dev/null; then
  echo "Go $want or newer is needed: https://go.dev/dl" >&2
  exit 1
fi
