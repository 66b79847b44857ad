# Shared mappings, O_DIRECT, and both on one file.
. "$(dirname "$0")/lib.sh"

python3 - "$M/f" <<'PY'
import mmap, os, sys
path = sys.argv[1]
fd = os.open(path, os.O_RDWR | os.O_CREAT)
os.ftruncate(fd, 1 << 20)
m = mmap.mmap(fd, 1 << 20)
m[5000:5005] = b"mmap!"
m.flush()
dfd = os.open(path, os.O_RDWR | os.O_DIRECT)
buf = mmap.mmap(-1, 8192)
assert os.preadv(dfd, [buf], 4096) == 8192
assert buf[904:909] == b"mmap!"
buf[0:4096] = b"d" * 4096
assert os.pwritev(dfd, [memoryview(buf)[:4096]], 8192) == 4096
assert os.pread(fd, 4096, 8192) == b"d" * 4096, "buffered read after a direct write"
assert m[8192:8196] == b"dddd", "mapping after a direct write"
os.pwrite(fd, b"buffered", 100)
assert m[100:108] == b"buffered"
m[200:204] = b"last" # written back when the mapping goes
m.close()
# A mapping of an O_DIRECT descriptor, which some FUSE file systems refuse.
d = mmap.mmap(dfd, 4096, mmap.MAP_SHARED)
assert d[200:204] == b"last"
d.close()
os.close(fd)
PY
remount_weir
same "after a remount" "last" "$(dd if="$M/f" bs=1 skip=200 count=4 status=none)"
# Programs run from the mount.
cp /bin/true "$M/true"
"$M/true"
