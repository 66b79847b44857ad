#!/bin/bash
# what is received is hidden until it is complete: cut off, killed, listed, given up; and where it lands
. "$(dirname "$0")/lib.sh"
need_fuse
new_datastore src
new_datastore dst
mount_ds src s
mount_ds dst d

# sent FILE ARGS: a stream in a file
sent()
{
	local file=$1
	shift
	timeout 60 "$WEIR" send "$@" >"$file" 2>err || fail "send $*: $(cat err)"
}
# waits until "weir receive --list d" has a stream for which the jq filter $1 holds
listed()
{
	local i
	for i in $(seq 100); do
		"$WEIR" receive --list "${2:-d}" --json >out 2>err && jq -e ".receiving[0] | $1" out >/dev/null && return
		sleep 0.1
	done
	fail "never '$1': $(cat out err)"
}
wait_gone()
{
	local i
	for i in $(seq 100); do
		readlink "/proc/$1/exe" >/dev/null || return 0 # one that nobody has waited for has none
		sleep 0.1
	done
	fail "process $1 does not end"
}

random_file r1 24 one
cp r1 s/a.raw
weir snapshot create s/a.raw one >out
dd if=r1 of=s/a.raw bs=1M count=4 skip=9 seek=2 conv=notrunc status=none
truncate -s 20M s/a.raw
weir snapshot create s/a.raw two >out
cp s/a.raw two.copy
sent one s/a.raw@one
sent two s/a.raw@two --from one
size=$(stat -c %s one)

echo hello >part
refused 8 "it is no stream of weir send" "$WEIR" receive d/a.raw <part

# --- seen only when complete ---
before=$(stat -c %Y d)
head -c $((size - 10)) one >part
refused 8 "the stream was cut off" "$WEIR" receive d/a.raw <part
says err "weir send --resume weir1-"
[ -z "$(ls -A d)" ] || fail "something is seen: $(ls -A d)"
[ "$(stat -c %Y d)" = "$before" ] || fail "the directory was touched"
listed '.target == "a.raw" and .snapshot == "one" and .active == false and .position_bytes > 20000000'
run 0 "$WEIR" receive --list d
says out "cut off"
run 0 "$WEIR" status d
says out "receiving     a.raw@one: "
run 0 "$WEIR" stats d --json
jq -e '.receiving.images == 1 and .receiving.allocated_bytes > 20000000' out >/dev/null || fail "stats: $(jq .receiving out)"
run 0 "$WEIR" images d --json
jq -e '.images == []' out >/dev/null || fail "images: $(cat out)"
run 0 "$WEIR" umount d
run 0 "$WEIR" check --data dst
run 0 "$WEIR" receive --list dst
says out "a.raw"
run 0 "$WEIR" receive dst --image a.raw <one # not mounted: goes on
says out "a.raw@one"
run 0 "$WEIR" receive --list dst --json
jq -e '.receiving == []' out >/dev/null || fail "list: $(cat out)"
mount_ds dst d
cmp r1 d/a.raw || fail "resumed, it differs"
ok "hidden until it is complete, over an unmount"

refused 8 "has it already: it is snapshot 'one'" "$WEIR" receive d/a.raw <one
cp r1 d/file
refused 8 "'file' exists" "$WEIR" receive d/file <one
refused 8 "cannot find directory 'none'" "$WEIR" receive dst --image none/x <one
refused 8 "'.weir' is no name of an image" "$WEIR" receive dst --image .weir <one
refused 8 "does not have the snapshot that the stream builds on, 'one' at the sender" "$WEIR" receive d/file <two
exec 5<d/a.raw
refused 8 "'a.raw' is open" "$WEIR" receive d/a.raw <two
exec 5<&-
cp --reflink=never d/a.raw copy
printf changed | dd of=d/a.raw conv=notrunc status=none
cp d/a.raw changed.copy
refused 8 "was changed since" "$WEIR" receive d/a.raw <two
run 0 "$WEIR" receive d/a.raw --force <two
kept=$(sed -n "s/.*is snapshot '\(.*\)'/\1/p" out)
cmp two.copy d/a.raw || fail "forced, it differs"
run 0 "$WEIR" clone "d/a.raw@$kept" d/kept.raw
cmp changed.copy d/kept.raw || fail "what was there is not kept"
run 0 "$WEIR" audit d
says out "receive"
ok "refusals, and --force"

