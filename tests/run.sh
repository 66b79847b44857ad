#!/bin/bash
# run.sh - installs what is missing, builds weir, and runs its tests
#
# usage: tests/run.sh [--sanitize] [--collide] [--plain] [-- MESON-TEST-ARGS...]
#   (nothing)    the build in build/ and every test: what a user runs
#   --sanitize   unit and fuzz tests under ASan + UBSan, unit tests under TSan
#   --collide    unit and crash tests of a build whose chunk hash has 16 bits, so that hashes collide
#   --plain      the ordinary run too, when one of the others is asked for
#
# The last line says how it went, 'N passed, N failed, N skipped', over all that was run; the exit
# code is 0 when nothing failed.  A build that fails counts as one failed test.
set -uo pipefail

top=$(cd "$(dirname "$0")/.." && pwd)
. "$top/tools/packages.sh"

plain= sanitize= collide=
while [ $# -gt 0 ]; do
	case $1 in
	--sanitize) sanitize=yes ;;
	--collide) collide=yes ;;
	--plain) plain=yes ;;
	--) shift; break ;;
	*) echo "usage: tests/run.sh [--sanitize] [--collide] [--plain] [-- ARGS...]" >&2; exit 2 ;;
	esac
	shift
done
[ -n "$sanitize$collide" ] || plain=yes

passed=0 failed=0 skipped=0

# Adds meson's result of the tests in a build directory to the sums.
count()
{
	local counts

	counts=$(python3 - "$1/meson-logs/testlog.json" <<-'END'
		import collections, json, sys
		n = collections.Counter(json.loads(line)["result"] for line in open(sys.argv[1]))
		ok = n["OK"] + n["EXPECTEDFAIL"]
		print(ok, sum(n.values()) - ok - n["SKIP"], n["SKIP"])
	END
	) || counts="0 1 0"
	set -- $counts
	passed=$((passed + $1)) failed=$((failed + $2)) skipped=$((skipped + $3))
}

# A build directory that is there is set up again: meson does not see by itself that a file came or went.
setup_build()
{
	local dir=$1

	shift
	if [ -e "$dir/build.ninja" ]; then
		meson setup --reconfigure "$dir" "$top" >/dev/null
	else
		meson setup "$dir" "$top" "$@"
	fi
}

# run_build DIR SETUP-ARGS -- TEST-ARGS: sets up (once), builds and tests.
run_build()
{
	local dir=$top/$1 setup=() before=$failed status

	shift
	while [ "$1" != -- ]; do
		setup+=("$1")
		shift
	done
	shift
	printf '\n== %s\n' "${dir##*/}: ${setup[*]}"
	if setup_build "$dir" "${setup[@]}" &&
		ninja -C "$dir"; then
		rm -f "$dir/meson-logs/testlog.json"
		"${wrap[@]}" meson test -C "$dir" --no-rebuild --print-errorlogs "$@" </dev/null
		status=$?
		count "$dir"
		# Meson may fail without a failed test, say when it is interrupted.
		[ $status = 0 ] || [ $failed != $before ] || failed=$((failed + 1))
	else
		echo "tests/run.sh: the build in '$dir' failed" >&2
		failed=$((failed + 1))
	fi
}

wrap=(env)
if ! packages_install $packages_build $packages_run $packages_test; then
	echo "tests/run.sh: cannot install packages" >&2
	failed=1
else
	[ -z "$plain" ] || run_build build -- "$@"
	[ -z "$collide" ] ||
		run_build build-collide -Dhash_bits=16 -- --suite unit --suite crash "$@"
	if [ -n "$sanitize" ]; then
		# The sanitizers' bookkeeping confuses the compiler's flow warnings: not errors here.
		export UBSAN_OPTIONS=halt_on_error=1:abort_on_error=1:print_stacktrace=1
		export TSAN_OPTIONS=halt_on_error=1
		run_build build-asan -Db_sanitize=address,undefined -Dwerror=false -- \
			--suite unit --suite fuzz -t 4 "$@"
		# TSan wants its addresses free; a kernel that randomizes much may take them.
		if setarch "$(uname -m)" -R true 2>/dev/null; then
			wrap=(setarch "$(uname -m)" -R)
		fi
		run_build build-tsan -Db_sanitize=thread -Dwerror=false -- --suite unit -t 6 "$@"
	fi
fi
echo
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" = 0 ]
