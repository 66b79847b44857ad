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
# Another last digit: letters count the same in either case.
case $(tail -c 2 recovery) in
[xX]) sed 's/.$/Y/' recovery >typo ;;
*) sed 's/.$/X/' recovery >typo ;;
esac
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

run 0 "$WEIR" key recovery mnt vms --key-file two.key
mv out recovery2
refused 16 "give one secret" "$WEIR" key unlock mnt vms --key-file two.key --passphrase-file pass
refused 8 "this passphrase does not open" "$WEIR" key rotate mnt vms --key-file two.key --passphrase-file one.key
run 0 "$WEIR" key rotate mnt vms --key-file two.key --passphrase-file pass --recovery --passphrase-file recovery2 --wait
says_not out "does not open it"
run 0 "$WEIR" key unlock mnt vms --passphrase-file pass
run 0 "$WEIR" key unlock mnt vms --recovery --passphrase-file recovery2
run 0 "$WEIR" key unlock mnt vms --key-file two.key
run 0 "$WEIR" key list mnt --json
slot=$(jq -r '.keys[0].slots[] | select(.kind == "recovery") | .slot' out)
run 0 "$WEIR" key remove mnt vms "$slot"
ok "rotation keeps every slot whose secret is given"

# on_terminal ANSWERS COMMAND...: each prompt gets the next line of the file; what it shows is in ./out
on_terminal()
{
	python3 - "$@" >out <<'PY'
import os, pty, re, select, sys
answers = open(sys.argv[1]).read().split("\n")
pid, fd = pty.fork()
if pid == 0:
    os.execv(sys.argv[2], sys.argv[2:])
shown = asked = b""
while True:
    if not select.select([fd], [], [], 60)[0]:
        sys.exit("no answer within a minute")
    try:
        data = os.read(fd, 4096)
    except OSError:
        break
    if not data:
        break
    shown += data
    asked += data
    if re.search(rb"(passphrase|recovery key) of [^\n]*: $", asked):
        asked = b""
        answer = answers.pop(0)
        os.write(fd, b"\x03" if answer == "^C" else answer.encode() + b"\n")
status = os.waitpid(pid, 0)[1]
print(shown.decode(), "signal", status & 127)
sys.exit(os.waitstatus_to_exitcode(status) if not status & 127 else 99)
PY
}
run 0 "$WEIR" key lock mnt vms
on_terminal pass "$WEIR" key unlock mnt vms || fail "unlocking on the terminal: $(cat out)"
says out "passphrase of key 'vms'"
says_not out "$(cat pass)"
printf 'new secret\nother secret\n' >answers
status=0 && on_terminal answers "$WEIR" key create mnt asked || status=$?
[ $status = 8 ] || fail "two different answers: $status, $(cat out)"
says out "not the same"
printf '^C\n' >answers
status=0 && on_terminal answers "$WEIR" key create mnt asked || status=$?
[ $status = 99 ] || fail "an interrupt at the prompt: $status, $(cat out)"
says out "signal 2"
printf 'new secret\nnew secret\n' >answers
on_terminal answers "$WEIR" key create mnt asked || fail "creating on the terminal: $(cat out)"
says_not out "new secret"
run 0 "$WEIR" key delete mnt asked
ok "passphrases are asked for on the terminal, and not shown"

# While keys are in memory: no core dump, and all of it locked.
pid=$(weir status ds --json | jq .pid)
grep -qE '^VmLck:\s+[1-9]' "/proc/$pid/status" || grep -q libasan "/proc/$pid/maps" ||
	fail "the daemon's memory is not locked" # the sanitizer makes locking do nothing
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
python3 - one.key two.key pass recovery recovery2 <<'PY' || fail "a secret is in the datastore"
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
