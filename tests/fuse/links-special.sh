# Hard links, symbolic links, FIFOs, sockets, devices.
. "$(dirname "$0")/lib.sh"

echo x > "$M/f"
ln "$M/f" "$M/g"
same "links" 2 "$(stat -c %h "$M/f")"
same "the same file" "$(stat -c %i "$M/f")" "$(stat -c %i "$M/g")"
echo y > "$M/g"
same "one content" y "$(cat "$M/f")"
rm "$M/f"
same "links" 1 "$(stat -c %h "$M/g")"
same "content stays" y "$(cat "$M/g")"
mkdir "$M/d"
refused EPERM "os.link('$M/d', '$M/h')"
refused EEXIST "os.link('$M/g', '$M/d')"

ln -s g "$M/l"
same "through a symbolic link" y "$(cat "$M/l")"
same "its target" g "$(readlink "$M/l")"
long=$(head -c 4000 /dev/zero | tr '\0' x)
ln -s "$long" "$M/long"
same "a long target" "$long" "$(readlink "$M/long")"
same "its size" 4000 "$(stat -c %s "$M/long")"

mkfifo "$M/fifo"
echo through > "$M/fifo" &
same "FIFO" through "$(cat "$M/fifo")"
python3 -c "import socket; socket.socket(socket.AF_UNIX).bind('$M/sock')"
same "socket" socket "$(stat -c %F "$M/sock")"
if [ "$(id -u)" = 0 ]; then
	mknod "$M/null" c 1 3
	same "device" "character special file 1 3" "$(stat -c '%F %t %T' "$M/null")"
	mknod "$M/blk" b 259 70000
	same "big minor" "103 11170" "$(stat -c '%t %T' "$M/blk")"
fi
remount_weir
same "after a remount" "$long" "$(readlink "$M/long")"
same "after a remount" fifo "$(stat -c %F "$M/fifo")"
