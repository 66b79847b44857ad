#!/bin/bash
# send and receive between two datastores: whole, updates, chains, asked, cut and resumed, hostile
. "$(dirname "$0")/lib.sh"
need_fuse
new_datastore src
new_datastore dst
mount_ds src s
mount_ds dst d

same() { cmp "s/$1" "d/$2" || fail "$2 differs from $1"; }
# sent FILE ARGS: a stream in a file
sent()
{
	local file=$1
	shift
	timeout 60 "$WEIR" send "$@" >"$file" 2>err || fail "send $*: $(cat err)"
}
received() { timeout 60 "$WEIR" receive "$2" <"$1" >out 2>err || fail "receive $2: $(cat err)"; }

# 6 MiB of all kinds: random, text, holes, zeros, twice the same, not a whole chunk at the end
random_file r1 2 one
{ cat r1; { yes "a line of text that compresses" || true; } | head -c 1M; cat r1; } >s/a.raw
truncate -s 9M s/a.raw
fallocate -z -o 6M -l 1M s/a.raw
printf tail >>s/a.raw
weir snapshot create s/a.raw one >out
chmod 640 s/a.raw

# --- whole ---
sent full s/a.raw@one
received full d/a.raw
same a.raw a.raw
says out one
[ "$(stat -c %a d/a.raw)" = 644 ] || fail "the mode is that of now, not of the snapshot"
[ "$(stat -c %b s/a.raw)" = "$(stat -c %b d/a.raw)" ] || fail "holes and zeros are not the same"
[ "$(stat -c %Y s/a.raw)" = "$(stat -c %Y d/a.raw)" ] || fail "the times are not the same"
run 0 "$WEIR" send s/a.raw@one --dry-run --json
key .data_bytes
key .estimate_bytes
[ "$(jq .data_bytes out)" = $((5 << 20 | 4096)) ] || fail "the dry run counts $(jq .data_bytes out)"
timeout 60 "$WEIR" send s/a.raw@one --json 2>out >full2
cmp full full2 || fail "the same snapshot gives another stream"
[ "$(jq .shared_bytes out)" -ge $((1 << 20)) ] || fail "what is there twice went twice: $(cat out)"
[ "$(stat -c %s full)" -lt $((5 << 19)) ] || fail "the stream has $(stat -c %s full) bytes"
ok "a whole image"

# --- what changed ---
random_file r2 1 two
dd if=r2 of=s/a.raw bs=1M seek=1 conv=notrunc status=none
fallocate -p -o 2M -l 64K s/a.raw
fallocate -z -o 3M -l 64K s/a.raw
printf x | dd of=s/a.raw bs=1 seek=4100000 conv=notrunc status=none
truncate -s 10M s/a.raw
weir snapshot create s/a.raw two >out
cp s/a.raw two.copy
sent incr s/a.raw@two --from one
received incr d/a.raw
same a.raw a.raw
[ "$(stat -c %s incr)" -lt $((5 << 18)) ] || fail "an update of 1 MiB has $(stat -c %s incr) bytes"
truncate -s 3M s/a.raw
random_file r3 1 three
cat r3 >>s/a.raw
weir snapshot create s/a.raw three >out
sent incr3 s/a.raw@three --from two
received incr3 d/a.raw
same a.raw a.raw
weir snapshot list d/a.raw --json | jq -e '[.snapshots[].name] == ["one", "two", "three"]' >out || fail "not the snapshots"
sent onward d/a.raw@three --from one
received full d/b.raw
received onward d/b.raw
same a.raw b.raw
cmp two.copy <(weir clone d/a.raw@two d/two.raw >out && cat d/two.raw) || fail "the snapshot in the middle differs"
rm d/two.raw
ok "updates, a chain of them, and sent on from a receiver"

refused 8 "is not older than" "$WEIR" send s/a.raw@one --from two
refused 8 "has no snapshot 'none'" "$WEIR" send s/a.raw@none
refused 8 "name a snapshot" "$WEIR" send s/a.raw
refused 8 "no token" "$WEIR" send s/a.raw@one --resume weir1-00
refused 16 "--dry-run sends nothing" "$WEIR" send s/a.raw@one --dry-run --to true
refused 8 "ended with status 3" "$WEIR" send s/a.raw@one --to 'exit 3'
refused 8 "no answer of weir receive" "$WEIR" send s/a.raw@one --to 'echo something of its own; cat >/dev/null'
refused 8 "No space left" sh -c '"$1" send s/a.raw@one >/dev/full' - "$WEIR"
refused 8 "which the stream is an update of" "$WEIR" receive d/none.raw <incr
[ ! -e d/none.raw ] || fail "an update made an image"
script -qec "$WEIR send s/a.raw@one" /dev/null </dev/null >out 2>&1 && fail "wrote to a terminal"
says out "not for a terminal"
ok "what cannot be is refused"

