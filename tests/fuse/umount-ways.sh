# Every way to end loses nothing, and leaves neither lock nor socket nor mount.
NO_MOUNT=1
. "$(dirname "$0")/lib.sh"

ended() {
	wait_gone "$1"
	! is_mounted || fail "$2: still mounted"
	[ ! -e "$DS/control.sock" ] || fail "$2: the socket is still there"
}

n=0
for way in "$WEIR umount $DS" "$WEIR umount $M" "umount $M" "fusermount3 -u $M" "kill -TERM PID" "kill -INT PID"; do
	mount_weir
	pid=$(daemon_pid)
	n=$((n + 1))
	head -c 1M /dev/urandom > "$T/r$n"
	cp "$T/r$n" "$M/f$n"
	touch "$M/last$n"
	${way/PID/$pid}
	ended "$pid" "$way"
done
mount_weir
for i in $(seq $n); do
	cmp "$T/r$i" "$M/f$i"
	[ -e "$M/last$i" ] || fail "last$i is lost"
done

# In use: refused, and goes on.
exec 5<> "$M/busy"
! "$WEIR" umount "$DS" 2> "$T/err" || fail "a mount in use was unmounted"
grep -q "in use" "$T/err" || fail "no word of why: $(cat "$T/err")"
echo still >&5
same "goes on" still "$(cat "$M/busy")"
# A signal ends it all the same; what was written, mapped pages too, is safe.
python3 - "$M/mapped" "$T/go" <<'PY' &
import mmap, os, sys, time
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
os.ftruncate(fd, 8192)
m = mmap.mmap(fd, 8192)
m[0:6] = b"mapped"
open(sys.argv[2], "w").close()
time.sleep(60)
PY
py=$!
while [ ! -e "$T/go" ]; do sleep 0.05; done
pid=$(daemon_pid)
kill -TERM "$pid"
ended "$pid" "kill while in use"
kill "$py"
wait "$py" 2> /dev/null || true
exec 5>&-
mount_weir
same "written before the signal" still "$(cat "$M/busy")"
same "mapped before the signal" mapped "$(head -c 6 "$M/mapped")"

# Killed: the next mount clears the dead mount away and needs no help.
sync -f "$M"
pid=$(daemon_pid)
kill -9 "$pid"
wait_gone "$pid"
! ls "$M" > /dev/null 2>&1 || fail "the dead mount answers"
mount_weir
same "after a kill" still "$(cat "$M/busy")"
same "one mount" 1 "$(grep -c " $M " /proc/self/mountinfo)"
umount_weir
# Right after umount(8), which does not wait for the daemon.
mount_weir
umount "$M"
mount_weir
umount_weir
# In the foreground.
"$WEIR" mount "$DS" "$M" -f -o "$OPTIONS" 2> "$T/fg" &
fg=$!
while ! is_mounted || ! [ -e "$M/busy" ]; do sleep 0.05; done
umount "$M"
wait "$fg" || fail "foreground: exit code $?: $(cat "$T/fg")"
