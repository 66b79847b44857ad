#!/bin/bash
# an encrypted image is sent without its key, kept sealed, sent on, and opened where its key is unlocked
. "$(dirname "$0")/lib.sh"
need_fuse
marker="what the guest wrote and nobody else is to read"
head -c 32 /dev/urandom >one.key
for ds in a b c; do
	new_datastore $ds
	mount_ds $ds mnt-$ds
done

# Text that is easily found, and bytes that do not compress.
content() # FILE SEED
{
	for i in $(seq 20000); do echo "$i.$2: $marker"; done >"$1"
	random_file more 6 "$2"
	cat more >>"$1"
	truncate -s 9M "$1"
}

# nowhere PATH...: the marker is in none of the files
nowhere() { ! grep -rqaF "$marker" "$@" || fail "plaintext in: $(grep -rlaF "$marker" "$@")"; }

lock() # MOUNT: the kernel tells of the last close in its own time
{
	for _ in $(seq 50); do
		if weir key lock "$1" vms >out 2>err; then return; fi
		sleep 0.1
	done
	fail "cannot lock: $(cat err)"
}

# opened MOUNT: until the image is there
opened()
{
	for _ in $(seq 150); do
		weir status "$1" --json >out
		[ "$(jq '[.jobs[] | select(.what == "unseal")] | length' out)" = 0 ] && return
		sleep 0.1
	done
	fail "it is not opened: $(jq -c .jobs out)"
}

run 0 "$WEIR" key create mnt-a vms --key-file one.key
mkdir mnt-a/vm
run 0 "$WEIR" filter attach mnt-a/vm encrypt key=vms
content first 1
cp first mnt-a/vm/a.raw
run 0 "$WEIR" snapshot create mnt-a/vm/a.raw s1
content second 1
dd if=first of=second bs=1M seek=3 count=2 skip=1 conv=notrunc status=none # known content elsewhere
printf 'new: %s' "$marker" | dd of=second bs=1 seek=5000000 conv=notrunc status=none
truncate -s 8M second
cp second mnt-a/vm/a.raw
run 0 "$WEIR" snapshot create mnt-a/vm/a.raw s2
echo plain >mnt-a/plain
run 0 "$WEIR" snapshot create mnt-a/plain p1
lock mnt-a

refused 8 "is not encrypted as a whole with one key" "$WEIR" send --raw mnt-a/plain@p1
run 0 "$WEIR" send --raw mnt-a/vm/a.raw@s1
mv out s1.stream
run 0 "$WEIR" send --raw mnt-a/vm/a.raw@s2 --from s1
mv out s2.stream
nowhere s1.stream s2.stream a
ok "a locked image is sent, and its plaintext is neither in the stream nor in the datastore"

# receive STATUS STREAM TARGET: what it says in ./out and ./err
receive()
{
	local want=$1 got=0
	timeout 60 "$WEIR" receive "$3" <"$2" >out 2>err || got=$?
	[ "$got" = "$want" ] || fail "receiving $2 ended with $got, not $want: $(cat out err)"
}

receive 0 s1.stream mnt-b/a.raw
says out "a.raw@s1"
receive 8 s1.stream mnt-b/a.raw
says err "has it already"
if cat mnt-b/a.raw >/dev/null 2>err; then fail "a sealed image opens"; fi
run 0 "$WEIR" status b --json
[[ $(jq -r '.unopenable[0].reason' out) == "it was received sealed: key 'vms' is locked (weir key unlock "* ]] || fail "status says: $(cat out)"
run 0 "$WEIR" key list mnt-b --json
[ "$(jq -c '.keys[0] | [.name, .state, .images]' out)" = '["vms","locked",1]' ] || fail "the key is not there: $(cat out)"
refused 8 "is in use: by 'a.raw'" "$WEIR" key delete mnt-b vms
run 0 "$WEIR" umount mnt-b
nowhere b
run 0 "$WEIR" check b --data
mount_ds b mnt-b
if truncate -s 0 mnt-b/a.raw 2>/dev/null; then fail "a sealed image is cut"; fi
refused 8 "was received sealed: it can be cloned once" "$WEIR" clone mnt-b/a.raw mnt-b/copy.raw
run 0 "$WEIR" receive --list mnt-b
says out "a.raw"
run 0 "$WEIR" receive --list mnt-b --json
[ "$(jq -c '.sealed[0] | [.target, .key, .token, [.snapshots[].name]]' out)" = '["a.raw","vms",null,["s1"]]' ] || fail "the list says: $(cat out)"
ok "it is kept sealed: it does not open, and nothing of it can be read"

