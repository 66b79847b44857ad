# A conversion that is cut off, by kill -9 or an unmount, goes on at the next mount, and loses nothing.
LIMIT=170
MOUNT_OPTIONS=txg=0.1 # groups are committed while a conversion is under way
. "$(dirname "$0")/lib.sh"
. "$HERE/filters-lib.sh"

python3 - "$T/data" <<'PY'
import os, sys
with open(sys.argv[1], "wb") as f:
    for i in range(96):
        f.seek(i << 20)
        f.write(os.urandom(700 << 10)) # with holes in between
    f.truncate(96 << 20)
PY
cp --sparse=always "$T/data" "$M/a.raw"
sync "$M/a.raw"

# begin SHARE KILL OP...: begins a conversion and, when that share of it is done, kills the daemon (KILL 1)
# or leaves it.  Prints "cut" if it was still under way then.
begin() {
	python3 - "$HERE" "$DS" "$@" <<- 'PY'
	import json, os, signal, sys
	sys.path.insert(0, sys.argv[1])
	from ask import ask
	share, kill, op = float(sys.argv[3]), sys.argv[4] == "1", json.loads(sys.argv[5])
	with open(sys.argv[2] + "/lock") as f:
	    pid = int(f.read())
	reply, _ = ask(sys.argv[2], op)
	assert reply["ok"], reply
	while True:
	    jobs = ask(sys.argv[2], {"op": "status"})[0]["result"]["jobs"]
	    if not jobs or jobs[0]["progress"] >= share:
	        break
	if kill:
	    os.kill(pid, signal.SIGKILL)
	print("cut" if jobs else "done")
	PY
}

cut=0
for round in 1 2 3 4 5 6 7 8; do
	if [ $((round % 2)) = 1 ]; then
		op='{"op":"filter-attach","target":"a.raw","type":"scramble","force":true}'
		end=scramble:active
	else
		op='{"op":"filter-detach","target":"a.raw","type":"scramble"}'
		end=
	fi
	kill=$((round / 2 % 2))
	pid=$(daemon_pid)
	[ "$(begin "0.$((round * 7 % 10))" "$kill" "$op")" = cut ] && cut=$((cut + 1))
	if [ "$kill" = 1 ]; then
		wait_gone "$pid"
		umount -l "$M" 2> /dev/null || fusermount3 -uz "$M"
	else
		umount_weir
	fi
	mount_weir txg=0.1
	cmp "$T/data" "$M/a.raw" || fail "round $round: content changed"
	dd if=/dev/urandom of="$T/piece" bs=4096 count=50 status=none
	dd if="$T/piece" of="$T/data" bs=4096 seek=$((round * 2500)) conv=notrunc status=none
	dd if="$T/piece" of="$M/a.raw" bs=4096 seek=$((round * 2500)) conv=notrunc,fsync status=none
	for i in $(seq 300); do
		[ "$(stack a.raw)" = "$end" ] && break
		sleep 0.1
	done
	same "round $round: the conversion went on" "$end" "$(stack a.raw)"
	same "no job is left" "[]" "$(ask_field "r['jobs']" status)"
	drop_caches
	cmp "$T/data" "$M/a.raw" || fail "round $round: content changed at the end"
done
[ "$cut" -ge 4 ] || fail "no conversion was cut off: the test tests nothing"
echo "$cut of 8 were cut off"

# An image that goes while it is converted takes its job with it.
ask filter-attach target=a.raw type=scramble force:=true > /dev/null
rm "$M/a.raw"
for i in $(seq 100); do
	[ "$(ask_field "r['jobs']" status)" = "[]" ] && break
	sleep 0.1
done
same "no job is left" "[]" "$(ask_field "r['jobs']" status)"
umount_weir
"$WEIR" check "$DS"
