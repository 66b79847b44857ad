#!/bin/bash
# snapshots are made, listed, renamed, held, deleted; rolled back to, cloned and compared
. "$(dirname "$0")/lib.sh"
need_fuse

new_datastore ds
mount_ds ds mnt
mkdir mnt/vm
random_file one 8 one
random_file two 8 two
cp one mnt/vm/a.raw
cp two mnt/vm/b.raw
cp one mnt/c.raw
chmod 640 mnt/vm/a.raw

run 0 "$WEIR" snapshot create mnt/vm/a.raw first
says out "vm/a.raw@first: 1 image"
run 0 "$WEIR" snapshot create mnt/vm both
says out "vm@both: 2 images"
run 0 "$WEIR" snapshot create mnt all --json
jq -e '.kind == "datastore" and .images == 3' out >/dev/null || fail "create: $(cat out)"
refused 8 "'first' of 'vm/a.raw' already" "$WEIR" snapshot create mnt/vm/a.raw first
refused 8 "'vm/a.raw' has a snapshot 'first' already" "$WEIR" snapshot create mnt/vm first
refused 8 "has a snapshot 'both' already" "$WEIR" snapshot create mnt/vm/b.raw both
for bad in .x -x a/b a@b "a b" ""; do
	refused 8 "is no name of a snapshot" "$WEIR" snapshot create mnt/c.raw -- "$bad"
done
refused 8 "cannot find" "$WEIR" snapshot create mnt/vm/none x
refused 16 "write 'mnt/c.raw x', not 'mnt/c.raw@x'" "$WEIR" snapshot create mnt/c.raw@x
refused 8 "'vm' is a directory: name an image in it" "$WEIR" snapshot rollback mnt/vm both
ok "create"

dd if=two of=mnt/vm/a.raw bs=1M count=2 conv=notrunc 2>/dev/null
truncate -s 6M mnt/vm/a.raw
cp mnt/vm/a.raw changed
run 0 "$WEIR" snapshot list mnt/vm/a.raw
for name in first both all; do says out "$name "; done
grep -qE '^all .* the datastore$' out || fail "list: $(cat out)"
run 0 "$WEIR" snapshot list mnt/c.raw
says_not out "both"
run 0 "$WEIR" snapshot list mnt --json
jq -e '.snapshots | length == 3' out >/dev/null || fail "list: $(cat out)"
jq -e '.snapshots[] | select(.name == "first") | .size_bytes == 8388608 and .target == "vm/a.raw" and .unique_bytes == 0' out >/dev/null ||
	fail "list: $(cat out)"
run 0 "$WEIR" snapshot show mnt/vm both --json
jq -e '[.image_list[].path] | sort == ["vm/a.raw", "vm/b.raw"]' out >/dev/null || fail "show: $(cat out)"
run 0 "$WEIR" snapshot show mnt/vm/a.raw all
says out "vm/b.raw"
refused 8 "has no snapshot 'none'" "$WEIR" snapshot show mnt/vm none
refused 16 "write 'mnt/vm both'" "$WEIR" snapshot show mnt/vm@both
ok "list and show"

run 0 "$WEIR" snapshot rename mnt/vm/a.raw first start
run 0 "$WEIR" snapshot list mnt/vm/a.raw
says out "start "
says_not out "first"
refused 8 "already" "$WEIR" snapshot rename mnt/vm/a.raw start both
run 0 "$WEIR" snapshot hold mnt/vm/a.raw start backup:42
refused 8 "already" "$WEIR" snapshot hold mnt/vm/a.raw start backup:42
refused 8 "is held by 'backup:42'" "$WEIR" snapshot delete mnt/vm/a.raw start
refused 8 "'other' does not hold" "$WEIR" snapshot release mnt/vm/a.raw start other
run 0 "$WEIR" snapshot list mnt/vm/a.raw
says out "backup:42"
run 0 "$WEIR" snapshot release mnt/vm/a.raw start backup:42
says out "held by nobody"
refused 8 "is of directory 'vm' as a whole" "$WEIR" snapshot delete mnt/vm/b.raw both
refused 8 "is of the datastore" "$WEIR" snapshot delete mnt/vm/b.raw all
ok "rename, hold, release"

run 0 "$WEIR" diff mnt/vm/a.raw@start mnt/vm/a.raw@both --json
[ "$(cat out)" = "[]" ] || fail "diff: $(cat out)"
run 0 "$WEIR" diff mnt/vm/a.raw@start mnt/vm/a.raw --json
jq -e '. == [{start: 0, length: 2097152, depth: 0, present: true, zero: false, data: true, offset: 0},
	{start: 6291456, length: 2097152, depth: 0, present: false, zero: true, data: false}]' out >/dev/null ||
	fail "diff: $(cat out)"
run 0 "$WEIR" diff mnt/vm/a.raw mnt/vm/a.raw@start
says out "2 extents, 4.0 MiB"
refused 8 "has no snapshot 'none'" "$WEIR" diff mnt/vm/a.raw@none mnt/vm/a.raw
ok "diff"

