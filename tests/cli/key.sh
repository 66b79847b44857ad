#!/bin/bash
# keys: created, unlocked with what they were created with, locked again at each mount, never in the clear
. "$(dirname "$0")/lib.sh"
need_fuse
new_datastore ds
mkdir mnt

head -c 32 /dev/urandom >one.key
head -c 48 /dev/urandom >two.key
echo "correct horse battery staple" >pass
refused 8 "is not mounted" "$WEIR" key create ds vms --key-file one.key
run 0 "$WEIR" key list ds
says out "no keys"
mount_ds ds mnt

refused 16 "unknown action 'unlok', did you mean 'unlock'" "$WEIR" key unlok mnt vms
refused 16 "missing NAME" "$WEIR" key unlock mnt
refused 16 "lock takes no secret" "$WEIR" key lock mnt vms --key-file one.key
refused 16 "is no number" "$WEIR" key remove mnt vms first
refused 8 "is no name of a key" "$WEIR" key create mnt "a b" --key-file one.key
refused 8 "there is no key 'vms' (weir key create" "$WEIR" key unlock mnt vms --key-file one.key
refused 8 "cannot read 'none.key'" "$WEIR" key create mnt vms --key-file none.key
: >empty.key
refused 8 "'empty.key' is empty" "$WEIR" key create mnt vms --key-file empty.key
head -c 16 /dev/urandom >short.key
refused 8 "" "$WEIR" key create mnt vms --key-file short.key
setsid "$WEIR" key create mnt vms </dev/null >out 2>err && fail "a key without a secret"
says err "there is no terminal"
ok "what is not right is refused, with a reason"

run 0 "$WEIR" key create mnt vms --key-file one.key
says out "created key 'vms'"
refused 8 "there is a key 'vms' already" "$WEIR" key create mnt vms --key-file two.key
run 0 "$WEIR" key list mnt --json
[ "$(jq -r '.keys[0] | "\(.name) \(.state) \(.images) \(.slots[0].kind)"' out)" = "vms unlocked 0 file" ] ||
	fail "the list says: $(cat out)"
ok "a new key is unlocked"

run 0 "$WEIR" key add mnt vms --key-file one.key --new-passphrase-file pass
says out "added slot 1"
run 0 "$WEIR" key recovery mnt vms --key-file one.key
[ "$(wc -l <out)" = 1 ] || fail "more than the recovery key is printed: $(cat out)"
grep -q '^weir-' out || fail "that is no recovery key: $(cat out)"
mv out recovery
says err "is not shown again"
run 0 "$WEIR" key lock mnt vms
refused 8 "this key file does not open key 'vms'" "$WEIR" key unlock mnt vms --key-file two.key
refused 8 "this passphrase does not open key 'vms'" "$WEIR" key unlock mnt vms --passphrase-file one.key
run 0 "$WEIR" key unlock mnt vms --passphrase-file - <pass
run 0 "$WEIR" key lock mnt vms
run 0 "$WEIR" key unlock mnt vms --recovery --passphrase-file recovery
run 0 "$WEIR" key lock mnt vms
sed 's/.$/x/' recovery >typo
cmp -s recovery typo && sed 's/.$/y/' recovery >typo
run 8 "$WEIR" key unlock mnt vms --recovery --passphrase-file typo
run 0 "$WEIR" key unlock mnt vms --key-file one.key
ok "each slot opens the key, and nothing else does"

run 0 "$WEIR" key remove mnt vms 0
refused 8 "does not open" "$WEIR" key unlock mnt vms --key-file one.key
run 0 "$WEIR" key remove mnt vms 2
refused 8 "is the last one" "$WEIR" key remove mnt vms 1
ok "a removed slot opens it no longer; the last one stays"

run 0 "$WEIR" key add mnt vms --passphrase-file pass --new-key-file two.key
run 0 "$WEIR" key rotate mnt vms --key-file two.key --wait
says out "has a new crypto domain"
says out "(passphrase) does not open it"
run 0 "$WEIR" key unlock mnt vms --key-file two.key
refused 8 "does not open" "$WEIR" key unlock mnt vms --passphrase-file pass
run 0 "$WEIR" key add mnt vms --key-file two.key --new-passphrase-file pass
ok "rotation keeps the slot whose secret was given"

# While keys are in memory: no core dump, and all of it locked.
pid=$(weir status ds --json | jq .pid)
grep -qE '^VmLck:\s+[1-9]' "/proc/$pid/status" || fail "the daemon's memory is not locked"
[ "$(awk '/Max core file size/ { print $5 }' "/proc/$pid/limits")" = 0 ] || fail "the daemon may dump core"
ok "the daemon's memory is locked and not dumped"

run 0 "$WEIR" umount mnt
run 0 "$WEIR" key list ds --json
[ "$(jq -r '.keys[0].state' out)" = locked ] || fail "without a daemon: $(cat out)"
weir mount ds mnt -o overlay=32M,cache=32M,map=16M,key=vms:two.key
run 0 "$WEIR" key list mnt --json
[ "$(jq -r '.keys[0].state' out)" = unlocked ] || fail "the mount option did not unlock: $(cat out)"
run 0 "$WEIR" umount mnt
refused 32 "this key file does not open key 'vms'" "$WEIR" mount ds mnt -o key=vms:one.key
refused 16 "cannot read key file" "$WEIR" mount ds mnt -o key=vms:none.key
mount_ds ds mnt
run 0 "$WEIR" key list mnt --json
[ "$(jq -r '.keys[0].state' out)" = locked ] || fail "a mount without the key has it: $(cat out)"
ok "a mount starts with keys locked, but for those that it is given"

run 0 "$WEIR" key delete mnt vms
refused 8 "there is no key" "$WEIR" key lock mnt vms
run 0 "$WEIR" umount mnt

# Nothing of a secret, raw or as text, in anything that was stored or said.
python3 - one.key two.key pass recovery <<'PY' || fail "a secret is in the datastore"
import base64, os, sys
secrets = []
for name in sys.argv[1:]:
    raw = open(name, "rb").read().rstrip(b"\n")
    secrets += [raw, base64.b64encode(raw), raw.hex().encode(), raw[:16], raw[-16:]]
for top, _, files in os.walk("ds"):
    for name in files:
        data = open(os.path.join(top, name), "rb").read()
        for secret in secrets:
            if secret in data:
                sys.exit("%s in %s" % (secret, name))
PY
ok "no secret is in the datastore"
