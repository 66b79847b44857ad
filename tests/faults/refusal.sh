#!/bin/bash
# What must not be mounted is refused, with the reason and the code of a failed mount, and stays as it is.
LIMIT=60
. "$(dirname "$0")/lib.sh"
META_PAGE=${META_PAGE:-$FAULTS/../../build/tests/faults/meta-page}

# refuses TEXT COMMAND...: exit code 32 (mount) or 8 (others), one line with TEXT
refuses() {
	local code=0 text=$1 want=8
	shift
	[ "$1" != mount ] || want=32
	"$WEIR" "$@" > "$T/out" 2> "$T/err" || code=$?
	same "exit code of weir $*: $(cat "$T/err")" $want $code
	grep -q -- "$text" "$T/err" || fail "weir $*: expected '$text' in: $(cat "$T/err")"
	same "lines of weir $*: $(cat "$T/err")" 1 "$(wc -l < "$T/err")"
}
state() { (cd "$1" && find . -type f ! -name lock -exec sha256sum {} + | sort); }

mount_logged
cp "$WEIR" "$M/a.raw"
mkdir "$T/other"
refuses "pid $DAEMON" mount "$DS" "$T/other"
refuses "pid $DAEMON" check "$DS"
refuses "pid $DAEMON" check "$DS" --repair
cp "$WEIR" "$M/b.raw" # nothing happened to it
umount_logged
clean "after refused commands"

# Of a newer version: by the number in the database's first page, with a good checksum.
cp -a "$DS" "$T/good"
"$META_PAGE" "$DS/meta.db" 1 60 00000063
before=$(state "$DS")
refuses "newer version" mount "$DS" "$M"
refuses "newer version" mount "$DS" "$M" -o ro
refuses "newer version" status "$DS"
code=0
"$WEIR" check "$DS" --repair > "$T/out" 2>&1 || code=$?
[ "$code" = 8 ] || [ "$code" = 4 ] || fail "check of a newer version ended with $code: $(cat "$T/out")"
grep -q "newer" "$T/out" || fail "check of a newer version says: $(cat "$T/out")"
same "a newer datastore was changed" "$before" "$(state "$DS")"

# Somebody else's database, and things that are none.
rm -rf "$DS" && cp -a "$T/good" "$DS"
"$META_PAGE" "$DS/meta.db" 1 68 00000000
refuses "not a datastore" mount "$DS" "$M"
printf 'SQLite format 3\0' > "$DS/meta.db"
refuses "meta.db" mount "$DS" "$M"
head -c 100000 /dev/urandom > "$DS/meta.db"
refuses "meta.db" mount "$DS" "$M"
: > "$DS/meta.db"
refuses "meta.db" mount "$DS" "$M"
mkdir "$T/empty"
refuses "not a datastore" mount "$T/empty" "$M"
same "files in what is none" "" "$(ls -A "$T/empty")"
touch "$T/file"
refuses "file" mount "$T/file" "$M"
refuses "/dev/null" mount /dev/null "$M"
refuses "none" mount "$T/none" "$M"

# Parts of two datastores.
rm -rf "$DS" && cp -a "$T/good" "$DS"
"$WEIR" create "$T/second" --log-size 16M > /dev/null
cp "$T/second/log" "$DS/log"
refuses "log belongs to another datastore" mount "$DS" "$M"

# A filesystem that is read-only takes a read-only mount.
rm -rf "$DS" && cp -a "$T/good" "$DS"
backing_make 140
mount_logged
cp "$WEIR" "$M/a.raw"
umount_logged
mount -o remount,ro "$B"
before=$(state "$DS")
refuses "[Rr]ead-only" mount "$DS" "$M"
! is_mounted || fail "refused, but mounted"
mount_logged ro
cmp "$WEIR" "$M/a.raw" || fail "the read-only mount has other content"
! touch "$M/new" 2> /dev/null || fail "the read-only mount can be written"
umount_logged
"$WEIR" check "$DS" --data > "$T/check" 2>&1 || fail "check on a read-only filesystem: $(cat "$T/check")"
same "a read-only mount changed something" "$before" "$(state "$DS")"
mount -o remount,rw "$B"
mount_logged
cmp "$WEIR" "$M/a.raw" || fail "content differs"
umount_logged
