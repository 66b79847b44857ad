# Stages come and go under a guest that verifies what it reads.
LIMIT=170
. "$(dirname "$0")/lib.sh"
. "$HERE/filters-lib.sh"
command -v fio > /dev/null || { echo "no fio"; exit 77; }

fio --name=guest --filename="$M/a.raw" --size=32M --rw=randrw --bs=4k --direct=1 --ioengine=psync \
	--verify=crc32c --verify_backlog=256 --verify_fatal=1 --verify_state_save=0 --fdatasync=64 --time_based --runtime=25 \
	--output="$T/fio.out" &
guest=$!
for i in $(seq 50); do
	[ -s "$M/a.raw" ] && break
	sleep 0.1
done
python3 - "$HERE" "$DS" "$guest" <<'PY'
import os, sys, time
sys.path.insert(0, sys.argv[1])
from ask import ask
def do(op, **fields):
    reply, _ = ask(sys.argv[2], dict(op=op, target="a.raw", **fields))
    assert reply["ok"], reply
    return reply["result"]["changed"][0]["state"]
slowest, cycles, until = 0, 0, time.time() + 20
while time.time() < until:
    for op, kind in (("filter-attach", "pass"), ("filter-detach", "pass")):
        start = time.time()
        do(op, type=kind)
        slowest = max(slowest, time.time() - start)
    if cycles % 5 == 0:
        assert do("filter-attach", type="scramble", force=True, wait=True) == "active"
        do("filter-attach", type="dedupe", settings=["mode=off"])
        do("filter-set", type="dedupe", settings=["mode=off"])
        do("filter-detach", type="dedupe", force=True)
        assert do("filter-detach", type="scramble", wait=True) == "gone"
    cycles += 1
os.kill(int(sys.argv[3]), 0)
assert cycles >= 10, cycles
print("%d cycles, slowest change %.0f ms" % (cycles, slowest * 1000))
PY
wait "$guest" || { cat "$T/fio.out"; fail "the guest read something else than it wrote"; }
same "nothing is left" "" "$(stack a.raw)"
umount_weir
