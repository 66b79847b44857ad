#!/bin/bash
# Filters come, change and go while fio writes and verifies: no error, nothing lost, nothing leaked.
# CYCLES=1000 LIMIT=3600 tests/fuse/filter-cycles.sh is the long run.
MOUNT_OPTIONS=
LIMIT=${LIMIT:-170}
. "$(dirname "$0")/lib.sh"
CYCLES=${CYCLES:-40}
command -v fio > /dev/null || { echo "no fio"; exit 77; }

echo 'rule never { strings: $a = "a signature that no random data holds 5b1f" condition: $a }' > "$T/rules"
image=$M/disk.raw
truncate -s 64M "$image"

# Writes, and reads back what it wrote, until told to stop; a wrong byte or an error ends it.
load() {
	while [ ! -e "$T/stop" ]; do
		fio --name=load --filename="$image" --rw=randwrite --bs=4k --size=64M --io_size=16M \
			--iodepth=16 --ioengine=libaio --direct=1 --verify=crc32c --verify_fatal=1 \
			--do_verify=1 --verify_backlog=512 --serialize_overlap=1 --thread --output="$T/fio" \
			--allow_file_create=0 --randseed="$RANDOM" > /dev/null 2>&1 || { touch "$T/failed"; return 1; }
		touch "$T/round"
	done
}

resident() { awk '/^VmRSS/ { print $2 }' "/proc/$(daemon_pid)/status"; }
# Without those of the FUSE threads and of segments, which come and go with threads and data.
descriptors() { find "/proc/$(daemon_pid)/fd" ! -lname /dev/fuse ! -lname '*/segments/*' | wc -l; }
threads() { awk '/^Threads/ { print $2 }' "/proc/$(daemon_pid)/status"; }
filter() { "$WEIR" filter "$@" > "$T/out" 2>&1 || fail "weir filter $*: $(cat "$T/out")"; }

# One cycle: attach, change, detach.
cycle() {
	local type=$1 first=$2 second=$3
	filter attach "$image" "$type" $first
	[ -z "$second" ] || filter set "$image" "$type" $second
	filter detach "$image" "$type"
}

types=('pass||' 'throttle|iops=1000000|iops=500000' 'cache|limit=8M|limit=4M mode=writethrough'
	'analytics||' 'protect|ranges=1G+1M|ranges=2G+1M' "scan|rules=$T/rules|window=1K"
	'compress|method=off|method=lz4hc' 'dedupe|mode=off|mode=verify')
run_cycles() {
	local i
	for i in $(seq "$1"); do
		IFS='|' read -r type first second <<< "${types[i % ${#types[@]}]}"
		cycle "$type" "$first" "$second"
		[ ! -e "$T/failed" ] || fail "fio failed: $(tail -n 20 "$T/fio")"
	done
}

load &
worker=$!
run_cycles $((CYCLES / 4 + ${#types[@]})) # until memory has its size
rss=$(resident) fds=$(descriptors) count=$(threads)
run_cycles "$CYCLES"
now=$(resident)
touch "$T/stop"
wait "$worker" || fail "fio failed: $(tail -n 20 "$T/fio")"
[ -e "$T/round" ] || fail "fio wrote nothing"
[ "$now" -lt $((rss + 65536)) ] || fail "resident memory grew from $rss to $now KiB"
[ "$(descriptors)" -le $((fds + 4)) ] || fail "descriptors grew from $fds to $(descriptors)"
[ "$(threads)" -le $((count + 8)) ] || fail "threads grew from $count to $(threads)"
echo "$CYCLES cycles; resident $rss -> $now KiB"

sum=$(sha256sum < "$image")
remount_weir
same "content after a remount" "$sum" "$(sha256sum < "$image")"
"$WEIR" audit "$M" --verify | grep -q "the chain is whole" || fail "the audit trail is broken"
umount_weir
"$WEIR" check "$DS" --data > "$T/out" || fail "check: $(cat "$T/out")"
