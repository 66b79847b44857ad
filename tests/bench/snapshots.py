#!/usr/bin/env python3
"""What snapshots cost: throughput with many of them / with none, and how long a guest waits for one.

usage: tests/bench/snapshots.py [--parts load,pause] [--rounds N] [--seconds S] [--snapshots N]
                                [--chunks N] [--payload IMAGE,...] [--work DIR] [--build DIR]
                                [--json FILE]

load   two daemons with the same content; of the one's image --snapshots were made, with writes between
       them.  A round measures each row on both, in an order that turns; before each slice of writes the
       one gets another snapshot, so that what it writes is copied on write.  A value is the median of the
       ratios within a round.
pause  one image of 1 TiB with --chunks mapped chunks.  A probe writes and reads 4 KiB at random places
       of it, one after the other, while snapshots of it are made: the pause of one is the longest wait of the
       probe from its beginning to its end.  Beside it, the same without a snapshot, with a small image,
       and while another writer keeps the daemon busy; and what the daemon says of its gate.

Ten million chunks are mapped by sharing: a source of 64 MiB is copied all over the image with
copy_file_range, which puts entries into the map and writes no data.  A snapshot copies the root of
the map; what lies below is the same for chunks that are stored often as for those stored once.
"""

import argparse
import json
import mmap
import os
import random
import statistics
import subprocess
import sys
import threading
import time

import bench
import subjects
from subjects import SubjectError, remove_tree, run

MIB = bench.MIB
SIZE = 256 * MIB
LARGE = 1 << 40
PIECE = 64 * MIB
CHUNK = 4096

# row: (title, least ratio)
ROWS = {
    "read-4k-qd32": ("4 KiB random read in cache, depth 32", 0.95),
    "write-4k-qd32": ("4 KiB random write, depth 32, to its fsync", 0.95),
    "write-1m": ("1 MiB sequential write, fresh data", 0.95),
}
PAUSE_MS = 10.0
# Rows of the same probe without a snapshot: for so many seconds.
WITHOUT = {"none": 0.1, "busy-none": 1.0}


class Daemon(subjects.Weir):
    """One of several beside each other."""

    def __init__(self, args, base, name):
        self.name = name
        super().__init__(args.work, base.tools, os.path.join(args.build, "tools", "weir"))

    def snapshot(self, name, target=None):
        run(self.binary, "snapshot", "create", target or self.file, name)

    def freeze_ms(self):
        return self.stats()["activity"]["last_freeze_ns"] / 1e6


class Load:
    """Throughput with many snapshots / with none."""

    def __init__(self, args, base):
        self.args, self.base = args, base
        self.none, self.many = Daemon(args, base, "none"), Daemon(args, base, "many")
        self.ratios = {row: [] for row in ROWS}
        self.values = []
        self.n = 0

    def start(self):
        memory = self.base.memory(256 * MIB, cache=2 * SIZE)
        for d in (self.none, self.many):
            d.start(SIZE, "cached", "random reads", memory)
            self.base.fill(d, self.base.real, SIZE)
        began = time.monotonic()
        for i in range(self.args.snapshots):
            self.write(self.many, 32, 10000 + i)
            self.another()
            if i % 100 == 99:
                print(f"  {i + 1} snapshots, {time.monotonic() - began:.0f} s", file=sys.stderr)
        for i in range(0, self.args.snapshots, 32):  # the same amount, in fewer steps
            self.write(self.none, 32 * 32, 10000 + i)

    def another(self):
        self.many.snapshot(f"s{self.n}")
        self.n += 1

    def write(self, d, blocks, seed):
        self.base.replay(d, self.base.real, bs=CHUNK, depth=32, area=SIZE, bytes=blocks * CHUNK,
                         random=True, stamp=True, seed=seed)

    def warm(self, d):
        d.settle()
        for _ in range(2):  # twice, for caches that keep what was read again
            run("dd", "if=" + d.file, "of=/dev/null", "bs=1M", "iflag=direct")

    def slice(self, row, d, number):
        if row == "read-4k-qd32":
            self.warm(d)
            return self.base.fio_read(d, "randread", "4k", 32)["iops"]
        d.settle()
        if d is self.many:
            self.another()
        if row == "write-1m":
            out = self.base.replay(d, self.base.real, bs=MIB, depth=bench.DEPTH_STREAM, bytes=SIZE,
                                   stamp=True, seed=1000 + number)
            return out["bytes_per_second"] / 1e6
        out = self.base.replay(d, self.base.real, bs=CHUNK, depth=32, area=SIZE, random=True,
                               stamp=True, seconds=self.args.seconds, seed=2000 + number)
        return out["iops"]

    def round(self, number):
        for row in ROWS:
            order = (self.none, self.many) if number % 2 else (self.many, self.none)
            got = {d.name: self.slice(row, d, number) for d in order}
            self.values += [{"row": row, "state": name, "round": number, "value": value}
                            for name, value in got.items()]
            self.ratios[row].append(got["many"] / got["none"])
            print(f"  {row:16} none {got['none']:12,.0f}  many {got['many']:12,.0f}",
                  file=sys.stderr)

    def run(self):
        try:
            self.start()
            for number in range(self.args.rounds):
                print(f"round {number + 1} of {self.args.rounds}", file=sys.stderr)
                self.round(number)
        finally:
            self.none.stop()
            self.many.stop()

    def verdicts(self):
        for row, (title, least) in ROWS.items():
            values = self.ratios[row]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            yield {"title": f"{title}: {self.n} snapshots / none (one round +-{spread:.3f})",
                   "value": statistics.median(values), "limit": least, "at_least": True}


