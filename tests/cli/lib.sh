#!/bin/bash
# lib.sh - what the tests of the commands share
#
# usage: . lib.sh; the environment has WEIR=path of the binary, TOP=source tree.
# Each test runs in a directory of its own under $TMPDIR, which goes at the end together with
# every mount below it.  A test says "ok: ..." for what holds, and ends at the first failure.
set -euo pipefail

: "${WEIR:?set WEIR to the weir binary}"
TOP=${TOP:-$(cd "$(dirname "$0")/../.." && pwd)}
WEIR=$(realpath "$WEIR")
test_name=$(basename "$0" .sh)
work=$(mktemp -d "${TMPDIR:-/tmp}/weir-cli-$test_name.XXXXXX")
cd "$work"

finish()
{
	local status=$? point
	set +e
	cd /
	while read -r point; do
		fusermount3 -u -z "$point" 2>/dev/null || umount -l "$point" 2>/dev/null
	done < <(awk -v top="$work/" 'index($5, top) == 1 { print $5 }' /proc/self/mountinfo)
	((status == 0 || status == 77)) || echo "$test_name: failed with status $status; last output: $(cat "$work/out" "$work/err" 2>/dev/null | tail -n 20)" >&2
	rm -rf "$work"
	exit $status
}
trap finish EXIT

fail() { echo "FAILED: $*" >&2; exit 1; }
ok() { echo "ok: $*"; }
skip() { echo "skipped: $*"; exit 77; }

weir() { "$WEIR" "$@"; }

# run STATUS COMMAND...: output in ./out, messages in ./err
run()
{
	local want=$1 got=0
	shift
	timeout 120 "$@" >out 2>err || got=$?
	[ "$got" = "$want" ] || fail "'$*' ended with $got, not $want"
}

# says FILE TEXT: the file has a line that contains it
says() { grep -qF -e "$2" "$1" || fail "'$2' is not in: $(cat "$1")"; }
says_not() { ! grep -qF -e "$2" "$1" || fail "'$2' is in: $(cat "$1")"; }

# refused STATUS TEXT COMMAND...: ends so, with one line on stderr that contains TEXT, and no output
refused()
{
	local status=$1 text=$2
	shift 2
	run "$status" "$@"
	[ "$(wc -l <err)" = 1 ] || fail "'$*' gave $(wc -l <err) lines of messages: $(cat err)"
	[ ! -s out ] || fail "'$*' printed something"
	says err "$text"
	says err "weir: "
}

# key JSON-PATH [TYPE]: ./out is JSON and has it
key()
{
	jq -e "$1 | type == \"${2:-number}\"" out >/dev/null || fail "no $1 of type ${2:-number} in: $(cat out)"
}

need_fuse()
{
	if [ ! -r /dev/fuse ] || [ ! -w /dev/fuse ]; then skip "no /dev/fuse"; fi
	command -v fusermount3 >/dev/null || skip "no fusermount3"
}

# new_datastore DIR: small, so that tests are quick
new_datastore() { weir create "$1" --log-size 16M --index-memory 8M >/dev/null; }
mount_ds() { mkdir -p "$2"; weir mount "$1" "$2" -o overlay=32M,cache=32M,map=16M; }

# random_file FILE MIB SEED: the same bytes for the same seed
random_file()
{
	openssl enc -aes-128-ctr -nosalt -pass "pass:$3" -pbkdf2 </dev/zero 2>/dev/null |
		head -c "$(($2 << 20))" >"$1" || [ -s "$1" ]
}
