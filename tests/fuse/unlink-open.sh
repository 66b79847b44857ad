# What is unlinked but open lives on, and goes when it is closed.
. "$(dirname "$0")/lib.sh"

head -c 2M /dev/urandom > "$T/r"
cp "$T/r" "$M/f"
exec 5<> "$M/f"
rm "$M/f"
cmp "$T/r" /proc/self/fd/5
echo more | dd of=/proc/self/fd/5 bs=1 seek=3M conv=notrunc status=none
same "size" $(((3 << 20) + 5)) "$(stat -L -c %s /proc/self/fd/5)"
same "links" 0 "$(stat -L -c %h /proc/self/fd/5)"
touch "$M/f"
same "a new one by that name" 0 "$(stat -c %s "$M/f")"
exec 5>&-

# Removed, but somebody's working directory.
mkdir "$M/d"
cd "$M/d"
rmdir "$M/d"
same "an empty directory" "" "$(ls -A)"
! true 2> /dev/null > ./x || fail "a file was made in a directory that is gone"
cd /

# A daemon that dies with such a file leaves nothing of it behind.
cp "$T/r" "$M/g"
exec 5< "$M/g"
rm "$M/g"
sync -f "$M"
pid=$(daemon_pid)
kill -9 "$pid"
wait_gone "$pid"
exec 5<&-
mount_weir
same "nothing written is left" 0 "$("$WEIR" stats "$DS" --json | python3 -c 'import json, sys; print(json.load(sys.stdin)["total"]["written_bytes"])')"
