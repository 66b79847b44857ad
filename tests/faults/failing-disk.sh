#!/bin/bash
# A disk that begins to fail in the middle of writing (ext4 is told to shut down: each write and sync is EIO from then on).
LIMIT=90
. "$(dirname "$0")/lib.sh"
backing_make 200
# HOW: 1 the journal is written first, 2 as in a power cut.
shut_down() {
	python3 - "$B" "$1" <<'PY'
import fcntl, os, struct, sys
fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587d, struct.pack("I", int(sys.argv[2])))
PY
}
degraded() { [ "$(status health)" = degraded ]; }

blocks make "$T/known" 60 1
for flush in 1 2 2; do
	"$WEIR" create "$DS" --log-size 16M > /dev/null 2>&1 || true
	rm -f "$T/log"
	mount_logged txg=1
	blocks write "$M/first.raw" 4 1 1 > /dev/null
	# Over and over, so that the disk fails in the middle however fast it is.
	end=complete
	while [ "$end" = complete ]; do
		blocks write "$M/a.raw" 60 1 2 > "$T/result" 2> /dev/null || echo 0 0 EIO > "$T/result"
		read -r _ _ end < "$T/result"
	done &
	writer=$!
	eventually 10 test -s "$M/a.raw" || fail "nothing is written"
	sleep "0.$(printf %02d $((RANDOM % 25)))"
	shut_down $flush
	timeout 30 tail --pid=$writer -f /dev/null || fail "the writer hangs"
	wait $writer
	read -r acked synced end < "$T/result"
	[ "$end" = EIO ] || [ "$end" = ENOSPC ] || [ "$end" = EROFS ] || fail "the writer ended with $end"
	code=0
	timeout 20 sync "$M/a.raw" 2> /dev/null || code=$?
	[ "$code" != 124 ] || fail "syncing to a dead disk hangs"
	[ "$acked" = "$synced" ] || [ "$code" != 0 ] || fail "what was not synced was, to a dead disk"
	eventually 5 degraded || fail "status says nothing: $("$WEIR" status "$DS")"
	logged "cannot commit\|could not be read"
	! timeout 10 touch "$M/new" 2> /dev/null || ! timeout 10 sync "$M/new" 2> /dev/null || fail "a new file is durable on a dead disk"
	code=0
	timeout 30 "$WEIR" umount "$DS" 2> "$T/err" || code=$?
	[ "$code" != 124 ] || fail "umount hangs"
	timeout 30 tail --pid="$DAEMON" -f /dev/null || fail "the daemon does not end"
	! wait "$DAEMON" || fail "the daemon ended as if all were well"
	DAEMON=
	is_mounted && umount -l "$M"
	umount "$B"
	mount -o loop "$T/disk" "$B"
	mount_logged
	same "what was there" "$((4 << 8)) 0" "$(blocks compare "$M/first.raw" "$T/known" $((4 << 20)))"
	[ "$synced" = 0 ] || same "what was synced" "$((synced / 4096)) 0" "$(blocks compare "$M/a.raw" "$T/known" "$synced")"
	rm "$M/a.raw" "$M/first.raw"
	umount_logged
	clean "after the disk failed"
	echo "ok: $acked acknowledged, $synced synced, then $end"
done
