# Snapshots come and go under load: what is written is read, each is of one instant, and a crash at any
# time leaves all that was made and nothing half made.
LIMIT=170
MOUNT_OPTIONS=txg=0.1
. "$(dirname "$0")/lib.sh"
. "$HERE/filters-lib.sh"
command -v fio > /dev/null || { echo "no fio"; exit 77; }

snapshot() {
	"$WEIR" snapshot "$@" > /dev/null
}

names() {
	"$WEIR" snapshot list "$1" --json | python3 -c "import json,sys; print(' '.join(s['name'] for s in json.load(sys.stdin)['snapshots']))"
}

# --- fio verifies what it wrote, while snapshots are made and deleted ---
mkdir "$M/vm"
touch "$M/vm/first" "$M/vm/second"
fio --name=load --filename="$M/vm/load.raw" --size=48M --rw=randwrite --bsrange=4k-64k --ioengine=psync --fsync=64 \
	--verify=crc32c --verify_fatal=1 --do_verify=1 --loops=3 --randseed=1 --verify_state_save=0 \
	--output="$T/fio.log" &
load=$!
# One after the other: in a snapshot, the second is never ahead of the first, and at most one behind.
python3 - "$M/vm" "$T/stop" <<- 'PY' &
	import os, sys
	first = os.open(sys.argv[1] + "/first", os.O_RDWR | os.O_CREAT)
	second = os.open(sys.argv[1] + "/second", os.O_RDWR | os.O_CREAT)
	n = 0
	while not os.path.exists(sys.argv[2]):
	    n += 1
	    os.pwrite(first, n.to_bytes(8, "little"), (n % 512) << 12)
	    os.pwrite(second, n.to_bytes(8, "little"), (n % 512) << 12)
PY
writer=$!

highest() {
	python3 - "$1" <<- 'PY'
	import sys
	data = open(sys.argv[1], "rb").read()
	print(max([int.from_bytes(data[i:i + 8], "little") for i in range(0, len(data), 4096)], default=0))
	PY
}

rounds=0
while kill -0 "$load" 2> /dev/null && [ $rounds -lt 60 ]; do
	rounds=$((rounds + 1))
	snapshot create "$M/vm" "r$rounds" || fail "create r$rounds"
	if [ $((rounds % 4)) = 0 ]; then
		for f in first second; do
			"$WEIR" clone "$M/vm/$f@r$rounds" "$M/$f.$rounds" > /dev/null || fail "clone $f@r$rounds"
		done
		a=$(highest "$M/first.$rounds") b=$(highest "$M/second.$rounds")
		[ "$a" = "$b" ] || [ "$a" = $((b + 1)) ] || fail "round $rounds: not of one instant: $a and $b"
		rm "$M/first.$rounds" "$M/second.$rounds"
	fi
	if [ $rounds -gt 5 ]; then
		snapshot delete "$M/vm" "r$((rounds - 5))" || fail "delete r$((rounds - 5))"
	fi
done
wait "$load" || fail "fio: $(tail -n 5 "$T/fio.log")"
: > "$T/stop"
wait "$writer"
[ $rounds -ge 8 ] || fail "$rounds rounds: the test tests nothing"
echo "$rounds snapshots under load"
cp "$M/vm/load.raw" "$T/load"
for name in $(names "$M/vm"); do snapshot delete "$M/vm" "$name"; done
same "all are deleted" "" "$(names "$M")"
drop_caches
cmp "$T/load" "$M/vm/load.raw" || fail "content changed with the snapshots"
umount_weir
"$WEIR" check "$DS" --data > "$T/check" || fail "check: $(cat "$T/check")"
mount_weir txg=0.1

# --- a transform's data and its state go back together ---
dd if=/dev/urandom of="$T/x" bs=1M count=4 status=none
cp "$T/x" "$M/x.raw"
ask filter-attach target=x.raw type=scramble force:=true wait:=true > /dev/null
snapshot create "$M/x.raw" coded
dd if=/dev/urandom of="$M/x.raw" bs=64k count=8 conv=notrunc status=none
snapshot rollback "$M/x.raw" coded || fail "rollback through a transform"
drop_caches
cmp "$T/x" "$M/x.raw" || fail "a transformed image is not what it was"
"$WEIR" clone "$M/x.raw@coded" "$M/y.raw" > /dev/null
cmp "$T/x" "$M/y.raw" || fail "a clone of a transformed image differs"
ask filter-detach target=x.raw type=scramble wait:=true > /dev/null
if snapshot rollback "$M/x.raw" coded 2> "$T/err"; then fail "data without its filter was put back"; fi
cmp "$T/x" "$M/x.raw"

# --- kill -9 while it is at work ---
for i in 1 2 3 4; do dd if=/dev/urandom of="$T/v$i" bs=1M count=6 status=none; done
cp "$T/v1" "$M/k.raw"
cp "$T/v2" "$M/l.raw"
sync "$M/k.raw" "$M/l.raw"
snapshot create "$M/k.raw" base
cp "$T/v3" "$M/k.raw"
sync "$M/k.raw"
for round in $(seq 12); do
	pid=$(daemon_pid)
	was=v3
	cmp -s "$T/v1" "$M/k.raw" && was=v1
	(
		for i in $(seq 200); do
			case $((round % 4)) in
			0) "$WEIR" snapshot create "$M" "n$round.$i" && echo "n$round.$i" >> "$T/made" ;;
			1) "$WEIR" snapshot create "$M/l.raw" t && "$WEIR" snapshot delete "$M/l.raw" t ;;
			2) "$WEIR" snapshot rollback "$M/k.raw" base ;;
			3) "$WEIR" clone "$M/k.raw@base" "$M/clone.$round.$i" ;;
			esac
		done > /dev/null 2>&1
	) &
	worker=$!
	sleep "0.$((round * 37 % 9 + 1))"
	kill -9 "$pid"
	wait_gone "$pid"
	kill "$worker" 2> /dev/null || true
	wait "$worker" 2> /dev/null || true
	umount -l "$M" 2> /dev/null || fusermount3 -uz "$M"
	"$WEIR" check "$DS" --data > "$T/check" || fail "round $round: check: $(cat "$T/check")"
	mount_weir txg=0.1
	cmp -s "$T/v1" "$M/k.raw" || { [ $was = v3 ] && cmp "$T/v3" "$M/k.raw"; } || fail "round $round: neither before nor after"
	cmp "$T/v2" "$M/l.raw" || fail "round $round: another image changed"
	for f in "$M"/clone.*; do
		[ ! -e "$f" ] || cmp "$T/v1" "$f" || fail "round $round: half a clone"
	done
	rm -f "$M"/clone.*
	list=" $(names "$M") "
	if [ -f "$T/made" ]; then
		while read -r name; do
			case $list in *" $name "*) ;; *) fail "round $round: '$name' was made and is gone" ;; esac
		done < "$T/made"
	fi
	case $list in *" base "*) ;; *) fail "round $round: a snapshot is gone: $list" ;; esac
	if [ $((round % 4)) = 2 ]; then # back, for the next one
		cp "$T/v3" "$M/k.raw"
		sync "$M/k.raw"
	fi
done
"$WEIR" clone "$M/k.raw@base" "$M/last" > /dev/null
cmp "$T/v1" "$M/last" || fail "the first snapshot changed"
umount_weir
"$WEIR" check "$DS" --data > "$T/check" || fail "check: $(cat "$T/check")"
