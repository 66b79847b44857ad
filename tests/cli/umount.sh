#!/bin/bash
# umount waits until everything is committed and the daemon has gone; a busy mount stays
. "$(dirname "$0")/lib.sh"
need_fuse
new_datastore ds

mount_ds ds mnt
random_file plain 24 one
cp plain mnt/a.raw
pid=$(weir status ds --json | jq .pid)
run 0 "$WEIR" umount mnt
! kill -0 "$pid" 2>/dev/null || [ "$(ps -o stat= -p "$pid" | cut -c1)" = Z ] || fail "the daemon $pid still runs"
[ "$(weir status ds --json | jq .log_used_bytes)" = 0 ] || fail "the log is not empty"
run 0 "$WEIR" check ds --data
mount_ds ds mnt
cmp plain mnt/a.raw || fail "content differs after umount and mount"
ok "after umount all is committed, and the daemon has gone"

# shellcheck disable=SC2217
sleep 100 <mnt/a.raw &
sleeper=$!
sleep 0.2
refused 8 "in use" "$WEIR" umount ds
says err "sleep (pid $sleeper)"
mountpoint -q mnt || fail "the busy mount has gone"
echo more >mnt/more || fail "the busy mount does not work any more"
kill $sleeper
wait $sleeper || true
run 0 "$WEIR" umount ds
ok "a busy mount stays, and the message says who uses it"

mount_ds ds mnt
cp plain mnt/b.raw
fusermount3 -u mnt
for _ in $(seq 300); do [ "$(weir status ds --json 2>/dev/null | jq .mounted)" = false ] && break; sleep 0.1; done
mount_ds ds mnt
cmp plain mnt/b.raw || fail "fusermount3 -u lost data"
ok "fusermount3 -u loses nothing"

cp plain mnt/c.raw
sync mnt/c.raw
pid=$(weir status ds --json | jq .pid)
kill -9 "$pid"
for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
run 0 "$WEIR" umount mnt
says err "gone already"
! mountpoint -q mnt || fail "the dead mount is still there"
mount_ds ds mnt
cmp plain mnt/c.raw || fail "what was flushed is lost"
weir umount ds
run 0 "$WEIR" check ds --data
ok "a mount whose daemon was killed is cleared away, and nothing flushed is lost"

refused 8 "not mounted" "$WEIR" umount ds
ok "what is not mounted is said so"
