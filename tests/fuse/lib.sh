# lib.sh - a datastore, mounted, for one test
#
# Sourced by each test, which then finds $T (scratch), $DS (datastore), $M (mount point, mounted) and the
# functions below.  Whatever happens, at the end only what the test itself mounted is
# unmounted.  A test that hangs is ended after $LIMIT seconds.  Exit 77: cannot run here.

set -euo pipefail
LIMIT=${LIMIT:-120}
if [ -z "${WEIR_TEST_TIMED:-}" ]; then
	export WEIR_TEST_TIMED=1
	exec timeout -k 10 "$LIMIT" bash "$0" "$@"
fi

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
WEIR=${WEIR:-$HERE/../../build/tools/weir}
[ -x "$WEIR" ] || { echo "no weir at $WEIR"; exit 77; }
[ -c /dev/fuse ] && [ -r /dev/fuse ] && [ -w /dev/fuse ] || { echo "no access to /dev/fuse"; exit 77; }
command -v python3 > /dev/null || { echo "no python3"; exit 77; }

T=$(mktemp -d "${TMPDIR:-/tmp}/weir-fuse-XXXXXX")
DS=$T/ds
M=$T/mnt
OPTIONS=overlay=32M,cache=16M,index=8M,map=4M
PIDS=() # of daemons that ran, to be sure that none stays

is_mounted() {
	grep -q " $M .* fuse.weir " /proc/self/mountinfo
}

daemon_pid() {
	cat "$DS/lock"
}

mount_weir() {
	"$WEIR" mount "$DS" "$M" -o "$OPTIONS${1:+,$1}" || return
	PIDS+=("$(daemon_pid)")
}

umount_weir() {
	"$WEIR" umount "$DS"
}

remount_weir() {
	umount_weir
	mount_weir "$@"
}

# Waits until a daemon that was told to end has ended.
wait_gone() {
	local i
	for i in $(seq 300); do
		kill -0 "$1" 2> /dev/null || return 0
		sleep 0.1
	done
	fail "daemon $1 did not end"
}

fail() {
	echo "FAILED: $*" >&2
	exit 1
}

# same WHAT EXPECTED ACTUAL
same() {
	[ "$2" = "$3" ] || fail "$1: expected '$2', got '$3'"
}

# refused ERRNO-NAME PYTHON-STATEMENT: the statement must fail with that errno.
refused() {
	python3 - "$1" "$2" <<- 'PY' || fail "'$2' was not refused with $1"
	import sys, os, errno, fcntl, stat, ctypes
	want = getattr(errno, sys.argv[1])
	try:
	    exec(sys.argv[2])
	except OSError as e:
	    if e.errno == want:
	        sys.exit(0)
	    print("got", errno.errorcode.get(e.errno, e.errno))
	    sys.exit(1)
	print("it succeeded")
	sys.exit(1)
	PY
}

at_end() {
	local code=$? pid
	set +e
	cd /
	exec 5>&- # tests hold files open as 5
	for pid in 1 2; do # a dead one may lie under another
		is_mounted || break
		"$WEIR" umount "$DS" > /dev/null 2>&1 || umount -l "$M" 2> /dev/null || fusermount3 -uz "$M"
	done
	for pid in "${PIDS[@]}"; do
		[ "$(readlink "/proc/$pid/exe")" = "$(readlink -f "$WEIR")" ] && wait_gone "$pid"
	done
	rm -rf "$T"
	[ "$code" = 0 ] && echo ok
	exit "$code"
}
trap at_end EXIT

mkdir "$M"
"$WEIR" create "$DS" --log-size 16M > /dev/null
[ -n "${NO_MOUNT:-}" ] || mount_weir ${MOUNT_OPTIONS:+"$MOUNT_OPTIONS"}
