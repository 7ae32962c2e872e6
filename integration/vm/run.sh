#!/bin/bash
# Boots the virtual machine and runs the integration suite in it. Arguments go to the test binary.
# Its output comes over a serial port; the exit code is that of the suite, and 1 when the machine did not finish.
#   VM_SUITE    integration (default), or integration/rich: then with the images systemd, trixie and forky, which have to be built
#   VM_PAYLOAD  a script to run instead of the suite, for trying something out in the machine
#   VM_ACCEL    kvm, where the host has hardware virtualisation (default: software emulation, which works everywhere)
#   VM_TIMEOUT  seconds after which the machine is switched off (default 7800)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
main=$(cd "$here/../.." && pwd)
vm=$main/build/vm

"$main/integration/scripts/deps.sh" qemu-system-x86 mmdebstrap
"$here/image.sh" "$vm"

work=$(mktemp -d "$vm/run.XXXXXX")
qemu=""
reader=""
cleanup() {
  for pid in $qemu $reader; do kill "$pid" 2>/dev/null || true; done
  rm -rf --one-file-system "$work"
}
trap cleanup EXIT

mkdir "$work/payload"
if [ -n "${VM_PAYLOAD:-}" ]; then
  install -m 0755 "$VM_PAYLOAD" "$work/payload/run"
else
  "$main/integration/scripts/cni-plugins.sh"
  suite=${VM_SUITE:-integration}
  (cd "$main" && CGO_ENABLED=0 go test -c -tags "seccomp netgo osusergo" -o "$work/payload/integration.test" "./$suite")
  mkdir -p "$work/payload/bin" "$work/payload/build/failpoints" "$work/payload/build/cni" "$work/payload/docs"
  cp "$main/docs/hooks.md" "$work/payload/docs/"
  cp "$main"/bin/* "$work/payload/bin/"
  cp "$main"/build/failpoints/* "$work/payload/build/failpoints/"
  cp -r "$main/build/cni/bin" "$work/payload/build/cni/bin"
  if [ "$suite" = integration/rich ]; then
    mkdir "$work/payload/build/rich"
    for image in systemd trixie forky; do
      cp "$main/build/rich/$image.tar" "$main/build/rich/$image.digest" "$work/payload/build/rich/"
    done
    cp "$main/build/rich/probe" "$work/payload/build/rich/"
  fi
  {
    echo '#!/bin/bash'
    echo "export CRI_POUCH_TEST_ROOT=/payload CRI_POUCH_TEST_SLOW=10 HOME=/root CRI_POUCH_TEST_CGROUPS=${CRI_POUCH_TEST_CGROUPS:-}"
    printf './integration.test -test.v -test.timeout 120m'
    printf ' %q' "$@"
    printf '\n'
  } >"$work/payload/run"
  chmod 0755 "$work/payload/run"
fi
truncate -s $(($(du -sm "$work/payload" | cut -f1) + 64))M "$work/payload.img"
mke2fs -q -t ext4 -d "$work/payload" "$work/payload.img"
rm -r "$work/payload"

: >"$work/out"
accel=${VM_ACCEL:-tcg,thread=multi}
echo "test-vm: booting (accel $accel)"
timeout --kill-after=10 "${VM_TIMEOUT:-7800}" qemu-system-x86_64 -accel "$accel" -cpu max -smp 2 -m 4096 -nodefaults -display none -no-reboot \
  -kernel "$vm/vmlinuz" -initrd "$vm/initrd.img" \
  -append "root=/dev/vda rw console=ttyS0 quiet apparmor=1 security=apparmor panic=-1" \
  -drive "file=$vm/root.img,if=virtio,format=raw,snapshot=on" \
  -drive "file=$work/payload.img,if=virtio,format=raw,readonly=on" \
  -device virtio-rng-pci \
  -serial "file:$vm/console.log" -serial "file:$work/out" </dev/null &
qemu=$!
tail -n +1 -f --pid=$qemu "$work/out" &
reader=$!
wait "$qemu" || true
qemu=""
wait "$reader" || true
reader=""

code=$(sed -n 's/^test-vm: exit \([0-9]*\).*$/\1/p' "$work/out" | tail -n 1)
if [ -z "$code" ]; then
  echo "test-vm: the machine ended without a result; the end of its console:" >&2
  tail -n 30 "$vm/console.log" >&2
  exit 1
fi
echo "test-vm: $(grep -c '^ *--- PASS' "$work/out" || true) passed, $(grep -c '^ *--- FAIL' "$work/out" || true) failed, $(grep -c '^ *--- SKIP' "$work/out" || true) skipped"
exit "$code"
