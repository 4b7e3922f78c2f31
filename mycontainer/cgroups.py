"""Chapter 3: limits that hold.

A namespace decides what a process *sees*; a cgroup decides how much it *gets*. A cgroup is a directory in a
file system that the kernel makes up, and everything is done with files: mkdir makes one, a pid written to
``cgroup.procs`` moves a process in (its children are born there), ``memory.max`` limits all of them
together, ``memory.current`` tells what they have, rmdir removes it. A limit holds for everything below.

This is version 2, one tree for all resources. Kernel: admin-guide/cgroup-v2.rst; man 7 cgroups.
"""

from __future__ import annotations

import errno
import os
import time
from contextlib import suppress

from mycontainer.errors import ContainerError, likely_cause

ROOT = "/sys/fs/cgroup"
OURS = "mycontainer"           # root's cgroups are made below ROOT/OURS: never beside somebody else's
LEAF = "mycontainer-outside"   # where processes go that were in the way (`Cgroup.make_room`)
CONTROLLERS = ("cpu", "cpuset", "io", "memory", "pids")


class Cgroup:
    """One cgroup: the directory ``path``. What fails is an OSError that names the file and a likely cause."""

    def __init__(self, path: str) -> None:
        self.path = path

    def has(self, file: str) -> bool:
        """Is there such a file? It takes a controller passed on from above, and a kernel that knows it."""
        return os.path.exists(f"{self.path}/{file}")

    def read(self, file: str) -> str:
        """What one of its files says."""
        with open(f"{self.path}/{file}") as stream:
            return stream.read().strip()

    def write(self, file: str, text: str) -> None:
        """Write to one of its files, in one piece: the kernel takes it whole or refuses it."""
        try:
            fd = os.open(f"{self.path}/{file}", os.O_WRONLY)
            try:
                os.write(fd, text.encode())
            finally:
                os.close(fd)
        except OSError as error:
            error.filename = f"{self.path}/{file}"
            error.add_note(likely_cause("cgroup", error.errno or 0))
            raise

    def limit_memory(self, maximum: int | None, high: int | None = None, swap: int | None = 0) -> None:
        """Limit memory, in bytes; None: no limit, here as everywhere. At ``maximum`` the kernel first takes
        back what it can, such as cached files; then its OOM killer ends a process in here. From ``high`` on
        processes are slowed down. ``swap`` comes on top: with 0 nobody escapes to the disk.
        """
        self.write("memory.high", _or_max(high))
        if self.has("memory.swap.max"):  # a kernel without swap has no such file
            self.write("memory.swap.max", _or_max(swap))
        self.write("memory.max", _or_max(maximum))

    def limit_cpu(self, quota: int | None, period: int = 100_000) -> None:
        """Let all processes together run ``quota`` µs in each ``period`` of µs, then stop them until the next
        begins. Half a CPU is 50,000; more than the period is more than one CPU.
        """
        self.write("cpu.max", f"{_or_max(quota)} {period}")

    def weigh_cpu(self, weight: int) -> None:
        """The share of a CPU that others want as well, 1 to 10000, usually 100. On an idle CPU: no limit."""
        self.write("cpu.weight", str(weight))

    def pin_cpus(self, cpus: str) -> None:
        """Run on these CPUs only: ``"0"``, ``"0-2,5"``."""
        self.write("cpuset.cpus", cpus)

    def limit_processes(self, number: int | None) -> None:
        """At most so many processes and threads: the next fork(2) fails with EAGAIN."""
        self.write("pids.max", _or_max(number))

    def limit_io(self, device: str, **limits: int) -> None:
        """Limit a disk (``"8:0"``, its device number) to rbps, wbps (bytes) or riops, wiops a second."""
        self.write("io.max", " ".join([device, *(f"{name}={limit}" for name, limit in limits.items())]))

    def join(self, pid: int = 0) -> None:
        """Move a process in here, 0: ourselves. It is counted from now on; the memory it has stays behind.

        So it is done before exec: then everything that the command ever gets is counted.
        """
        self.write("cgroup.procs", str(pid))

    def processes(self) -> list[int]:
        """The pids in here. 0 is a process that our PID namespace does not show."""
        return [int(pid) for pid in self.read("cgroup.procs").split()]

    def freeze(self, patience: float = 2.0) -> None:
        """Stop all processes where they are; they cannot see it coming, nor catch it as they can SIGTSTP."""
        self.write("cgroup.freeze", "1")  # the kernel's answer comes later
        end = time.monotonic() + patience
        while "frozen 1" not in self.read("cgroup.events"):
            if time.monotonic() > end:
                raise TimeoutError(errno.ETIMEDOUT, "not all of them stopped", self.path)
            time.sleep(0.001)

    def thaw(self) -> None:
        """Let them go on."""
        self.write("cgroup.freeze", "0")

    def kill(self) -> None:
        """SIGKILL to all in here and below, at once: nobody can fork faster than we kill. Linux 5.14."""
        self.write("cgroup.kill", "1")

    def numbers(self, file: str) -> dict[str, int]:
        """A file of names and numbers: ``memory.events`` counts ``oom_kill``; ``cpu.stat`` ``nr_periods``,
        in how many the quota ran out (``nr_throttled``), and µs: ``usage_usec``, ``throttled_usec``.
        """
        return {name: int(number) for name, number in map(str.split, self.read(file).splitlines())}

    def memory(self) -> tuple[int, int]:
        """Bytes in use, cached files and the kernel's own included: now, and at most ever (Linux 5.19)."""
        return int(self.read("memory.current")), int(self.read("memory.peak"))

    def pressure(self, resource: str = "memory") -> dict[str, dict[str, float]]:
        """How long ``some`` or all (``full``) processes waited for "memory", "cpu" or "io": ``avg10`` is the
        per cent of the last 10 seconds, ``total`` µs in all. Kernel: accounting/psi.rst
        """
        rows = [line.replace("=", " ").split() for line in self.read(f"{resource}.pressure").splitlines()]
        return {kind: dict(zip(words[::2], map(float, words[1::2]), strict=True)) for kind, *words in rows}

    def enable(self) -> None:
        """Pass all controllers on to the cgroups below: only then they have the files."""
        passed_on = self.read("cgroup.subtree_control").split()
        there = self.read("cgroup.controllers").split()
        if missing := [f"+{name}" for name in there if name in CONTROLLERS and name not in passed_on]:
            if self.has("cgroup.type"):  # all have it but the topmost, for which there is no such rule
                self.make_room()
            self.write("cgroup.subtree_control", " ".join(missing))

    def make_room(self) -> None:
        """Move the processes in here into a cgroup below. "No internal processes" is the rule: a cgroup
        has processes, or passes controllers on, never both. Otherwise EBUSY.
        """
        below = Cgroup(f"{self.path}/{LEAF}")
        while pids := [pid for pid in self.processes() if pid]:  # again, as they may fork while we move them
            os.makedirs(below.path, exist_ok=True)
            for pid in pids:
                with suppress(ProcessLookupError):  # it has ended
                    below.join(pid)

    def remove(self) -> None:
        """Kill who is left, then remove the directory and those below it. Gone already is fine."""
        if self.has("cgroup.kill"):
            self.kill()
        for directory in [directory for directory, _, _ in os.walk(self.path, topdown=False)]:
            remove_directory(directory)


