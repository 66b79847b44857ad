#!/usr/bin/env python3
"""Compares weir with a passthrough, the raw file system and its peers, on real data.

usage: tests/bench/bench.py [--full] [--rounds N] [--rows ROW,...] [--subjects NAME,...]
                            [--payload IMAGE,...] [--work DIR] [--build DIR] [--json FILE]

A *visit* starts one subject empty, fills it with real data and runs its rows.  Rounds are
interleaved: each runs every visit for every subject, in an order that turns by one a round, so that
what drifts on the machine hits all alike.  A value is the median of the rounds.  Reads are made by
fio, writes by bench-replay (fio cannot take its payload from an image).  README.md says more.
"""

import argparse
import fcntl
import json
import os
import statistics
import subprocess
import sys
import time

import subjects
from subjects import SubjectError, remove_tree, run

MIB = 1 << 20
TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# row: (title, unit, what it is compared with, target ratio, a row of raw streaming)
ROWS = {
    "read-4k-qd1": ("4 KiB random read in cache, depth 1", "IOPS", "passthrough", 0.85, False),
    "read-4k-qd32": ("4 KiB random read in cache, depth 32", "IOPS", "passthrough", 0.85, False),
    "read-1m": ("1 MiB sequential read from cache", "MB/s", "passthrough", 0.8, True),
    "burst-4k-qd32": ("4 KiB random write burst, depth 32", "IOPS", "passthrough", 0.8, False),
    "sync-4k": ("4 KiB write + fdatasync", "IOPS", "passthrough", 0.9, False),
    "sustained-4k-qd32": ("4 KiB random write, 4x overlay, depth 32", "IOPS", "passthrough", 0.6,
                          False),
    "write-1m-fresh": ("1 MiB sequential write, fresh data", "MB/s", "ceiling", 0.6, True),
    "write-1m-duplicate": ("1 MiB sequential write, duplicate", "MB/s", "passthrough", 0.5, True),
    "write-1m-random": ("1 MiB sequential write, incompressible", "MB/s", "passthrough", 0.5, True),
}
PEERS = ("qsd-raw", "qsd-qcow2", "nbdkit")
DEPTH_STREAM = 4
SLACK_BYTES = 64 * MIB  # that the daemon may use beyond what it was configured with


class Scale:
    """Sizes and times of a short or a full run."""

    def __init__(self, full):
        self.seconds = 15 if full else 3
        self.sustained_seconds = 60 if full else 10
        self.cached_bytes = (1024 if full else 256) * MIB
        self.burst_bytes = (512 if full else 256) * MIB
        self.overlay_bytes = (256 if full else 128) * MIB
        self.stream_bytes = (1024 if full else 512) * MIB
        self.rounds = 3


class Meter:
    """CPU time of the servers, and of the whole machine, between two moments."""

    def __init__(self, pids):
        self.pids = pids
        for pid in pids:
            try:
                with open(f"/proc/{pid}/clear_refs", "w", encoding="ascii") as f:
                    f.write("5")  # the peak of RSS starts anew
            except OSError:
                pass
        self.server = self._server()
        self.machine = self._machine()

    def _server(self):
        ticks = 0
        for pid in self.pids:
            with open(f"/proc/{pid}/stat", encoding="ascii") as f:
                fields = f.read().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    @staticmethod
    def _machine():
        with open("/proc/stat", encoding="ascii") as f:
            t = [int(x) for x in f.readline().split()[1:9]]
        return (sum(t) - t[3] - t[4]) / os.sysconf("SC_CLK_TCK")

    def rss_peak(self):
        kib = 0
        for pid in self.pids:
            with open(f"/proc/{pid}/status", encoding="ascii") as f:
                kib += sum(int(l.split()[1]) for l in f if l.startswith("VmHWM:"))
        return kib * 1024

    def stop(self):
        return {"server_cpu_s": self._server() - self.server,
                "machine_cpu_s": self._machine() - self.machine,
                "rss_peak_bytes": self.rss_peak()}


