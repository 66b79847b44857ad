# Snapshots under .weir/snapshots, read-only; and copies of whole files, which share everything.
. "$(dirname "$0")/lib.sh"

S=$M/.weir/snapshots
mkdir "$M/vm"
head -c 3000000 /dev/urandom > "$T/one"
head -c 2000001 /dev/urandom > "$T/two"
cp "$T/one" "$M/vm/one.raw"
cp "$T/two" "$M/vm/two.raw"
touch -d 2020-02-03T04:05:06Z "$M/vm/one.raw"
[ -z "$(ls -A "$S")" ] || fail "there is a snapshot already"
refused ENOENT "os.stat('$S/before')"
"$WEIR" snapshot create "$M/vm" before > /dev/null

# Found at once, and as it was then.
same "the snapshots" before "$(ls "$S")"
same "what is in it" "one.raw two.raw" "$(ls "$S/before/vm" | tr '\n' ' ' | sed 's/ $//')"
same "the top's names" vm "$(ls -A "$M")"
head -c 100000 /dev/zero | dd of="$M/vm/one.raw" conv=notrunc bs=50000 seek=3 status=none
rm "$M/vm/two.raw"
sync -f "$M"
cmp "$T/one" "$S/before/vm/one.raw"
cmp "$T/two" "$S/before/vm/two.raw"
same "its time" "2020-02-03 04:05:06" "$(TZ=UTC stat -c %y "$S/before/vm/one.raw" | cut -d. -f1)"
same "files found" 2 "$(find "$S" -type f | wc -l)"
same "files found by name only" 1 "$(find "$M" -type f | wc -l)"
cp --reflink=auto "$S/before/vm/two.raw" "$M/vm/two.raw"
cmp "$T/two" "$M/vm/two.raw"

# Nothing there changes.
f=$S/before/vm/one.raw
refused EROFS "open('$f', 'r+')"
refused EROFS "os.truncate('$f', 0)"
refused EROFS "os.unlink('$f')"
refused EROFS "os.rename('$f', '$M/x')"
refused EROFS "os.rename('$M/vm', '$S/vm')"
refused EROFS "os.link('$f', '$M/x')"
refused EROFS "os.chmod('$f', 0o777)"
refused EROFS "os.setxattr('$f', 'user.x', b'y')"
refused EROFS "open('$S/new', 'w')"
refused EROFS "os.mkdir('$S/before/vm/new')"
refused EROFS "os.rmdir('$S/before')"
refused EROFS "os.rmdir('$M/.weir')"
refused EEXIST "os.mkdir('$M/.weir')"

# For the owner of the mount only.
if [ "$(id -u)" = 0 ]; then
	same "who may look" "500 0" "$(stat -c '%a %u' "$M/.weir")"
fi

# The names follow at once; what is open stays readable.
exec 5< "$S/before/vm/one.raw"
head -c 1000000 <&5 > "$T/part"
"$WEIR" snapshot rename "$M/vm" before after > /dev/null 2>&1 || "$WEIR" snapshot rename "$M/vm@before" after > /dev/null
same "after renaming" after "$(ls "$S")"
refused ENOENT "os.stat('$S/before')"
cmp "$T/two" "$S/after/vm/two.raw"
"$WEIR" snapshot delete "$M/vm" after > /dev/null 2>&1 || "$WEIR" snapshot delete "$M/vm@after" > /dev/null
refused ENOENT "os.stat('$S/after')"
[ -z "$(ls -A "$S")" ] || fail "the snapshot is still there"
"$WEIR" gc "$M" > /dev/null 2>&1 || true
cat <&5 >> "$T/part"
exec 5<&-
cmp "$T/one" "$T/part"

