#!/bin/bash
# images go out as raw and qcow2 and come back; nothing half-written; hostile images are refused
. "$(dirname "$0")/lib.sh"
need_fuse

new_datastore ds
mount_ds ds mnt
mkdir mnt/vm f
random_file one 6 one
random_file two 3 two
truncate -s 40M disk
dd if=one of=disk bs=1M seek=3 conv=notrunc status=none
dd if=two of=disk bs=1M seek=30 conv=notrunc status=none
cp --sparse=always disk mnt/vm/a.raw
chmod 640 mnt/vm/a.raw
used() { echo $(($(stat -c '%b * %B' "$1"))); }
temporaries() { find "$@" -name '.*.weir-*'; }
no_leftovers()
{
	[ -z "$(temporaries mnt f)" ] || fail "left: $(temporaries mnt f)"
	[ "$(weir snapshot list mnt --json | jq '[.snapshots[] | select(.name | startswith("export-"))] | length')" = 0 ] ||
		fail "left: $(weir snapshot list mnt)"
}

# --- raw: no other program ---

run 0 env PATH=/nowhere "$WEIR" export mnt/vm/a.raw f/a.raw --verify
says out "vm/a.raw: exported to 'f/a.raw' (raw, "
cmp disk f/a.raw
(($(used f/a.raw) <= 10 << 20)) || fail "the copy takes $(used f/a.raw) bytes"
[ "$(stat -c %a f/a.raw)" = 640 ] || fail "mode $(stat -c %a f/a.raw)"
refused 8 "exists already (--force" "$WEIR" export mnt/vm/a.raw f/a.raw
echo old >f/b.img
run 0 "$WEIR" export mnt/vm/a.raw f/b.img --force --json
cmp disk f/b.img
jq -e '.format == "raw" and .size_bytes == 41943040 and .data_bytes == 9437184 and .verified == false' out >/dev/null || fail "json: $(cat out)"
no_leftovers
ok "raw"

"$WEIR" export mnt/vm/a.raw - | cmp - disk || fail "export to a pipe"
"$WEIR" export mnt/vm/a.raw - >>f/appended
cmp disk f/appended
status=0
"$WEIR" export mnt/vm/a.raw - 2>err | head -c 100000 >/dev/null || status=$?
[ "$status" = 8 ] || fail "a pipe that was closed: $status"
says err "Broken pipe"
"$WEIR" import - mnt/vm/piped.raw <disk >/dev/null
cmp disk mnt/vm/piped.raw
(($(used mnt/vm/piped.raw) <= 10 << 20)) || fail "zeros of a pipe take $(used mnt/vm/piped.raw) bytes"
no_leftovers
ok "pipes"

run 0 "$WEIR" import f/a.raw mnt/vm/b.raw --verify --json
cmp disk mnt/vm/b.raw
jq -e '.format == "raw" and .size_bytes == 41943040 and .data_bytes == 9437184 and .verified and .confined' out >/dev/null ||
	fail "json: $(cat out)"
head -c 12345 one >odd.img
run 0 "$WEIR" import odd.img mnt/odd
cmp odd.img mnt/odd
run 0 "$WEIR" export mnt/odd f/odd.raw
cmp odd.img f/odd.raw
: >empty.img
run 0 "$WEIR" import empty.img mnt/empty
run 0 "$WEIR" export mnt/empty f/empty.raw --verify
[ -f f/empty.raw ] && [ ! -s f/empty.raw ] || fail "an empty image"
refused 8 "exists already (--force" "$WEIR" import odd.img mnt/vm/b.raw
run 0 "$WEIR" import odd.img mnt/vm/b.raw --force
cmp odd.img mnt/vm/b.raw
ok "raw, imported"

# --- an instant ---

