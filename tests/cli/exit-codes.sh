#!/bin/bash
# the exit codes of the one table, under all three names
. "$(dirname "$0")/lib.sh"

for name in mkfs.weir mount.weir fsck.weir; do ln -s "$WEIR" $name; done

run 0 ./mkfs.weir ds --log-size 16M --index-memory 8M
run 0 ./fsck.weir ds
for flags in -a -p -n -y -f -C0 "-a -C0" "-fy"; do
	# shellcheck disable=SC2086
	run 0 ./fsck.weir $flags ds
done
run 0 ./fsck.weir -V && says out "fsck.weir (weir)"
refused 16 "-n forbids" ./fsck.weir -n -y ds
ok "fsck.weir takes fsck's options"

refused 16 "missing DIR" ./mkfs.weir
refused 16 "missing MOUNTPOINT" ./mount.weir ds
refused 16 "unknown option '-x'" ./fsck.weir -x ds
refused 16 "unknown mount option 'frob'" ./mount.weir ds mnt -o frob
run 0 ./mount.weir ds mnt -f -o noauto,nofail,_netdev,user,x-systemd.automount
run 0 ./mount.weir ds mnt -s -f -o frob
run 0 ./mount.weir -f -n -t weir ds mnt -o rw
refused 16 "use nsenter" ./mount.weir ds mnt -N /proc/1/ns/mnt
ok "mount.weir takes mount's options"

mkdir mnt empty
refused 32 "'" "$WEIR" mount nowhere mnt
refused 32 "'" "$WEIR" mount ds nowhere
for c in status stats images check gc umount; do
	refused 8 "nowhere" "$WEIR" "$c" nowhere
	refused 8 "empty" "$WEIR" "$c" empty
done
refused 32 "empty" "$WEIR" mount empty mnt
refused 8 "not mounted" "$WEIR" umount ds
ok "what is not there or no datastore is a failure"
