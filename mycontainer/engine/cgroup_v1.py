"""Cgroups version 1, for machines that still boot with it: what version 2 says, in the old files.

Version 1 has a tree for each kind of resource, so one cgroup of ours is several directories of one name. The
core speaks version 2; `CgroupV1` is a `Cgroup` whose files are looked up in `FILES`. What has no old
equivalent (pressure, memory.high) is missing, as a file that a kernel does not know.

A path relative to the cgroup we are in would lie in somebody else's; ours is always ``/mycontainer/NAME``.
Kernel: admin-guide/cgroup-v1/.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from mycontainer import cgroups
from mycontainer.cgroups import OURS, Cgroup
from mycontainer.errors import ContainerError


class Row(NamedTuple):
    """A file of version 2 in terms of version 1. A translation takes the text of the other version."""

    controller: str                                     # in whose tree
    file: str                                           # the old name
    to_old: Callable[[str], str] = lambda text: text    # for writing
    to_new: Callable[[str], str] = lambda text: text    # for reading


def _unlimited(text: str) -> str:
    return text.replace("max", "-1")


def _limited(text: str) -> str:
    """"No limit" reads as the largest number of whole pages, or as -1."""
    return "max" if text == "-1" or int(text) >= 1 << 62 else text


def _shares(weight: str) -> str:
    """1024 shares are the usual weight of 100; the kernel takes 2 shares at least."""
    return str(max(2, int(weight) * 1024 // 100))


def _cpu_stat(text: str) -> str:
    """The throttled time is in ns there, and in µs here."""
    periods, throttled, time_lost = (line.split()[1] for line in text.splitlines()[:3])
    return f"nr_periods {periods}\nnr_throttled {throttled}\nthrottled_usec {int(time_lost) // 1000}"


FILES: dict[str, tuple[Row, ...]] = {
    "cgroup.procs": (Row("pids", "cgroup.procs"),),
    "memory.max": (Row("memory", "memory.limit_in_bytes", _unlimited, _limited),),
    "memory.current": (Row("memory", "memory.usage_in_bytes"),),
    "memory.peak": (Row("memory", "memory.max_usage_in_bytes"),),
    "memory.events": (Row("memory", "memory.oom_control"),),
    "cpu.max": (
        Row("cpu", "cpu.cfs_period_us", lambda text: text.split()[1]),
        Row("cpu", "cpu.cfs_quota_us", lambda text: _unlimited(text.split()[0]), _limited),
    ),
    "cpu.weight": (Row("cpu", "cpu.shares", _shares, lambda text: str(int(text) * 100 // 1024)),),
    "cpu.stat": (
        Row("cpu", "cpu.stat", to_new=_cpu_stat),
        Row("cpuacct", "cpuacct.usage", to_new=lambda text: f"usage_usec {int(text) // 1000}"),
    ),
    "cpuset.cpus": (Row("cpuset", "cpuset.cpus"),),
    "pids.max": (Row("pids", "pids.max"),),
    "pids.current": (Row("pids", "pids.current"),),
    "cgroup.freeze": (
        Row("freezer", "freezer.state", lambda text: "FROZEN" if text == "1" else "THAWED",
            lambda text: "0" if text == "THAWED" else "1"),
    ),
    "cgroup.events": (
        Row("freezer", "freezer.state", to_new=lambda text: f"frozen {int(text == 'FROZEN')}"),
    ),
}
MOUNTS = "/proc/self/mounts"
CONTROLLERS = sorted({row.controller for rows in FILES.values() for row in rows})


def hierarchies() -> dict[str, str]:
    """Where each controller's tree is mounted: ``{"memory": "/sys/fs/cgroup/memory", ...}``."""
    found: dict[str, str] = {}
    with open(MOUNTS) as rows:
        for row in rows:
            _, point, kind, options = row.split()[:4]
            if kind == "cgroup":
                found |= {name: point for name in options.split(",") if name in CONTROLLERS}
    return found


def in_use() -> bool:
    """Does this machine limit with version 1? A hybrid one mounts both, with the controllers in version 1."""
    return not os.path.exists(f"{cgroups.ROOT}/cgroup.controllers") and bool(hierarchies())


