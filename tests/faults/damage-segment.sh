#!/bin/bash
# Damage in a segment file: EIO for what is damaged and nothing else, named in the log; never inherited; healed by writing the same again.
LIMIT=100
. "$(dirname "$0")/lib.sh"

blocks make "$T/known" 12 7
total=$((12 << 8))
mount_logged
cp "$T/known" "$M/a.raw"
blocks write "$M/other.raw" 6 8 8 > /dev/null
blocks make "$T/known-other" 6 8
umount_logged
clean "before"
cp -a "$DS" "$T/good"
restore() { rm -rf "$DS" && cp -a "$T/good" "$DS" && rm -f "$T/log"; }
# The segment whose middle belongs to a.raw: the first.
segment=$(find "$DS/segments" -type f | sort -t/ -k 3 | head -1)
id=$((16#$(basename "$segment" | cut -d. -f1)))
blocks frames "$segment" > "$T/frames"
read -r frame length chunks < <(sed -n "$(($(wc -l < "$T/frames") / 2))p" "$T/frames")
[ "$chunks" -gt 1 ] || fail "no frame of several chunks in the middle of $segment"
footer=$(tail -1 "$T/frames" | awk '{ print int(($1 + $2 + 4095) / 4096) * 4096 }')

# damaged WHAT EIO-BLOCKS-MIN MAX: mounts, and compares all content
damaged() {
	local right eio offsets
	mount_logged
	read -r right eio offsets < <(blocks compare "$M/a.raw" "$T/known")
	same "$1: all blocks" $total $((right + eio))
	[ "$eio" -ge "$2" ] && [ "$eio" -le "$3" ] || fail "$1: $eio blocks cannot be read: $offsets"
	same "$1: the other image" "$((6 << 8)) 0" "$(blocks compare "$M/other.raw" "$T/known-other")"
	if [ "$eio" -gt 0 ]; then
		logged "cannot read image [0-9]* at ${offsets%% *}: segment $id slot"
		[ "$(status health)" = degraded ] || fail "$1: status says nothing: $("$WEIR" status "$DS")"
		[ "$(stats activity.damaged_reads)" -ge "$eio" ] || fail "$1: damaged reads are not counted"
	fi
	echo "$1: $right blocks right, $eio EIO"
}

# heals WHAT: the same content is written to another file; both are whole then
heals() {
	cp "$T/known" "$M/copy.raw"
	sync "$M/copy.raw"
	same "$1: the copy" "$total 0" "$(blocks compare "$M/copy.raw" "$T/known")"
	"$WEIR" gc "$DS" > /dev/null
	same "$1: the original after healing" "$total 0" "$(blocks compare "$M/a.raw" "$T/known")"
	same "$1: the copy after healing" "$total 0" "$(blocks compare "$M/copy.raw" "$T/known")"
	[ "$(stats activity.healed_chunks)" -gt 0 ] || fail "$1: no chunk was counted as healed"
	umount_logged
	clean "$1: healed"
}

finds() {
	local code=0
	"$WEIR" check "$DS" --data > "$T/check" 2>&1 || code=$?
	same "$1: check: $(cat "$T/check")" 4 "$code"
	grep -q "segment" "$T/check" || fail "$1: check names no segment: $(cat "$T/check")"
}

# repairs WHAT EXIT-CODE
repairs() {
	local code=0
	"$WEIR" check "$DS" --data --repair > "$T/check" 2>&1 || code=$?
	same "$1: repair: $(cat "$T/check")" "$2" "$code"
}

blocks flip "$segment" $((frame + length - 40)) 8
finds payload
damaged payload 1 16
heals payload

restore
blocks flip "$segment" $((frame + length - 40)) 8
repairs payload 4
damaged "payload, after repair" 1 16
heals "payload, after repair"

restore
blocks flip "$segment" $((frame + 20)) 4
finds "frame header"
damaged "frame header" 1 16
heals "frame header"

restore
blocks flip "$segment" $((footer + 40)) 4
finds footer
damaged footer 0 0
umount_logged
repairs footer 1
clean "footer repaired"

restore
blocks flip "$segment" $((footer + 40)) 4
blocks flip "$segment" $((frame + 20)) 4
finds "footer and frame header"
damaged "footer and frame header" 1 16
# What the chunks were is not known for sure any more: others do not inherit that, and a new write mends it.
cp "$T/known" "$M/copy.raw"
sync "$M/copy.raw"
same "footer and frame header: the copy" "$total 0" "$(blocks compare "$M/copy.raw" "$T/known")"
dd if="$T/known" of="$M/a.raw" bs=1M conv=notrunc status=none
sync "$M/a.raw"
same "footer and frame header: written again" "$total 0" "$(blocks compare "$M/a.raw" "$T/known")"
umount_logged

# All of a file's beginning: many frames.
restore
blocks flip "$segment" 0 1500000
finds "1.5 MB"
damaged "1.5 MB" 257 1800
heals "1.5 MB"

restore
rm "$segment"
finds "file gone"
mount_logged
read -r right eio rest < <(blocks compare "$M/a.raw" "$T/known")
same "file gone: all blocks" $total $((right + eio))
[ "$eio" -gt 0 ] || fail "the missing file's content can be read"
cp "$T/known" "$M/copy.raw"
same "file gone: the copy" "$total 0" "$(blocks compare "$M/copy.raw" "$T/known")"
umount_logged