class Bench:
    def __init__(self, args):
        self.args = args
        self.scale = Scale(args.full)
        self.tools = os.path.join(args.build, "tests", "bench")
        self.rounds = args.rounds or self.scale.rounds
        self.results = []

    # --- payload ---------------------------------------------------------------------------

    def prepare_payload(self):
        self.real = os.path.join(self.args.work, "payload.real")
        self.noise = os.path.join(self.args.work, "payload.random")
        images = self.args.payload or [self.build_guest()]
        out = run(os.path.join(self.tools, "bench-chunks"), "--payload", self.real, *images)
        counts = json.loads(out)
        need = max(self.scale.stream_bytes, self.scale.cached_bytes)
        if counts["unique_bytes"] < need:
            raise SubjectError(f"the images hold {counts['unique_bytes'] // MIB} MiB of distinct "
                               f"chunks, {need // MIB} are needed: name more with --payload")
        with open(self.noise, "wb") as f:
            for _ in range(self.scale.stream_bytes // MIB):
                f.write(os.urandom(MIB))
        return counts

    def build_guest(self):
        cache = os.environ.get("WEIR_CACHE", os.path.expanduser("~/.cache/weir"))
        image = os.path.join(cache, "bench-guest.img")
        if not os.path.exists(image):
            print("building a guest disk for payload (once)", file=sys.stderr)
            run(os.path.join(TOP, "tests", "lib", "guest-image"), "-s", "4G", image,
                "build-essential", "python3", "git", "postgresql", "openssh-server", "nginx",
                "vim", "default-jre-headless")
        return image

    # --- single loads ----------------------------------------------------------------------

    def replay(self, subject, payload, **options):
        argv = [os.path.join(self.tools, "bench-replay"), "--file", subject.file,
                "--payload", payload]
        for key, value in options.items():
            argv += [f"--{key}"] if value is True else [f"--{key}", str(value)]
        out = run(*argv)
        return json.loads(out) if out else None

    def fill(self, subject, payload, size, offset=0):
        self.replay(subject, payload, bs=MIB, depth=DEPTH_STREAM, bytes=size, offset=offset)

    def fio_read(self, subject, pattern, bs, depth, warm_seconds=0):
        direct = "1" if subject.direct_io_client else "0"
        out = run("fio", "--name=r", "--filename=" + subject.file, "--rw=" + pattern,
                  "--bs=" + bs, f"--iodepth={depth}", "--ioengine=libaio", "--direct=" + direct,
                  "--invalidate=0", "--norandommap=1", f"--size={self.scale.cached_bytes}",
                  "--time_based=1", f"--runtime={self.scale.seconds}",
                  f"--ramp_time={warm_seconds}", "--thread", "--allow_file_create=0",
                  "--output-format=json", "--randrepeat=0")
        job = json.loads(out)["jobs"][0]
        read = job["read"]
        lat = read["clat_ns"]["percentile"]
        cpu = (job["usr_cpu"] + job["sys_cpu"]) / 100 * job["job_runtime"] / 1000
        return {"ops": read["total_ios"], "bytes": read["io_bytes"], "iops": read["iops"],
                "bytes_per_second": read["bw_bytes"], "p50_ns": lat["50.000000"],
                "p99_ns": lat["99.000000"], "cpu_seconds": cpu,
                "seconds": read["runtime"] / 1000}

    def measure(self, row, subject, load):
        """Runs one row's load on a subject and keeps what it gave."""
        if row not in self.args.rows:
            return
        subject.settle()
        meter = Meter(subject.pids())
        result = load()
        result.update(meter.stop())
        unit = ROWS[row][1]
        result["value"] = result["iops"] if unit == "IOPS" else result["bytes_per_second"] / 1e6
        result.update({"row": row, "subject": subject.name, "round": self.round})
        self.results.append(result)
        print(f"  {row:20} {subject.name:12} {result['value']:12,.0f} {unit}", file=sys.stderr)

    def verify(self, row, subject, payload, where):
        """Reads back what a row wrote.  A peer that lost data is marked; weir may not be one."""
        if row not in self.args.rows:
            return
        try:
            self.replay(subject, payload, verify=True, **where)
        except SubjectError:
            if subject.name not in PEERS:
                raise
            self.results[-1]["damaged"] = True

    # --- visits ----------------------------------------------------------------------------

    def memory(self, overlay, cache=64 * MIB):
        return {"cache": cache, "overlay": overlay, "index": 64 * MIB, "map": 64 * MIB}

    def start_cached(self, subject, kind):
        size = self.scale.cached_bytes
        self.configured = self.memory(self.scale.overlay_bytes, cache=size + size // 2)
        subject.start(size, "cached", kind, self.configured)
        self.fill(subject, self.real, size)
        subject.settle()
        for _ in range(2):  # twice, for caches that keep what was read again
            run("dd", "if=" + subject.file, "of=/dev/null", "bs=1M",
                *(["iflag=direct"] if subject.direct_io_client else []))

    def visit_random_reads(self, subject):
        self.start_cached(subject, "random reads")
        self.measure("read-4k-qd1", subject,
                     lambda: self.fio_read(subject, "randread", "4k", 1))
        self.measure("read-4k-qd32", subject,
                     lambda: self.fio_read(subject, "randread", "4k", 32))

    def visit_stream_read(self, subject):
        self.start_cached(subject, "stream")
        self.measure("read-1m", subject,
                     lambda: self.fio_read(subject, "read", "1m", DEPTH_STREAM))

    def visit_burst(self, subject):
        size = self.scale.burst_bytes
        self.configured = self.memory(size * 2)
        subject.start(size, "cached", "random writes", self.configured)
        self.fill(subject, self.real, size)
        self.measure("burst-4k-qd32", subject,
                     lambda: self.replay(subject, self.real, bs=4096, depth=32, area=size,
                                         bytes=size, random=True, stamp=True, shift=MIB,
                                         seed=self.round))
        self.measure("sync-4k", subject,
                     lambda: self.replay(subject, self.real, bs=4096, area=size, random=True,
                                         stamp=True, seconds=self.scale.seconds, fdatasync=True,
                                         shift=2 * MIB, seed=100 + self.round))

    def visit_sustained(self, subject):
        size = self.scale.overlay_bytes * 4
        self.configured = self.memory(self.scale.overlay_bytes)
        subject.start(size, "direct", "random writes", self.configured)
        self.fill(subject, self.real, size)
        self.measure("sustained-4k-qd32", subject,
                     lambda: self.replay(subject, self.real, bs=4096, depth=32, area=size,
                                         seconds=self.scale.sustained_seconds, random=True,
                                         stamp=True, shift=MIB, seed=200 + self.round))

    def visit_stream(self, subject):
        size = self.scale.stream_bytes
        self.configured = self.memory(self.scale.overlay_bytes)
        subject.start(3 * size, "direct", "stream", self.configured)
        for i, (row, payload) in enumerate((("write-1m-fresh", self.real),
                                            ("write-1m-duplicate", self.real),
                                            ("write-1m-random", self.noise))):
            where = {"bs": MIB, "bytes": size, "offset": i * size}
            if row == "write-1m-duplicate" and "write-1m-fresh" not in self.args.rows:
                self.fill(subject, payload, size)
            self.measure(row, subject, lambda p=payload, w=where: self.replay(
                subject, p, depth=DEPTH_STREAM, **w))
            self.verify(row, subject, payload, where)

    VISITS = ((visit_random_reads, ("read-4k-qd1", "read-4k-qd32")),
              (visit_stream_read, ("read-1m",)),
              (visit_burst, ("burst-4k-qd32", "sync-4k")),
              (visit_sustained, ("sustained-4k-qd32",)),
              (visit_stream, ("write-1m-fresh", "write-1m-duplicate", "write-1m-random")))

    def ceiling(self):
        if "write-1m-fresh" not in self.args.rows:
            return
        out = json.loads(run(os.path.join(self.tools, "bench-ceiling"), self.real,
                             str(self.scale.stream_bytes)))
        out.update({"row": "write-1m-fresh", "subject": "ceiling", "round": self.round,
                    "value": out["bytes_per_second"] / 1e6})
        self.results.append(out)

    def run_rounds(self, chosen):
        for self.round in range(self.rounds):
            print(f"round {self.round + 1} of {self.rounds}", file=sys.stderr)
            self.ceiling()
            order = chosen[self.round % len(chosen):] + chosen[:self.round % len(chosen)]
            for visit, rows in self.VISITS:
                if not set(rows) & set(self.args.rows):
                    continue
                for subject in order:
                    first = len(self.results)
                    try:
                        visit(self, subject)
                    finally:
                        subject.stop()
                    if subject.name == "weir":
                        self.note_memory(first)

    def note_memory(self, first):
        for r in self.results[first:]:
            r["configured_bytes"] = sum(self.configured.values())

    # --- what came of it -------------------------------------------------------------------

    def median(self, row, subject, key="value"):
        values = [r[key] for r in self.results
                  if r["row"] == row and r["subject"] == subject and key in r]
        return statistics.median(values) if values else None

    def damaged(self, row, name):
        return any(r.get("damaged") for r in self.results
                   if r["row"] == row and r["subject"] == name)

    def verdicts(self, names):
        """One for each promise of the table that this run can judge."""
        out = []
        for row, (title, _, base, target, streaming) in ROWS.items():
            mine, other = self.median(row, "weir"), self.median(row, base)
            if mine is None:
                continue
            if other:
                out.append((f"{title}: of {base}", mine / other, target))
            if not streaming:
                out += [(f"{title}: ahead of {p}", mine / self.median(row, p), 1.0)
                        for p in PEERS if p in names and self.median(row, p)]
        room = [(r["configured_bytes"] + SLACK_BYTES) / r["rss_peak_bytes"]
                for r in self.results if r.get("configured_bytes") and r["rss_peak_bytes"]]
        if room:
            out.append(("memory: configured + 64 MiB, of the peak seen", min(room), 1.0))
        return out

    def table(self, names):
        lines = ["", f"medians of {self.rounds} interleaved rounds"]
        lines.append(f"{'row':44} {'unit':5}" + "".join(f"{n:>13}" for n in names) +
                     f"{'ceiling':>13}")
        for row, (title, unit, *_) in ROWS.items():
            if row in self.args.rows:
                cells = [self.median(row, n) for n in names + ["ceiling"]]
                marks = ["!" if self.damaged(row, n) else " " for n in names + ["ceiling"]]
                lines.append(f"{title:44} {unit:5}" + "".join(
                    f"{c:12,.0f}{m}" if c is not None else f"{'- ':>13}"
                    for c, m in zip(cells, marks)))
        if any(r.get("damaged") for r in self.results):
            lines.append("! the data read back was not what had been written")
        lines += ["", f"{'details':34} {'subject':12} {'p50 us':>9} {'p99 us':>9} "
                  f"{'client us/op':>13} {'server us/op':>13} {'machine us/op':>14} "
                  f"{'RSS MiB':>8}"]
        for row in self.args.rows:
            for n in names:
                if self.median(row, n) is not None:
                    lines.append(self.detail(row, n))
        return "\n".join(lines)

    def detail(self, row, name):
        mine = [r for r in self.results if r["row"] == row and r["subject"] == name]

        def per_op(key):
            return statistics.median(r[key] / r["ops"] * 1e6 for r in mine)

        return (f"{row:34} {name:12} {self.median(row, name, 'p50_ns') / 1e3:9.1f} "
                f"{self.median(row, name, 'p99_ns') / 1e3:9.1f} {per_op('cpu_seconds'):13.1f} "
                f"{per_op('server_cpu_s'):13.1f} {per_op('machine_cpu_s'):14.1f} "
                f"{max(r['rss_peak_bytes'] for r in mine) / MIB:8.0f}")


def parse_args():
    p = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    p.add_argument("--full", action="store_true", help="long rows and big areas (about 45 minutes)")
    p.add_argument("--rounds", type=int, help="rounds, at least 3 for a result to quote")
    p.add_argument("--rows", default=",".join(ROWS), help="rows, comma separated")
    p.add_argument("--subjects", default="", help="subjects, comma separated (default: all)")
    p.add_argument("--payload", default="", help="disk images that the payload is taken from")
    p.add_argument("--work", default="/var/tmp/weir-bench", help="scratch directory")
    p.add_argument("--build", default=os.path.join(TOP, "build"), help="meson's build directory")
    p.add_argument("--json", help="write every single result there")
    args = p.parse_args()
    args.rows = [r for r in args.rows.split(",") if r]
    unknown = set(args.rows) - set(ROWS)
    if unknown:
        p.error(f"no such row: {', '.join(sorted(unknown))} (rows: {', '.join(ROWS)})")
    args.payload = [i for i in args.payload.split(",") if i]
    return args


def choose(args, bench):
    weir = os.path.join(args.build, "tools", "weir")
    every = subjects.all_subjects(args.work, bench.tools, weir)
    wanted = [n for n in args.subjects.split(",") if n]
    unknown = set(wanted) - {s.name for s in every}
    if unknown:
        raise SubjectError(f"no such subject: {', '.join(sorted(unknown))}")
    chosen = [s for s in every if not wanted or s.name in wanted]
    for s in chosen:
        if not s.available():
            raise SubjectError(f"subject '{s.name}' is not installed or built")
    return chosen


def claim(work):
    """Two runs in one work directory would end each other's servers; the lock lasts as long as we."""
    os.makedirs(work, exist_ok=True)
    lock = open(os.path.join(work, "lock"), "w", encoding="ascii")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SubjectError(f"'{work}' is in use by another run (choose one with --work)") from None
    return lock


def machine():
    with open("/proc/cpuinfo", encoding="utf-8") as f:
        model = next((l.split(":")[1].strip() for l in f if l.startswith("model name")), "?")
    return {"kernel": os.uname().release, "cores": os.cpu_count(), "cpu": model,
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "load": os.getloadavg()[0]}


def main():
    args = parse_args()
    bench = Bench(args)
    started = time.time()
    try:
        lock = claim(args.work)
        chosen = choose(args, bench)
        payload = bench.prepare_payload()
        bench.run_rounds(chosen)
    except (SubjectError, OSError, subprocess.SubprocessError) as e:
        print(f"bench.py: {e}", file=sys.stderr)
        return 1
    names = [s.name for s in chosen]
    verdicts = bench.verdicts(names)
    print(bench.table(names) + "\n")
    for title, ratio, target in verdicts:
        print(f"{'PASS' if ratio >= target else 'MISS'}  {ratio:6.2f} >= {target:4.2f}  {title}")
    if args.json:
        with open(args.json, "w", encoding="utf-8") as f:
            json.dump({"machine": machine(), "started": int(started), "full": args.full,
                       "rounds": bench.rounds, "payload": payload, "results": bench.results,
                       "verdicts": [{"title": t, "ratio": r, "target": g, "pass": r >= g}
                                    for t, r, g in verdicts]}, f, indent=1)
    remove_tree(args.work)
    lock.close()
    return 0 if all(r >= g for _, r, g in verdicts) else 3


if __name__ == "__main__":
    sys.exit(main())
