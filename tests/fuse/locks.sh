# flock and POSIX locks between processes.
. "$(dirname "$0")/lib.sh"

touch "$M/f"
exec 5<> "$M/f"
flock -x 5
! flock -n "$M/f" true || fail "flock: two holders"
flock -u 5
flock -n "$M/f" true || fail "flock: not released"

python3 - "$M/f" <<'PY'
import fcntl, os, struct, sys
fd = os.open(sys.argv[1], os.O_RDWR)
def held_in_child(start, length):
    pid = os.fork()
    if pid == 0:
        try:
            fcntl.lockf(os.open(sys.argv[1], os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB, length, start)
            os._exit(0)
        except OSError:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
fcntl.lockf(fd, fcntl.LOCK_EX, 100, 50)
assert held_in_child(60, 1) and held_in_child(0, 51)
assert not held_in_child(0, 50) and not held_in_child(150, 10)
fcntl.lockf(fd, fcntl.LOCK_UN, 50, 50)
assert not held_in_child(60, 1) and held_in_child(120, 1)
# Of the open file: a second one in the same process conflicts.
ofd = os.open(sys.argv[1], os.O_RDWR)
whole = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 1000, 10, 0)
fcntl.fcntl(fd, 37, whole)
try:
    fcntl.fcntl(ofd, 37, whole)
    raise SystemExit("two holders of one OFD lock")
except BlockingIOError:
    pass
PY
