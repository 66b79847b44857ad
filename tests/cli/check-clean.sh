#!/bin/bash
# check finds nothing in what the engine writes: after use, after a crash, after gc; and it changes nothing
. "$(dirname "$0")/lib.sh"
need_fuse
new_datastore ds

clean()
{
	run 0 "$WEIR" check ds --data --json
	[ "$(jq -c '[.clean, .errors, .losses, (.findings | map(select(.severity != "note")) | length)]' out)" = "[true,0,0,0]" ] ||
		fail "$1: $(cat out)"
	for k in images segments slots referenced_chunks dead_share frames_verified chunks_verified log_records; do
		key ".summary.$k"
	done
}

mount_ds ds mnt
random_file plain 20 one
cp plain mnt/a.raw
cp --reflink=auto mnt/a.raw mnt/b.raw
dd if=/dev/urandom of=mnt/b.raw bs=4k seek=100 count=300 conv=notrunc status=none
fallocate -p -o 1M -l 2M mnt/a.raw
fallocate -z -o 4M -l 1M mnt/a.raw
fallocate -n -o 30M -l 1M mnt/a.raw
truncate -s 5000001 mnt/b.raw
truncate -s 1T mnt/c.raw
dd if=plain of=mnt/c.raw bs=1M seek=900000 count=3 conv=notrunc status=none
ln mnt/a.raw mnt/hard
ln -s a.raw mnt/soft
mkfifo mnt/fifo
weir umount ds
clean "after use"
[ "$(jq .summary.images out)" -ge 3 ] || fail "images: $(cat out)"
ok "after use"

mount_ds ds mnt
cp plain mnt/d.raw
sync mnt/d.raw
rm mnt/b.raw
kill -9 "$(weir status ds --json | jq .pid)"
sleep 0.3
weir umount mnt 2>/dev/null || true
before=$(find ds -type f | sort | xargs sha256sum)
clean "after a crash"
[ "$before" = "$(find ds -type f | sort | xargs sha256sum)" ] || fail "check changed something"
mount_ds ds mnt
cmp plain mnt/d.raw || fail "flushed data is lost"
weir umount ds
clean "after recovery"
ok "after a crash, before and after recovery"

weir gc ds >/dev/null
clean "after gc"
run 0 "$WEIR" check ds && says out "clean:"
ok "after gc"
