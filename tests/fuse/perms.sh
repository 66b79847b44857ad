# Permissions, as another user; setuid, setgid, sticky; times.
MOUNT_OPTIONS=allow_other
. "$(dirname "$0")/lib.sh"

[ "$(id -u)" = 0 ] || { echo "needs root"; exit 77; }
command -v setpriv > /dev/null || { echo "needs setpriv"; exit 77; }
as() { # as UID:GID command...
	local who=$1
	shift
	setpriv --reuid="${who%:*}" --regid="${who#*:}" --clear-groups "$@"
}
chmod 711 "$T"

echo secret > "$M/secret"
chmod 600 "$M/secret"
! as 1000:1000 cat "$M/secret" 2> /dev/null || fail "another user read a 0600 file"
! as 1000:1000 touch "$M/new" 2> /dev/null || fail "another user wrote to a 0755 directory"
mkdir -m 1777 "$M/tmp"
as 1000:1000 touch "$M/tmp/mine"
same "owner" "1000 1000" "$(stat -c '%u %g' "$M/tmp/mine")"
! as 1001:1001 rm -f "$M/tmp/mine" 2> /dev/null || fail "sticky directory: another user removed a file"
! as 1001:1001 mv "$M/tmp/mine" "$M/tmp/x" 2> /dev/null || fail "sticky directory: another user renamed a file"
! as 1000:1000 chown 1001 "$M/tmp/mine" 2> /dev/null || fail "a user gave a file away"
as 1000:1000 rm "$M/tmp/mine"
same "umask" 640 "$(umask 027; touch "$M/u"; stat -c %a "$M/u")"

# A setgid directory.
mkdir -m 2777 "$M/sg"
chgrp 1234 "$M/sg"
chmod 2777 "$M/sg"
as 1000:1000 touch "$M/sg/f"
as 1000:1000 mkdir "$M/sg/d"
same "group of a file" 1234 "$(stat -c %g "$M/sg/f")"
same "group and mode of a directory" "1234 2755" "$(stat -c '%g %a' "$M/sg/d")"

# setuid and setgid go with a write, a truncate and a chown by who may not keep them.
suid() {
	cp /bin/true "$M/s"
	chown 1000:1000 "$M/s"
	chmod 6777 "$M/s"
}
suid
as 1000:1000 bash -c "echo x >> '$M/s'"
same "after a write" 777 "$(stat -c %a "$M/s")"
suid
as 1000:1000 truncate -s 0 "$M/s"
same "after a truncate" 777 "$(stat -c %a "$M/s")"
suid
as 1001:1001 dd if=/dev/zero of="$M/s" bs=4096 count=1 oflag=direct conv=notrunc status=none
same "after a direct write" 777 "$(stat -c %a "$M/s")"
suid
as 1000:1000 fallocate -l 1M "$M/s"
same "after an fallocate" 777 "$(stat -c %a "$M/s")"
suid
echo x >> "$M/s"
same "root keeps them" 6777 "$(stat -c %a "$M/s")"
chown 1001 "$M/s"
same "after a chown" 777 "$(stat -c %a "$M/s")"

# Times.
touch -d '2001-02-03 04:05:06.123456789' "$M/t"
same "times are kept to the ns" "2001-02-03 04:05:06.123456789" "$(stat -c %y "$M/t" | cut -c1-29)"
as 1000:1000 test ! -w "$M/t" || fail "others may write"
chmod 666 "$M/t"
as 1000:1000 touch "$M/t"
same "touched" "$(date +%Y)" "$(stat -c %y "$M/t" | cut -c1-4)"
remount_weir allow_other
same "modes after a remount" "2777 1777" "$(stat -c %a "$M/sg" "$M/tmp" | xargs)"
same "owner after a remount" "1001 1000" "$(stat -c '%u %g' "$M/s")"