# An update that is cut off goes on where it was.
head -c $(($(stat -c %s s2.stream) * 6 / 10)) s2.stream >cut.stream
receive 8 cut.stream mnt-b/a.raw
token=$(grep -o 'weirraw1-[0-9a-f]*' err) || fail "no token: $(cat err)"
run 0 "$WEIR" send --raw mnt-a/vm/a.raw@s2 --from s1 --resume "$token"
mv out rest.stream
[ "$(stat -c %s rest.stream)" -lt "$(stat -c %s s2.stream)" ] || fail "all of it was sent again"
receive 8 rest.stream mnt-c/a.raw
says err "which the stream is an update of"
receive 0 rest.stream mnt-b/a.raw
ok "a stream that was cut goes on with its rest"

# From there to a third one, by a stream that begins anew after a cut.
run 8 "$WEIR" send --raw mnt-b/a.raw@s2
says err "(--from s1)"
run 0 "$WEIR" send --raw mnt-b/a.raw@s1
mv out on.stream
cmp on.stream s1.stream || fail "it was not sent on as it came"
receive 0 on.stream mnt-c/a.raw
run 0 "$WEIR" send --raw mnt-b/a.raw@s2 --from s1
mv out on.stream
head -c 1800000 on.stream >cut.stream
receive 8 cut.stream mnt-c/a.raw
run 0 "$WEIR" receive --list mnt-c --json
[[ $(jq -r '.sealed[0].token' out) == weirraw1-* ]] || fail "no token in: $(cat out)"
# Killed while it comes: what is whole of it stays, and the same stream is taken.
mkfifo slow
(head -c 1200000 on.stream; sleep 30) >slow &
feeder=$!
"$WEIR" receive mnt-c/a.raw <slow >/dev/null 2>&1 &
sleep 1
pid=$(weir status c --json | jq .pid)
kill -9 "$pid"
fusermount3 -u -z mnt-c 2>/dev/null || umount -l mnt-c
for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
kill "$feeder" && wait "$feeder" 2>/dev/null || true
mount_ds c mnt-c
receive 0 on.stream mnt-c/a.raw
ok "what is kept sealed is sent on sealed"

# With the key it becomes what it was.
refused 8 "does not open key 'vms'" "$WEIR" key unlock mnt-b vms --key-file <(head -c 32 /dev/urandom) || true
run 0 "$WEIR" key unlock mnt-b vms --key-file one.key --wait
says out "1 image received sealed: open"
cmp mnt-b/a.raw second || fail "the image is not what was sent"
cmp mnt-b/.weir/snapshots/s1/a.raw first || fail "the first snapshot is not what was sent"
cmp mnt-b/.weir/snapshots/s2/a.raw second || fail "the second snapshot is not what was sent"
[ "$(ls mnt-b)" = a.raw ] || fail "something is left: $(ls mnt-b)"
run 0 "$WEIR" filter list mnt-b/a.raw
says out encrypt
receive 8 s1.stream mnt-b/a.raw
says err "was not received sealed, or has been opened since"
run 0 "$WEIR" snapshot create mnt-b/a.raw s3
lock mnt-b
if cat mnt-b/a.raw >/dev/null 2>&1; then fail "it opens without its key"; fi
run 0 "$WEIR" send --raw mnt-b/a.raw@s3
mv out s3.stream
run 0 "$WEIR" umount mnt-b
nowhere b s3.stream
run 0 "$WEIR" check b --data
run 0 "$WEIR" check b --data --key one.key
ok "unlocked, it is the image with its snapshots, and encrypted on disk"

# Killed while it is being opened.
kill_while_opening()
{
	weir key unlock mnt-c vms --key-file one.key >out
	[ -e first.out ] || cp out first.out
	sleep "$1"
	pid=$(weir status c --json | jq .pid)
	kill -9 "$pid"
	fusermount3 -u -z mnt-c 2>/dev/null || umount -l mnt-c
	for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
	mount_ds c mnt-c
}
for delay in 0.02 0.1 0.2; do kill_while_opening $delay; done
says first.out "being opened in the background"
run 0 "$WEIR" key unlock mnt-c vms --key-file one.key
opened c
run 0 "$WEIR" key unlock mnt-c vms --key-file one.key --wait
says_not out "sealed"
cmp mnt-c/a.raw second && cmp mnt-c/.weir/snapshots/s1/a.raw first || fail "differs after crashes"
receive 0 s3.stream mnt-c/third.raw
run 0 "$WEIR" key unlock mnt-c vms-2 --key-file one.key # the same secret; sealed in another datastore
opened c
cmp mnt-c/third.raw second || fail "what was opened and sent on is not what it was"
run 0 "$WEIR" send --raw mnt-c/third.raw@s3 --to "$WEIR receive $PWD/mnt-c/fourth.raw"
opened c
cmp mnt-c/fourth.raw second || fail "what was sent to a command is not what it was"
rm mnt-c/fourth.raw
receive 0 s3.stream mnt-c/gone.raw # sealed elsewhere, with a key that is unlocked here
rm -f mnt-c/gone.raw
opened c
run 0 "$WEIR" umount mnt-c
nowhere c
run 0 "$WEIR" check c --data
ok "crashes while it is opened do no harm; it can be sent on after that"