# --- asked ---
run 0 timeout 60 "$WEIR" send s/a.raw@one --to "$WEIR receive d/c.raw" --json
[ "$(jq .had_bytes out)" -ge $((4 << 20)) ] || fail "the receiver has it all, and was sent: $(cat out)"
[ "$(jq .data_bytes out)" -le 65536 ] || fail "sent what the receiver has: $(cat out)"
jq -e '.receiver.snapshot == "one"' out >/dev/null || fail "the receiver said nothing: $(cat out)"
received full d/c2.raw
cmp d/c.raw d/c2.raw || fail "what was asked for differs from what was sent"
run 0 timeout 60 "$WEIR" send s/a.raw@two --from one --to "$WEIR receive d/c.raw"
cmp two.copy d/c.raw || fail "an update that was asked about differs"
new_datastore empty
mount_ds empty e
run 0 timeout 60 "$WEIR" send s/a.raw@two --to "$WEIR receive e/a.raw" --json
cmp two.copy e/a.raw || fail "what an empty receiver was sent differs"
[ "$(jq .had_bytes out)" -lt $((1 << 20)) ] || fail "an empty receiver had $(jq .had_bytes out)"
refused 8 "the receiver says:" "$WEIR" send s/a.raw@two --to "$WEIR receive e/a.raw" # once
new_datastore unmounted
refused 8 "the receiver says:" "$WEIR" send s/a.raw@two --from one --to "$WEIR receive unmounted --image a.raw"
ok "a receiver is asked, and says what it has"

# --- cut, and resumed ---
random_file r4 24 four
cp r4 s/big.raw
weir snapshot create s/big.raw one >out
sent big s/big.raw@one
size=$(stat -c %s big)
for cut in 10 100 5000 $((size / 3)) $((size - 1)) $((size - 60)); do
	head -c "$cut" big >part
	run 8 "$WEIR" receive e/big.raw <part
	[ ! -e e/big.raw ] || fail "a stream cut at $cut made an image"
done
token=$(grep -o 'weir1-[0-9a-f]*' err) || fail "no token: $(cat err)"
sent rest s/big.raw@one --resume "$token"
[ "$(stat -c %s rest)" -lt $((size / 2)) ] || fail "the rest is not less: $(stat -c %s rest)"
received rest e/big.raw
cmp r4 e/big.raw || fail "resumed, it differs"
refused 8 "of another stream" "$WEIR" send s/a.raw@one --resume "$token"
rm e/big.raw
head -c $((size / 2)) big >part
run 8 "$WEIR" receive e/big2.raw <part
run 0 timeout 60 "$WEIR" send s/big.raw@one --to "$WEIR receive e/big2.raw" --json
cmp r4 e/big2.raw || fail "resumed by its own, it differs"
[ "$(jq .start_bytes out)" -gt 0 ] || fail "a receiver that is asked does not say where to go on"
ok "cut and resumed, by token and by itself"

# --- hostile ---
n=0
for at in 3 20 60 $((size / 2)) $((size - 20)); do
	cp big bad
	printf '\xff' | dd of=bad bs=1 seek="$at" conv=notrunc status=none
	cmp -s big bad && continue
	run 8 "$WEIR" receive "e/bad$((n += 1)).raw" <bad
	[ ! -e "e/bad$n.raw" ] || fail "a stream damaged at $at made an image"
done
{ head -c 4000 big; tail -c +8001 big; } >bad
run 8 "$WEIR" receive e/bad.raw <bad
cat full big >bad
received bad e/two-in-one.raw
cmp d/c2.raw e/two-in-one.raw || fail "the first of two streams differs"
run 8 "$WEIR" receive e/bad.raw <r4
says err "no stream of weir send"
[ "$(find e -name 'bad*' | wc -l)" = 0 ] || fail "something damaged is there"
ok "damaged streams are refused"

# --- nothing but the snapshot's own content ---
random_file r5 1 five
cp r5 s/secret.raw
weir snapshot create s/secret.raw before >out # commits: now it lies in frames
printf 'known to nobody else' | dd of=s/secret.raw bs=4096 seek=9 conv=notrunc,sync status=none
weir snapshot create s/secret.raw between >out
dd if=r4 of=s/secret.raw bs=4096 seek=9 count=1 conv=notrunc status=none
weir snapshot create s/secret.raw one >out
sent clean s/secret.raw@one
hex() { od -An -tx1 -v "$@" | tr -d ' \n'; }
hex clean >clean.hex
for i in 8 10; do grep -qF "$(hex -j $((i * 4096)) -N 32 r5)" clean.hex || fail "chunk $i is not in the stream"; done
! grep -qF "$(printf 'known to nobody else' | hex)" clean.hex || fail "what was overwritten is in the stream"
! grep -qF "$(hex -j $((9 * 4096)) -N 32 r5)" clean.hex || fail "an overwritten chunk went along with its frame"
timeout 60 "$WEIR" send s/secret.raw@one --json 2>out >clean
[ "$(jq .frames_packed out)" -ge 1 ] && [ "$(jq .frames_stored out)" -ge 20 ] ||
	fail "frames: $(cat out)"
