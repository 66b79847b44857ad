# rename in all its forms, and what it refuses.
. "$(dirname "$0")/lib.sh"

cat > "$T/renameat2.py" <<'PY'
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
def renameat2(a, b, flags):
    if libc.renameat2(-100, os.fsencode(a), -100, os.fsencode(b), flags):
        e = ctypes.get_errno()
        raise OSError(e, os.strerror(e))
NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4
PY
export PYTHONPATH=$T
py="from renameat2 import *;"

echo a > "$M/a"
echo b > "$M/b"
ino=$(stat -c %i "$M/a")
refused EEXIST "$py renameat2('$M/a', '$M/b', NOREPLACE)"
same kept b "$(cat "$M/b")"
python3 -c "$py renameat2('$M/a', '$M/b', EXCHANGE)"
same exchanged "b a" "$(cat "$M/a" "$M/b" | xargs)"
python3 -c "$py renameat2('$M/b', '$M/c', NOREPLACE)"
same "the same file" "$ino" "$(stat -c %i "$M/c")"
mv "$M/c" "$M/a"
same replaced a "$(cat "$M/a")"
same "one left" a "$(ls "$M")"
refused EINVAL "$py renameat2('$M/a', '$M/w', WHITEOUT)"
refused ENOENT "$py renameat2('$M/a', '$M/none', EXCHANGE)"

mkdir -p "$M/d/sub" "$M/e"
same "links of the top" 4 "$(stat -c %h "$M")"
refused EINVAL "os.rename('$M/d', '$M/d/sub/x')"
refused ENOTEMPTY "os.rename('$M/e', '$M/d')"
refused EISDIR "os.rename('$M/a', '$M/e')"
refused ENOTDIR "os.rename('$M/e', '$M/a')"
mv -T "$M/d/sub" "$M/e"
same "links after a directory was replaced" 2 "$(stat -c %h "$M/d")"
same "parent" "$(stat -c %i "$M")" "$(stat -c %i "$M/e/..")"
python3 -c "$py renameat2('$M/e', '$M/d', EXCHANGE)"
mv "$M/e" "$M/d/"
same "parent after moving" "$(stat -c %i "$M/d")" "$(stat -c %i "$M/d/e/..")"
same "links of the top" 3 "$(stat -c %h "$M")"

# Open through it all.
exec 5<> "$M/a"
mv "$M/a" "$M/d/e/a"
echo open >&5
same "open file follows" open "$(cat "$M/d/e/a")"
