#!/usr/bin/env python3
"""What filters cost: throughput with a filter / without it, on one mount, in interleaved slices.

usage: tests/bench/filters.py [--rounds N] [--seconds S] [--rows ROW,...] [--payload IMAGE,...]
                              [--work DIR] [--build DIR] [--json FILE]

One daemon serves all of it.  A round measures each state once, in an order that turns by one a
round: filters are attached and detached between slices, on the same image, with its cache warm; the
encrypted image lies beside a plain one with the same content.  A value is the median of the ratios
within a round, so what drifts on the machine hits both sides alike.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys

import bench
import subjects
from subjects import SubjectError, remove_tree, run

MIB = bench.MIB
SIZE = 256 * MIB

# row: (title, states compared, {state: least ratio to the first})
ROWS = {
    "read-4k-qd32": ("4 KiB random read in cache, depth 32", ("none", "pass", "analytics"),
                     {"pass": 0.99, "analytics": 0.97}),
    "sealed-read-4k-qd32": ("4 KiB random read in cache, depth 32", ("plain", "encrypt"),
                            {"encrypt": 0.85}),
    "sealed-read-1m": ("1 MiB sequential read from cache", ("plain", "encrypt"),
                       {"encrypt": 0.85}),
    "sealed-write-1m": ("1 MiB sequential write, fresh data", ("plain", "encrypt"),
                        {"encrypt": 0.75}),
}


class Filters:
    def __init__(self, args, base, weir):
        self.args, self.base, self.weir = args, base, weir
        self.ratios = {row: {state: [] for state in ROWS[row][1][1:]} for row in args.rows}
        self.values = []
        self.attached = "none"

    def cmd(self, *argv):
        return run(self.weir.binary, *argv)

    def start(self):
        self.weir.start(SIZE, "cached", "random reads",
                        self.base.memory(256 * MIB, cache=3 * SIZE))
        self.files = {"plain": self.weir.file}
        key = os.path.join(self.weir.dir, "key")
        with open(key, "wb") as f:
            f.write(os.urandom(64))
        sealed = os.path.join(self.weir.mnt, "sealed")
        self.cmd("key", "create", self.weir.mnt, "bench", "--key-file", key)
        self.weir.make_file(sealed, SIZE)
        self.cmd("filter", "attach", sealed, "encrypt", "key=bench")
        self.files["encrypt"] = sealed
        for name in self.files.values():
            self.use(name)
            self.base.fill(self.weir, self.base.real, SIZE)
        self.weir.settle()
        for name in self.files.values():
            for _ in range(2):
                run("dd", "if=" + name, "of=/dev/null", "bs=1M", "iflag=direct")

    def use(self, name):
        self.weir.file = name

    def put_filter(self, state):
        """The plain image has that filter now, and no other one."""
        if state == self.attached:
            return
        if self.attached != "none":
            self.cmd("filter", "detach", self.files["plain"], self.attached)
        if state != "none":
            self.cmd("filter", "attach", self.files["plain"], state)
        self.attached = state

    def slice(self, row, state, number):
        self.use(self.files["encrypt" if state == "encrypt" else "plain"])
        self.put_filter(state if state in ("pass", "analytics") else "none")
        self.weir.settle()
        if row == "sealed-write-1m":
            out = self.base.replay(self.weir, self.base.real, bs=MIB, depth=bench.DEPTH_STREAM,
                                   bytes=SIZE, stamp=True, seed=1000 + number)
            return out["bytes_per_second"] / 1e6
        if row == "sealed-read-1m":
            return self.base.fio_read(self.weir, "read", "1m", bench.DEPTH_STREAM)["bytes_per_second"] / 1e6
        # What the last round wrote is not in the cache, and sequential reads do not put it there.
        return self.base.fio_read(self.weir, "randread", "4k", 32, warm_seconds=2)["iops"]

    def round(self, number):
        for row in self.args.rows:
            states = ROWS[row][1]
            turn = number % len(states)
            got = {}
            for state in states[turn:] + states[:turn]:
                got[state] = self.slice(row, state, 2 * number + (state == "encrypt"))
                self.values.append({"row": row, "state": state, "round": number,
                                    "value": got[state]})
                print(f"  {row:22} {state:10} {got[state]:12,.0f}", file=sys.stderr)
            for state in states[1:]:
                self.ratios[row][state].append(got[state] / got[states[0]])

    def verdicts(self):
        for row, ratios in self.ratios.items():
            title, states, least = ROWS[row]
            for state, values in ratios.items():
                spread = statistics.stdev(values) if len(values) > 1 else 0.0
                yield (f"{title}: {state} / {states[0]} (one round +-{spread:.3f})",
                       statistics.median(values), least[state])


def parse_args():
    p = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    p.add_argument("--rounds", type=int, default=9)
    p.add_argument("--seconds", type=int, default=3, help="of a slice")
    p.add_argument("--rows", default=",".join(ROWS), help="rows, comma separated")
    p.add_argument("--payload", default="", help="disk images that the payload is taken from")
    p.add_argument("--work", default="/var/tmp/weir-bench", help="scratch directory")
    p.add_argument("--build", default=os.path.join(bench.TOP, "build"))
    p.add_argument("--json", help="write every single result there")
    args = p.parse_args()
    args.rows = [r for r in args.rows.split(",") if r]
    unknown = set(args.rows) - set(ROWS)
    if unknown:
        p.error(f"no such row: {', '.join(sorted(unknown))} (rows: {', '.join(ROWS)})")
    args.payload = [i for i in args.payload.split(",") if i]
    args.full = False
    return args


def main():
    args = parse_args()
    base = bench.Bench(args)
    base.scale.seconds = args.seconds
    base.scale.cached_bytes = SIZE
    weir = subjects.Weir(args.work, base.tools, os.path.join(args.build, "tools", "weir"))
    try:
        lock = bench.claim(args.work)
        base.prepare_payload()
        filters = Filters(args, base, weir)
        try:
            filters.start()
            for number in range(args.rounds):
                print(f"round {number + 1} of {args.rounds}", file=sys.stderr)
                filters.round(number)
        finally:
            weir.stop()
    except (SubjectError, OSError, subprocess.SubprocessError) as e:
        print(f"filters.py: {e}", file=sys.stderr)
        return 1
    verdicts = list(filters.verdicts())
    for title, ratio, target in verdicts:
        print(f"{'PASS' if ratio >= target else 'MISS'}  {ratio:6.3f} >= {target:4.2f}  {title}")
    if args.json:
        with open(args.json, "w", encoding="utf-8") as f:
            json.dump({"machine": bench.machine(), "rounds": args.rounds, "results": filters.values,
                       "verdicts": [{"title": t, "ratio": r, "target": g} for t, r, g in verdicts]},
                      f, indent=1)
    remove_tree(args.work)
    lock.close()
    return 0 if all(r >= g for _, r, g in verdicts) else 3


if __name__ == "__main__":
    sys.exit(main())
