#!/bin/bash
# Builds kubelet, kube-apiserver, kube-controller-manager, kube-scheduler, kubectl and etcd from their published Go modules
# at the versions of integration/kubelet/binaries/go.mod. Argument: the folder to put them into (build/kubernetes/bin of
# this repository). Takes about 13 minutes of CPU time when nothing is cached; done at once when the folder has them.
set -eu
repository=$(cd "$(dirname "$0")/../.." && pwd)
module=$repository/integration/kubelet/binaries
mkdir -p "${1:-$repository/build/kubernetes/bin}"
destination=$(cd "${1:-$repository/build/kubernetes/bin}" && pwd)

# Two runs at once must not build the same thing twice, nor see the other's half-written files.
exec 9>"$destination/.lock"
flock 9
want=$(cat "$module/go.mod" "$module/go.sum" "$0" | sha256sum | cut -d' ' -f1)
[ "$(cat "$destination/.version" 2>/dev/null || true)" != "$want" ] || exit 0

version=$(sed -n 's|^\tk8s.io/kubernetes \(v[0-9.]*\)$|\1|p' "$module/go.mod")
echo "building kubernetes $version and etcd into $destination"
work=$(mktemp -d -p "$destination")
trap 'rm -rf "$work"' EXIT
cd "$module"
export GOWORK=off GOFLAGS="-mod=readonly -buildvcs=false" CGO_ENABLED=0
# Chatter about downloads is shown only when the build fails. The machine stays usable meanwhile.
if ! nice -n 10 go build -trimpath -o "$work/" \
  -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=$version -X k8s.io/client-go/pkg/version.gitVersion=$version" \
  tool >"$work/log" 2>&1; then
  cat "$work/log" >&2
  exit 1
fi
mv "$work/server" "$work/etcd"
rm "$work/log"
mv "$work"/* "$destination/"
echo "$want" >"$destination/.version"
