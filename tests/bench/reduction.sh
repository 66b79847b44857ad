#!/bin/bash
# reduction.sh - how small weir stores a set of differently installed Debian guests
#
# usage: tests/bench/reduction.sh [-n GUESTS] [-w WORKDIR] [-b BUILDDIR]
#
# Builds up to 12 guests (once: they are kept in $WEIR_CACHE/guests, default ~/.cache/weir/guests),
# copies them into a new datastore one after the other, unmounts it, and divides the bytes that are not
# zero by what the datastore takes on its disk: everything, and without the intent log, whose size is
# chosen and does not grow with the data.  Beside it: distinct 4 KiB chunks, each with LZ4 alone.
# The target is 4.0 with the log left out.  Exit code 0 when it is reached, 3 when not.
set -euo pipefail

top=$(cd "$(dirname "$0")/../.." && pwd)
. "$top/tools/packages.sh"

guests=12 work=/var/tmp/weir-reduction build=$top/build
while getopts n:w:b: opt; do
	case $opt in
	n) guests=$OPTARG ;;
	w) work=$OPTARG ;;
	b) build=$OPTARG ;;
	*) echo "usage: reduction.sh [-n GUESTS] [-w WORKDIR] [-b BUILDDIR]" >&2; exit 2 ;;
	esac
done
cache=${WEIR_CACHE:-${HOME:-/var/tmp}/.cache/weir}
weir=$build/tools/weir

# name, disk size, kernel, packages: no two alike, as machines that several people set up are not.
recipes=(
	"minimal 2G linux-image-cloud-amd64"
	"ssh 2G linux-image-cloud-amd64 openssh-server sudo curl vim"
	"postgres 3G linux-image-cloud-amd64 postgresql locales"
	"web 3G linux-image-cloud-amd64 nginx php-fpm"
	"build 4G linux-image-cloud-amd64 build-essential git cmake"
	"server 4G linux-image-amd64 openssh-server python3 less man-db"
	"java 4G linux-image-cloud-amd64 default-jre-headless"
	"python 3G linux-image-cloud-amd64 python3 python3-numpy python3-requests"
	"mariadb 3G linux-image-cloud-amd64 mariadb-server"
	"apache 3G linux-image-cloud-amd64 apache2 libapache2-mod-php"
	"mail 3G linux-image-cloud-amd64 postfix dovecot-imapd"
	"node 4G linux-image-amd64 nodejs ruby openssh-server"
)
[ "$guests" -ge 1 ] && [ "$guests" -le ${#recipes[@]} ] ||
	{ echo "reduction.sh: between 1 and ${#recipes[@]} guests" >&2; exit 2; }

packages_install $packages_build $packages_run $packages_guest python3
images=()
for recipe in "${recipes[@]:0:guests}"; do
	set -- $recipe
	image=$cache/guests/$1.img
	[ -e "$image" ] || as_root env WEIR_CACHE="$cache" "$top/tests/lib/guest-image" \
		-n "$1" -s "$2" -k "$3" "$image" "${@:4}"
	images+=("$image")
done

plain=$("$build/tests/bench/bench-chunks" "${images[@]}")
[ -x "$weir" ] || { echo "reduction.sh: no '$weir': build first" >&2; exit 1; }

rm -rf --one-file-system "$work"
mkdir -p "$work/mnt"
"$weir" create "$work/ds"
"$weir" mount "$work/ds" "$work/mnt"
trap '"$weir" umount "$work/mnt" 2>/dev/null || true' EXIT
start=$SECONDS
for image in "${images[@]}"; do
	cp --reflink=never "$image" "$work/mnt/"
	cmp "$image" "$work/mnt/$(basename "$image")"
done
"$weir" umount "$work/mnt"
trap - EXIT
echo "copied and compared ${#images[@]} guests in $((SECONDS - start)) s"

on_disk() { du -s --block-size=1 "$@" | cut -f1; }
python3 - "$plain" "$("$weir" stats "$work/ds" --json)" "$(on_disk "$work/ds")" \
	"$(on_disk "$work/ds/log")" <<'END' && status=0 || status=$?
import json, sys
plain, total = json.loads(sys.argv[1]), json.loads(sys.argv[2])["total"]
disk, log = int(sys.argv[3]), int(sys.argv[4])
nonzero = plain["nonzero_bytes"]
told = total["stored_bytes"] + total["metadata_bytes"]
print(f"not zero                                    {nonzero / 2**20:10.0f} MiB")
rows = [("distinct 4 KiB chunks", plain["unique_bytes"]),
        ("every 4 KiB chunk with LZ4, nothing shared", plain["lz4_bytes"]),
        ("distinct 4 KiB chunks with LZ4, no metadata", plain["unique_lz4_bytes"]),
        ("weir, stored and metadata by its stats", told),
        ("weir, its directory with the log", disk),
        ("weir, its directory without the log", disk - log)]
for name, size in rows:
    print(f"{name:43} {size / 2**20:10.0f} MiB {nonzero / size:7.2f}x")
ratio = nonzero / (disk - log)
print(f"{'PASS' if ratio >= 4.0 else 'MISS'}  {ratio:6.2f} >= 4.00  reduction, metadata included")
sys.exit(0 if ratio >= 4.0 else 3)
END
rm -rf --one-file-system "$work"
exit "$status"
