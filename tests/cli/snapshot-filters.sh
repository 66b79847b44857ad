#!/bin/bash
# filters, their state and keys go with snapshots, clones and rollbacks
. "$(dirname "$0")/lib.sh"
need_fuse

new_datastore ds
mount_ds ds mnt
random_file one 4 one
random_file two 4 two
head -c 32 /dev/urandom >one.key
run 0 "$WEIR" key create mnt vms --key-file one.key

cp one mnt/a.raw
run 0 "$WEIR" filter attach mnt/a.raw throttle iops=100000
run 0 "$WEIR" snapshot create mnt/a.raw clear
run 0 "$WEIR" filter set mnt/a.raw throttle iops=200000
run 0 "$WEIR" clone mnt/a.raw@clear mnt/b.raw
run 0 "$WEIR" filter list mnt/b.raw
says out "iops=100000"
run 0 "$WEIR" clone mnt/a.raw mnt/c.raw
run 0 "$WEIR" filter list mnt/c.raw
says out "iops=200000"
ok "a clone has the filters of its source as of then"

refused 8 "has snapshots, which would stay in the clear" "$WEIR" filter attach mnt/a.raw encrypt key=vms --wait
run 0 "$WEIR" snapshot delete mnt/a.raw clear
run 0 "$WEIR" filter attach mnt/a.raw encrypt key=vms --wait
cmp one mnt/a.raw
ok "what has snapshots in the clear is not said to be encrypted"

run 0 "$WEIR" snapshot create mnt/a.raw sealed
cp two mnt/a.raw
run 0 "$WEIR" clone mnt/a.raw@sealed mnt/d.raw
cmp one mnt/d.raw
run 0 "$WEIR" filter list mnt/d.raw
says out "key=vms"
run 0 "$WEIR" snapshot rollback mnt/a.raw sealed
cmp one mnt/a.raw
rm mnt/d.raw
ok "snapshots of an encrypted image are encrypted"

view=mnt/.weir/snapshots/sealed/a.raw
cmp one "$view"
exec 5<"$view"
refused 8 "'a.raw@sealed' is open" "$WEIR" key lock mnt vms
exec 5<&-
run 0 "$WEIR" key lock mnt vms
cat "$view" >/dev/null 2>err && fail "a snapshot was read without its key"
says err "Required key not available"
run 0 "$WEIR" key unlock mnt vms --key-file one.key
cmp one "$view"
ok "a snapshot in the mount opens with its key only, and the key stays while it is open"

run 0 "$WEIR" key rotate mnt vms --key-file one.key --wait
run 0 "$WEIR" key list mnt --json
jq -e '.keys[0].state == "rotating"' out >/dev/null || fail "keys: $(cat out)"
run 8 "$WEIR" snapshot rollback mnt/a.raw sealed
says err "clone the snapshot"
run 0 "$WEIR" clone mnt/a.raw@sealed mnt/e.raw
cmp one mnt/e.raw
rm mnt/e.raw
rm mnt/a.raw
refused 8 "is in use: by 'a.raw@" "$WEIR" key delete mnt vms
weir umount mnt
run 0 "$WEIR" check ds
mount_ds ds mnt
run 0 "$WEIR" key unlock mnt vms --key-file one.key
run 0 "$WEIR" clone mnt/b.raw mnt/f.raw
run 0 "$WEIR" snapshot list mnt --json
jq -r '.snapshots[].name' out | while read -r name; do
	weir snapshot delete mnt "$name" >/dev/null
done
run 0 "$WEIR" key list mnt --json
jq -e '.keys[0].state == "unlocked"' out >/dev/null || fail "keys: $(cat out)"
run 0 "$WEIR" key delete mnt vms
ok "a key stays while a snapshot needs it, and goes with the last one"

cp one mnt/p.raw
run 0 "$WEIR" snapshot create mnt/p.raw s
cp two mnt/p.raw
run 0 "$WEIR" filter attach mnt/p.raw protect worm_until=2099-01-01
run 8 "$WEIR" snapshot rollback mnt/p.raw s
cmp two mnt/p.raw
ok "a protected image is not rolled back, open or not"
weir umount mnt
run 0 "$WEIR" check ds --data
ok "check"
