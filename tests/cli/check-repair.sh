#!/bin/bash
# --repair makes good what can be, says what is lost, and the next check and mount agree
. "$(dirname "$0")/lib.sh"
need_fuse
ln -s "$WEIR" fsck.weir
new_datastore ds
mount_ds ds mnt
random_file plain 12 one
cp plain mnt/a.raw
weir umount ds
weir gc ds >/dev/null
cp -a ds good
restore() { rm -rf ds && cp -a good ds; }
segment=$(find good/segments -type f -printf '%s %p\n' | sort -n | tail -1 | cut -d' ' -f2-)
segment=ds/${segment#good/}
size=$(stat -c %s "$segment")
zero() { dd if=/dev/zero of="$1" bs=1 seek="$2" count="$3" conv=notrunc status=none; }
intact()
{
	run 0 "$WEIR" check ds --data
	mount_ds ds mnt
	cmp plain mnt/a.raw || fail "$1: content differs"
	weir umount ds
}

zero "$segment" $((size - 4096)) 4096
run 1 "$WEIR" check ds --repair
says out "(repaired)"
intact "footer"
restore
zero "$segment" 0 4096
run 1 ./fsck.weir -y ds
intact "header"
ok "footer and header"

restore
zero ds/index 64 64
run 1 ./fsck.weir -a -C0 ds
[ ! -e ds/index ] || fail "the damaged index is still there"
intact "index"
restore
zero ds/log 0 4096
run 1 ./fsck.weir -p ds
intact "log"
restore
rm ds/log
run 1 "$WEIR" check ds --repair
intact "lost log"
ok "saved index and intent log"

restore
mkdir -p ds/segments/ff
cp "$segment" ds/segments/ff/00000000ff.0
run 0 "$WEIR" check ds
says out "note:"
run 1 "$WEIR" check ds --repair
[ ! -e ds/segments/ff/00000000ff.0 ] || [ "$(jq -r .clean < <("$WEIR" check ds --json))" = true ] || fail "stranger"
ok "a strange file is harmless"

restore
zero "$segment" $((size / 2)) 256
run 4 "$WEIR" check ds --data --repair
says out "loss: 'a.raw'"
run 4 "$WEIR" check ds --data
mount_ds ds mnt
dd if=plain of=mnt/a.raw bs=1M conv=notrunc status=none
weir umount ds
weir gc ds >/dev/null
intact "healed"
ok "what is lost stays lost until it is written again"
