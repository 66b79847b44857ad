#!/bin/bash
# mount returns when the mount is usable, honours its options, and refuses with a reason
. "$(dirname "$0")/lib.sh"
need_fuse
new_datastore ds
mkdir mnt other plain

run 0 "$WEIR" mount ds mnt -o overlay=32M,cache=32M,map=16M,noatime,nosuid,nodev,noexec,nofail,x-systemd.automount
echo hello >mnt/file
[ "$(cat mnt/file)" = hello ] || fail "the file cannot be read back"
grep -E " $work/mnt rw,nosuid,nodev,noexec,noatime .*- fuse.weir $work/ds " /proc/self/mountinfo >line ||
	fail "the mount table says: $(grep "$work/mnt" /proc/self/mountinfo)"
ok "usable on return, with its options"

pid=$(weir status ds --json | jq .pid)
[ "$(jq -r .mountpoint < <(weir status ds --json))" = "$work/mnt" ] || fail "status says another mount point"
refused 32 "pid $pid" "$WEIR" mount ds other
says err "weir umount"
refused 8 "pid $pid" "$WEIR" check ds
refused 8 "pid $pid" "$WEIR" check mnt/file --repair
refused 8 "not empty" "$WEIR" create ds
ok "a mounted datastore is refused, with the pid"

for target in ds mnt mnt/file "$work/mnt" "$work/ds/"; do
	run 0 "$WEIR" status "$target" --json
	[ "$(jq -r .datastore out)" = "$work/ds" ] || fail "'$target' leads to $(jq -r .datastore out)"
done
(cd mnt && "$WEIR" status . >/dev/null) || fail "'.' inside the mount is not found"
ok "a target is the directory, the mount point, or a path inside"
weir umount ds

run 0 "$WEIR" mount ds mnt -o ro
[ "$(cat mnt/file)" = hello ] || fail "cannot read"
run 1 touch mnt/new
run 0 "$WEIR" status mnt --json
[ "$(jq .mounted out)" = true ] || fail "status does not see the read-only mount"
run 0 "$WEIR" umount mnt
[ ! -s err ] || fail "umount of a read-only mount says: $(cat err)"
! mountpoint -q mnt || fail "still mounted"
ok "ro can be read and not written"

"$WEIR" mount ds mnt -f &
for _ in $(seq 100); do mountpoint -q mnt && break; sleep 0.1; done
mountpoint -q mnt || fail "-f did not mount"
weir umount ds
wait $! || fail "-f ended with $?"
ok "-f stays until unmounted"

refused 32 "not a datastore" "$WEIR" mount plain mnt
refused 32 "" "$WEIR" mount ds nowhere
! mountpoint -q mnt || fail "something is mounted"
[ "$(weir status ds --json | jq .mounted)" = false ] || fail "a failed mount left it locked"
ok "a mount that fails leaves nothing"
