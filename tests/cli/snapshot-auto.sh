#!/bin/bash
# snapshots that nobody takes by hand: on schedule, with the guest frozen, at the alarm of a filter
. "$(dirname "$0")/lib.sh"
need_fuse

new_datastore ds
mount_ds ds mnt
mkdir mnt/vm
random_file one 4 one
cp one mnt/vm/a.raw

# count TARGET: how many its schedule took
count() { "$WEIR" snapshot list "$1" --json | jq '[.snapshots[] | select(.origin == "schedule")] | length'; }
wait_for()
{
	for _ in $(seq 100); do
		! "$@" || return 0
		sleep 0.1
	done
	fail "not in time: $*"
}

refused 8 "needs both --every and --keep" "$WEIR" snapshot schedule mnt/vm --every 15m
refused 8 "'4m' is no rule of what to keep" "$WEIR" snapshot schedule mnt/vm --every 15m --keep 4m
refused 8 "'5s' is no interval" "$WEIR" snapshot schedule mnt/vm --every 5s --keep 4h
refused 8 "'vm' has no schedule" "$WEIR" snapshot schedule mnt/vm --pause
run 0 "$WEIR" snapshot schedule mnt
says out "no schedules"
run 0 "$WEIR" snapshot schedule mnt/vm --every 15m --keep 4h,7d,8w
says out "vm: a snapshot every 15min, of which 4h,7d,8w are kept"
wait_for test "$(count mnt/vm)" -ge 0
one_taken() { [ "$(count mnt/vm)" = 1 ]; }
wait_for one_taken
run 0 "$WEIR" snapshot schedule mnt/vm/a.raw --json
jq -e '.schedules[0] | .target == "vm" and .keep == "4h,7d,8w" and .snapshots == 1 and .next_ns > .last_ns and .failing == null' \
	out >/dev/null || fail "schedule: $(cat out)"
name=$("$WEIR" snapshot list mnt/vm --json | jq -r '.snapshots[0].name')
[[ $name =~ ^auto-[0-9]{8}T[0-9]{6}Z$ ]] || fail "name: $name"
ls "mnt/.weir/snapshots/$name/vm/a.raw" >/dev/null
kill -9 "$("$WEIR" status mnt --json | jq .pid)"
umount -l mnt
mount_ds ds mnt
run 0 "$WEIR" snapshot schedule mnt/vm --json
jq -e '.schedules[0].snapshots == 1' out >/dev/null || fail "after a crash: $(cat out)"
run 0 "$WEIR" snapshot schedule mnt/vm --pause
run 0 "$WEIR" snapshot schedule mnt
says out " paused "
run 0 "$WEIR" snapshot schedule mnt/vm --keep 3
weir umount mnt
run 0 "$WEIR" snapshot schedule ds --image vm
says out " paused "
refused 8 "not mounted" "$WEIR" snapshot schedule ds --none
mount_ds ds mnt
run 0 "$WEIR" snapshot schedule mnt/vm --resume
sleep 0.3
one_taken || fail "taken again within its interval"
run 0 "$WEIR" snapshot schedule mnt/vm --none
one_taken || fail "its snapshots went with the schedule"
run 0 "$WEIR" audit mnt
says out "snapshot schedule"
ok "schedules"

timeout 60 python3 "$TOP/tests/cli/agent.py" "$PWD/agent.sock" agent.log >agent.out &
agent=$!
wait_for grep -q ready agent.out
refused 8 "weir snapshot agent" "$WEIR" snapshot create mnt/vm q0 --quiesce
run 0 "$WEIR" snapshot create mnt/vm q1 --agent "$PWD/agent.sock"
says out "vm@q1: 1 image, 1 guest frozen"
refused 8 "absolute" "$WEIR" snapshot agent mnt/vm agent.sock
run 0 "$WEIR" snapshot agent mnt/vm "$PWD/agent.sock"
run 0 "$WEIR" snapshot create mnt/vm/a.raw q2 --quiesce --json
jq -e '.quiesced == 1' out >/dev/null || fail "quiesce: $(cat out)"
refused 8 "already" "$WEIR" snapshot create mnt/vm/a.raw q2 --quiesce
[ "$(tail -n 1 agent.log)" = guest-fsfreeze-thaw ] || fail "still frozen: $(cat agent.log)"
[ "$(grep -c freeze-freeze agent.log)" = 3 ] || fail "$(cat agent.log)"
kill "$agent"
refused 8 "cannot talk to the guest agent" "$WEIR" snapshot create mnt/vm q3 --quiesce
run 0 "$WEIR" snapshot agent mnt
says out "$PWD/agent.sock"
run 0 "$WEIR" snapshot schedule mnt/vm --every 1h --keep 5 --quiesce
run 0 "$WEIR" snapshot schedule mnt/vm --none
run 0 "$WEIR" snapshot agent mnt/vm --none
run 0 "$WEIR" snapshot agent mnt
says out "no agents"
ok "quiescing"

# Text, so that random data over it is what it is not.
yes "what was here before somebody encrypted it, and is wanted back" | head -c $((64 << 20)) >text || true
cp text mnt/victim.raw
sync mnt/victim.raw
run 0 "$WEIR" filter attach mnt/victim.raw protect guard=on least=4M share=20 window=10m
random_file noise 64 noise
dd if=noise of=mnt/victim.raw bs=1M oflag=direct conv=notrunc 2>/dev/null
cmp noise mnt/victim.raw
kept()
{
	"$WEIR" status mnt --json >status
	jq -e '[.alerts[].text | select(contains("is kept as snapshot"))] | length == 1' status >/dev/null
}
wait_for kept
name=$(sed -n "s/.*is kept as snapshot '\(protect-[^']*\)'.*/\1/p" status)
run 0 "$WEIR" snapshot list mnt/victim.raw --json
jq -e --arg n "$name" '[.snapshots[] | select(.origin == "protect")] | length == 1 and .[0].name == $n' out >/dev/null ||
	fail "list: $(cat out)"
run 0 "$WEIR" snapshot rollback mnt/victim.raw "$name"
lost=$({ cmp -l text mnt/victim.raw || true; } | tail -n 1 | awk '{print int(($1 - 1) / 1048576) + 1}')
# 20 % of 64 MiB, by a sample of one in sixteen, and what was under way
((lost >= 8 && lost <= 22)) || fail "$lost MiB were lost"
run 0 "$WEIR" filter set mnt/victim.raw protect action=block
refused=0
dd if=text of=mnt/victim.raw bs=1M oflag=direct conv=notrunc 2>/dev/null
dd if=noise of=mnt/victim.raw bs=1M oflag=direct conv=notrunc 2>/dev/null || refused=1
((refused == 1)) || fail "not blocked"
two_kept() { [ "$("$WEIR" snapshot list mnt/victim.raw --json | jq '[.snapshots[] | select(.origin == "protect")] | length')" = 2 ]; }
wait_for two_kept
name=$("$WEIR" snapshot list mnt/victim.raw --json | jq -r '[.snapshots[] | select(.origin == "protect")] | last.name')
run 0 "$WEIR" snapshot rollback mnt/victim.raw "$name"
tail -c $((32 << 20)) text >rest
tail -c $((32 << 20)) mnt/victim.raw | cmp - rest
run 0 "$WEIR" filter lift mnt/victim.raw
run 0 "$WEIR" snapshot rename mnt/victim.raw "$name" incident
ok "a snapshot at the alarm, $lost of 64 MiB into it; rollback gives the rest back"
weir umount mnt
run 0 "$WEIR" check ds --data
