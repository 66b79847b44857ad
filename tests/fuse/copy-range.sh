# cp --reflink and copy_file_range share chunks.
. "$(dirname "$0")/lib.sh"

stored() {
	"$WEIR" stats "$M" --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["total"]["unique_bytes"])'
}
head -c 20000001 /dev/urandom > "$T/r"
cp "$T/r" "$M/a"
before=$(stored)
cp --reflink=auto "$M/a" "$M/b"
cmp "$T/r" "$M/b"
same "a copy takes no space" "$before" "$(stored)"
rm "$M/a"
cmp "$T/r" "$M/b"
python3 - "$M/b" "$M/c" "$T/r" <<'PY'
import os, random, sys
random.seed(3)
a = os.open(sys.argv[1], os.O_RDONLY)
b = os.open(sys.argv[2], os.O_RDWR | os.O_CREAT)
src = open(sys.argv[3], "rb").read()
want = bytearray()
for i in range(60):
    n = random.choice([1, 4096, 10000, 65536, 300000])
    frm = random.choice([0, 4096, 5000, 123456, len(src) - 5000])
    to = random.choice([0, 4096, 4097, 8192, 500000])
    n = min(n, len(src) - frm)
    left, f, t = n, frm, to
    while left:
        k = os.copy_file_range(a, b, left, f, t)
        assert k > 0
        left, f, t = left - k, f + k, t + k
    if len(want) < to + n:
        want.extend(bytes(to + n - len(want)))
    want[to:to + n] = src[frm:frm + n]
os.fsync(b)
assert os.pread(b, len(want) + 1, 0) == bytes(want)
assert os.copy_file_range(a, b, 10, len(src), 0) == 0
PY
