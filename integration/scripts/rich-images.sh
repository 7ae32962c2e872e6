#!/bin/bash
# Builds root filesystems with real inits from Debian's packages, for the tests of rich containers: build/rich/NAME.tar,
# NAME.digest beside it. Arguments: names, "test" for those of `make test` (default), or "all"; example-MODE is that of
# examples/rich-MODE. An image is built once and again when its recipe changes; --recipe NAME prints that.
# Runs as root; packages come from the mirror that the host's apt uses.
set -euo pipefail
repository=$(cd "$(dirname "$0")/../.." && pwd)
out=${CRI_POUCH_RICH_IMAGES:-$repository/build/rich}

services=cron,rsyslog,openssh-server,openssh-client,procps,iproute2
tested="systemd trixie sysvinit dumb-init"
others="bullseye forky runit openrc"

# recipe prints suite, packages and, where there is more to do, a shell command for the root filesystem $1 of image $1.
recipe() {
  case $1 in
    systemd) echo "bookworm systemd,systemd-sysv,dbus,$services" ;; # systemd 252
    bullseye) echo "bullseye systemd,systemd-sysv,dbus,$services" ;; # systemd 247
    trixie) echo "trixie systemd,systemd-sysv,dbus,$services" ;; # systemd 257
    forky) echo "forky systemd,systemd-sysv,dbus,$services" ;; # the newest systemd, which knows cgroup v2 only
    # rsyslog's script for sysvinit lives in a package of its own.
    sysvinit) echo "bookworm sysvinit-core,orphan-sysvinit-scripts,cron,rsyslog,procps" ;;
    runit) echo "bookworm runit-init,cron,procps" ;;
    openrc) echo 'bookworm openrc,cron,procps ln -s openrc-init "$1/sbin/init"' ;;
    dumb-init) echo "bookworm dumb-init,libc6" ;;
    example-*) example "$repository/examples/rich-${1#example-}/Dockerfile" ;;
    *) echo "there is no recipe for an image $1: known are $tested $others example-MODE" >&2; return 1 ;;
  esac
}

# instructions prints what stands behind the instructions $2 of the Dockerfile $1, each on one line; with them where $3 says keep.
instructions() {
  sed -e '/^ *#/d' -e ':join' -e '/\\$/{N;s/ *\\\n */ /;bjoin' -e '}' "$1" | if [ "${3:-}" = keep ]; then grep "^$2 "; else sed -n "s/^$2 //p"; fi
}

# example prints the recipe of an example's Dockerfile: the release in FROM, the packages of the RUN that installs them, and
# the other RUNs. What COPY adds is put on top when the example is run; a RUN behind a COPY needs it here too.
example() {
  [ -f "$1" ] || { echo "there is no $1" >&2; return 1; }
  local packages more= copies= instruction words from
  packages=$(instructions "$1" RUN | sed -n 's/.*apt-get install \([^&]*\).*/\1/p' | tr ' ' '\n' | sed '/^-/d;/^$/d' | paste -sd, -)
  while read -r instruction words; do
    case $instruction in
      COPY)
        from=$(dirname "$1")/${words%% *}
        copies="${copies}cp -rT \"\$repository${from#"$repository"}\" \"\$1${words##* }\"; : $(cd "$from" && find . -type f -exec sha256sum {} + | sort | sha256sum | cut -c1-16); "
        ;;
      RUN)
        [[ $words != *"apt-get install"* ]] || continue
        more="${more:+$more; }${copies}chroot \"\$1\" sh -ec '${words//\'/\'\\\'\'}'"
        copies=
        ;;
    esac
  done < <(instructions "$1" '\(COPY\|RUN\)' keep)
  echo "$(instructions "$1" FROM | sed 's/.*debian://') $packages $more"
}

# mirror prints the address of Debian's archive as the host's apt has it.
mirror() {
  local found
  found=$(apt-get indextargets --format '$(ORIGIN)|$(LABEL)|$(REPO_URI)' 'Created-By: Packages' 'Component: main' | sed -n 's/^Debian|Debian|//p' | head -n 1)
  [ -n "$found" ] || { echo "apt knows no archive of Debian: check its sources and run apt-get update" >&2; return 1; }
  echo "$found"
}

