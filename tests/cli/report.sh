#!/bin/bash
# status, stats, images and gc: the same keys mounted and not; numbers that add up
. "$(dirname "$0")/lib.sh"
need_fuse
new_datastore ds
mount_ds ds mnt
random_file plain 8 one
mkdir mnt/vm
cp plain mnt/vm/a.raw
cp --reflink=auto mnt/vm/a.raw mnt/vm/b.raw
truncate -s 1G mnt/sparse.raw
sync mnt/vm/b.raw

total_keys="logical_bytes written_bytes zero_bytes hole_bytes unique_bytes live_bytes stored_bytes
	metadata_bytes dedupe_ratio compression_ratio total_ratio segments segments_open live_share"
image_keys="inode size_bytes written_bytes zero_bytes"

reports()
{
	run 0 "$WEIR" status ds --json
	for k in pid uptime_seconds dirty_bytes log_used_bytes log_bytes last_commit; do key ".$k"; done
	key .mounted boolean
	key .health string

	run 0 "$WEIR" stats ds --json
	for k in $total_keys; do key ".total.$k"; done
	for k in $image_keys; do key ".images[0].$k"; done
	key '.images[0].path' string
	key .memory object
	key .activity object
	[ "$(jq '.images | length' out)" = 3 ] || fail "images: $(jq -c .images out)"
	[ "$(jq '.total.logical_bytes' out)" = $((16 * 1048576 + 1073741824)) ] || fail "logical: $(jq .total out)"
	[ "$(jq '[.. | numbers | select(. < 0)] | length' out)" = 0 ] || fail "a negative number"

	run 0 "$WEIR" stats ds vm/a.raw --json
	[ "$(jq -c '[.images[].path]' out)" = '["vm/a.raw"]' ] || fail "images: $(jq -c .images out)"
	# Dedupe may miss some of what is written at the same time, so not quite all is shared.
	jq -e '.images[0] | .shared_bytes + .unique_bytes == 8388608 and .shared_bytes > 8000000' out >/dev/null ||
		fail "unique and shared: $(jq -c .images out)"
	refused 8 "nothere" "$WEIR" stats ds nothere --json

	run 0 "$WEIR" images ds --json
	for k in inode size_bytes allocated_bytes unique_bytes shared_bytes; do key ".images[0].$k"; done
	[ "$(jq '[.images[].size_bytes] | add' out)" = $((16 * 1048576 + 1073741824)) ] || fail "sizes: $(cat out)"

	run 0 "$WEIR" gc ds --json
	for k in segments_freed segments_rewritten freed_bytes rewritten_bytes live_chunks dead_chunks; do key ".$k"; done

	run 0 "$WEIR" status ds && says out "health"
	run 0 "$WEIR" stats ds && says out "dedupe" && says out "vm/a.raw" && says out "x  written / unique"
	run 0 "$WEIR" images ds && says out "1.0 GiB" && says out "sparse.raw"
	run 0 "$WEIR" gc ds && says out "freed"
	[ ! -s err ] || fail "messages without a terminal: $(cat err)"
}

reports
run 0 "$WEIR" stats mnt/vm/a.raw --json
[ "$(jq -c '[.images[].path]' out)" = '["vm/a.raw"]' ] || fail "a target that is an image"
run 0 "$WEIR" stats mnt "$work/mnt/vm/b.raw" --json
[ "$(jq -c '[.images[].path]' out)" = '["vm/b.raw"]' ] || fail "an image named inside the mount"
ok "mounted"

weir umount ds
reports
[ "$(jq .mounted < <(weir status ds --json))" = false ] || fail "mounted?"
run 0 "$WEIR" status ds && says out "nothing to replay" && says_not out "never"
ok "not mounted"

mount_ds ds mnt
rm mnt/vm/*.raw
before=$(du -s --block-size=1 ds/segments | cut -f1)
run 0 "$WEIR" gc mnt --json
[ "$(jq .freed_bytes out)" -gt 7000000 ] || fail "gc freed $(cat out)"
[ "$(du -s --block-size=1 ds/segments | cut -f1)" -lt $((before - 7000000)) ] || fail "the files are still there"
ok "gc gives the space of deleted images back"
