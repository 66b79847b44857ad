#!/bin/bash
# Damage in the intent log, with flushed batches in it that no group has committed: noticed, never replayed as data.
LIMIT=60
. "$(dirname "$0")/lib.sh"

# A log with ten batches: a.raw's MiBs, synced one by one.
blocks make "$T/known" 10 3
mount_logged txg=60
truncate -s 10M "$M/a.raw"
"$WEIR" stats "$DS" > /dev/null # commits
for i in $(seq 0 9); do
	dd if="$T/known" of="$M/a.raw" bs=64k seek=$((i * 16)) skip=$((i * 16)) count=1 conv=notrunc,fsync status=none
done
kill_daemon
cp -a "$DS" "$T/good"
restore() { rm -rf "$DS" && cp -a "$T/good" "$DS" && rm -f "$T/log"; }
# Offsets of the batches that hold data, in the order of their sequence.
python3 - "$DS/log" > "$T/batches" <<'PY'
import sys
data = open(sys.argv[1], "rb").read()
at = 4096
while at < len(data):
    if data[at:at + 8] == b"weirbtch" and b"weirbtch" not in data[at + 8:at + 64]:
        print(at)
    at += 4096
PY
[ "$(wc -l < "$T/batches")" -ge 10 ] || fail "only $(wc -l < "$T/batches") batches in the log"
batch() { sed -n "$1p" "$T/batches"; }

# What the image is: how many of the ten pieces are there, from the first on; the others are zeros.
pieces() {
	python3 - "$M/a.raw" "$T/known" <<'PY'
import sys
got, want = (open(p, "rb").read() for p in sys.argv[1:])
assert len(got) == len(want)
n, K = 0, 65536
zeros = bytes(K)
for i in range(0, len(want), K):
    if i % (16 * K):
        assert got[i:i + K] == zeros, f"something at {i}"
    elif got[i:i + K] == want[i:i + K] and n == i // (16 * K):
        n += 1
    else:
        assert got[i:i + K] == zeros, f"wrong data at {i}, after {n} pieces"
print(n)
PY
}

mount_logged
same "undamaged: pieces" 10 "$(pieces)"
umount_logged
clean "undamaged"

# refused_damaged WHAT: a mount refuses and says what to do; check finds it; --repair cuts the log there
refused_damaged() {
	local code=0
	! mount_logged 2> /dev/null || fail "$1: mounted"
	grep -q "intent log" "$T/log" || fail "$1: the refusal does not name the log: $(cat "$T/log")"
	grep -q "weir check" "$T/log" || fail "$1: the refusal does not say what to do: $(cat "$T/log")"
	"$WEIR" check "$DS" > "$T/check" 2>&1 || code=$?
	same "$1: check: $(cat "$T/check")" 4 "$code"
	code=0
	"$WEIR" check "$DS" --repair > "$T/check" 2>&1 || code=$?
	[ "$code" = 1 ] || [ "$code" = 4 ] || fail "$1: repair ended with $code: $(cat "$T/check")"
	mount_logged || fail "$1: no mount after the repair: $(cat "$T/log")"
}

first=$(($(wc -l < "$T/batches") - 9))
for what in header payload; do
	restore
	at=$(batch $((first + 4)))
	[ $what = header ] && blocks flip "$DS/log" $((at + 20)) 4 || blocks flip "$DS/log" $((at + 30000)) 4
	refused_damaged "batch $what"
	same "batch $what: pieces" 4 "$(pieces)"
	umount_logged
	clean "batch $what, repaired"
done

# The last batch cannot be told from one that a crash tore: it is not replayed.
restore
blocks flip "$DS/log" $(($(batch $((first + 9))) + 30000)) 4
mount_logged
same "last batch: pieces" 9 "$(pieces)"
umount_logged
clean "last batch"

restore
blocks flip "$DS/log" 40 4
refused_damaged "log header"
pieces > /dev/null
umount_logged
clean "log header, repaired"

restore
truncate -s 1M "$DS/log"
refused_damaged "log cut short"
pieces > /dev/null
umount_logged

restore
rm "$DS/log"
refused_damaged "log gone"
same "log gone: pieces" 0 "$(pieces)"
umount_logged
clean "log gone, repaired"
