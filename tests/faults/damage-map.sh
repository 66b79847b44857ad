#!/bin/bash
# A damaged part of an image's map: new writes there are taken, and hold up nobody else.
LIMIT=60
. "$(dirname "$0")/lib.sh"

blocks make "$T/known" 40 5
mount_logged txg=1
cp "$T/known" "$M/a.raw"
sync "$M/a.raw"
"$WEIR" stats "$DS" > /dev/null # commits
for i in $(seq 60); do head -c 5000 /dev/urandom > "$M/small$i"; done
cp "$T/known" "$M/b.raw"
umount_logged
page=$(blocks node "$DS/meta.db" node | sort -n | sed -n 2p)
blocks flip "$DS/meta.db" $(((page - 1) * 8192 + 5000)) 4

mount_logged txg=1
read -r right eio first rest < <(blocks compare "$M/a.raw" "$T/known")
[ "$eio" -gt 1 ] && [ "$right" -gt 0 ] || fail "$eio blocks of a.raw are EIO, $right right: not a part"
same "b.raw" "10240 0" "$(blocks compare "$M/b.raw" "$T/known")"

# b.raw's writer hears of nothing, while whole chunks and single bytes go to where a.raw is damaged.
blocks write "$M/c.raw" 40 5 1 > "$T/result" &
writer=$!
start=$(date +%s)
for i in 0 3 300; do
	dd if="$T/known" of="$M/a.raw" bs=4k skip=$((first / 4096 + i)) seek=$((first / 4096 + i)) count=1 conv=notrunc,fsync status=none ||
		fail "a new write to where the map is damaged failed"
	printf x | dd of="$M/a.raw" bs=1 seek=$((first + (i + 1) * 4096)) conv=notrunc,fsync status=none ||
		fail "a byte to where the map is damaged failed"
	"$WEIR" stats "$DS" > /dev/null # commits
done
wait $writer
[ $(($(date +%s) - start)) -le 20 ] || fail "that took $(($(date +%s) - start)) s"
same "the other writer" complete "$(cut -d' ' -f3 "$T/result")"
! grep -q "cannot commit" "$T/log" || fail "a commit failed: $(grep "cannot commit" "$T/log")"
[ "$(status health)" = degraded ] || fail "status says nothing"
umount_logged

mount_logged
same "c.raw" "10240 0" "$(blocks compare "$M/c.raw" "$T/known")"
same "b.raw" "10240 0" "$(blocks compare "$M/b.raw" "$T/known")"
read -r right2 eio2 rest < <(blocks compare "$M/a.raw" "$T/known")
same "a.raw: right again" $((right + 3)) "$right2"
umount_logged
