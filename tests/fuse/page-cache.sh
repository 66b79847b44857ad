#!/bin/bash
# What the kernel has cached of a file does not go by a filter that is attached later, and goes with its key.
. "$(dirname "$0")/lib.sh"
. "$HERE/filters-lib.sh"

# resident FILE: pages of it in the kernel's cache
resident() {
	python3 - "$1" <<- 'PY'
	import ctypes, mmap, os, sys
	libc = ctypes.CDLL(None, use_errno=True)
	libc.mmap.restype = ctypes.c_void_p
	libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
	libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
	fd = os.open(sys.argv[1], os.O_RDONLY)
	size = os.fstat(fd).st_size
	at = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
	pages = ctypes.create_string_buffer((size + 4095) // 4096)
	if libc.mincore(at, size, pages):
	    sys.exit("mincore: %s" % os.strerror(ctypes.get_errno()))
	print(sum(b & 1 for b in pages.raw[: (size + 4095) // 4096]))
	PY
}

# cached FILE: reads it until the kernel has it.  Times that the kernel learns of later would drop it again.
cached() {
	for _ in $(seq 20); do
		stat --cached=never "$1" > /dev/null
		cat "$1" > /dev/null
		[ "$(resident "$1")" -gt 200 ] && return
		sleep 0.1
	done
	fail "the kernel caches nothing of '$1', this tests nothing"
}

# --- a filter that must see what is read ---
head -c 1M < <(yes "marked and known") > "$M/a.raw"
mkdir "$M/dir"
cp "$M/a.raw" "$M/dir/b.raw"
cached "$M/a.raw"
cached "$M/dir/b.raw"
exec 5< "$M/a.raw" # open all the time, as a guest's disk is
"$WEIR" filter attach "$M/a.raw" fault op=read errno=EIO --force > /dev/null
if head -c 4096 <&5 > /dev/null 2> "$T/err"; then fail "a cached read went by a filter"; fi
"$WEIR" filter detach "$M/a.raw" fault > /dev/null
head -c 4096 <&5 > /dev/null || fail "a read after the detaching"
[ "$(resident "$M/dir/b.raw")" -gt 200 ] || fail "the kernel dropped what nothing was attached to"
"$WEIR" filter attach "$M/dir" fault op=read errno=EIO --force --recursive > /dev/null
if cat "$M/dir/b.raw" > /dev/null 2> "$T/err"; then fail "a cached read of a closed file went by a filter"; fi
exec 5<&-

if "$WEIR" filter types | grep -q '^scan'; then
	printf 'rule marked { strings: $a = "marked and known" condition: $a }\n' > "$T/rules.yar"
	cached "$M/a.raw"
	exec 5< "$M/a.raw"
	if "$WEIR" filter attach "$M/a.raw" scan "rules=$T/rules.yar" action=block > /dev/null 2> "$T/err"; then
		if head -c 4096 <&5 > /dev/null 2> "$T/err"; then fail "what is cached is not scanned"; fi
	else
		grep -q "without" "$T/err" || fail "attaching scan: $(cat "$T/err")"
	fi
	exec 5<&-
fi

# --- a key that is locked ---
head -c 64 /dev/urandom > "$T/key"
"$WEIR" key create "$M" vault --key-file "$T/key" > /dev/null
mkdir "$M/safe"
"$WEIR" filter attach "$M/safe" encrypt key=vault > /dev/null
head -c 1M /dev/urandom > "$M/safe/c.raw"
cached "$M/safe/c.raw"
"$WEIR" snapshot create "$M/safe" snap > /dev/null
old=$M/.weir/snapshots/snap/safe/c.raw
cached "$old"
for _ in $(seq 50); do # the kernel tells of the close in its own time
	if "$WEIR" key lock "$M" vault > /dev/null 2> "$T/err"; then locked=1; break; fi
	sleep 0.1
done
[ "${locked:-}" ] || fail "the key is not locked: $(cat "$T/err")"
"$WEIR" key unlock "$M" vault --key-file "$T/key" > /dev/null
same "pages of a locked image" 0 "$(resident "$M/safe/c.raw")"
same "pages of its snapshot" 0 "$(resident "$old")"
cmp "$M/safe/c.raw" "$old"
umount_weir
