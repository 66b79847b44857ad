#!/bin/bash
# discover: partitions, filesystems, systems and packages of images, and images made to hurt
. "$(dirname "$0")/lib.sh"
PATH=$PATH:/usr/sbin:/sbin
"$WEIR" discover /dev/null >/dev/null 2>&1 || true
for tool in sfdisk mkfs.ext4 mkfs.vfat mkswap jq; do
	command -v "$tool" >/dev/null || skip "no $tool"
done

# q FILTER: of ./out
q() { jq -r "$1" out; }
# is FILTER VALUE
is() { [ "$(q "$1")" = "$2" ] || fail "$1 is '$(q "$1")', not '$2', in: $(cat out)"; }

mkdir -p root/etc root/usr/lib root/var/lib/dpkg
ln -s ../usr/lib/os-release root/etc/os-release
cat >root/usr/lib/os-release <<'END'
PRETTY_NAME="Frob Linux 7 (\"quoted\")"
NAME="Frob Linux"
VERSION_ID="7"
ID=frob
END
echo guest-7 >root/etc/hostname
cat >root/var/lib/dpkg/status <<'END'
Package: bash
Status: install ok installed
Version: 5.2.15-2+b2

Package: gone
Status: deinstall ok config-files
Version: 1.0

Package: zlib1g
Status: install ok installed
Version: 1:1.2.13
END
truncate -s 40M ext4.part
mkfs.ext4 -q -F -d root -L frobroot -U 11111111-2222-3333-4444-555555555555 ext4.part
truncate -s 8M vfat.part
mkfs.vfat -n FROBESP -i 1234ABCD vfat.part >/dev/null
truncate -s 8M swap.part
mkswap -q -L frobswap -U 99999999-2222-3333-4444-555555555555 swap.part

truncate -s 64M gpt.img
sfdisk -q gpt.img <<'END'
label: gpt
label-id: AAAAAAAA-2222-3333-4444-555555555555
start=2048, size=16384, type=U, name="ESP of frob"
start=18432, size=81920, type=L
start=100352, size=16384, type=S
END
dd if=vfat.part of=gpt.img bs=1M seek=1 conv=notrunc status=none
dd if=ext4.part of=gpt.img bs=1M seek=9 conv=notrunc status=none
dd if=swap.part of=gpt.img bs=1M seek=49 conv=notrunc status=none

# $1: where it is
shows_gpt()
{
	run 0 "$WEIR" discover "$1" --json
	is .table.type gpt
	is .table.id aaaaaaaa-2222-3333-4444-555555555555
	is '.partitions | length' 3
	is '.partitions[0].type_name' "EFI system"
	is '.partitions[0].name' "ESP of frob"
	is '.partitions[0].content.type' vfat
	is '.partitions[0].content.label' FROBESP
	is '.partitions[0].content.uuid' 1234-ABCD
	is '.partitions[0].content.size_bytes' $((8 << 20))
	is '.partitions[1].offset_bytes' $((9 << 20))
	is '.partitions[1].size_bytes' $((40 << 20))
	is '.partitions[1].content.type' ext4
	is '.partitions[1].content.label' frobroot
	is '.partitions[1].content.uuid' 11111111-2222-3333-4444-555555555555
	is '.partitions[1].content.size_bytes' $((40 << 20))
	is '.partitions[1].content.readable' true
	is '.partitions[2].content.type' swap
	is '.partitions[2].content.label' frobswap
	is '.partitions[2].content.size_bytes' $((8 << 20))
	is '.systems | length' 1
	is '.systems[0].partition' 2
	is '.systems[0].id' frob
	is '.systems[0].version' 7
	is '.systems[0].pretty_name' 'Frob Linux 7 ("quoted")'
	is '.systems[0].hostname' guest-7
	is '.systems[0].packages.count' 2
	is '.systems[0].packages.list | map(.name + "=" + .version) | join(" ")' "bash=5.2.15-2+b2 zlib1g=1:1.2.13"
}
shows_gpt gpt.img
is .sandbox.unprivileged true
ok "GPT with ESP, ext4 with a system, swap"

