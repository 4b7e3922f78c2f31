"""The cgroup of a bundle: where its configuration says, of either version, with all its limits.

A path that is absolute counts from the top of the tree. One that is relative, or empty, counts from
``/mycontainer`` and never from the cgroup that we are in, which is somebody else's.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

from mycontainer import cgroups
from mycontainer.cgroups import OURS, Cgroup
from mycontainer.engine import cgroup_v1
from mycontainer.engine.cgroup_v1 import CgroupV1
from mycontainer.engine.config_resources import DeviceRule, Resources
from mycontainer.errors import ContainerError, explain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# What every container may use: config-linux.md, "Default Devices"; and make any node, which is no access yet.
DEFAULT_DEVICES = tuple(
    DeviceRule(True, *rule) for rule in (
        ("c", None, None, "m"), ("b", None, None, "m"), ("c", 1, 3), ("c", 1, 5), ("c", 1, 7), ("c", 1, 8),
        ("c", 1, 9), ("c", 5, 0), ("c", 5, 2), ("c", 136, None)))
UNLIMITED_V1 = {"memory.soft_limit_in_bytes": "-1"}
PATIENCE = 2.0  # seconds


class BundleCgroup(CgroupV1):
    """A cgroup of version 1 in all trees that there are, not only in those with a limit of ours."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.trees = trees()

    def make(self) -> None:
        """Make what is missing. A cpuset starts without any CPU and memory, on each level."""
        for directory in self.directories():
            os.makedirs(directory, exist_ok=True)
        if "cpuset" not in self.trees:
            return
        top = self.trees["cpuset"]
        for depth in range(1, len(names := self.path.strip("/").split("/")) + 1):
            here = Cgroup("/".join([top, *names[:depth]]))
            for file in ("cpuset.cpus", "cpuset.mems"):
                if not here.read(file):
                    here.write(file, Cgroup(os.path.dirname(here.path)).read(file))


def trees() -> dict[str, str]:
    """Where each tree of version 1 is mounted, by each of its controllers (``cpu``, ``name=systemd``)."""
    found: dict[str, str] = {}
    with open("/proc/self/mountinfo") as rows:
        for row in rows:
            before, _, after = row.partition(" - ")
            kind, _, options = after.split()[:3]
            point = before.split()[4]
            if kind == "cgroup":
                found |= dict.fromkeys(controllers(options).split(","), point)
    return found


def controllers(options: str) -> str:
    """Of a mount's options those that say whose tree it is."""
    usual = ("rw", "ro", "xattr", "noprefix", "clone_children", "cpuset_v2_mode")
    return ",".join(word for word in options.split(",") if word not in usual and "release_agent" not in word)


def place(path: str, identity: str) -> str:
    """The path from the top of the tree: of what the configuration says, or by default of the id."""
    return os.path.normpath(path if path.startswith("/") else f"/{OURS}/{path or identity}")


def find(path: str) -> Cgroup:
    """The cgroup at a path from the top of the tree, which need not be there."""
    return BundleCgroup(path) if cgroup_v1.in_use() else Cgroup(cgroups.ROOT + path)


def directories(path: str) -> list[str]:
    """Where it is, or would be: one directory, or one in each tree."""
    group = find(path)
    return group.directories() if isinstance(group, CgroupV1) else [group.path]


def missing(path: str) -> Mapping[str, Any]:
    """What `make` is about to make, the uppermost first: the record of the step."""
    made = []
    for directory in directories(path):
        above = directory
        while not os.path.isdir(above):
            made.append(above)
            above = os.path.dirname(above)
    return {"path": path, "made": sorted(made, key=len)}


def make(path: str) -> None:
    """Make it, where it is missing; controllers are passed on from above. One in use is taken as it is."""
    group = find(path)
    if isinstance(group, CgroupV1):
        group.make()
        return
    above = Cgroup(cgroups.ROOT)
    for name in path.strip("/").split("/"):
        here = Cgroup(f"{above.path}/{name}")
        if not os.path.isdir(here.path):
            here = cgroups.create(name, above)
        above = here


def limit(path: str, resources: Resources) -> None:
    """Write all limits. Raises ContainerError that names the one which this machine does not have."""
    group = find(path)
    for name in resources.limited:
        try:
            _LIMITS[name](group, resources)
        except OSError as error:
            raise explain(f"cannot limit {name}", error) from error