# What a filter transformed is read through that filter, as it was attached then; observers stay out.
status() {
	"$WEIR" status "$M" --json | python3 -c 'import json, sys; print([u["target"] for u in json.load(sys.stdin)["unopenable"]])'
}
cp "$T/two" "$M/vm/sc.raw"
"$WEIR" filter attach "$M/vm/sc.raw" scramble key=7 --force --wait > /dev/null
"$WEIR" filter attach "$M/vm/sc.raw" fault op=read errno=EIO --force > /dev/null
"$WEIR" snapshot create "$M/vm/sc.raw" scrambled > /dev/null
"$WEIR" filter detach "$M/vm/sc.raw" fault > /dev/null
"$WEIR" filter detach "$M/vm/sc.raw" scramble --wait > /dev/null
cmp "$T/two" "$M/vm/sc.raw"
cmp "$T/two" "$S/scrambled/vm/sc.raw"
cp --reflink=auto "$S/scrambled/vm/sc.raw" "$M/vm/out.raw" # by requests: bytes as the guest saw them
cmp "$T/two" "$M/vm/out.raw"
exec 5< "$S/scrambled/vm/sc.raw"
"$WEIR" snapshot rename "$M/vm/sc.raw" scrambled renamed > /dev/null
cmp "$T/two" "$S/renamed/vm/sc.raw" # the same file, open already
"$WEIR" snapshot delete "$M/vm/sc.raw" renamed > /dev/null
cmp "$T/two" /dev/fd/5
exec 5<&-
"$WEIR" filter attach "$M/vm/sc.raw" scramble key=8 --force --wait > /dev/null
"$WEIR" snapshot create "$M/vm/sc.raw" scrambled > /dev/null
umount_weir
mount_weir without=scramble
refused EIO "open('$S/scrambled/vm/sc.raw', 'rb')"
same "what does not open" "['vm/sc.raw@scrambled']" "$(status)"
"$WEIR" snapshot delete "$M/vm/sc.raw" scrambled > /dev/null
same "what does not open" "[]" "$(status)"
remount_weir
rm "$M/vm/sc.raw" "$M/vm/out.raw"

# A large image is one map: copying it whole is a matter of one commit.
python3 - "$M/big" <<'PY'
import os, sys
f = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
for i in range(3000):
    os.pwrite(f, b"%08d" % i * 512, i * (100 << 30) // 3000 // 4096 * 4096)
os.ftruncate(f, 100 << 30)
os.fsync(f)
PY
python3 - "$M/big" "$M/copy" <<'PY'
import os, sys, time
a, b = os.open(sys.argv[1], os.O_RDONLY), os.open(sys.argv[2], os.O_RDWR | os.O_CREAT)
begin = time.time()
left = 100 << 30
while left:
    n = os.copy_file_range(a, b, left)
    assert n > 0
    left -= n
took = time.time() - begin
print("copied in %.3f s" % took)
assert took < 5 # far less, but the machine may be busy
for i in range(0, 3000, 7):
    assert os.pread(b, 4096, i * (100 << 30) // 3000 // 4096 * 4096) == b"%08d" % i * 512
assert os.fstat(b).st_size == 100 << 30
assert os.fstat(b).st_blocks == 3000 * 8
PY
# Extent by extent, as newer coreutils do (9.1 still reads and writes): two calls, then it is the whole map.
python3 - "$M/big" "$M/copy2" <<'PY'
import errno, os, sys, time
a, b = os.open(sys.argv[1], os.O_RDONLY), os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT)
size = os.fstat(a).st_size
def seek(off, how):
    try:
        return os.lseek(a, off, how)
    except OSError as e:
        assert e.errno == errno.ENXIO
        return size
begin = time.time()
at, calls, end = seek(0, os.SEEK_DATA), 0, 0
while at < size:
    end = seek(at, os.SEEK_HOLE)
    while at < end:
        n = os.copy_file_range(a, b, end - at, at, at)
        assert n > 0
        at, calls = at + n, calls + 1
    at = seek(at, os.SEEK_DATA)
os.ftruncate(b, size)
took = time.time() - begin
print("copied extent by extent in %.3f s, %d calls" % (took, calls))
assert calls < 40 # an older kernel says at most 4 GiB a call
assert took < 10
PY
same "the size of the copy" $((100 << 30)) "$(stat -c %s "$M/copy2")"
remount_weir
for c in copy copy2; do
	python3 - "$M/big" "$M/$c" <<- 'PY'
	import os, sys
	a, b = (os.open(p, os.O_RDONLY) for p in sys.argv[1:])
	for i in range(0, 3000, 11):
	    off = i * (100 << 30) // 3000 // 4096 * 4096
	    assert os.pread(a, 4096, off) == os.pread(b, 4096, off) == b"%08d" % i * 512
	PY
done
umount_weir
"$WEIR" check "$DS" > "$T/check" || fail "check: $(cat "$T/check")"
