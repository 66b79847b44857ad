#!/bin/bash
# analytics and discover as filters of a mounted image: numbers, pictures, findings, remounts
. "$(dirname "$0")/lib.sh"
PATH=$PATH:/usr/sbin:/sbin
need_fuse
for tool in python3 jq mkfs.ext4; do command -v "$tool" >/dev/null || skip "no $tool"; done

# control JSON: a request to the daemon of ds; the result in ./out
control()
{
	python3 - "$1" >out <<'END' || fail "request $1: $(cat out)"
import json, socket, sys
s = socket.socket(socket.AF_UNIX)
s.settimeout(60)
s.connect("ds/control.sock")
s.sendall(sys.argv[1].encode() + b"\n")
for line in s.makefile():
    answer = json.loads(line)
    if "ok" in answer:
        break
print(json.dumps(answer.get("result", answer)))
sys.exit(0 if answer["ok"] else 1)
END
}
attach() { control "{\"op\": \"filter-attach\", \"target\": \"$1\", \"type\": \"$2\", \"settings\": [$3], \"wait\": true}"; }
q() { jq -r "$1" out; }
# at_least FILTER NUMBER
at_least() { jq -e "$1 >= $2" out >/dev/null || fail "$1 is $(q "$1"), not at least $2"; }

new_datastore ds
mount_ds ds mnt
truncate -s 64M mnt/a.raw
refused 8 "" "$WEIR" analytics mnt/a.raw
refused 8 "is no image" "$WEIR" analytics mnt
attach a.raw analytics '"one_in=1"'
exec 8<mnt/a.raw # a guest has it open all the time
ok "attached"

python3 - <<'END'
import os
fd = os.open("mnt/a.raw", os.O_RDWR | os.O_DIRECT)
import mmap
buf = mmap.mmap(-1, 65536)
for round in range(4):
    for i in range(256):  # 16 MiB, sequentially, four times
        os.pwritev(fd, [buf], i * 65536)
page = mmap.mmap(-1, 4096)
x = 1
for i in range(2000):  # at random in the next 16 MiB
    x = x * 1103515245 + 12345 & 0x7fffffff
    os.preadv(fd, [page], (16 << 20) + (x >> 8) % 4096 * 4096)
os.fsync(fd)
END
run 0 "$WEIR" analytics mnt/a.raw --json
[ "$(q .requests.write.operations)" = 1024 ] || fail "writes: $(q .requests.write.operations)"
[ "$(q .requests.write.bytes)" = $((64 << 20)) ] || fail "bytes: $(q .requests.write.bytes)"
[ "$(q .requests.read.operations)" = 2000 ] || fail "reads: $(q .requests.read.operations)"
at_least .requests.flush.operations 1
at_least .requests.flush.latency.p50_ns 1000
at_least .requests.read.latency.samples 60
at_least .sequential.write.operations_share 0.9
jq -e '.sequential.read.operations_share < 0.1' out >/dev/null || fail "random reads: $(q .sequential)"
# A loop of 16 MiB wants about that.
jq -e '.mrc.recommended.cache_bytes | . > 14e6 and . < 33e6' out >/dev/null || fail "cache: $(q .mrc.recommended)"
jq -e '.working_set.since_reset.written_bytes | . > 15.5e6 and . < 18e6' out >/dev/null ||
	fail "working set: $(q .working_set)"
ok "numbers"

run 0 "$WEIR" analytics mnt/a.raw
for text in "sizes of reads" "4.0 KiB" "64.0 KiB" "hottest regions" "WORKING SET" "recommended cache"; do
	says out "$text"
done
run 0 env LC_ALL=C.UTF-8 "$WEIR" analytics mnt/a.raw --heatmap -
says out "█"
run 0 env LC_ALL=C "$WEIR" analytics mnt/a.raw --heatmap -
says out "@"
run 0 "$WEIR" analytics mnt/a.raw --heatmap map.svg --mrc mrc.svg
python3 -c 'import sys, xml.dom.minidom as x; [x.parse(f) for f in sys.argv[1:]]' map.svg mrc.svg
says mrc.svg "recommended"
if "$WEIR" analytics mnt/a.raw --heatmap map.png 2>err; then
	[ "$(head -c 4 map.png | tail -c 3)" = PNG ] || fail "no PNG"
else
	says err "without libpng"
fi
refused 8 "cannot write 'no/map.svg'" "$WEIR" analytics mnt/a.raw --heatmap no/map.svg
refused 16 "neither '-' nor named" "$WEIR" analytics mnt/a.raw --heatmap map.gif
ok "text and pictures"

exec 8<&-
weir umount ds
refused 8 "is no image" "$WEIR" analytics ds
mount_ds ds mnt
run 0 "$WEIR" analytics mnt/a.raw --json
[ "$(q .requests.write.operations)" = 1024 ] || fail "after a remount: $(q .requests.write.operations)"
at_least .mrc.recommended.best_hit_ratio 0.5
run 0 "$WEIR" analytics mnt/a.raw --reset
run 0 "$WEIR" analytics mnt/a.raw --json
[ "$(q .requests.write.operations)" = 0 ] || fail "after a reset: $(q .requests.write.operations)"
ok "numbers go on after a remount, and begin anew when asked"

mkdir root
truncate -s 16M ext4.img
mkfs.ext4 -q -F -d root -L frobroot ext4.img
cp ext4.img mnt/b.raw
attach b.raw discover '"settle=0s"'
exec 9<mnt/b.raw # keeps it open
for i in $(seq 100); do
	control '{"op": "filter-run", "target": "b.raw", "type": "discover", "action": "findings", "args": []}'
	[ "$(q .findings.content.label)" = frobroot ] && break
	sleep 0.1
done
[ "$(q .findings.content.label)" = frobroot ] || fail "findings: $(cat out)"
exec 9<&-
weir umount ds
mount_ds ds mnt
control '{"op": "filter-run", "target": "b.raw", "type": "discover", "action": "findings", "args": []}'
[ "$(q .findings.content.label)" = frobroot ] || fail "findings after a remount: $(cat out)"
ok "discover looks in the background and keeps what it found"

# Unmounting does not wait for a look that is under way.
control '{"op": "filter-run", "target": "b.raw", "type": "discover", "action": "look", "args": []}'
run 0 "$WEIR" umount ds
ok "unmounted during a look"
