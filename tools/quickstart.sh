#!/bin/bash
# quickstart.sh - from a bare Debian 12 machine to a mounted datastore with a running guest in it
#
# usage: tools/quickstart.sh [-u] [DIR]
#   DIR  where the datastore and its mount point go (default ./quickstart.d)
#   -u   unmount at the end (else it stays mounted, for you to look around)
#
# Installs what is missing (apt, as root or through sudo), builds weir, creates and mounts a
# datastore, builds the disk of a real Debian guest, copies it in, clones it twice, boots a clone in
# QEMU from the mount until its login prompt, logs in, shuts it down, takes a snapshot of it and clones
# that, and shows what was saved.
# Safe to run again: what is there already is kept, except that the clone that boots goes on from
# the state it was left in.
set -euo pipefail

top=$(cd "$(dirname "$0")/.." && pwd)
. "$top/tools/packages.sh"

umount_after=
while getopts u opt; do
	case $opt in
	u) umount_after=yes ;;
	*) echo "usage: quickstart.sh [-u] [DIR]" >&2; exit 2 ;;
	esac
done
shift $((OPTIND - 1))
[ $# -le 1 ] || { echo "usage: quickstart.sh [-u] [DIR]" >&2; exit 2; }

boot_limit_s=300
weir=$top/build/tools/weir

step() { printf '\n== [%3d s] %s\n' "$SECONDS" "$*"; }
die() { echo "quickstart.sh: $*" >&2; exit 1; }

prepare()
{
	step "packages"
	packages_install $packages_build $packages_run $packages_guest ||
		die "cannot install packages"
	[ -e /dev/fuse ] || as_root modprobe fuse 2>/dev/null || true
	[ -e /dev/fuse ] || die "no /dev/fuse: this kernel or container does not offer FUSE"

	step "build in $top/build"
	if [ -e "$top/build/build.ninja" ]; then
		meson setup --reconfigure "$top/build" "$top" >/dev/null
	else
		meson setup "$top/build" "$top"
	fi
	ninja -C "$top/build" tools/weir
}

mount_datastore()
{
	step "datastore $dir/datastore"
	if "$weir" status "$dir/datastore" >/dev/null 2>&1; then
		echo "is there already"
	else
		"$weir" create "$dir/datastore"
	fi
	if mountpoint -q "$dir/mnt"; then
		echo "is mounted already on $dir/mnt"
	else
		"$weir" mount "$dir/datastore" "$dir/mnt"
		echo "mounted on $dir/mnt"
	fi
}

# The disk depends on the script that builds it, so its name does too.
build_guest()
{
	cache=${WEIR_CACHE:-${HOME:-/var/tmp}/.cache/weir}
	guest=$cache/guest-$(cksum <"$top/tests/lib/guest-image" | cut -d' ' -f1).img
	step "guest disk $guest"
	if [ -e "$guest" ]; then
		echo "is there already"
	else
		as_root env WEIR_CACHE="$cache" "$top/tests/lib/guest-image" "$guest"
	fi
}

# Whole or not at all, should this be interrupted.
copy()
{
	if [ -e "$2" ]; then
		echo "$2: is there already"
		return
	fi
	cp --reflink=auto "$1" "$2.part"
	mv "$2.part" "$2"
	echo "$2: copied"
}

copy_guest()
{
	step "copy the disk into the datastore, and clone it"
	copy "$guest" "$dir/mnt/debian.img"
	copy "$dir/mnt/debian.img" "$dir/mnt/vm1.img"
	copy "$dir/mnt/debian.img" "$dir/mnt/vm2.img"
	sync -f "$dir/mnt"
}

# Waits for a line on the guest's console; fails when QEMU ends, or after the limit.
console_wait()
{
	local end=$((SECONDS + boot_limit_s))

	until grep -q "$1" "$dir/console.log"; do
		kill -0 "$qemu" 2>/dev/null || return 1
		[ $SECONDS -lt $end ] || return 1
		sleep 0.5
	done
}

# Of what is there when the guest has run.
snapshot_guest()
{
	step "a snapshot of vm1, and a clone of that"
	if [ -e "$dir/mnt/vm3.img" ]; then
		echo "is there already"
	else
		"$weir" snapshot create "$dir/mnt/vm1.img" ran
		"$weir" clone "$dir/mnt/vm1.img@ran" "$dir/mnt/vm3.img"
	fi
	"$weir" snapshot list "$dir/mnt"
	"$weir" diff "$dir/mnt/debian.img" "$dir/mnt/vm3.img" | tail -n 1
}

boot_guest()
{
	step "boot $dir/mnt/vm1.img (console in $dir/console.log, at most $boot_limit_s s)"
	rm -f "$dir/console.in"
	mkfifo "$dir/console.in"
	exec 3<>"$dir/console.in"
	: >"$dir/console.log"
	qemu-system-x86_64 -machine "q35,accel=${QEMU_ACCEL:-tcg}" -m 512 -smp 2 \
		-nodefaults -no-reboot -display none -monitor none -serial stdio \
		-drive "file=$dir/mnt/vm1.img,format=raw,if=virtio,cache=none" \
		<"$dir/console.in" >"$dir/console.log" 2>&1 &
	qemu=$!
	trap 'kill "$qemu" 2>/dev/null' EXIT
	console_wait 'login: ' || boot_failed "no login prompt"
	echo "login prompt after $((SECONDS - boot_start)) s"
	echo root >&3
	console_wait 'root@.*#' || boot_failed "login failed"
	echo 'cat /etc/debian_version; uname -r; poweroff' >&3
	console_wait 'reboot: Power down' || boot_failed "the guest did not shut down"
	wait "$qemu" || boot_failed "QEMU failed"
	trap - EXIT
	exec 3>&-
	rm -f "$dir/console.in"
	sed 's,\x1b\[[?0-9;]*[a-zA-Z],,g; s,\r,,g' "$dir/console.log" |
		sed -n '/poweroff$/{n;s/^/Debian /p;n;s/^/Linux /p}'
	echo "the guest booted, was logged in to, and shut down"
}

boot_failed()
{
	tail -n 20 "$dir/console.log" >&2
	die "$1: see $dir/console.log"
}

show()
{
	step "what was saved"
	sync -f "$dir/mnt"
	"$weir" stats "$dir/mnt"
	"$weir" images "$dir/mnt"
	step "what is in the guest's disk, and its filter stack"
	"$weir" discover "$dir/mnt/debian.img" || echo "weir discover could not look into it"
	"$weir" filter list "$dir/mnt/vm1.img"
	if [ -n "$umount_after" ]; then
		step "unmount"
		"$weir" umount "$dir/mnt"
	else
		step "done: the datastore is mounted on $dir/mnt"
		echo "unmount it with: $weir umount $dir/mnt"
	fi
}

dir=${1:-$PWD/quickstart.d}
mkdir -p "$dir/mnt"
dir=$(cd "$dir" && pwd)
prepare
mount_datastore
build_guest
copy_guest
boot_start=$SECONDS
boot_guest
snapshot_guest
show
