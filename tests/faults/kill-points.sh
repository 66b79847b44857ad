#!/bin/bash
# kill -9 in the middle of create, of mounting and recovery, of unmounting, of collecting: the next one finds all well.
LIMIT=120
. "$(dirname "$0")/lib.sh"
ROUNDS=${ROUNDS:-8}
# Sleeps 0 to MAX ms.
nap() { sleep "0.$(printf %03d $((RANDOM % $1)))"; }
# Ends what this test started as $1, at a moment up to MAX ms from now; says nothing.
kill_soon() {
	nap "$2"
	kill -9 "$1" 2> /dev/null || true
	wait "$1" 2> /dev/null || true
}
clear_mount() {
	local i
	for i in 1 2 3; do is_mounted && umount -l "$M"; done
	return 0
}

# create
whole=0
for i in $(seq "$ROUNDS"); do
	rm -rf "$T/new"
	"$WEIR" create "$T/new" --log-size 16M > /dev/null 2>&1 &
	kill_soon $! 400
	if "$WEIR" check "$T/new" --data > "$T/check" 2>&1; then
		whole=$((whole + 1))
		! "$WEIR" create "$T/new" 2> /dev/null || fail "created over a datastore"
	else
		! "$WEIR" mount "$T/new" "$M" 2> "$T/err" || fail "mounted what create left"
		grep -q "unfinished\|not a datastore\|No such file" "$T/err" || fail "what create left is refused with: $(cat "$T/err")"
	fi
done
echo "create: $whole of $ROUNDS were complete"

blocks make "$T/known" 6 1
mount_logged
cp "$T/known" "$M/a.raw"
sync "$M/a.raw"

# verify WHAT: mounted, a.raw is what it was, and so is what was flushed just now
verify() {
	mount_logged || fail "$1: no mount: $(cat "$T/log")"
	cmp "$T/known" "$M/a.raw" || fail "$1: a.raw differs"
	[ ! -e "$T/flushed" ] || cmp "$T/flushed" "$M/b.raw" || fail "$1: what was flushed is lost"
}
# Leaves something to recover: part committed, part in the log.
dirty() {
	head -c $((RANDOM * 64)) /dev/urandom > "$T/flushed"
	cp "$T/flushed" "$M/b.raw"
	sync "$M/b.raw"
	head -c 2000000 /dev/urandom > "$M/c.raw"
}

# umount
for i in $(seq "$ROUNDS"); do
	dirty
	"$WEIR" umount "$DS" > /dev/null 2>&1 &
	umount=$!
	kill_soon "$DAEMON" 80
	wait $umount || true
	clear_mount
	verify "umount"
done
echo "umount: ok"

# mount, with something to recover
for i in $(seq "$ROUNDS"); do
	dirty
	kill_daemon
	"$WEIR" mount "$DS" "$M" -f -o "$OPTIONS" 2> /dev/null &
	kill_soon $! 60
	"$WEIR" mount "$DS" "$M" -f -o "$OPTIONS" 2> /dev/null &
	kill_soon $! 120
	clear_mount
	verify "mount"
done
echo "mount: ok"

# gc, with something to rewrite
for i in $(seq "$ROUNDS"); do
	dirty
	rm "$M/c.raw"
	dd if=/dev/urandom of="$M/d.raw" bs=4k count=20 seek=$((RANDOM % 1000)) conv=notrunc status=none
	"$WEIR" gc "$DS" > /dev/null 2>&1 &
	gc=$!
	kill_soon "$DAEMON" 100
	wait $gc || true
	clear_mount
	verify "gc"
done
umount_logged
clean "at the end"
mount_logged
cmp "$T/known" "$M/a.raw"
umount_logged
