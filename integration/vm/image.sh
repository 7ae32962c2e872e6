#!/bin/bash
# Builds the virtual machine's root disk, kernel and initramfs into the folder $1, once: Debian 12 with systemd as it is
# installed everywhere, so cgroup v2 and AppArmor. It is built again when this file or guest/ changes.
set -euo pipefail
out=$(realpath -m "$1")
here=$(cd "$(dirname "$0")" && pwd)

key=$(cat "$here/image.sh" "$here"/guest/* | sha256sum | cut -c1-16)
[ "$(cat "$out/key" 2>/dev/null || true)" != "$key" ] || exit 0

echo "test-vm: building the machine's disk (once, about two minutes)"
mkdir -p "$out"
rm -f "$out/key"
# Not under $out: a checkout's path may be long, and mmdebstrap mounts below it.
root=$(mktemp -d /var/tmp/pouch-vm.XXXXXX)
trap 'rm -rf --one-file-system "$root"' EXIT

packages=systemd,systemd-sysv,dbus,linux-image-cloud-amd64,apparmor,busybox-static,curl,iproute2,iptables,kmod,procps,e2fsprogs,ca-certificates
mmdebstrap --quiet --variant=minbase --include="$packages" \
  --aptopt='Acquire::Languages "none"' --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
  bookworm "$root/fs" </dev/null

cp "$root"/fs/boot/vmlinuz-* "$out/vmlinuz"
cp "$root"/fs/boot/initrd.img-* "$out/initrd.img"

install -m 0755 "$here/guest/run-tests" "$root/fs/usr/local/sbin/run-tests"
install -m 0644 "$here/guest/run-tests.service" "$root/fs/etc/systemd/system/run-tests.service"
install -d "$root/fs/payload" "$root/fs/etc/systemd/system/multi-user.target.wants"
ln -sf ../run-tests.service "$root/fs/etc/systemd/system/multi-user.target.wants/run-tests.service"
# Things that only delay the boot of a machine without a network or a clock to set.
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer \
  systemd-timesyncd.service e2scrub_reap.service serial-getty@ttyS0.service getty@tty1.service; do
  ln -sf /dev/null "$root/fs/etc/systemd/system/$unit"
done
echo pouch-vm >"$root/fs/etc/hostname"

rm -f "$out/root.img"
truncate -s 8G "$out/root.img"
mke2fs -q -t ext4 -d "$root/fs" -E lazy_itable_init=0 "$out/root.img"
echo "$key" >"$out/key"
