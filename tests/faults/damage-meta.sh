#!/bin/bash
# Damage in meta.db: EIO for what its pages held, and nothing else; a datastore that cannot be understood is refused.
LIMIT=100
. "$(dirname "$0")/lib.sh"

blocks make "$T/known" 12 5
mount_logged
cp "$T/known" "$M/a.raw"
mkdir "$M/etc"
for i in $(seq 400); do echo "content of $i" > "$M/etc/file$i"; done
cp "$T/known" "$M/other.raw" # nodes behind those of the small files
umount_logged
clean "before"
cp -a "$DS" "$T/good"
restore() { rm -rf "$DS" && cp -a "$T/good" "$DS" && rm -f "$T/log"; }
total=$((12 << 8))
finds() {
	local code=0
	"$WEIR" check "$DS" > "$T/check" 2>&1 || code=$?
	same "$1: check: $(cat "$T/check")" 4 "$code"
}
page() { # of TABLE, at PERCENT of its pages
	blocks node "$T/good/meta.db" "$1" | sort -n > "$T/pages"
	sed -n "$(($(wc -l < "$T/pages") * $2 / 100 + 1))p" "$T/pages"
}
small_files() { # says how many are right; EIO for the others
	python3 - "$M/etc" <<'PY'
import errno, os, sys
right = 0
for i in range(1, 401):
    try:
        with open(f"{sys.argv[1]}/file{i}") as f:
            text = f.read()
    except OSError as e:
        assert e.errno == errno.EIO, f"file{i}: {e}"
        continue
    assert text == f"content of {i}\n", f"file{i}: {text!r}"
    right += 1
print(right)
PY
}

# Map nodes.
for at in 0 50; do
	restore
	blocks flip "$DS/meta.db" $((($(page node $at) - 1) * 8192 + 5000)) 4
	finds "node page at $at %"
	mount_logged
	read -r right eio offsets < <(blocks compare "$M/a.raw" "$T/known")
	read -r right2 eio2 offsets2 < <(blocks compare "$M/other.raw" "$T/known")
	same "node page: all blocks" $total $((right + eio))
	same "node page: all blocks of the other" $total $((right2 + eio2))
	n=$(small_files)
	[ $((400 - n + eio + eio2)) -gt 0 ] || fail "node page at $at %: everything can be read"
	[ "$((eio == total || eio <= 4 * 256))" = 1 ] || fail "node page at $at %: $eio blocks"
	logged "meta.db: page .* is damaged"
	logged "cannot read image"
	echo "node page at $at %: $eio and $eio2 blocks, $((400 - n)) small files are EIO"
	# New writes elsewhere are taken and kept.
	blocks write "$M/new.raw" 2 6 1 | grep -q complete || fail "node page: no new file"
	umount_logged || fail "node page: unmounting failed"
	mount_logged
	blocks make "$T/new" 2 6
	same "node page: a new file" "512 0" "$(blocks compare "$M/new.raw" "$T/new")"
	umount_logged
done

# Inodes and names.
for table in inode dirent; do
	restore
	blocks flip "$DS/meta.db" $((($(page $table 50) - 1) * 8192 + 5000)) 4
	finds "$table page"
	if mount_logged; then
		n=$(small_files) || fail "$table page: wrong data"
		[ "$n" -lt 400 ] || fail "$table page: everything can be read"
		same "$table page: the images" "$total 0" "$(blocks compare "$M/a.raw" "$T/known")"
		logged "meta.db: page .* is damaged"
		echo "$table page: $((400 - n)) small files are EIO"
		umount_logged || fail "$table page: unmounting failed"
	else
		fail "$table page: no mount"
	fi
done

# The first page: nothing can be understood.
for at in 30 100 4000; do
	restore
	blocks flip "$DS/meta.db" $at 4
	finds "first page at $at"
	! mount_logged 2> /dev/null || fail "mounted with a damaged first page"
	grep -q "meta.db\|metadata" "$T/log" || fail "the refusal does not name meta.db: $(cat "$T/log")"
	! is_mounted || fail "refused, but mounted"
done
restore
rm "$DS/meta.db"
! mount_logged 2> /dev/null || fail "mounted without meta.db"
restore
mount_logged
same "restored" 400 "$(small_files)"
umount_logged
clean "restored"