run 0 "$WEIR" clone mnt/vm/a.raw@start mnt/vm/new.raw
cmp one mnt/vm/new.raw
[ "$(stat -c %a mnt/vm/new.raw)" = 640 ] || fail "mode of a clone: $(stat -c %a mnt/vm/new.raw)"
run 0 "$WEIR" clone mnt/vm/a.raw mnt/now.raw
cmp changed mnt/now.raw
refused 8 "exists" "$WEIR" clone mnt/vm/a.raw mnt/now.raw
refused 8 "nor inside a mounted one" "$WEIR" clone mnt/vm/a.raw ./outside.raw
dd if=two of=mnt/vm/new.raw bs=1M count=1 conv=notrunc 2>/dev/null
cmp changed mnt/vm/a.raw
[ ! -e mnt/early.raw ]
run 0 "$WEIR" clone mnt/vm/a.raw@all mnt/early.raw
cmp one mnt/early.raw # a name that was not there a moment ago
cp one 'mnt/x@y'
run 0 "$WEIR" clone 'mnt/x@y' mnt/xy
cmp one mnt/xy
ok "clone"

exec 5<mnt/vm/a.raw
refused 8 "is open" "$WEIR" snapshot rollback mnt/vm/a.raw start
exec 5<&-
cmp changed mnt/vm/a.raw
run 0 "$WEIR" snapshot rollback mnt/vm/a.raw start
before=$(sed -n "s/.* snapshot '\(before-start-.*\)'/\1/p" out)
cmp one mnt/vm/a.raw
[ "$(stat -c %s mnt/vm/a.raw)" = 8388608 ] || fail "size after rollback: $(stat -c %s mnt/vm/a.raw)"
run 0 "$WEIR" clone "mnt/vm/a.raw@$before" mnt/was.raw
cmp changed mnt/was.raw
exec 5<mnt/vm/a.raw
cmp one - <&5
run 0 "$WEIR" snapshot rollback mnt/vm/a.raw "$before" --force --json
cmp changed mnt/vm/a.raw
exec 5<&-
run 0 "$WEIR" snapshot rollback mnt/vm/a.raw all
cmp one mnt/vm/a.raw
ok "rollback"

rm mnt/c.raw
run 0 "$WEIR" snapshot create mnt/vm/b.raw gone
rm mnt/vm/b.raw
run 0 "$WEIR" snapshot list mnt
says out "vm/b.raw (gone)"
run 0 "$WEIR" clone mnt/vm/b.raw@gone mnt/b-again.raw
cmp two mnt/b-again.raw
run 0 "$WEIR" export mnt/vm/b.raw@gone b-out.raw
cmp two b-out.raw
refused 8 "'vm/b.raw' is not there, and in no snapshot 'none'" "$WEIR" clone mnt/vm/b.raw@none mnt/b2.raw
refused 8 "cannot find" "$WEIR" clone mnt/vm/b.raw mnt/b2.raw
run 0 "$WEIR" snapshot create mnt/vm deep
mv mnt/vm mnt/moved
run 0 "$WEIR" clone mnt/vm/a.raw@deep mnt/a-again.raw
cmp one mnt/a-again.raw
cd mnt && run 0 "$WEIR" clone vm/a.raw@deep a-relative.raw && rm out err && cd ..
cmp one mnt/a-relative.raw
mv mnt/moved mnt/vm
run 0 "$WEIR" snapshot delete mnt/vm deep
run 0 "$WEIR" snapshot delete mnt gone
run 0 "$WEIR" snapshot show mnt all
says out "c.raw"
ok "snapshots outlive their images"

weir umount mnt
run 0 "$WEIR" snapshot list ds --image vm/a.raw
says out "start "
run 0 "$WEIR" snapshot show ds all
says out "vm/b.raw"
refused 8 "not mounted" "$WEIR" snapshot delete ds all
run 0 "$WEIR" check ds --data
run 0 "$WEIR" audit ds --verify
for action in "snapshot create" "snapshot rename" "snapshot hold" "snapshot release" "snapshot delete" clone rollback; do
	says out "$action"
done
says out "the chain is whole"
ok "unmounted; check and audit"

mount_ds ds mnt
cmp one mnt/vm/a.raw
cmp changed mnt/now.raw
run 0 "$WEIR" snapshot list mnt --json
jq -r '.snapshots[] | .name + " " + .target' out | while read -r name target; do
	weir snapshot delete "mnt/$target" "$name" >/dev/null
done
run 0 "$WEIR" snapshot list mnt --json
jq -e '.snapshots == []' out >/dev/null || fail "left: $(cat out)"
weir gc mnt >/dev/null
cmp one mnt/vm/a.raw
cmp changed mnt/now.raw
weir umount mnt
run 0 "$WEIR" check ds --data
ok "delete"
