#!/usr/bin/env python3
"""The rules of the house that a program can check, one test each.

usage: style.py format|size|includes|headers TOP

format    every C file is as clang-format would have it
size      no function is over 70 lines, no file over 800
includes  a part includes only what lies below it; FUSE and SQLite each have one home
headers   every header compiles alone
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile

FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 800
SKIP = 77  # meson: the test was skipped
FOLDERS = ("src", "meta", "fs", "tools", "tests")

# part: the parts whose headers it may include.  The longest prefix of a file's path names its part.
BELOW = {
    "src/base": {"base"},
    "src/crypto": {"base", "crypto"},
    "src/store": {"base", "crypto", "store"},
    "src/stage": {"base", "stage"},
    "src/stream": {"base", "crypto", "store", "stream"},
    "src/tier": {"base", "crypto", "store", "stage", "tier"},
    "src/plugin": {"base", "crypto", "store", "stage", "plugin"},
    "meta": {"base", "crypto", "store", "meta"},
    "fs": {"base", "crypto", "store", "stage", "stream", "tier", "plugin", "meta", "fs"},
    "tools": {"base", "crypto", "store", "stage", "stream", "tier", "plugin", "meta", "fs", "tools"},
}
PARTS = {"base", "crypto", "store", "stage", "stream", "tier", "plugin", "meta", "fs", "tools"}
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')


def c_files(top, endings=(".c", ".h")):
    for folder in FOLDERS:
        for path, dirs, names in os.walk(os.path.join(top, folder)):
            dirs.sort()
            for name in sorted(names):
                if name.endswith(endings):
                    yield os.path.relpath(os.path.join(path, name), top)


def lines_of(top, name):
    with open(os.path.join(top, name), encoding="utf-8") as f:
        return f.read().split("\n")


def check_format(top):
    if not shutil.which("clang-format"):
        print("clang-format is not installed")
        sys.exit(SKIP)
    done = subprocess.run(["clang-format", "--dry-run", "-Werror", *c_files(top)], cwd=top,
                          stderr=subprocess.PIPE, text=True, check=False)
    bad = sorted(set(re.findall(r"^([^\s:]+):\d+:\d+: error", done.stderr, re.M)))
    if done.returncode and not bad:
        return [done.stderr.strip()]
    return [f"{name}: not as clang-format has it (clang-format -i {name})" for name in bad]


def check_size(top):
    bad = []
    for name in c_files(top):
        lines = lines_of(top, name)
        if len(lines) - 1 > FILE_LINES_MAX:
            bad.append(f"{name}: {len(lines) - 1} lines, at most {FILE_LINES_MAX}")
        start = None
        for number, line in enumerate(lines, 1):
            if line == "{":  # only functions open so
                start = number
            elif line == "}" and start:
                if number - start - 1 > FUNCTION_LINES_MAX:
                    bad.append(f"{name}:{start}: function of {number - start - 1} lines, "
                               f"at most {FUNCTION_LINES_MAX}")
                start = None
    return bad


def part_of(name):
    fits = [p for p in BELOW if name.startswith(p + "/")]
    return max(fits, key=len) if fits else None


def included_part(top, name, header):
    """The part that an include in quotes comes from; None for the file's own folder."""
    first = header.split("/")[0]
    if "/" in header and first in PARTS:
        return first
    if header.startswith("src/"):
        return header.split("/")[1]
    path = os.path.normpath(os.path.join(os.path.dirname(name), header))
    if header.startswith("..") and os.path.exists(os.path.join(top, path)):
        parts = path.split("/")
        return parts[1] if parts[0] == "src" else parts[0]
    return None


def is_fuse(header):
    return re.match(r"fuse3?/|(fuse|cuse)(_\w+)?\.h$", header) is not None


def check_includes(top):
    bad = []
    for name in c_files(top):
        part = part_of(name)
        for number, line in enumerate(lines_of(top, name), 1):
            m = INCLUDE.match(line)
            if not m:
                continue
            quoted, header = m.group(1) == '"', m.group(2)
            where = f"{name}:{number}: includes {header}"
            if quoted and part and (of := included_part(top, name, header)) and \
                    of not in BELOW[part]:
                bad.append(f"{where}: {part} must not know {of}")
            if quoted and header.startswith("fs/fuse/") and name.startswith("tools/"):
                bad.append(f"{where}: a command must not know FUSE")
            if not quoted and is_fuse(header) and \
                    not name.startswith(("fs/fuse/", "tests/bench/passthrough/")):
                bad.append(f"{where}: FUSE is known in fs/fuse only")
            if not quoted and header.startswith("sqlite3") and \
                    not name.startswith(("meta/", "tests/")):
                bad.append(f"{where}: SQLite is known in meta only")
    return bad


def check_headers(top):
    cflags = subprocess.run(["pkg-config", "--cflags", "fuse3", "sqlite3", "jansson", "libxxhash",
                             "liblz4"], stdout=subprocess.PIPE, text=True, check=True).stdout
    compiler = shlex.split(os.environ.get("CC", "cc"))
    bad = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in c_files(top, (".h",)):
            alone = os.path.join(scratch, "alone.c")
            with open(alone, "w", encoding="utf-8") as f:
                f.write(f'#include "{name}"\n')
            done = subprocess.run(
                [*compiler, "-std=gnu11", "-D_GNU_SOURCE", "-D_FILE_OFFSET_BITS=64",
                 "-DWEIR_VERSION=\"0\"", "-Wall", "-Wextra", "-Werror", "-Wno-unused-parameter",
                 "-fsyntax-only", "-I" + top, "-I" + os.path.join(top, "src"),
                 "-I" + os.path.join(top, "tests"), *shlex.split(cflags), alone],
                stderr=subprocess.PIPE, text=True, check=False)
            if done.returncode:
                bad.append(f"{name}: does not compile alone\n{done.stderr.strip()}")
    return bad


def main():
    checks = {"format": check_format, "size": check_size, "includes": check_includes,
              "headers": check_headers}
    if len(sys.argv) != 3 or sys.argv[1] not in checks:
        print(__doc__, file=sys.stderr)
        return 2
    bad = checks[sys.argv[1]](sys.argv[2])
    print("\n".join(bad))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