def _limit_memory(group: Cgroup, resources: Resources) -> None:
    maximum = None if resources.memory in (None, -1) else resources.memory
    swap = resources.swap
    group.limit_memory(maximum, swap=None if swap in (None, -1) or maximum is None else swap - maximum)


def _limit_reservation(group: Cgroup, resources: Resources) -> None:
    _write(group, "memory", "memory.soft_limit_in_bytes", "memory.low", str(resources.reservation))


def _limit_cpu(group: Cgroup, resources: Resources) -> None:
    quota = resources.quota if (resources.quota or 0) > 0 else None
    group.limit_cpu(quota, resources.period or 100_000)


def _limit_shares(group: Cgroup, resources: Resources) -> None:
    """2 to 262144 shares are 1 to 10000 of weight."""
    shares = min(max(resources.shares or 0, 2), 262_144)
    _write(group, "cpu", "cpu.shares", "cpu.weight", str(shares), str(1 + (shares - 2) * 9999 // 262_142))


def _limit_unified(group: Cgroup, resources: Resources) -> None:
    for file, text in resources.unified:
        group.write(file, text)


def _write(group: Cgroup, controller: str, old: str, new: str, text: str, new_text: str = "") -> None:
    if isinstance(group, CgroupV1):
        Cgroup(group.directory(controller)).write(old, text)
    else:
        group.write(new, new_text or text)


_LIMITS = {
    "memory": _limit_memory, "swap": _limit_memory, "reservation": _limit_reservation,
    "swappiness": lambda group, it: _write(group, "memory", "memory.swappiness", "", str(it.swappiness)),
    "oom_killer": lambda group, it: _write(group, "memory", "memory.oom_control", "", "1"),
    "shares": _limit_shares, "quota": _limit_cpu, "period": _limit_cpu,
    "cpus": lambda group, it: _write(group, "cpuset", "cpuset.cpus", "cpuset.cpus", it.cpus),
    "mems": lambda group, it: _write(group, "cpuset", "cpuset.mems", "cpuset.mems", it.mems),
    "processes": lambda group, it: group.limit_processes(it.processes if it.processes >= 0 else None),
    "unified": _limit_unified,
}


def allow_devices(path: str, rules: Sequence[DeviceRule]) -> None:
    """Which devices may be used: version 1 has a controller for it. The last rule that fits counts."""
    group = find(path)
    if not isinstance(group, CgroupV1):
        return
    devices = Cgroup(group.directory("devices"))
    for rule in (*rules, *DEFAULT_DEVICES):
        devices.write("devices.allow" if rule.allow else "devices.deny", str(rule))


def join(path: str, pid: int) -> None:
    """Move a process in."""
    try:
        find(path).join(pid)
    except OSError as error:
        raise explain(f"cannot join the cgroup {path}", error) from error


def own_trees(path: str) -> list[tuple[str, str]]:
    """For each tree of version 1: its name, and the directory of this cgroup in it."""
    return [(os.path.basename(point), point + path) for point in sorted(set(trees().values()))]


def tree_controllers() -> list[tuple[str, str]]:
    """For each tree of version 1: its name, and what to ask the kernel for to mount it."""
    by_point: dict[str, list[str]] = {}
    for name, point in trees().items():
        by_point.setdefault(point, []).append(name)
    return [(os.path.basename(point), ",".join(names)) for point, names in by_point.items()]


def undo(record: Mapping[str, Any]) -> None:
    """Kill who is left in the cgroup, if it was ours to make, and remove what was made, the lowest first.

    Directories above it, of which others may have cgroups by now, are left to them.
    """
    leaves = [each for each in directories(record["path"]) if each in record["made"]]
    end = time.monotonic() + PATIENCE
    for leaf in leaves:
        if os.path.isdir(leaf):
            _kill(record["path"])
            break
    for directory in sorted(record["made"], key=len, reverse=True):
        if directory in leaves:
            _remove_tree(directory, end)
        else:
            with suppress(OSError):
                os.rmdir(directory)


def _remove_tree(directory: str, end: float) -> None:
    for below, _, _ in os.walk(directory, topdown=False):
        try:
            cgroups.remove_directory(below, max(0.1, end - time.monotonic()))
        except OSError as error:
            raise ContainerError(f"cannot remove the cgroup {below}", error.strerror or "") from error


def _kill(path: str) -> None:
    group = find(path)
    with suppress(OSError):
        group.kill()
