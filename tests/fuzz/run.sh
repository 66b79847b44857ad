#!/bin/bash
# run.sh - really fuzzes one decoder, with libFuzzer under ASan and UBSan
#
# usage: tests/fuzz/run.sh NAME SECONDS      (NAME as in fuzz-NAME.c)
#
# New inputs gather in build-fuzz/corpus/NAME; what fails is left in build-fuzz/NAME-*, to be added to
# tests/fuzz/corpus/NAME once the decoder is mended.
set -euo pipefail

top=$(cd "$(dirname "$0")/../.." && pwd)
. "$top/tools/packages.sh"
[ $# = 2 ] || { echo "usage: tests/fuzz/run.sh NAME SECONDS" >&2; exit 2; }
name=$1 seconds=$2
[ -e "$top/tests/fuzz/fuzz-$name.c" ] || { echo "run.sh: no fuzz-$name.c" >&2; exit 2; }

packages_install $packages_build clang
build=$top/build-fuzz
if [ ! -e "$build/build.ninja" ]; then
	CC=clang meson setup "$build" "$top" -Dlibfuzzer=true \
		-Dwerror=false -Db_sanitize=address,undefined -Db_lundef=false \
		-Dc_args=-fsanitize=fuzzer-no-link
fi
ninja -C "$build" "tests/fuzz/fuzz-$name"
mkdir -p "$build/corpus/$name"
"$build/tests/fuzz/fuzz-$name" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 \
	-artifact_prefix="$build/$name-" "$build/corpus/$name" "$top/tests/fuzz/corpus/$name"
