#!/usr/bin/env python3
"""blocks.py - content that is known, block by block, and damage

usage: blocks.py make FILE MIB SEED         random content, every second MiB of it compressible
       blocks.py write FILE MIB SEED SYNC   the same content into FILE, an fsync every SYNC MiB, until
                                            it is all there or there is no space; prints: acknowledged
                                            and synced bytes, and how it ended
       blocks.py compare FILE EXPECTED [BYTES]
                                            each block read past the page cache: right or EIO, or this
                                            fails; prints: right blocks, EIO blocks, offsets of EIO
       blocks.py flip FILE OFFSET [COUNT]   inverts bytes
       blocks.py frames SEGMENT             of each frame: offset, length, chunks
       blocks.py node DB TABLE              numbers of the pages of a table of meta.db, that hold rows
"""
import errno
import mmap
import os
import random
import sqlite3
import struct
import sys

BLOCK = 4096
MIB = 1 << 20


def content(mib, seed):
    """MiB number mib of the content with that seed."""
    rng = random.Random(seed * 1000003 + mib)
    if mib % 2 == 0:
        return rng.randbytes(MIB)
    return b"".join(rng.randbytes(256) + bytes([i % 251]) * (BLOCK - 256) for i in range(MIB // BLOCK))


def make(path, mib, seed):
    with open(path, "wb") as f:
        for i in range(int(mib)):
            f.write(content(i, int(seed)))


def write(path, mib, seed, sync):
    acked = synced = 0
    end = "complete"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT, 0o644)
    try:
        for i in range(int(mib)):
            data = content(i, int(seed))
            while data:
                n = os.write(fd, data)
                acked += n
                data = data[n:]
            if (i + 1) % int(sync) == 0:
                os.fsync(fd)
                synced = acked
        os.fsync(fd)
        synced = acked
    except OSError as e:
        end = errno.errorcode.get(e.errno, str(e.errno))
    try:
        os.close(fd)
    except OSError as e:
        end = end if end != "complete" else errno.errorcode.get(e.errno, str(e.errno))
    print(acked, synced, end)


def compare(path, expected, size=None):
    buf = mmap.mmap(-1, BLOCK)
    right, failed = 0, []
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    with open(expected, "rb") as f:
        size = int(size) if size else os.fstat(f.fileno()).st_size
        for off in range(0, size, BLOCK):
            want = f.read(min(BLOCK, size - off))
            try:
                n = os.preadv(fd, [buf], off)
            except OSError as e:
                if e.errno != errno.EIO:
                    sys.exit(f"{path}: {os.strerror(e.errno)} at {off}")
                failed.append(off)
                continue
            if n < len(want) or buf[:len(want)] != want:
                sys.exit(f"{path}: WRONG DATA at {off} ({n} bytes)")
            right += 1
    os.close(fd)
    print(right, len(failed), *failed)


def flip(path, offset, count=1):
    with open(path, "r+b") as f:
        f.seek(int(offset))
        data = f.read(int(count))
        assert data, f"{path} has no byte {offset}"
        f.seek(int(offset))
        f.write(bytes(b ^ 0xff for b in data))


def frames(path):
    with open(path, "rb") as f:
        data = f.read()
    at = BLOCK
    while at + 64 <= len(data):
        if data[at:at + 4] != b"WFRM":
            at += 64
            continue
        n = data[at + 4]
        length = 64 + 16 * n + int.from_bytes(data[at + 12:at + 15], "little")
        print(at, length, n)
        at += (length + 63) // 64 * 64


def node(path, table):
    """Needs no checksums: it walks the b-tree of an unmounted, checkpointed database itself."""
    db = sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)
    root, = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
    db.close()
    with open(path, "rb") as f:
        data = f.read()
    size = struct.unpack_from(">H", data, 16)[0]
    pages = [root]
    while pages:
        at = pages.pop() * size - size
        kind, n = data[at], struct.unpack_from(">H", data, at + 3)[0]
        if kind in (13, 10):  # leaf of a table, of an index
            print(at // size + 1)
            continue
        pages.append(struct.unpack_from(">I", data, at + 8)[0])
        for i in range(n):
            cell = struct.unpack_from(">H", data, at + 12 + 2 * i)[0]
            pages.append(struct.unpack_from(">I", data, at + cell)[0])


if __name__ == "__main__":
    {"make": make, "write": write, "compare": compare, "flip": flip, "frames": frames,
     "node": node}[sys.argv[1]](*sys.argv[2:])
