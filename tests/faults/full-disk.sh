#!/bin/bash
# A disk that is full: writers hear ENOSPC, nothing that was acknowledged is lost, no hang, and it ends by itself.
LIMIT=100
. "$(dirname "$0")/lib.sh"
backing_make 220
health_is() { [ "$(status health)" = "$1" ]; }
status_says() { "$WEIR" status "$DS" | grep -q "$1"; }

blocks make "$T/known" 300 1
mount_logged
read -r acked synced end < <(blocks write "$M/a.raw" 300 1 8)
same "filling the disk ends with" ENOSPC "$end"
[ "$synced" -ge $((20 << 20)) ] || fail "only $synced bytes fit"
same "what was acknowledged" "$((acked / 4096)) 0" "$(blocks compare "$M/a.raw" "$T/known" "$acked")"
status_says "no space\|No space" || fail "status does not say why: $("$WEIR" status "$DS")"
logged "[Nn]o space"
same "free space" 0 "$(($(stat -f -c %a "$M") * $(stat -f -c %S "$M") / (4 << 20)))"
sync "$M/a.raw" || fail "what was acknowledged cannot be synced"
echo "full: $acked acknowledged, $synced synced"

# Reading, deleting and truncating work; then there is room again.
rm "$M/a.raw"
"$WEIR" gc "$DS" > /dev/null
eventually 10 health_is ok || fail "still not well: $("$WEIR" status "$DS")"
read -r acked synced end < <(blocks write "$M/b.raw" 20 1 8)
same "after deleting and collecting" complete "$end"
umount_logged
clean "after it was full"

# Somebody else takes the space, while much is dirty.
mount_logged txg=1
blocks write "$M/c.raw" 12 1 4 > /dev/null
# The reserve is enough for what was acknowledged before; here not even that is left.
blocks write "$M/d.raw" 100 2 4 > "$T/result" &
writer=$!
eventually 10 test -s "$M/d.raw" || fail "nothing is written"
fallocate -l "$(df -B1 --output=avail "$B" | tail -1)" "$B/other" 2> /dev/null || true
dd if=/dev/zero of="$B/rest" bs=64k status=none 2> /dev/null || true
wait "$writer"
read -r acked synced end < "$T/result"
same "with the disk taken by others" ENOSPC "$end"
echo "taken by others: $acked acknowledged, $synced synced"
blocks make "$T/known2" 100 2
same "what was acknowledged" "$((acked / 4096)) 0" "$(blocks compare "$M/d.raw" "$T/known2" "$acked")"
same "what was there" "$((12 << 8)) 0" "$(blocks compare "$M/c.raw" "$T/known" $((12 << 20)))"
status_says "no space\|No space" || fail "status does not say why: $("$WEIR" status "$DS")"
rm "$B/other" "$B/rest"
eventually 15 health_is ok || fail "still not well: $("$WEIR" status "$DS")"
read -r acked2 synced end < <(blocks write "$M/e.raw" 12 1 4)
same "with room again" complete "$end"
umount_logged
clean "after others had the space"
mount_logged
same "what was acknowledged, later" "$((acked / 4096)) 0" "$(blocks compare "$M/d.raw" "$T/known2" "$acked")"
same "what came later" "$((12 << 8)) 0" "$(blocks compare "$M/e.raw" "$T/known" $((12 << 20)))"

# The disk is full when the daemon is killed, and when it comes back.
blocks write "$M/f.raw" 4 3 1 > /dev/null
dd if=/dev/zero of="$B/rest" bs=64k status=none 2> /dev/null || true
blocks make "$T/known3" 4 3
kill_daemon
if mount_logged 2> "$T/err"; then
	same "after a crash, on a full disk" "$((4 << 8)) 0" "$(blocks compare "$M/f.raw" "$T/known3")"
	umount_logged || true
else
	logged "[Nn]o space"
fi
rm "$B/rest"
mount_logged
same "after a crash, with room again" "$((4 << 8)) 0" "$(blocks compare "$M/f.raw" "$T/known3")"
umount_logged
clean "after a crash on a full disk"
