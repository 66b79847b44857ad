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
run 0 "$WEIR" filter types throttle
[ "$(grep -c '(class ' out)" = 1 ] || fail "more than one type: $(cat out)"
refused 8 "did you mean 'throttle'" "$WEIR" filter types throtle
refused 16 "weir help filter" "$WEIR" filter lst
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
grep -qx "vm/a.raw: attached throttle:[0-9]*" out || fail "attach: $(cat out)"
run 0 "$WEIR" filter list mnt/vm/a.raw
grep -qE ' throttle .* iops=100000$' out || fail "not the settings that were given: $(cat out)"
! grep -q ' $' out || fail "blanks at the end of a line: $(cat -A out)"
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
says out "storage"
run 0 "$WEIR" filter cost mnt/vm/a.raw --json
jq -e '.storage.share >= 0 and ([.stages[].cost.share] | max) <= 1' out >/dev/null || fail "shares: $(cat out)"
refused 8 "no image" "$WEIR" filter cost mnt
exec 5<&-
ok "cost"

refused 8 "did you mean 'throttle'" "$WEIR" filter attach mnt/vm/a.raw throtle
refused 8 "nothing to set" "$WEIR" filter attach mnt/vm/a.raw tier
refused 8 "weir filter attach" "$WEIR" filter set mnt/vm/a.raw compress level=4
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
truncate -s 1M mnt/vm/plain.raw
run 0 "$WEIR" filter detach mnt/vm/plain.raw throttle
run 0 "$WEIR" filter set mnt/vm throttle iops=7000 --recursive
says_not out "plain.raw"
refused 8 "nor to anything in it" "$WEIR" filter detach mnt cache --recursive
ok "inheritance, and --recursive"

run 0 "$WEIR" policy list mnt
says out "no policies"
run 0 "$WEIR" policy save mnt/vm/a.raw web
run 0 "$WEIR" policy list mnt
says out "web (saved"
says out "iops=7000"
cp image.bin mnt/c.raw
run 0 "$WEIR" policy apply mnt/c.raw web
run 0 "$WEIR" filter list mnt/c.raw
says out "iops=7000"
truncate -s 1M mnt/t.raw
run 0 "$WEIR" filter attach mnt/t.raw scramble --force
refused 8 "transforms the stored data" "$WEIR" policy apply mnt/t.raw web
run 0 "$WEIR" policy apply mnt/t.raw web --force
rm mnt/t.raw
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
run 0 "$WEIR" filter attach mnt/vm/b.raw analytics
refused 8 "there is report" "$WEIR" filter run mnt/vm/b.raw analytics nonsense
run 0 "$WEIR" filter attach mnt/c.raw scramble --force --wait
weir umount mnt
ok "stacks are there after a remount"

weir mount ds mnt -o without=analytics,without=scramble
cmp image.bin mnt/vm/b.raw
run 0 "$WEIR" filter list mnt/vm/b.raw
grep -qE ' analytics +missing ' out || fail "list: $(cat out)"
run 1 cat mnt/c.raw
run 0 "$WEIR" status mnt
says out "does not open c.raw: filter 'scramble'"
says out "health        ok"
weir umount mnt
mount_ds ds mnt
cmp image.bin mnt/c.raw
weir umount mnt
ok "images without their filters"