mkdir d/dir
chmod 600 s/a.raw
weir snapshot create s/a.raw three >out
sent three s/a.raw@three
run 0 "$WEIR" receive d/dir <three
[ "$(stat -c %a d/dir/a.raw)" = 600 ] || fail "mode: $(stat -c %a d/dir/a.raw)"
sent update s/a.raw@three --from two
run 0 "$WEIR" receive d <update # by its name
[ "$(stat -c %a d/a.raw)" = 600 ] || fail "mode of an update: $(stat -c %a d/a.raw)"
ok "to a directory"

# --- given up, and who goes away ---
mkfifo pipe
# a stream that stops in the middle; not for ever
slow()
{
	head -c "$1" one >part
	python3 -c 'import sys, time
out = open("pipe", "wb")
try:
    out.write(open("part", "rb").read())
    out.flush()
    time.sleep(60)
except BrokenPipeError:
    pass
' 2>/dev/null &
	feeder=$!
}
end_feeder()
{
	kill "$feeder" 2>/dev/null || true
	wait "$feeder" 2>/dev/null || true
}
slow $((size / 2))
"$WEIR" receive d/b.raw <pipe 2>client.err &
client=$!
listed '.active == true'
refused 8 "is being received now" "$WEIR" receive --abort d/b.raw
refused 8 "it is being received already" "$WEIR" receive d/b.raw <one
{ kill -9 "$client" && wait "$client"; } 2>/dev/null || true
listed '.active == false'
end_feeder
run 0 "$WEIR" receive --abort d/b.raw
refused 8 "nothing is being received for 'b.raw'" "$WEIR" receive --abort d/b.raw
run 0 "$WEIR" receive --list d --json
jq -e '.receiving == []' out >/dev/null || fail "list: $(cat out)"
ok "a client that is killed; --abort"

slow $((size * 3 / 4))
"$WEIR" receive d/b.raw <pipe 2>client.err &
client=$!
listed '.active == true'
run 0 timeout 30 "$WEIR" umount d
end_feeder
wait "$client" && fail "received what was not sent"
says client.err "given up"
mount_ds dst d
[ ! -e d/b.raw ] || fail "there is an image"
listed '.active == false'
ok "an unmount under way ends it, and what came stays"

for round in 1 2 3; do
	daemon=$(cat dst/lock)
	slow $((size * round / 4))
	"$WEIR" receive d/b.raw <pipe 2>client.err &
	client=$!
	listed '.active == true'
	sleep "0.$round"
	kill -9 "$daemon"
	wait_gone "$daemon"
	wait "$client" && fail "received what was not sent"
	says client.err "what it had saved of the stream stays"
	end_feeder
	umount -l d 2>/dev/null || fusermount3 -uz d
	mount_ds dst d
	[ ! -e d/b.raw ] || fail "round $round: there is an image"
	cmp two.copy d/a.raw || fail "round $round: another image differs"
done
run 0 "$WEIR" receive d/b.raw <one
cmp r1 d/b.raw || fail "after kill -9 it differs"
run 0 "$WEIR" receive --list d --json
jq -e '.receiving == []' out >/dev/null || fail "list: $(cat out)"
ok "kill -9 of the daemon under way"

# --- encrypted where it lands ---
head -c 32 /dev/urandom >vms.key
run 0 "$WEIR" key create d vms --key-file vms.key
mkdir d/safe
run 0 "$WEIR" filter attach d/safe encrypt key=vms
head -c 3M r1 >plain
{ yes "a text that nobody may find in the files of a datastore" || true; } | head -c 2M >>plain
cp plain s/p.raw
weir snapshot create s/p.raw one >out
sent secret s/p.raw@one
run 0 "$WEIR" receive d/safe <secret
cmp plain d/safe/p.raw || fail "encrypted here, it differs"
run 0 "$WEIR" send s/p.raw@one --to "$WEIR receive d/safe/q.raw"
cmp plain d/safe/q.raw || fail "asked for, and encrypted here, it differs"
run 0 "$WEIR" key lock d vms
refused 8 "weir key unlock" "$WEIR" receive d/safe/r.raw <secret
[ ! -e d/safe/r.raw ] || fail "an image of a locked key"
run 0 "$WEIR" umount d
! grep -rqF "nobody may find" dst/segments dst/log* || fail "it is stored in the clear"
run 0 "$WEIR" check --data dst
ok "encrypted as the directory says"

run 0 "$WEIR" umount s