class Probe(threading.Thread):
    """Writes and reads 4 KiB past all caches of the kernel, and notes how long each took."""

    def __init__(self, path, offsets):
        super().__init__(daemon=True)
        self.fd = os.open(path, os.O_RDWR | os.O_DIRECT)
        self.offsets = offsets
        self.buffer = mmap.mmap(-1, CHUNK)
        self.waits = []  # (began, ended), seconds
        self.over = False
        self.error = None

    def run(self):
        rng = random.Random(1)
        try:
            while not self.over:
                at = rng.choice(self.offsets)
                self.buffer[:8] = rng.getrandbits(64).to_bytes(8, "little")
                for call in (os.pwritev, os.preadv):
                    began = time.monotonic()
                    call(self.fd, [self.buffer], at)
                    self.waits.append((began, time.monotonic()))
        except OSError as e:
            self.error = e
        os.close(self.fd)

    def stop(self):
        self.over = True
        self.join()
        if self.error:
            raise SubjectError(f"the probe failed: {self.error}")

    def longest_ms(self, began, ended):
        return max((e - b for b, e in self.waits if e > began and b < ended), default=0.0) * 1e3


class Pause:
    """How long a guest waits while a snapshot of its disk is made."""

    def __init__(self, args, base):
        self.args, self.base = args, base
        self.weir = Daemon(args, base, "pause")
        self.values = []
        self.chunks = {}
        self.n = 0

    def make(self, name, size, chunks):
        """An image of that size with so many chunks mapped, evenly spread."""
        path = os.path.join(self.weir.mnt, name)
        pieces = max(chunks * CHUNK // PIECE, 1)
        stride = size // pieces // MIB * MIB
        self.weir.make_file(path, size)
        began = time.monotonic()
        src, dst = os.open(self.weir.file, os.O_RDONLY), os.open(path, os.O_RDWR)
        for i in range(pieces):
            done = 0
            while done < PIECE:
                done += os.copy_file_range(src, dst, PIECE - done, done, i * stride + done)
        os.fsync(dst)
        os.close(src)
        os.close(dst)
        self.weir.settle()
        self.chunks[name] = os.stat(path).st_blocks // 8
        print(f"  {name}: {self.chunks[name]:,} chunks mapped, {time.monotonic() - began:.0f} s",
              file=sys.stderr)
        return path, [i * stride + k * CHUNK for i in range(pieces) for k in (0, 777, 5000)]

    def start(self):
        memory = self.base.memory(256 * MIB, cache=256 * MIB)
        self.weir.start(PIECE, "cached", "random reads", memory)
        with open(self.weir.file, "wb") as f:
            for _ in range(PIECE // MIB):
                f.write(os.urandom(MIB))
        self.weir.settle()
        self.images = {"large": self.make("large", LARGE, self.args.chunks),
                       "small": self.make("small", PIECE * 4, PIECE // CHUNK)}

    def one(self, row, path, probe):
        time.sleep(0.3)
        began = time.monotonic()
        if row in WITHOUT:
            time.sleep(WITHOUT[row])
        else:
            self.weir.snapshot(f"p{self.n}", path)
            self.n += 1
        ended = time.monotonic()
        time.sleep(0.05)
        value = {"row": row, "pause_ms": probe.longest_ms(began, ended),
                 "took_ms": (ended - began) * 1e3,
                 "freeze_ms": 0.0 if row in WITHOUT else self.weir.freeze_ms()}
        self.values.append(value)

    def measure(self, row, image):
        path, offsets = self.images[image]
        probe = Probe(path, offsets)
        probe.start()
        try:
            for _ in range(self.args.rounds):
                self.one(row, path, probe)
        finally:
            probe.stop()
        mine = [v for v in self.values if v["row"] == row]
        print(f"  {row:8} pause {statistics.median(v['pause_ms'] for v in mine):8.2f} ms, longest "
              f"{max(v['pause_ms'] for v in mine):8.2f}; gate {max(v['freeze_ms'] for v in mine):6.2f}"
              f"; command {statistics.median(v['took_ms'] for v in mine):7.1f}", file=sys.stderr)

    def measure_busy(self):
        """Beside a writer that fills the overlay as fast as it can."""
        other = self.weir.make_file(os.path.join(self.weir.mnt, "other"), SIZE * 2)
        argv = [os.path.join(self.base.tools, "bench-replay"), "--file", other, "--payload",
                self.base.real, "--bs", str(MIB), "--depth", "4", "--area", str(SIZE), "--stamp",
                "--random", "--seconds", str(self.args.rounds * 10)]
        writer = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        try:
            time.sleep(2)
            self.measure("busy-none", "large")
            self.measure("busy", "large")
        finally:
            writer.kill()
            writer.wait()

    def run(self):
        try:
            self.start()
            self.measure("none", "large")
            self.measure("small", "small")
            self.measure("large", "large")
            self.measure_busy()
        finally:
            self.weir.stop()

    def verdicts(self):
        for row, without, title in (
                ("large", "none", f"1 TiB, {self.chunks['large']:,} chunks mapped"),
                ("small", "none", "256 MiB"), ("busy", "busy-none", "1 TiB, beside a writer")):
            pauses = self.pauses(row)
            yield {"title": f"pause in ms for a snapshot: {title} (longest {max(pauses):.1f}; without "
                            f"one {statistics.median(self.pauses(without)):.1f}, longest "
                            f"{max(self.pauses(without)):.1f})",
                   "value": statistics.median(pauses), "limit": PAUSE_MS, "at_least": False}

    def pauses(self, row):
        return [v["pause_ms"] for v in self.values if v["row"] == row]


PARTS = {"load": Load, "pause": Pause}


def held(v):
    return v["value"] >= v["limit"] if v["at_least"] else v["value"] <= v["limit"]


def parse_args():
    p = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    p.add_argument("--parts", default=",".join(PARTS), help="parts, comma separated")
    p.add_argument("--rounds", type=int, default=9)
    p.add_argument("--seconds", type=int, default=3, help="of a slice")
    p.add_argument("--snapshots", type=int, default=1000)
    p.add_argument("--chunks", type=int, default=10_000_000, help="mapped in the large image")
    p.add_argument("--payload", default="", help="disk images that the payload is taken from")
    p.add_argument("--work", default="/var/tmp/weir-bench", help="scratch directory")
    p.add_argument("--build", default=os.path.join(bench.TOP, "build"))
    p.add_argument("--json", help="write every single result there")
    args = p.parse_args()
    args.parts = [x for x in args.parts.split(",") if x]
    unknown = set(args.parts) - set(PARTS)
    if unknown:
        p.error(f"no such part: {', '.join(sorted(unknown))} (parts: {', '.join(PARTS)})")
    args.payload = [i for i in args.payload.split(",") if i]
    args.full = False
    return args


def main():
    args = parse_args()
    base = bench.Bench(args)
    base.scale.seconds = args.seconds
    base.scale.cached_bytes = base.scale.stream_bytes = SIZE
    try:
        lock = bench.claim(args.work)
        base.prepare_payload()
        parts = [PARTS[name](args, base) for name in args.parts]
        for part in parts:
            part.run()
    except (SubjectError, OSError, subprocess.SubprocessError) as e:
        print(f"snapshots.py: {e}", file=sys.stderr)
        return 1
    verdicts = [v for part in parts for v in part.verdicts()]
    for v in verdicts:
        print(f"{'PASS' if held(v) else 'MISS'}  {v['value']:7.3f} {'>=' if v['at_least'] else '<='} "
              f"{v['limit']:5.2f}  {v['title']}")
    if args.json:
        with open(args.json, "w", encoding="utf-8") as f:
            json.dump({"machine": bench.machine(), "rounds": args.rounds,
                       "results": [v for part in parts for v in part.values],
                       "verdicts": verdicts}, f, indent=1)
    remove_tree(args.work)
    lock.close()
    return 0 if all(held(v) for v in verdicts) else 3


if __name__ == "__main__":
    sys.exit(main())