run 0 "$WEIR" discover gpt.img
says out "gpt partition table"
says out "frobroot"
says out "Frob Linux 7"
says out "2 packages of dpkg"
run 0 "$WEIR" discover gpt.img --packages
says out "zlib1g 1:1.2.13"
ok "text for people"

run 0 "$WEIR" discover ext4.part --json
is .table null
is .content.label frobroot
is '.systems[0].id' frob
ok "a filesystem without a table"

truncate -s 64M mbr.img
sfdisk -q mbr.img <<'END'
label: dos
start=2048, size=16384, type=c
start=18432, size=100000, type=5
start=20480, size=81920, type=83
start=104448, size=10240, type=82
END
dd if=vfat.part of=mbr.img bs=1M seek=1 conv=notrunc status=none
dd if=ext4.part of=mbr.img bs=1M seek=10 conv=notrunc status=none
run 0 "$WEIR" discover mbr.img --json
is .table.type dos
is '[.partitions[].number] | join(" ")' "1 2 5 6"
is '.partitions[2].logical' true
is '.partitions[2].content.label' frobroot
is '.systems[0].partition' 5
ok "MBR with logical partitions"

truncate -s 16M empty.img
run 0 "$WEIR" discover empty.img
says out "nothing that is known"
: >nothing.img
run 0 "$WEIR" discover nothing.img
ok "nothing in it"

if command -v mkfs.xfs >/dev/null; then
	truncate -s 320M xfs.img
	mkfs.xfs -q -L frobxfs xfs.img
	run 0 "$WEIR" discover xfs.img --json
	is .content.label frobxfs
	is .content.size_bytes $((320 << 20))
	is .content.readable false
	ok "a filesystem that cannot be looked into is named"
fi
if command -v mkfs.ntfs >/dev/null; then
	truncate -s 32M ntfs.part
	mkfs.ntfs -q -F -Q -L "System Reserved" ntfs.part >/dev/null 2>&1
	truncate -s 40M ntfs.img
	printf 'label: gpt\nstart=2048, size=65536, type=EBD0A0A2-B9E5-4433-87C0-68B6B72699C7\n' |
		sfdisk -q ntfs.img
	dd if=ntfs.part of=ntfs.img bs=1M seek=1 conv=notrunc status=none
	run 0 "$WEIR" discover ntfs.img --json
	is '.partitions[0].content.label' "System Reserved"
	is '.partitions[0].content.type' ntfs
	is '.systems[0].name' Windows
	ok "Windows, from labels"
fi
if command -v cryptsetup >/dev/null; then
	truncate -s 32M luks.img
	if echo frob | cryptsetup -q luksFormat --pbkdf pbkdf2 --pbkdf-force-iterations 1000 luks.img - 2>/dev/null; then
		run 0 "$WEIR" discover luks.img --json
		is .content.type crypto_LUKS
		is .content.usage crypto
		ok "LUKS"
	fi
fi

mkfifo pipe
refused 8 "neither a file nor a block device" "$WEIR" discover pipe
refused 8 "neither a file nor a block device" "$WEIR" discover root
refused 8 "cannot open 'nothere'" "$WEIR" discover nothere
ok "what is no image is refused"

# A label that would move the cursor, a package name that is no UTF-8.
cp ext4.part evil.img
printf '\033[2Jhide\377' | dd of=evil.img bs=1 seek=$((1024 + 120)) conv=notrunc status=none
run 0 "$WEIR" discover evil.img
! grep -q $'\033' out || fail "an escape sequence came through"
run 0 "$WEIR" discover evil.img --json
jq -e . out >/dev/null || fail "no JSON"
ok "what a guest wrote does not reach the terminal"

need_fuse
new_datastore ds
mount_ds ds mnt
cp gpt.img mnt/gpt.img
shows_gpt mnt/gpt.img
weir umount ds
ok "inside a mount"
