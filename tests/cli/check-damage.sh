#!/bin/bash
# damage in a file is found, and named exactly: image, range, segment
. "$(dirname "$0")/lib.sh"
need_fuse
new_datastore ds
mount_ds ds mnt
mkdir mnt/vm
random_file plain 12 one
cp plain mnt/vm/a.raw
weir umount ds
weir gc ds >/dev/null
cp -a ds good

# flip FILE OFFSET: the byte there changes
flip()
{
	local byte
	byte=$(od -An -tu1 -j "$2" -N 1 "$1")
	# shellcheck disable=SC2059
	printf "\\x$(printf %02x $((byte ^ 255)))" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}
restore() { rm -rf ds && cp -a good ds; }
segment=$(find good/segments -type f -printf '%s %p\n' | sort -n | tail -1 | cut -d' ' -f2-)
segment=ds/${segment#good/}
size=$(stat -c %s "$segment")

flip "$segment" $((size / 2))
run 0 "$WEIR" check ds
run 4 "$WEIR" check ds --data --json
jq -e '.findings[] | select(.kind == "chunk" and .severity == "loss" and .path == "vm/a.raw"
	and .length > 0 and .length <= 65536 and .segment > 0)' out >/dev/null || fail "findings: $(jq -c .findings out)"
offset=$(jq '[.findings[] | select(.kind == "chunk")][0].offset' out)
length=$(jq '[.findings[] | select(.kind == "chunk")][0].length' out)
ok "a damaged frame is found with --data, and its range is named"

mount_ds ds mnt
dd if=mnt/vm/a.raw of=/dev/null bs=4k skip=$((offset / 4096)) count=1 iflag=direct status=none 2>/dev/null &&
	fail "the damaged range can be read"
cmp -n "$offset" plain mnt/vm/a.raw || fail "what lies before the damage differs"
cmp -i $((offset + length)) plain mnt/vm/a.raw || fail "what lies behind the damage differs"
weir umount ds
ok "exactly that range reads as an error"

restore
flip "$segment" 100
run 4 "$WEIR" check ds --json
jq -e '.findings[] | select(.kind == "segment-file" and .severity == "error")' out >/dev/null || fail "$(cat out)"
restore
flip "$segment" $((size - 20))
run 4 "$WEIR" check ds
says out "footer"
restore
truncate -s $((size / 2)) "$segment"
run 4 "$WEIR" check ds
restore
rm "$segment"
run 4 "$WEIR" check ds --json
jq -e '[.findings[] | select(.severity == "loss" and .path == "vm/a.raw")] | length > 0' out >/dev/null || fail "$(cat out)"
ok "header, footer, length and absence of a segment file"

restore
flip ds/index 100
run 4 "$WEIR" check ds
says out "index"
restore
flip ds/log 20
run 4 "$WEIR" check ds
says out "error:"
restore
for at in 100 9000 20000 40000; do
	[ "$at" -lt "$(stat -c %s ds/meta.db)" ] || continue
	flip ds/meta.db "$at"
	run 4 "$WEIR" check ds --data
	[ -s out ] || fail "nothing said about damage in meta.db at $at"
	restore
done
ok "saved index, intent log, metadata"

run 0 "$WEIR" check ds --data
ok "the restored datastore is clean"
