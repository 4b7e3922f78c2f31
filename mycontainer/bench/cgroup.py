"""The benchmark's cgroup: it and all that it starts are below it, and it is gone afterwards.

Engines make theirs below it by an absolute path. Some know only relative ones, to where process 1 is (LXC)
or where they are themselves (systemd-nspawn): so those are in it, too, and nothing is made in anybody else's.
Its directories are locked while the benchmark lives; the next run removes those that are not. man 2 flock.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import signal
from collections.abc import Iterator
from contextlib import suppress

from mycontainer import cgroups
from mycontainer.cgroups import Cgroup
from mycontainer.engine import cgroup_v1

PREFIX = "bench-"
MARK = "MYCONTAINER_BENCH_CGROUP"  # in the environment of all that is in it: its path
WORLD = "world"                    # below it: the benchmark itself


def trees() -> list[str]:
    """Where the trees of cgroups are mounted: one for version 2, one for each controller of version 1, and on
    a machine that has both (a hybrid one) engines make directories in both."""
    if not cgroup_v1.in_use():
        return [cgroups.ROOT]
    with open("/proc/self/mounts") as rows:
        return sorted({row.split()[1] for row in rows if row.split()[2] in ("cgroup", "cgroup2")})


class Parent:
    """A cgroup in all trees; ``path`` is what engines are told. Raises OSError where we may not."""

    def __init__(self) -> None:
        sweep()
        for attempt in range(5):
            self.path = f"/{cgroups.OURS}/{PREFIX}{secrets.token_hex(4)}"
            self.locks: list[int] = []
            try:
                for tree in trees():
                    self.locks.append(_made(tree + self.path))
                return
            except (FileNotFoundError, BlockingIOError):  # a sweep beside us saw one unlocked for a moment
                self.remove()
                if attempt == 4:
                    raise
            except OSError:
                self.remove()
                raise

    def directories(self) -> list[str]:
        return [tree + self.path for tree in trees()]

    def take(self, pid: int) -> None:
        """Put a process, whose children will follow, into a cgroup below it."""
        for directory in self.directories():
            _make(f"{directory}/{WORLD}")
            Cgroup(f"{directory}/{WORLD}").join(pid)

    def remove(self) -> None:
        """Kill who is left in it, and remove it with all that is below. Twice is fine."""
        for directory in self.directories():
            with suppress(OSError):
                _remove(directory)
        for lock in self.locks:
            os.close(lock)
        self.locks = []


def given() -> str | None:
    """The path of the cgroup below which others are made, the same in every tree; None if we have none."""
    return os.environ.get(MARK)


def processes(path: str) -> set[int]:
    """All processes in the cgroup of this path and below it."""
    found: set[int] = set()
    with suppress(OSError):
        for level in _levels(trees()[0] + path):
            found |= {int(pid) for pid in _read(f"{level}/cgroup.procs").split()}
    return found - {0}


def sweep() -> None:
    """Remove those whose owner was killed."""
    for tree in trees():
        home = f"{tree}/{cgroups.OURS}"
        for name in os.listdir(home) if os.path.isdir(home) else []:
            if name.startswith(PREFIX):
                with suppress(OSError):  # its owner lives, or another sweep was here first
                    lock = _lock(f"{home}/{name}")
                    try:
                        _remove(f"{home}/{name}")
                    finally:
                        os.close(lock)


def _made(directory: str) -> int:
    """Make it and lock it. Raises OSError if we may not."""
    _make(directory)
    return _lock(directory)


def _make(directory: str) -> None:
    """Make it. A cpuset starts without any CPU and memory: it gets what is above it."""
    os.makedirs(directory)
    for file in ("cpuset.cpus", "cpuset.mems"):
        for level in (os.path.dirname(directory), directory):
            if os.path.exists(f"{level}/{file}") and not _read(f"{level}/{file}"):
                with open(f"{level}/{file}", "w") as target:
                    target.write(_read(f"{os.path.dirname(level)}/{file}"))


def _read(path: str) -> str:
    with open(path) as file:
        return file.read().strip()


def _lock(directory: str) -> int:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd


def _remove(directory: str) -> None:
    """Kill who is in it and below, and remove it; gone already is fine."""
    for level in list(_levels(directory)):
        for pid in _read(f"{level}/cgroup.procs").split():
            if pid != "0":  # a process that our PID namespace does not show
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
        cgroups.remove_directory(level)


def _levels(directory: str) -> Iterator[str]:
    """It and all below it, the lowest first."""
    for level, _, _ in os.walk(directory, topdown=False):
        yield level
