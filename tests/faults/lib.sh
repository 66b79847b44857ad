# lib.sh - what the fault tests add to those of a mount
#
# Sourced by each test with NO_MOUNT=1 set, after which there is all of tests/fuse/lib.sh, and: a daemon in
# the foreground whose log is in $T/log, a backing filesystem that is small, tools for known content
# and damage (blocks.py).  At the end the test's own mounts and loop devices go, nothing else.

NO_MOUNT=1
. "$(dirname "${BASH_SOURCE[0]}")/../fuse/lib.sh"
FAULTS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
B=$T/backing
HAVE_BACKING=

faults_end() {
	local code=$?
	set +e
	[ "$code" = 0 ] || { echo "--- the daemon's log:"; tail -n 25 "$T/log"; } >&2 2> /dev/null
	if [ -n "$HAVE_BACKING" ]; then
		cd /
		is_mounted && { timeout 20 "$WEIR" umount "$DS" > /dev/null 2>&1 || umount -l "$M"; }
		[ -z "${DAEMON:-}" ] || kill -9 "$DAEMON" 2> /dev/null
		wait
		umount "$B" || umount -l "$B"
	fi
	(exit "$code")
	at_end
}
trap faults_end EXIT

blocks() {
	python3 "$FAULTS/blocks.py" "$@"
}

# $DS goes to a filesystem of its own, of MIB MiB.
backing_make() {
	[ "$(id -u)" = 0 ] && [ -e /dev/loop-control ] || { echo "needs root and loop devices"; exit 77; }
	truncate -s "$1M" "$T/disk"
	mkfs.ext4 -q -m 0 "$T/disk"
	mkdir "$B"
	mount -o loop "$T/disk" "$B" || { echo "cannot mount a loop device"; exit 77; }
	HAVE_BACKING=yes
	DS=$B/ds
	"$WEIR" create "$DS" --log-size 16M > /dev/null
}

# mount_logged [OPTIONS]: in the foreground, as $DAEMON, log appended to $T/log
mount_logged() {
	local i
	"$WEIR" mount "$DS" "$M" -f -o "$OPTIONS${1:+,$1}" 2>> "$T/log" &
	DAEMON=$!
	for i in $(seq 300); do
		! is_mounted || return 0
		kill -0 "$DAEMON" 2> /dev/null || break
		sleep 0.05
	done
	wait "$DAEMON" || echo "mount ended with $?" >&2
	return 1
}

umount_logged() {
	"$WEIR" umount "$DS" && wait "$DAEMON" && DAEMON=
}

# As a crash of the daemon; its dead mount goes as well.
kill_daemon() {
	kill -9 "$DAEMON"
	wait "$DAEMON" 2> /dev/null || true
	DAEMON=
	umount -l "$M" 2> /dev/null || fusermount3 -uz "$M"
}

# status KEY, stats PATH: a value of the reports
status() {
	"$WEIR" status "$DS" --json | python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"
}

stats() {
	"$WEIR" stats "$DS" --json |
		python3 -c 'import functools, json, sys; print(functools.reduce(lambda d, k: d[k], sys.argv[1].split("."), json.load(sys.stdin)))' "$1"
}

# Waits up to SECONDS until a command succeeds.
eventually() {
	local i seconds=$1
	shift
	for i in $(seq $((seconds * 10))); do
		! "$@" || return 0
		sleep 0.1
	done
	return 1
}

clean() {
	"$WEIR" check "$DS" --data > "$T/check" 2>&1 || fail "$1: check ended with $?: $(cat "$T/check")"
}

logged() {
	grep -q -- "$1" "$T/log" || fail "the log does not say '$1': $(cat "$T/log")"
}
