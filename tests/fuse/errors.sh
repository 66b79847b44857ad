# Mounts that cannot be, and calls that must fail, with clear words.
NO_MOUNT=1
. "$(dirname "$0")/lib.sh"

# refused_mount TEXT DIR MOUNTPOINT [OPTIONS]
refused_mount() {
	! "$WEIR" mount "$2" "$3" -o "$OPTIONS${4:+,$4}" 2> "$T/err" || fail "mounted: $*"
	grep -q -- "$1" "$T/err" || fail "expected '$1' in: $(cat "$T/err")"
	! is_mounted || fail "refused, but mounted"
}
mkdir "$T/empty" "$DS/inside"
touch "$T/file"
refused_mount "not a datastore" "$T/empty" "$M"
refused_mount "No such file" "$T/none" "$M"
refused_mount "No such file" "$DS" "$T/none"
refused_mount "not a directory" "$DS" "$T/file"
refused_mount "inside the datastore" "$DS" "$DS/inside"
refused_mount "inside it" "$DS" "$T"
refused_mount "unfinished" "$(mkdir "$T/half" && touch "$T/half/creating" && echo "$T/half")" "$M"
rmdir "$DS/inside"
! "$WEIR" create "$DS" 2> "$T/err" || fail "created over a datastore"
grep -q "not empty" "$T/err" || fail "$(cat "$T/err")"

mount_weir
! "$WEIR" mount "$DS" "$T/empty" 2> "$T/err" || fail "mounted twice"
grep -q "pid $(daemon_pid)" "$T/err" || fail "no pid in: $(cat "$T/err")"

name=$(head -c 255 /dev/zero | tr '\0' n)
touch "$M/$name"
refused ENAMETOOLONG "open('$M/${name}n', 'w')"
mkdir "$M/d"
touch "$M/d/f" "$M/f"
refused ENOTEMPTY "os.rmdir('$M/d')"
refused ENOTDIR "os.rmdir('$M/f')"
refused EISDIR "os.unlink('$M/d')"
refused ENOTDIR "open('$M/f/x', 'w')"
refused EISDIR "os.open('$M/d', os.O_WRONLY)"
refused EEXIST "os.mkdir('$M/d')"
refused ENOENT "os.unlink('$M/none')"

# A datastore whose path has blanks and commas.
umount_weir
odd="$T/a b,c"
mv "$DS" "$odd"
DS=$odd
mount_weir
same "found through its mount" "$odd" "$("$WEIR" status "$M" --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["datastore"])')"
echo x > "$M/x"
umount_weir
# A path longer than a socket's name may be.
deep="$T/$(head -c 120 /dev/zero | tr '\0' p)"
mv "$DS" "$deep"
DS=$deep
mount_weir
same "through a long path" x "$(cat "$M/x")"
"$WEIR" status "$M" > /dev/null