run 0 "$WEIR" snapshot create mnt/vm first
dd if=two of=mnt/vm/a.raw bs=1M seek=3 conv=notrunc status=none
cp mnt/vm/a.raw changed
run 0 "$WEIR" export mnt/vm/a.raw@first f/first.raw
cmp disk f/first.raw
run 0 "$WEIR" export mnt/.weir/snapshots/first/vm/a.raw f/view.raw
cmp disk f/view.raw
run 0 "$WEIR" export mnt/vm/a.raw f/live.raw --live --verify
cmp changed f/live.raw
rm mnt/vm/piped.raw
run 0 "$WEIR" export mnt/.weir/snapshots/first/vm/piped.raw f/gone.raw
cmp disk f/gone.raw
refused 8 "is in no snapshot 'none' (weir snapshot list" "$WEIR" export mnt/vm/a.raw@none f/x.raw
refused 8 "is no name of a snapshot" "$WEIR" export mnt/vm/a.raw@../first f/x.raw
refused 16 "not a snapshot" "$WEIR" export mnt/vm/a.raw@first f/x.raw --live
no_leftovers
ok "snapshots"

# 16 blocks are counted up one after the other: of one instant, none is ahead of the one before.
truncate -s 64M mnt/w
python3 - <<'END' &
import os, struct, time
fd, n, end = os.open("mnt/w", os.O_RDWR), 0, time.time() + 2
while time.time() < end:
    n += 1
    for i in range(16):
        os.pwrite(fd, struct.pack("<Q", n) * 512, i << 22)
END
writer=$!
for ((i = 0; i < 200; i++)); do
	[ "$(tail -c 4194304 mnt/w | head -c 8 | tr -d '\0' | wc -c)" = 0 ] || break
	sleep 0.05
done
for i in 1 2 3; do
	run 0 "$WEIR" export mnt/w f/w$i.raw --verify
done
wait $writer
python3 - <<'END' || fail "the copy is of several instants"
import struct
for i in "123":
    with open(f"f/w{i}.raw", "rb") as f:
        v = [f.seek(k << 22) is None or struct.unpack("<Q", f.read(8))[0] for k in range(16)]
    assert v[0] > 0 and v == sorted(v, reverse=True) and v[0] - v[-1] <= 1, v
END
rm mnt/w
ok "what is written meanwhile"

mkdir mnt/sealed
head -c 32 /dev/urandom >one.key
weir key create mnt k --key-file one.key >/dev/null
weir filter attach mnt/sealed encrypt key=k >/dev/null
run 0 "$WEIR" import disk mnt/sealed/a --verify
run 0 "$WEIR" export mnt/sealed/a f/sealed.raw
cmp disk f/sealed.raw
weir snapshot create mnt/sealed s >/dev/null
run 0 "$WEIR" export mnt/sealed/a@s f/sealed.raw --force
cmp disk f/sealed.raw
weir key lock mnt k >/dev/null
refused 8 "it is locked (weir key unlock)" "$WEIR" export mnt/sealed/a f/x.raw
refused 8 "it is locked (weir key unlock)" "$WEIR" export mnt/sealed/a@s f/x.raw
refused 8 "is locked (weir key unlock)" "$WEIR" import disk mnt/sealed/b
no_leftovers
ok "encrypted images"

# --- mistakes ---

refused 16 "does not say which format" "$WEIR" export mnt/vm/a.raw f/x
refused 16 "'vhd' is no format to export to" "$WEIR" export mnt/vm/a.raw f/x --format vhd
refused 16 "only a qcow2 can be compressed" "$WEIR" export mnt/vm/a.raw f/x.raw -c
refused 16 "only raw can be written to a pipe" "$WEIR" export mnt/vm/a.raw - --format qcow2
refused 16 "need a file" "$WEIR" export mnt/vm/a.raw - --json
refused 16 "only raw can be read from a pipe" "$WEIR" import - mnt/x --format qcow2
refused 8 "is a directory" "$WEIR" export mnt/vm f/x.raw
refused 8 "is a directory, not a file" "$WEIR" export mnt/vm/a.raw f/ --format raw
refused 8 "is a directory, not a file" "$WEIR" export mnt/vm/a.raw f --format raw --force
refused 8 "cannot open directory 'nowhere/'" "$WEIR" export mnt/vm/a.raw nowhere/x.raw
refused 8 "nor inside a mounted one" "$WEIR" export f/a.raw f/x.raw
refused 8 "cannot find" "$WEIR" export mnt/vm/none f/x.raw
refused 8 "nor inside a mounted one" "$WEIR" import odd.img f/x.raw
refused 8 "cannot open it: No such file" "$WEIR" import none.img mnt/x
refused 8 "neither a file nor a block device" "$WEIR" import f mnt/x
mkfifo fifo
refused 8 "neither a file nor a block device" "$WEIR" import fifo mnt/x
refused 8 "qemu-img is not there (install qemu-utils" env PATH=/nowhere "$WEIR" export mnt/vm/a.raw f/x.qcow2
no_leftovers
[ ! -e mnt/x ] && [ ! -e f/x.raw ] || fail "something was made by mistake"
ok "mistakes"

