"""The servers that the benchmark compares: how each is started, found and ended.

A subject offers one file of a given size, open for O_DIRECT, for the length of a *visit*.  It always
begins empty, and everything it started is ended by name of mount point or by pid, nothing else.
Two ways of backing: 'cached' lets the subject use the page cache below it, 'direct' makes it open
its backing file with O_DIRECT, so that the medium does the work.  The kind of load ('random reads',
'random writes', 'stream') is for subjects whose best settings depend on it.  memory is what weir is
to be configured with, in bytes.  README.md says why each setting is what it is.
"""

import json
import os
import shutil
import signal
import subprocess
import time

START_LIMIT_S = 20
STOP_LIMIT_S = 60


class SubjectError(Exception):
    """A server did not start, or did not end, as it should."""


def run(*argv, **kw):
    """Runs a command to its end and returns its output; raises with the command's own words."""
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, check=False, **kw)
    if done.returncode != 0:
        raise SubjectError(f"{' '.join(argv)}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def is_mounted(path):
    """Also true for a file that is mounted over, which os.path.ismount() does not know."""
    path = os.path.realpath(path)
    with open("/proc/self/mountinfo", encoding="utf-8") as f:
        return any(line.split(" ")[4] == path for line in f)


def mounts_below(path):
    path = os.path.realpath(path)
    with open("/proc/self/mountinfo", encoding="utf-8") as f:
        points = [line.split(" ")[4] for line in f]
    return [p for p in points if p == path or p.startswith(path + "/")]


def remove_tree(path):
    """Never reaches into something that is mounted there."""
    mounts = mounts_below(path)
    if mounts:
        raise SubjectError(f"cannot clear '{path}': '{mounts[0]}' is still mounted")
    shutil.rmtree(path, ignore_errors=True)


def wait_for(what, condition, limit_s, process=None):
    end = time.monotonic() + limit_s
    while not condition():
        if process is not None and process.poll() is not None:
            raise SubjectError(f"{what}: the process ended with code {process.returncode}")
        if time.monotonic() > end:
            raise SubjectError(f"{what}: not within {limit_s} s")
        time.sleep(0.02)


class Subject:
    """Base: a directory of its own under the work directory, and the processes it started."""

    name = ""
    needs = ()
    direct_io_client = True

    def __init__(self, work, tools):
        self.dir = os.path.join(work, self.name)
        self.tools = tools
        self.processes = []
        self.mounts = []
        self.file = None

    def available(self):
        return all(shutil.which(p) for p in self.needs)

    def start(self, size_bytes, mode, kind, memory):
        remove_tree(self.dir)
        os.makedirs(os.path.join(self.dir, "mnt"))
        self.log = open(os.path.join(self.dir, "log"), "wb")
        try:
            self._start(size_bytes, mode, kind, memory)
        except BaseException:
            self.stop()
            raise

    def _start(self, size_bytes, mode, kind, memory):
        raise NotImplementedError

    def pids(self):
        return [p.pid for p in self.processes]

    def settle(self):
        """Waits until work left over from earlier rows is done."""
        os.sync()

    def make_file(self, path, size_bytes):
        with open(path, "wb") as f:
            f.truncate(size_bytes)
        return path

    def spawn(self, *argv):
        p = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)
        self.processes.append(p)
        return p

    def await_mount(self, path, process):
        wait_for(f"{self.name}: mount of {path}", lambda: is_mounted(path), START_LIMIT_S, process)
        self.mounts.append(path)

    def stop(self):
        for path in self.mounts:
            if is_mounted(path):
                run("fusermount3", "-u", path)
        self.mounts = []
        for p in self.processes:
            self.end_process(p)
        self.processes = []
        self.log.close()
        remove_tree(self.dir)

    def end_process(self, p):
        try:
            p.wait(2)
            return
        except subprocess.TimeoutExpired:
            p.send_signal(signal.SIGTERM)
        try:
            p.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            p.kill()
            p.wait()
            raise SubjectError(f"{self.name}: pid {p.pid} did not end, killed") from None


class Raw(Subject):
    """A file of the backing file system.  Cached rows read it through the page cache."""

    name = "raw"

    def _start(self, size_bytes, mode, kind, memory):
        self.direct_io_client = mode == "direct"
        self.file = self.make_file(os.path.join(self.dir, "disk"), size_bytes)