def create(name: str, parent: Cgroup | None = None) -> Cgroup:
    """Make a cgroup with all controllers, by default below our `home`."""
    (above := parent or home()).enable()
    os.mkdir(path := f"{above.path}/{name}")
    return Cgroup(path)


def home() -> Cgroup:
    """The cgroup below which we may make others. Root's is ROOT/OURS. Anybody else's is the one they are in,
    if it was *delegated*: by systemd (a scope with Delegate=yes), or by root with chown of the directory
    and of cgroup.procs, cgroup.subtree_control and cgroup.threads in it; but not of its limits.
    """
    if not os.path.exists(f"{ROOT}/cgroup.controllers"):
        raise ContainerError("cannot make a cgroup", f"there is no cgroup version 2 at {ROOT}",
                             "Boot with systemd.unified_cgroup_hierarchy=1 on the kernel's command line.")
    if os.geteuid() == 0:
        Cgroup(ROOT).enable()
        os.makedirs(f"{ROOT}/{OURS}", exist_ok=True)
        return Cgroup(f"{ROOT}/{OURS}")
    with open("/proc/self/cgroup") as rows:
        own = next(row[3:].strip() for row in rows if row.startswith("0::"))
    path = ROOT + own.removesuffix(f"/{LEAF}").rstrip("/")
    if not os.access(f"{path}/cgroup.subtree_control", os.W_OK):
        raise ContainerError("cannot make a cgroup", "this process is in one that is not ours", "Start it in "
                             "one that is: systemd-run --user --scope -p Delegate=yes COMMAND")
    return Cgroup(path)


def remove_directory(path: str, patience: float = 2.0) -> None:
    """rmdir(2) that waits: a process that was killed takes a moment to be gone, until then EBUSY."""
    end = time.monotonic() + patience  # seconds
    while os.path.exists(path):
        try:
            os.rmdir(path)
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > end:
                raise
            time.sleep(0.002)


def _or_max(limit: int | None) -> str:
    return "max" if limit is None else str(limit)