# --- no room ---

if [ "$(id -u)" = 0 ] && mkdir full && mount -t tmpfs -o size=4M none full 2>/dev/null; then
	refused 8 "are free there (--no-space-check" "$WEIR" export mnt/vm/a.raw full/x.raw
	refused 8 "writing failed: No space left on device" "$WEIR" export mnt/vm/a.raw full/x.raw --no-space-check
	if command -v qemu-img >/dev/null; then
		refused 8 "No space left on device" "$WEIR" export mnt/vm/a.raw full/x.qcow2 --no-space-check
	fi
	[ -z "$(ls -A full)" ] || fail "left: $(ls -A full)"
	umount full
	ok "a full disk"
fi

# --- interrupted: the reader of a pipe is slow, so it is in the middle ---

# interrupted SIGNAL STATUS COMMAND...: once the temporary file is there
interrupted()
{
	local signal=$1 want=$2 pid i got=0
	shift 2
	env --default-signal=INT "$@" >out.txt 2>err <slow & # jobs of a script ignore it
	pid=$!
	exec 6>slow
	head -c 3000000 one >&6
	for ((i = 0; i < 100; i++)); do
		[ -z "$(temporaries mnt f)" ] || break
		sleep 0.05
	done
	[ -n "$(temporaries mnt f)" ] || fail "no temporary file: $(cat err)"
	kill -"$signal" "$pid"
	{ wait "$pid" || got=$?; } 2>/dev/null
	exec 6>&-
	[ "$got" = "$want" ] || fail "$*: ended with $got, not $want by SIG$signal"
}
mkfifo slow
for signal in INT:130 TERM:143 HUP:129; do
	interrupted ${signal%:*} ${signal#*:} "$WEIR" import - mnt/vm/cut.raw
	says err "the import of '-' was interrupted"
	no_leftovers
	[ ! -e mnt/vm/cut.raw ] || fail "half an image under its name"
done
interrupted KILL 137 "$WEIR" import - mnt/vm/cut.raw
[ ! -e mnt/vm/cut.raw ] || fail "half an image under its name"
case $(temporaries mnt f) in
mnt/vm/.cut.raw.weir-??????) rm mnt/vm/.cut.raw.weir-?????? ;;
*) fail "left: $(temporaries mnt f)" ;;
esac
ok "interrupted"

weir umount mnt
mount_ro=0
weir mount ds mnt -o ro || mount_ro=$?
if [ $mount_ro = 0 ]; then
	run 0 "$WEIR" export mnt/vm/a.raw f/ro.raw --verify
	cmp changed f/ro.raw
	refused 8 "ead-only" "$WEIR" import odd.img mnt/x
	weir umount mnt
fi
refused 8 "not in a mounted datastore (weir mount" "$WEIR" export ds f/x.raw
mount_ds ds mnt
ok "read-only, and not mounted"

# --- other formats ---

