#!/bin/bash
# the filters protect, scan and fault as an administrator meets them: what is refused, and what the status says
. "$(dirname "$0")/lib.sh"
need_fuse

new_datastore ds
mount_ds ds mnt
write() { dd if=/dev/zero of="$1" bs=4k count=1 seek="$2" conv=notrunc oflag=direct 2>/dev/null; }
truncate -s 1M mnt/w.raw

run 0 "$WEIR" filter attach mnt/w.raw protect worm_until=2100-01-01
write mnt/w.raw 0 || fail "what was never written cannot be written"
! write mnt/w.raw 0 || fail "write-once: written twice"
touch mnt/other
for state in closed open; do
	[ $state = closed ] || exec 5<mnt/w.raw
	! rm -f mnt/w.raw 2>/dev/null || fail "write-once: removed while $state"
	! mv -f mnt/other mnt/w.raw 2>/dev/null || fail "write-once: replaced while $state"
	refused 8 "later date only" "$WEIR" filter set mnt/w.raw protect worm_until=2090-01-01
done
exec 5<&-
[ "$(stat -c %s mnt/w.raw)" = 1048576 ] || fail "the image is gone"
mv mnt/w.raw mnt/moved.raw
mv mnt/moved.raw mnt/w.raw
run 0 "$WEIR" filter set mnt/w.raw protect worm_until=2101-01-01
run 0 "$WEIR" policy save mnt/w.raw worm
run 0 "$WEIR" filter set mnt/w.raw protect worm_until=2102-01-01
refused 8 "later date only" "$WEIR" policy apply mnt/w.raw worm
run 0 "$WEIR" filter detach mnt/w.raw protect
rm mnt/w.raw
ok "write-once holds for closed images too, and ends with the filter"

truncate -s 1M mnt/p.raw
run 0 "$WEIR" filter attach mnt/p.raw protect ranges=0+64K
! write mnt/p.raw 3 || fail "a read-only range was written"
write mnt/p.raw 16
run 0 "$WEIR" filter set mnt/p.raw protect read_only=on
! write mnt/p.raw 16 || fail "a read-only image was written"
ok "ranges, read_only"

truncate -s 1M mnt/f.raw
refused 8 "--force" "$WEIR" filter attach mnt/f.raw fault op=write errno=EIO
run 0 "$WEIR" filter attach mnt/f.raw fault op=write errno=EIO --force
! write mnt/f.raw 0 || fail "no fault"
run 0 "$WEIR" status mnt --json
[ "$(jq -r .health out)" = ok ] || fail "an injected error counts as bad health: $(cat out)"
run 0 "$WEIR" filter list mnt/f.raw
says out "active, forced"
ok "faults, which are no bad health"

refused 8 "not an absolute path" "$WEIR" filter attach mnt/f.raw scan clamd=clamd.sock
cat >rules.yar <<'R'
rule marked { strings: $a = "a signature of the tests" condition: $a }
R
if "$WEIR" filter attach mnt/f.raw scan rules="$PWD/rules.yar" action=block >out 2>err; then
	run 0 "$WEIR" filter detach mnt/f.raw fault
	exec 5<>mnt/f.raw
	! { echo "a signature of the tests" >&5; } 2>/dev/null || ! sync mnt/f.raw 2>/dev/null || fail "not blocked"
	for _ in $(seq 50); do
		"$WEIR" status mnt >out
		grep -q '^quarantined   f.raw: ' out && break
		sleep 0.1
	done
	says out "quarantined   f.raw: scan found marked"
	says out "alerts"
	run 0 "$WEIR" status mnt --json
	jq -e '.quarantine[0].target == "f.raw"' out >/dev/null || fail "status: $(cat out)"
	! write mnt/f.raw 9 || fail "in quarantine, and written"
	run 0 "$WEIR" filter list mnt/f.raw
	says out "weir filter lift"
	exec 5>&-
	run 0 "$WEIR" filter lift mnt/f.raw
	says out "f.raw: may be changed again"
	refused 8 "not in quarantine" "$WEIR" filter lift mnt/f.raw
	write mnt/f.raw 9
	run 0 "$WEIR" status mnt
	says_not out "quarantined "
	run 0 "$WEIR" audit mnt/f.raw
	grep -qE " weir +quarantine +f.raw" out || fail "who put it in quarantine: $(cat out)"
	grep -qE " quarantine lift +f.raw" out || fail "the lift is not recorded: $(cat out)"
	ok "quarantine"
else
	says err "YARA"
fi
refused 8 "name one" "$WEIR" filter lift mnt
weir umount mnt

if command -v sqlite3 >/dev/null; then
	sqlite3 ds/meta.db "UPDATE audit SET value = replace(value, 'quarantine', 'something')"
	run 8 "$WEIR" audit ds --verify
	says err "changed by another program"
	ok "what another program writes to the audit trail is found"
else
	echo "no sqlite3: tampering is not tried"
fi
