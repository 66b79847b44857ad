# Everything is as it was after a clean end; fsynced data also after a kill.
. "$(dirname "$0")/lib.sh"

cp -a /usr/include/linux "$M/tree"
head -c 5M /dev/urandom > "$T/r"
cp "$T/r" "$M/r"
touch -h -d '2002-02-02' "$M/tree"
list() {
	(cd "$1" && find . ! -path . -printf '%P %y %m %u %g %s %n %T@ %l\n' | LC_ALL=C sort)
}
list "$M" > "$T/before"
remount_weir
list "$M" > "$T/after"
diff "$T/before" "$T/after" > "$T/diff" || fail "changed: $(head -5 "$T/diff")"
diff -r /usr/include/linux "$M/tree"
cmp "$T/r" "$M/r"
"$WEIR" check --help > /dev/null 2>&1 && { umount_weir; "$WEIR" check "$DS" --data; mount_weir; }

for i in 1 2 3; do
	pid=$(daemon_pid)
	python3 - "$M/synced$i" "$T/r" <<- 'PY'
	import os, sys
	data = open(sys.argv[2], "rb").read(700001)
	fd = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
	os.write(fd, data)
	os.fsync(fd)
	fd = os.open(sys.argv[1] + ".o", os.O_WRONLY | os.O_CREAT | os.O_SYNC)
	os.write(fd, data[:5000])
	os.mkdir(sys.argv[1] + ".d")
	d = os.open(os.path.dirname(sys.argv[1]), os.O_RDONLY)
	os.fsync(d)
	PY
	kill -9 "$pid"
	wait_gone "$pid"
	mount_weir
	cmp -n 700001 "$T/r" "$M/synced$i"
	same "size" 700001 "$(stat -c %s "$M/synced$i")"
	cmp -n 5000 "$T/r" "$M/synced$i.o"
	same "size" 5000 "$(stat -c %s "$M/synced$i.o")"
	[ -d "$M/synced$i.d" ] || fail "a directory that was fsynced is lost"
done
umount_weir
# Read-only: nothing is written, everything is there.
(cd "$DS" && find . -type f ! -name lock -exec md5sum {} + | sort) > "$T/sums"
mount_weir ro
cmp -n 700001 "$T/r" "$M/synced1"
refused EROFS "open('$M/new', 'w')"
"$WEIR" umount "$M"
(cd "$DS" && find . -type f ! -name lock -exec md5sum {} + | sort) > "$T/sums2"
cmp "$T/sums" "$T/sums2" || fail "a read-only mount wrote: $(diff "$T/sums" "$T/sums2")"