class CgroupV1(Cgroup):
    """A cgroup of version 1, to be used as one of version 2. ``path`` is the same in every tree."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.trees = hierarchies()

    def directory(self, controller: str) -> str:
        """Its directory in one of the trees. Raises FileNotFoundError if the kernel lacks that controller."""
        if controller not in self.trees:
            raise FileNotFoundError(errno.ENOENT, "no such controller in this kernel", controller)
        return self.trees[controller] + self.path

    def directories(self) -> list[str]:
        return sorted({self.directory(controller) for controller in self.trees})

    def _rows(self, file: str) -> tuple[Row, ...]:
        if file not in FILES:
            failure = FileNotFoundError(errno.ENOENT, "version 1 of cgroups has no such file", file)
            failure.add_note("Boot with systemd.unified_cgroup_hierarchy=1 on the kernel's command line.")
            raise failure
        return FILES[file]

    def has(self, file: str) -> bool:
        return file in FILES and all(
            row.controller in self.trees and os.path.exists(f"{self.directory(row.controller)}/{row.file}")
            for row in FILES[file])

    def read(self, file: str) -> str:
        rows = self._rows(file)
        texts = [row.to_new(Cgroup(self.directory(row.controller)).read(row.file)) for row in rows]
        return " ".join(reversed(texts)) if file == "cpu.max" else "\n".join(texts)

    def write(self, file: str, text: str) -> None:
        for row in self._rows(file):
            Cgroup(self.directory(row.controller)).write(row.file, row.to_old(text))

    def limit_memory(self, maximum: int | None, high: int | None = None, swap: int | None = 0) -> None:
        """As `Cgroup.limit_memory`; ``high`` there is none of. The old limit on swap includes the memory."""
        if high is not None:
            self._rows("memory.high")
        memory = Cgroup(self.directory("memory"))
        together = "memory.memsw.limit_in_bytes"
        if memory.has(together):  # it must never be below the other, so it makes way first
            memory.write(together, "-1")
        self.write("memory.max", "max" if maximum is None else str(maximum))
        if memory.has(together) and maximum is not None and swap is not None:
            memory.write(together, str(maximum + swap))

    def join(self, pid: int = 0) -> None:
        """Into each tree, by ``tasks``: it moves a single thread, and at once; ``cgroup.procs`` waits for all
        the kernel's readers of the old place to be done (7 ms on an idle machine).
        """
        for directory in self.directories():
            Cgroup(directory).write("tasks", str(pid))

    def kill(self) -> None:
        """Nobody forks while frozen; a signal waits until the thaw."""
        frozen = self.has("cgroup.freeze")
        if frozen:
            self.freeze()
        for pid in filter(None, self.processes()):  # kill(0, ...) would mean ourselves
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if frozen:
            self.thaw()

    def make(self) -> None:
        """Make the directories. A cpuset starts without any CPU and memory: it gets all that are above it."""
        for directory in self.directories():
            os.makedirs(directory)
        if "cpuset" in self.trees:
            for above in (os.path.dirname(self.directory("cpuset")), self.directory("cpuset")):
                for file in ("cpuset.cpus", "cpuset.mems"):
                    if not Cgroup(above).read(file):
                        Cgroup(above).write(file, Cgroup(os.path.dirname(above)).read(file))

    def remove(self) -> None:
        """Kill who is left, then remove the directories. Gone already is fine."""
        if self.has("cgroup.procs"):
            self.kill()
        for directory in self.directories():
            cgroups.remove_directory(directory)


def create(name: str) -> CgroupV1:
    """Make ``/mycontainer/NAME`` in every tree, as `cgroups.create` does for version 2. Takes root."""
    if os.geteuid() != 0:
        raise ContainerError(
            "cannot make a cgroup", "this machine has version 1 of them, which belongs to root",
            "Be root; or boot with systemd.unified_cgroup_hierarchy=1 on the kernel's command line.")
    group = CgroupV1(f"/{OURS}/{name}")
    try:
        group.make()
    except OSError:
        group.remove()
        raise
    return group
