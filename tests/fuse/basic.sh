# Files and directories: made, written, read, listed, removed.
. "$(dirname "$0")/lib.sh"

echo hello > "$M/a"
same content hello "$(cat "$M/a")"
echo more >> "$M/a"
same appended "hello more" "$(tr '\n' ' ' < "$M/a" | sed 's/ $//')"
mkdir -p "$M/d/e/f"
head -c 3000000 /dev/urandom > "$T/random"
cp "$T/random" "$M/d/e/f/r"
cmp "$T/random" "$M/d/e/f/r"
same size 3000000 "$(stat -c %s "$M/d/e/f/r")"
: > "$M/a"
same emptied 0 "$(stat -c %s "$M/a")"
: > "$M/.hidden" && rm "$M/.hidden" && : > "$M/.hidden" # a name that was not there, then is

# A thousand names, listed once each.
mkdir "$M/many"
(cd "$M/many" && seq -f 'name-%g' 1000 | xargs touch)
same listed "$(seq -f 'name-%g' 1000 | sort)" "$(ls "$M/many" | sort)"
same "listed with attributes" 1000 "$(find "$M/many" -type f -size 0 | wc -l)"
same "names while they are removed" 0 "$(rm -r "$M/many" && ls "$M" | grep -c many || true)"

# Random parts, written and read back through and past the page cache.
python3 - "$M/parts" <<'PY'
import os, random, sys
random.seed(7)
size = 2 << 20
want = bytearray(size)
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
for i in range(400):
    off = random.randrange(size)
    data = random.randbytes(random.choice([1, 100, 511, 4096, 70000]))[:size - off]
    os.pwrite(fd, data, off)
    want[off:off + len(data)] = data
    if i % 100 == 0:
        os.fsync(fd)
end = os.fstat(fd).st_size
os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
assert os.pread(fd, size, 0) == bytes(want[:end])
PY
