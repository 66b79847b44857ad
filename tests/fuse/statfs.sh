# statfs tells of the backing's space.
. "$(dirname "$0")/lib.sh"

# name length, block size
same "name length" 255 "$(stat -f -c %l "$M")"
same "block size" 4096 "$(stat -f -c %s "$M")"
total=$(stat -f -c '%b*%S' "$M") backing=$(stat -f -c '%b*%S' "$DS")
[ $((total)) -le $((backing)) ] && [ $((total)) -gt 0 ] || fail "total $((total)), backing $((backing))"
free=$(($(stat -f -c '%a*%S' "$M"))) backing=$(($(stat -f -c '%a*%S' "$DS")))
[ "$free" -gt 0 ] && [ "$free" -le "$backing" ] || fail "free $free, backing $backing"
df "$M" | grep -q "^$DS " || fail "df does not show the datastore"
refused ENOSPC "os.posix_fallocate(os.open('$M/f', os.O_RDWR | os.O_CREAT), 0, $free + (1 << 30))"
