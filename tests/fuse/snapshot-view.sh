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

# What a filter transformed is not shown as it is stored.
if "$WEIR" filter attach "$M/vm/one.raw" scramble --force > /dev/null 2>&1; then
	"$WEIR" snapshot create "$M/vm/one.raw" scrambled > /dev/null
	refused EOPNOTSUPP "open('$S/scrambled/vm/one.raw', 'rb')"
	"$WEIR" filter detach "$M/vm/one.raw" scramble --wait > /dev/null 2>&1 || true
fi

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
begin=$(date +%s%N)
cp --reflink=auto "$M/big" "$M/copy2"
echo "cp took $((($(date +%s%N) - begin) / 1000000)) ms"
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