received clean e/secret.raw
same_as() { cmp "$1" "$2" || fail "$2 differs"; }
same_as s/secret.raw e/secret.raw
ok "frames that are whole go as they are, of others only what belongs to it"

# --- encrypted ---
head -c 32 /dev/urandom >vms.key
weir key create s vms --key-file vms.key >out
: >s/sealed.raw
weir filter attach s/sealed.raw encrypt key=vms >out
cp r2 s/sealed.raw
weir snapshot create s/sealed.raw one >out
sent sealed s/sealed.raw@one
received sealed e/sealed.raw
same_as r2 e/sealed.raw
weir key lock s vms >out
refused 8 "key is locked" sh -c '"$1" send s/sealed.raw@one >sealed2' - "$WEIR"
run 8 "$WEIR" receive e/sealed2.raw <sealed2
[ ! -e e/sealed2.raw ] || fail "an aborted stream made an image"
ok "an encrypted image goes with its key, and not without"

# --- deleted while it is sent ---
mkfifo fifo
"$WEIR" send s/big.raw@one >fifo 2>send.err &
sender=$!
exec 9<fifo
head -c 1000 <&9 >part1
rm s/big.raw
run 0 "$WEIR" snapshot delete s one
weir gc s >out
cat <&9 >part2
exec 9<&-
wait "$sender" || fail "deleting the image ended its send: $(cat send.err)"
cat part1 part2 >whole
cmp big whole || fail "deleted while it was sent, it differs"
cp r4 s/big.raw
weir snapshot create s/big.raw again >out
ok "what is deleted while it is sent arrives whole"

# --- at random: WEIR_SEND_ROUNDS and WEIR_SEND_SEED for more of it ---
seed=${WEIR_SEND_SEED:-1}
RANDOM=$seed
pick() { echo $((RANDOM * 32768 + RANDOM)); }
change()
{
	local off=$(($(pick) % 12000000)) len=$(($(pick) % 300000 + 1))
	case $((RANDOM % 6)) in
	0) fallocate -p -o "$off" -l "$len" s/rnd.raw ;;
	1) fallocate -z -o "$off" -l "$len" s/rnd.raw ;;
	2) truncate -s "$off" s/rnd.raw ;;
	3) dd if=s/rnd.raw of=part bs=4096 count=$((len / 4096 + 1)) skip=$((off / 8192)) status=none
		dd if=part of=s/rnd.raw bs=4096 seek=$((off / 4096)) conv=notrunc status=none ;;
	4) head -c "$len" r1 | dd of=s/rnd.raw bs=64k seek="$off" oflag=seek_bytes conv=notrunc status=none ;;
	5) tail -c "$len" r4 | dd of=s/rnd.raw bs=64k seek="$off" oflag=seek_bytes conv=notrunc status=none ;;
	esac
}
cp r1 s/rnd.raw
before=()
for ((round = 1; round <= ${WEIR_SEND_ROUNDS:-9}; round++)); do
	for ((i = RANDOM % 12; i >= 0; i--)); do change; done
	weir snapshot create s/rnd.raw "r$round" >out
	sent rnd s/rnd.raw@r$round "${before[@]}"
	case $((RANDOM % 3)) in
	0) received rnd e/rnd.raw ;;
	1) run 0 timeout 60 "$WEIR" send s/rnd.raw@r$round "${before[@]}" --to "$WEIR receive e/rnd.raw" ;;
	2) head -c $(($(pick) % $(stat -c %s rnd))) rnd >part
		run 8 "$WEIR" receive e/rnd.raw <part
		run 0 timeout 60 "$WEIR" send s/rnd.raw@r$round "${before[@]}" --to "$WEIR receive e/rnd.raw" ;;
	esac
	cmp s/rnd.raw e/rnd.raw || fail "seed $seed, round $round: it differs"
	((RANDOM % 2 || round == 1)) || weir snapshot delete s/rnd.raw "r$((round - 1))" >out
	before=(--from "r$round")
done
ok "what was changed at random, cut at random, arrives as it is"

# --- the client goes; the datastore goes; not mounted ---
mkfifo pipe
"$WEIR" send s/big.raw@again >pipe 2>/dev/null &
sender=$!
exec 9<pipe
head -c 1000 <&9 >/dev/null
kill "$sender"
wait "$sender" 2>/dev/null || true
exec 9<&-
"$WEIR" send s/big.raw@again >pipe 2>send.err &
sender=$!
exec 9<pipe
head -c 1000 <&9 >/dev/null
run 0 timeout 30 "$WEIR" umount s
exec 9<&-
wait "$sender" && fail "a send outlived its mount"
refused 8 "not mounted: DATASTORE@NAME" "$WEIR" send src@two
sent offline src@two --from one --image a.raw
cmp incr offline || fail "a datastore that is not mounted gives another stream"
ok "ends with its client and with its mount; works without one"

for m in d e; do run 0 "$WEIR" umount $m; done
for ds in src dst empty; do run 0 "$WEIR" check --data $ds; done
ok "all clean"