class Passthrough(Subject):
    name = "passthrough"

    def _start(self, size_bytes, mode, kind, memory):
        back = os.path.join(self.dir, "back")
        mnt = os.path.join(self.dir, "mnt")
        os.mkdir(back)
        # Two threads read a cache fastest; waiting for a medium, or copying much, wants more.
        options = ["--threads=" + ("2" if kind == "random reads" else "16")]
        if mode == "direct":
            options.append("--direct")
        p = self.spawn(os.path.join(self.tools, "bench-passthrough"), *options, back, mnt)
        self.await_mount(mnt, p)
        self.file = self.make_file(os.path.join(mnt, "disk"), size_bytes)


class Weir(Subject):
    name = "weir"

    def __init__(self, work, tools, binary):
        super().__init__(work, tools)
        self.binary = binary
        self.pid = 0

    def available(self):
        return os.access(self.binary, os.X_OK)

    def _start(self, size_bytes, mode, kind, memory):
        ds = os.path.join(self.dir, "ds")
        self.mnt = os.path.join(self.dir, "mnt")
        run(self.binary, "create", ds)
        options = ",".join(f"{k}={v}" for k, v in memory.items())
        run(self.binary, "mount", ds, self.mnt, "-o", options)
        self.mounts.append(self.mnt)
        self.pid = self.status()["pid"]
        self.file = self.make_file(os.path.join(self.mnt, "disk"), size_bytes)

    def status(self):
        return json.loads(run(self.binary, "status", self.mnt, "--json"))

    def stats(self):
        return json.loads(run(self.binary, "stats", self.mnt, "--json"))

    def pids(self):
        return [self.pid] if self.pid else []

    def settle(self):
        super().settle()
        wait_for("weir: commit of what is dirty",
                 lambda: self.status().get("dirty_bytes", 0) == 0, STOP_LIMIT_S)

    def stop(self):
        if self.mounts and is_mounted(self.mnt):
            run(self.binary, "umount", self.mnt)
        if self.pid:
            wait_for("weir: end of the daemon", lambda: not os.path.exists(f"/proc/{self.pid}"),
                     STOP_LIMIT_S)
        self.pid = 0
        super().stop()


class QemuStorageDaemon(Subject):
    needs = ("qemu-storage-daemon", "qemu-img")
    fmt = ""

    def _start(self, size_bytes, mode, kind, memory):
        disk = os.path.join(self.dir, "disk." + self.fmt)
        options = ["-o", "preallocation=metadata"] if self.fmt == "qcow2" else []
        run("qemu-img", "create", "-q", "-f", self.fmt, *options, disk, str(size_bytes))
        self.file = self.make_file(os.path.join(self.dir, "mnt", "disk"), 0)
        direct = mode == "direct"
        node = {"driver": self.fmt, "node-name": "disk", "file": {
            "driver": "file", "filename": disk, "aio": "io_uring",
            "cache": {"direct": direct, "no-flush": False}}}
        if self.fmt == "qcow2":
            node["l2-cache-size"] = 64 << 20  # covers the whole disk
        export = {"type": "fuse", "id": "export", "node-name": "disk", "mountpoint": self.file,
                  "writable": True, "growable": False}
        p = self.spawn("qemu-storage-daemon", "--blockdev", json.dumps(node),
                       "--export", json.dumps(export))
        self.await_mount(self.file, p)


class QsdRaw(QemuStorageDaemon):
    name = "qsd-raw"
    fmt = "raw"


class QsdQcow2(QemuStorageDaemon):
    name = "qsd-qcow2"
    fmt = "qcow2"


class Nbdkit(Subject):
    """nbdkit's file plugin knows no O_DIRECT: its backing is always buffered."""

    name = "nbdkit"
    needs = ("nbdkit", "nbdfuse")

    def _start(self, size_bytes, mode, kind, memory):
        disk = self.make_file(os.path.join(self.dir, "disk"), size_bytes)
        sock = os.path.join(self.dir, "sock")
        server = self.spawn("nbdkit", "-f", "-U", sock, "-t", "16", "file", disk)
        wait_for("nbdkit: its socket", lambda: os.path.exists(sock), START_LIMIT_S, server)
        self.file = self.make_file(os.path.join(self.dir, "mnt", "disk"), 0)
        p = self.spawn("nbdfuse", "-C", "2", self.file, "nbd+unix:///?socket=" + sock)
        self.await_mount(self.file, p)


def all_subjects(work, tools, weir_binary):
    return [Weir(work, tools, weir_binary), Passthrough(work, tools), Raw(work, tools),
            QsdRaw(work, tools), QsdQcow2(work, tools), Nbdkit(work, tools)]
