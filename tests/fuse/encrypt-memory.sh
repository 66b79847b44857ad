#!/bin/bash
# After a key was locked, the daemon's memory has neither its secrets nor, but for scraps, what its images hold.
LIMIT=${LIMIT:-110}
. "$(dirname "$0")/lib.sh"

[ "$(id -u)" = 0 ] || { echo "reading a daemon's memory takes root"; exit 77; }
head -c 64 /dev/urandom > "$T/key"
head -c 64 /dev/urandom > "$T/key2"
echo "correct horse battery staple" > "$T/pass"
text="memory that nobody may find"

# memory PATTERN...: how often each is in the daemon's memory, one number a line
memory() {
	python3 - "$(daemon_pid)" "$T/key" "$T/key2" "$@" <<- 'PY'
	import sys
	pid, files, texts = sys.argv[1], sys.argv[2:4], sys.argv[4:]
	wanted = [open(f, "rb").read()[at:at + 16] for f in files for at in (0, 24, 48)]
	wanted += [t.encode() for t in texts]
	found = [0] * len(wanted)
	with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as mem:
	    for line in maps:
	        if "rw" not in line:
	            continue
	        at, end = (int(x, 16) for x in line.split()[0].split("-"))
	        while at < end:
	            try:
	                mem.seek(at)
	                data = mem.read(min(8 << 20, end - at))
	            except OSError:
	                break
	            if not data:
	                break
	            for i, w in enumerate(wanted):
	                found[i] += data.count(w)
	            at += len(data)
	print(sum(found[:6]))
	for n in found[6:]:
	    print(n)
	PY
}

"$WEIR" key create "$M" vault --key-file "$T/key" > /dev/null
"$WEIR" key add "$M" vault --key-file "$T/key" --new-key-file "$T/key2" > /dev/null
"$WEIR" key add "$M" vault --key-file "$T/key" --new-passphrase-file "$T/pass" > /dev/null
"$WEIR" key recovery "$M" vault --key-file "$T/key" > "$T/recovery" 2> /dev/null
mkdir "$M/safe"
"$WEIR" filter attach "$M/safe" encrypt key=vault > /dev/null
awk -v s="$text" 'BEGIN { for (i = 0; i < 60000; i++) printf "%s %08d %018d\n", s, i, i * 7919 }' > "$T/plain"
cp "$T/plain" "$M/safe/a"
dd if="$T/plain" of="$M/safe/b" bs=4k oflag=dsync count=100 status=none
sync
drop_cache() { echo 1 2> /dev/null > /proc/sys/vm/drop_caches || true; }
drop_cache
cmp "$T/plain" "$M/safe/a"
mapfile -t before < <(memory "$text")
[ "${before[1]}" -gt 1000 ] || fail "the search finds nothing where it should: ${before[*]}"

locked=
for _ in $(seq 50); do # the kernel tells of the close in its own time
	if "$WEIR" key lock "$M" vault > /dev/null 2> "$T/err"; then locked=1; break; fi
	sleep 0.1
done
[ "$locked" ] || fail "the key is not locked: $(cat "$T/err")"
mapfile -t after < <(memory "$text" "correct horse" "$(cut -c6-30 "$T/recovery")")
same "key files in memory" 0 "${after[0]}"
[ "${after[1]}" -lt 200 ] || fail "plaintext in memory: ${after[1]} times, ${before[1]} before"
same "the passphrase in memory" 0 "${after[2]}"
same "the recovery key in memory" 0 "${after[3]}"
umount_weir
