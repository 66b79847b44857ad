# Holes: made, found, filled, punched.
. "$(dirname "$0")/lib.sh"

truncate -s 10T "$M/big"
same "size of a sparse file" $((10 << 40)) "$(stat -c %s "$M/big")"
same "blocks of a sparse file" 0 "$(stat -c %b "$M/big")"
truncate -s 16T "$M/big"
refused EFBIG "os.truncate('$M/big', (16 << 40) + 1)"
refused EFBIG "os.pwrite(os.open('$M/big', os.O_WRONLY), b'x', 16 << 40)"
echo end | dd of="$M/big" bs=1 seek=$(((5 << 40) + 12345)) conv=notrunc status=none
python3 - "$M/big" <<'PY'
import os, sys
fd = os.open(sys.argv[1], os.O_RDWR)
at = (5 << 40) + 12345
assert os.lseek(fd, 0, os.SEEK_DATA) == at // 4096 * 4096
assert os.lseek(fd, at, os.SEEK_HOLE) == at // 4096 * 4096 + 4096
assert os.lseek(fd, 0, os.SEEK_HOLE) == 0
assert os.pread(fd, 10, at - 3) == b"\0\0\0end\n\0\0\0"
PY
refused ENXIO "os.lseek(os.open('$M/big', os.O_RDONLY), 6 << 40, os.SEEK_DATA)"

head -c 1M /dev/urandom > "$T/r"
cp "$T/r" "$M/f"
fallocate -p -o 100000 -l 200000 "$M/f"
cp "$T/r" "$T/want"
dd if=/dev/zero of="$T/want" bs=1000 seek=100 count=200 conv=notrunc status=none
cmp "$T/want" "$M/f"
same "blocks after a punch" $((2048 - (299008 - 102400) / 512)) "$(stat -c %b "$M/f")"
fallocate -z -o 500000 -l 1000000 "$M/f"
truncate -s 500000 "$T/want"
truncate -s 1500000 "$T/want"
cmp "$T/want" "$M/f"
fallocate -z -n -o 0 -l 3M "$M/f"
same "size kept" 1500000 "$(stat -c %s "$M/f")"
fallocate -l 4M "$M/f"
same "size grown" $((4 << 20)) "$(stat -c %s "$M/f")"
same "all allocated" 8192 "$(stat -c %b "$M/f")"
fallocate -n -l 5M "$M/f"
same "size kept" $((4 << 20)) "$(stat -c %s "$M/f")"
refused EOPNOTSUPP "
libc = ctypes.CDLL(None, use_errno=True)
fd = os.open('$M/f', os.O_RDWR)
if libc.fallocate(fd, 8, ctypes.c_long(0), ctypes.c_long(4096)):
    raise OSError(ctypes.get_errno(), '')
"

# Cut and grown again: zeros.
cp "$T/r" "$M/t"
truncate -s 4097 "$M/t"
truncate -s 1M "$M/t"
head -c 4097 "$T/r" > "$T/want"
truncate -s 1M "$T/want"
cmp "$T/want" "$M/t"
sync -f "$M"
cmp "$T/want" "$M/t"

# A sparse copy stays sparse.
truncate -s 1G "$M/s"
echo x | dd of="$M/s" bs=1 seek=500M conv=notrunc status=none
cp --sparse=auto "$M/s" "$M/s2"
cmp -n 1M "$M/s" "$M/s2"
[ "$(stat -c %b "$M/s2")" -le 16 ] || fail "the copy is not sparse: $(stat -c %b "$M/s2") blocks"

# More is changed than is counted at once: the number is right once it is committed.
python3 - "$M/many" <<'PY'
import os, sys
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
for i in range(600):
    os.pwrite(fd, b"x" * 4096, i << 20)
PY
for _ in $(seq 100); do
	[ "$(stat -c %b "$M/many")" = 4800 ] && break
	sleep 0.1
done
same "blocks of many extents" 4800 "$(stat -c %b "$M/many")"