# bootstrap writes a root filesystem with packages $2 of suite $1, changed by the command $3, to the tar file $4.
# Documentation, translations and whatever differs from one build to the next stay out.
bootstrap() {
  apt-config dump | grep -E '^Acquire::(http|https|Check|Retries)' >"$work/apt.conf" || true
  SOURCE_DATE_EPOCH=1700000000 mmdebstrap --quiet --mode=root --variant=minbase --include="$2" --format=tar \
    --aptopt="$work/apt.conf" --aptopt='Acquire::Languages "none"' --aptopt='APT::Install-Recommends "false"' \
    --dpkgopt=force-unsafe-io --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/info/*' --dpkgopt='path-exclude=/usr/share/i18n/*' \
    --dpkgopt='path-exclude=/usr/lib/x86_64-linux-gnu/gconv/*' --dpkgopt='path-exclude=/usr/share/zoneinfo/*' \
    --customize-hook='chroot "$1" useradd --uid 1000 --create-home --shell /bin/sh app' \
    --customize-hook='chroot "$1" groupadd --gid 1500 --users app extra 2>/dev/null || { chroot "$1" groupadd --gid 1500 extra; chroot "$1" usermod --append --groups extra app; }' \
    --customize-hook='rm -rf "$1"/var/lib/apt/lists "$1"/var/cache/* "$1"/var/log/*.log "$1"/var/log/apt "$1"/usr/share/perl5/pod "$1"/boot/*' \
    ${3:+--customize-hook="$3"} "$1" "$4" "$(mirror)" </dev/null
}

# unpack writes the files of packages $1, which are not installed, and of a busybox to the tar file $2.
unpack() {
  local package
  mkdir -p "$work/debs" "$work/fs"
  for package in ${1//,/ }; do
    (cd "$work/debs" && apt-get download -q -o APT::Sandbox::User=root "$package" >/dev/null </dev/null)
  done
  for package in "$work"/debs/*.deb; do
    dpkg-deb -x "$package" "$work/fs"
  done
  rm -rf "$work/fs/usr/share" "$work"/fs/lib/*/gconv "$work"/fs/usr/lib/*/gconv
  mkdir -p "$work"/fs/{bin,etc,tmp,proc,sys,dev,root,run}
  cp "$(command -v busybox)" "$work/fs/bin/busybox"
  for applet in $(busybox --list); do
    [ "$applet" = busybox ] || ln -s busybox "$work/fs/bin/$applet"
  done
  printf 'root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000:app:/:/bin/sh\n' >"$work/fs/etc/passwd"
  printf 'root:x:0:\napp:x:1000:\nextra:x:1500:app\n' >"$work/fs/etc/group"
  tar -C "$work/fs" --sort=name --mtime=@1700000000 --owner=0 --group=0 --numeric-owner -cf "$2" .
}

build() {
  local name=$1 suite packages more begin=$SECONDS
  read -r suite packages more <<<"$(recipe "$name")"
  work=$(mktemp -d /var/tmp/rich-images.XXXXXX) # not below $out: a checkout's path may be long, and mmdebstrap mounts there
  echo "building the image $name ($suite)"
  case $name in
    dumb-init) unpack "$packages" "$work/image.tar" ;;
    *) bootstrap "$suite" "$packages" "$more" "$work/image.tar" ;;
  esac
  sha256sum <"$work/image.tar" | cut -d' ' -f1 >"$work/digest"
  rm -f "$out/$name.stamp"
  mv "$work/image.tar" "$out/$name.tar"
  mv "$work/digest" "$out/$name.digest"
  rm -rf --one-file-system "$work"
  work=
  stamp "$name" >"$out/$name.stamp"
  echo "built the image $name in $((SECONDS - begin)) s: $(du -m "$out/$name.tar" | cut -f1) MB"
}

# stamp prints what tells one recipe of image $1 from another.
stamp() {
  { recipe "$1"; case $1 in dumb-init) declare -f unpack ;; *) declare -f bootstrap ;; esac; } | sha256sum | cut -d' ' -f1
}

if [ "${1:-}" = --recipe ]; then
  recipe "$2"
  exit
fi
names=
for argument in "${@:-test}"; do
  case $argument in
    test) names="$names $tested" ;;
    all) names="$names $tested $others" ;;
    *) recipe "$argument" >/dev/null; names="$names $argument" ;;
  esac
done
work=
trap '[ -z "$work" ] || rm -rf --one-file-system "$work"' EXIT
mkdir -p "$out"
export repository # for the commands of an example's recipe
for name in $names; do
  # Two runs at once must not build the same image twice, nor see the other's half-written file.
  exec 9>"$out/$name.lock"
  flock 9
  [ "$(cat "$out/$name.stamp" 2>/dev/null || true)" = "$(stamp "$name")" ] || build "$name"
done