command -v qemu-img >/dev/null || { weir umount mnt; skip "no qemu-img"; }
for format in qcow2 vmdk vhdx vdi; do
	run 0 "$WEIR" export mnt/vm/a.raw@first f/a.$format --verify
	qemu-img compare -q -f raw -F $format disk f/a.$format || fail "a.$format differs"
	(($(used f/a.$format) < 20 << 20)) || fail "a.$format takes $(used f/a.$format) bytes"
	run 0 "$WEIR" import f/a.$format mnt/vm/from-$format --verify --json
	cmp -n 41943040 disk mnt/vm/from-$format
	jq -e --arg f $format '.format == $f and .verified' out >/dev/null || fail "json: $(cat out)"
	(($(used mnt/vm/from-$format) <= 10 << 20)) || fail "from-$format takes $(used mnt/vm/from-$format) bytes"
done
qemu-img check -q f/a.qcow2 || fail "qemu-img check"
cp --sparse=always one mnt/text
run 0 "$WEIR" export mnt/vm/a.raw f/small.qcow2 -c --verify
qemu-img compare -q -f raw -F qcow2 changed f/small.qcow2 || fail "small.qcow2 differs"
run 0 "$WEIR" import f/small.qcow2 mnt/vm/small --verify
cmp changed mnt/vm/small
qemu-img convert -O vpc disk a.vhd
run 0 "$WEIR" import a.vhd mnt/vm/from-vhd
cmp -n 41943040 disk mnt/vm/from-vhd
qemu-img convert -O vmdk -o subformat=streamOptimized disk stream.vmdk
run 0 "$WEIR" import stream.vmdk mnt/vm/from-stream
cmp disk mnt/vm/from-stream
run 0 "$WEIR" import f/a.qcow2 mnt/vm/as-is --format raw
cmp f/a.qcow2 mnt/vm/as-is
status=0
"$WEIR" import - mnt/x <f/a.qcow2 >out.txt 2>err || status=$?
[ $status = 8 ] || fail "a qcow2 in a pipe: $status"
says err "it is qcow2: only raw can be read from a pipe"
no_leftovers
ok "qcow2, VMDK, VHDX, VDI, VHD"

# --- hostile images ---

echo "a secret that is not theirs" >secret
truncate -s 1M secret
refuse_import() { refused 8 "$1" "$WEIR" import "$2" mnt/x; [ ! -e mnt/x ] || fail "$2 was imported"; }
qemu-img create -q -f qcow2 -b "$PWD/secret" -F raw backing.qcow2
refuse_import "refers to a backing file" backing.qcow2
qemu-img create -q -f qcow2 -o data_file="$PWD/data.raw" data.qcow2 1M
refuse_import "refers to an external data file" data.qcow2
printf '# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType="monolithicFlat"\nRW 2048 FLAT "%s" 0\n' \
	"$PWD/secret" >flat.vmdk
refuse_import "refers to the files that hold its data" flat.vmdk
qemu-img convert -O vmdk secret base.vmdk
qemu-img create -q -f vmdk -b base.vmdk -F vmdk child.vmdk
refuse_import "refers to a parent" child.vmdk
refused 8 "refers to a backing file" "$WEIR" import backing.qcow2 mnt/x --format qcow2
refused 8 "it is no qcow2 image" "$WEIR" import disk mnt/x --format qcow2
for bytes in 300 2000000 9000000; do
	head -c $bytes f/a.qcow2 >cut.qcow2
	refuse_import "it is damaged, as 'qemu-img check' says" cut.qcow2
done
head -c 70000 f/a.vdi >cut.vdi
refuse_import "it is cut" cut.vdi
head -c 2000000 f/a.vmdk >cut.vmdk
refuse_import "qemu-img: " cut.vmdk
head -c 3000000 f/a.vhdx >cut.vhdx
refuse_import "qemu-img: " cut.vhdx
says_not err "json:"
qemu-img create -q -f qcow2 big.qcow2 64T
refuse_import "its disk is of 64.0 TiB, an image is of 16.0 TiB at most" big.qcow2
no_leftovers
ok "images that refer to other files, or are none"

no_leftovers
weir umount mnt
run 0 "$WEIR" check ds --data
