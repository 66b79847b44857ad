#!/usr/bin/env python3
"""kill-daemon.py - kill -9 of the real daemon, under load, on a real mount

Writers with different habits (direct and cached, flushing often or never, on several images) log
what the mount acknowledged.  At a random moment the daemon is killed.  The next mount must take
less than 5 s and need no help; every image must be a prefix of its acknowledged writes that contains all
flushed ones; 'weir check --data' must be clean.

usage: kill-daemon.py WEIR [ROUNDS [SEED]]
"""
import json
import mmap
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

BLOCK = 4096
BLOCKS = 512
IMAGES = 3
MOUNT_SECONDS_MAX = 5.0


def run(*args, check=True):
    r = subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, stdin=subprocess.DEVNULL)
    if check and r.returncode != 0:
        raise SystemExit(f"{' '.join(args)}: exit {r.returncode}: {r.stdout}")
    return r


class Writer(threading.Thread):
    """Writes stamped blocks to one image until the daemon is gone."""

    def __init__(self, path, seed, direct, flush_permille):
        super().__init__()
        self.path, self.direct, self.flush_permille = path, direct, flush_permille
        self.rng = random.Random(seed)
        self.writes = []  # block number of write 1, 2, ..; acknowledged, but perhaps the last
        self.acked = 0
        self.flushed = 0
        self.start_at = 0

    def block(self, seq):
        stamp = f"{os.path.basename(self.path)} {seq:012d} ".encode()
        filler = random.Random(seq % 7).randbytes(1024) + bytes(2048)
        return (stamp * (BLOCK // len(stamp) + 1))[:1024] + filler

    def run(self):
        buf = mmap.mmap(-1, BLOCK)
        try:
            fd = os.open(self.path, os.O_RDWR | (os.O_DIRECT if self.direct else 0))
            while True:
                at = self.rng.randrange(BLOCKS)
                seq = len(self.writes) + 1
                buf[:] = self.block(seq)
                self.writes.append(at)
                os.pwrite(fd, buf, at * BLOCK)
                self.acked = seq
                if self.rng.randrange(1000) < self.flush_permille:
                    os.fdatasync(fd)
                    self.flushed = seq
        except OSError:
            pass  # killed

    def check(self):
        """The image is a prefix: some k with flushed <= k <= all writes explains every block."""
        with open(self.path, "rb") as f:
            data = f.read()
        assert len(data) == BLOCKS * BLOCK, f"{self.path}: size {len(data)}"
        later = {}
        for seq, at in enumerate(self.writes, 1):
            later.setdefault(at, []).append(seq)
        low, high = self.flushed, len(self.writes)
        for at in range(BLOCKS):
            b = data[at * BLOCK:(at + 1) * BLOCK]
            seqs = later.get(at, [])
            if b == bytes(BLOCK):
                seen = 0
            else:
                seen = int(b.split()[1])
                assert b == self.block(seen), f"{self.path}: block {at} is torn"
                assert seen in seqs, f"{self.path}: block {at} was never written with {seen}"
            low = max(low, seen)
            after = [s for s in seqs if s > seen]
            if after:
                high = min(high, after[0] - 1)
        assert low <= high, (f"{self.path}: not a prefix: needs at least write {low}, at most {high}"
                             f" ({self.flushed} flushed, {self.acked} acknowledged)")
        return low, high


def one_round(weir, work, seed):
    rng = random.Random(seed)
    ds, mnt = os.path.join(work, "ds"), os.path.join(work, "mnt")
    os.mkdir(mnt)
    run(weir, "create", ds, "--log-size", "64M", "--index-memory", "16M")
    run(weir, "mount", ds, mnt, "-o", "overlay=32M,cache=16M,txg=1")
    writers = []
    for i in range(IMAGES):
        path = os.path.join(mnt, f"disk{i}.raw")
        with open(path, "wb") as f:
            f.truncate(BLOCKS * BLOCK)
            os.fsync(f.fileno())
        writers.append(Writer(path, seed * 10 + i, i != 1, rng.choice([0, 5, 100])))
    pid = json.loads(run(weir, "status", ds, "--json").stdout)["pid"]
    for w in writers:
        w.start()
    time.sleep(rng.uniform(0.1, 3.0))
    os.kill(pid, signal.SIGKILL)
    for w in writers:
        w.join(30)
        assert not w.is_alive(), "a writer hangs after the daemon was killed"
    start = time.monotonic()
    run(weir, "mount", ds, mnt)
    took = time.monotonic() - start
    try:
        assert took < MOUNT_SECONDS_MAX, f"mount after the crash took {took:.1f} s"
        kept = [w.check() for w in writers]
    finally:
        run(weir, "umount", mnt)
    run(weir, "check", ds, "--data")
    counts = ", ".join(f"{w.acked} acknowledged {w.flushed} flushed {k[0]} kept" for w, k in zip(writers, kept))
    print(f"ok: seed {seed}: {counts}; mounted in {took:.2f} s", flush=True)


def main():
    weir = os.path.abspath(sys.argv[1])
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else random.randrange(1 << 30)
    for i in range(rounds):
        work = tempfile.mkdtemp(prefix="weir-kill-")
        try:
            one_round(weir, work, seed + i)
        finally:
            mnt = os.path.join(work, "mnt")
            if os.path.ismount(mnt):
                run("fusermount3", "-u", "-z", mnt, check=False)
            shutil.rmtree(work, ignore_errors=True)


main()
