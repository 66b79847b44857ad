# packages.sh - the Debian packages that weir's own scripts need, in one place
#
# Sourced by tools/quickstart.sh, tests/run.sh, tests/bench/* and .ci/run.  Debian 12 names.

packages_build="gcc meson ninja-build pkg-config libc6-dev libfuse3-dev libxxhash-dev liblz4-dev
	libsqlite3-dev libjansson-dev libblkid-dev libext2fs-dev libpng-dev libseccomp-dev libssl-dev
	libyara-dev"
packages_run="fuse3 sqlite3 attr"
packages_test="libcmocka-dev qemu-utils python3 clang clang-format acl util-linux jq mandoc man-db fio
	e2fsprogs dosfstools fdisk ntfs-3g xfsprogs cryptsetup-bin mount procps"
packages_guest="mmdebstrap e2fsprogs dosfstools mtools fdisk syslinux syslinux-common
	qemu-system-x86 qemu-utils"
packages_bench="fio nbdkit libnbd-bin qemu-utils qemu-system-common python3"

# Of the packages named, those that are not installed.
packages_missing()
{
	local p

	for p in "$@"; do
		dpkg-query -W -f '${Status}\n' "$p" 2>/dev/null | grep -q ' installed$' ||
			echo "$p"
	done
}

# Runs a command as root: directly, or through sudo.
as_root()
{
	if [ "$(id -u)" = 0 ]; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo "$@"
	else
		echo "$(basename "$0"): '$1' needs root: run as root, or install sudo" >&2
		return 1
	fi
}

# Installs what is missing of the packages named; asks apt for nothing when nothing is.
packages_install()
{
	local missing

	missing=$(packages_missing "$@" | sort -u)
	[ -n "$missing" ] || return 0
	echo "installing packages:" $missing
	# The lists may be absent or out of date on a fresh machine.
	as_root env DEBIAN_FRONTEND=noninteractive apt-get -q update &&
		as_root env DEBIAN_FRONTEND=noninteractive apt-get -q install -y \
			--no-install-recommends $missing </dev/null
}
