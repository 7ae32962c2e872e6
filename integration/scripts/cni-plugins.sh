#!/bin/bash
# Builds the CNI plugins that quickstart and tests use from their published Go module. Argument: the folder to put them
# into (build/cni/bin of this repository). Quiet, and done at once when that folder already has this version.
set -eu
version=v1.9.1
plugins="meta/bandwidth meta/firewall meta/portmap meta/tuning main/bridge main/loopback main/ptp ipam/host-local"

repository=$(cd "$(dirname "$0")/../.." && pwd)
mkdir -p "${1:-$repository/build/cni/bin}"
destination=$(cd "${1:-$repository/build/cni/bin}" && pwd)

# Two runs at once must not build the same thing twice, nor see the other's half-written files.
exec 9>"$destination/.lock"
flock 9
want="$version $plugins"
[ "$(cat "$destination/.version" 2>/dev/null || true)" != "$want" ] || exit 0

module=$(mktemp -d)
trap 'rm -rf "$module"' EXIT
cd "$module"
export GOWORK=off GOFLAGS=-mod=mod CGO_ENABLED=0
cat >go.mod <<END
module cniplugins

go 1.24

require github.com/containernetworking/plugins $version
END
packages=""
for plugin in $plugins; do
  packages="$packages github.com/containernetworking/plugins/plugins/$plugin"
done
mkdir bin
# Chatter about downloads is shown only when the build fails.
# shellcheck disable=SC2086
if ! go build -trimpath -ldflags "-s -w -X github.com/containernetworking/plugins/pkg/utils/buildversion.BuildVersion=$version" -o bin/ $packages >log 2>&1; then
  cat log >&2
  exit 1
fi
install -m 0755 bin/* "$destination/"
echo "$want" >"$destination/.version"
