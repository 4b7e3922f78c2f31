"""The limits of one container, as `mycontainer run` has them: a cgroup of either version, made and removed.

A cgroup's directory does not vanish with whoever made it. So it is locked while they live (a lock ends with
its process, however that ends), and whoever comes next removes what is not locked. man 2 flock.

PID 1 is moved into its cgroup from outside, before exec. clone3(2) with CLONE_INTO_CGROUP would save the
wait for a grace period of the kernel (milliseconds on an idle machine), but asks for the rights of whoever
forks: the runner, who is nobody out here, gets EACCES.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress

from mycontainer import cgroups
from mycontainer.cgroups import Cgroup
from mycontainer.engine import cgroup_v1
from mycontainer.engine.cgroup_v1 import CgroupV1
from mycontainer.errors import ContainerError, explain

PREFIX = "run-"
PERIOD = 100_000  # µs, as Docker's


class Limits:
    """A cgroup with a container's limits.

    ``memory`` in bytes (there is no swap on top), ``cpus`` as a number of them, such as 0.5, ``processes``
    as their number. Raises ContainerError where this machine, or this user, cannot have them.
    """

    def __init__(self, name: str, memory: int | None = None, cpus: float | None = None,
                 processes: int | None = None) -> None:
        try:
            sweep()
            self.cgroup, self.lock = _make(PREFIX + name)
        except OSError as error:
            raise explain("cannot make a cgroup", error) from error
        try:
            if memory is not None:
                self.cgroup.limit_memory(memory)
            if cpus is not None:
                self.cgroup.limit_cpu(int(cpus * PERIOD), PERIOD)
            if processes is not None:
                self.cgroup.limit_processes(processes)
        except OSError as error:
            self.remove()
            raise explain("cannot set the container's limits", error) from error

    def volumes(self) -> list[tuple[str, str, bool]]:
        """What shows the limits to the container: version 2 has them in one place."""
        return [] if isinstance(self.cgroup, CgroupV1) else [(self.cgroup.path, cgroups.ROOT, True)]

    def remove(self) -> None:
        """Remove the cgroup, and who is left in it. If they take long to die, the next sweep does it."""
        with suppress(OSError):
            self.cgroup.remove()
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1


def _make(name: str) -> tuple[Cgroup, int]:
    """The new cgroup, and the descriptor that holds its lock."""
    for _ in range(10):
        with suppress(FileNotFoundError, FileExistsError):  # a sweep beside us, that saw it unlocked
            group: Cgroup = cgroup_v1.create(name) if cgroup_v1.in_use() else cgroups.create(name)
            lock = _lock(group, fcntl.LOCK_EX)
            if all(map(os.path.isdir, _directories(group))):
                return group, lock
            os.close(lock)
    raise ContainerError("cannot make a cgroup", "somebody removes it each time")


def sweep() -> None:
    """Remove the cgroups of containers whose caller died without doing it."""
    for group in _found():
        with suppress(OSError):  # its owner lives; or another sweep was here first
            lock = _lock(group, fcntl.LOCK_EX | fcntl.LOCK_NB)
            try:
                group.remove()
            finally:
                os.close(lock)


def _found() -> list[Cgroup]:
    """All cgroups of this name that there are, whoever made them."""
    if cgroup_v1.in_use():
        homes = [f"{tree}/{cgroups.OURS}" for tree in cgroup_v1.hierarchies().values()]
        return [CgroupV1(f"/{cgroups.OURS}/{name}") for name in _names(homes)]
    home = cgroups.home().path
    return [Cgroup(f"{home}/{name}") for name in _names([home])]


def _names(homes: list[str]) -> set[str]:
    return {name for home in homes if os.path.isdir(home)
            for name in os.listdir(home) if name.startswith(PREFIX)}


def _directories(group: Cgroup) -> list[str]:
    return group.directories() if isinstance(group, CgroupV1) else [group.path]


def _lock(group: Cgroup, how: int) -> int:
    """Lock the first of its directories that is there."""
    there = [directory for directory in _directories(group) if os.path.isdir(directory)]
    if not there:
        raise FileNotFoundError(group.path)
    fd = os.open(there[0], os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, how)
    except OSError:
        os.close(fd)
        raise
    return fd
