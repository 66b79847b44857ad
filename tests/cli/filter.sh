#!/bin/bash
# filters are listed, attached, changed, detached, costed and audited from the command line
. "$(dirname "$0")/lib.sh"
need_fuse

run 0 "$WEIR" filter types
for type in cache throttle analytics scan discover encrypt compress dedupe protect fault; do
	grep -q "^$type (class " out || fail "no filter type '$type'"
done
run 0 "$WEIR" filter types --json
key '.types[0].settings' array
ok "filter types"

new_datastore ds
mount_ds ds mnt
random_file image.bin 8 filters
mkdir mnt/vm
cp image.bin mnt/vm/a.raw
run 0 "$WEIR" filter list mnt/vm/a.raw
says out "vm/a.raw: image"
says out "dedupe"
run 0 "$WEIR" filter attach mnt/vm/a.raw throttle iops=100000
says out "vm/a.raw: attached, link"
run 0 "$WEIR" filter list mnt/vm/a.raw --json
jq -e '.stages[] | select(.type == "throttle") | .settings.iops == "100000" and .state == "active"' out >/dev/null ||
	fail "list: $(cat out)"
cmp image.bin mnt/vm/a.raw
run 0 "$WEIR" filter set mnt/vm/a.raw throttle iops=200000
run 0 "$WEIR" filter list mnt/vm/a.raw
says out "iops=200000"
ok "attach, list, set"

exec 5<mnt/vm/a.raw
dd if=mnt/vm/a.raw of=/dev/null bs=4k iflag=direct 2>/dev/null
run 0 "$WEIR" filter cost mnt/vm/a.raw --json
jq -e '.stages[] | select(.type == "throttle") | .cost.operations >= 2048' out >/dev/null ||
	fail "cost: $(cat out)"
run 0 "$WEIR" filter cost mnt/vm/a.raw
says out "whole request"
exec 5<&-
ok "cost"

refused 8 "throtle" "$WEIR" filter attach mnt/vm/a.raw throtle
refused 8 "did you mean 'iops'" "$WEIR" filter attach mnt/vm/a.raw throttle iosp=1
refused 8 "iops" "$WEIR" filter set mnt/vm/a.raw throttle iops=many
refused 8 "--force" "$WEIR" filter attach mnt/vm/a.raw fault latency=1ms
refused 8 "cache" "$WEIR" filter detach mnt/vm/a.raw cache
ok "unknown types, keys and values are refused"

run 0 "$WEIR" filter attach mnt/vm throttle iops=5000
cp image.bin mnt/vm/b.raw
run 0 "$WEIR" filter list mnt/vm/b.raw
says out "iops=5000"
run 0 "$WEIR" filter list mnt/vm/a.raw
says out "iops=200000"
run 0 "$WEIR" filter set mnt/vm throttle iops=7000 --recursive
run 0 "$WEIR" filter list mnt/vm/a.raw
says out "iops=7000"
ok "inheritance, and --recursive"

run 0 "$WEIR" policy save mnt/vm/a.raw web
run 0 "$WEIR" policy list mnt
says out "web (saved"
says out "iops=7000"
cp image.bin mnt/c.raw
run 0 "$WEIR" policy apply mnt/c.raw web
run 0 "$WEIR" filter list mnt/c.raw
says out "iops=7000"
run 0 "$WEIR" policy delete mnt web
ok "policies"

run 0 "$WEIR" filter detach mnt/c.raw throttle
run 0 "$WEIR" filter list mnt/c.raw
says_not out "throttle"
cmp image.bin mnt/c.raw
weir umount mnt
run 0 "$WEIR" filter list ds --image vm/b.raw
says out "iops=7000"
run 0 "$WEIR" audit ds --verify
says out "filter attach"
says out "the chain is whole"
head=$("$WEIR" audit ds --verify --json | jq -r .verify.head)
run 0 "$WEIR" audit ds --expect "$head"
run 4 "$WEIR" audit ds --expect "${head//[0-9]/f}"
refused 8 "not mounted" "$WEIR" filter attach ds throttle iops=1
ok "audit, and what works unmounted"

mount_ds ds mnt
cmp image.bin mnt/vm/b.raw
run 0 "$WEIR" filter list mnt/vm/b.raw
says out "iops=7000"
weir umount mnt
ok "stacks are there after a remount"
