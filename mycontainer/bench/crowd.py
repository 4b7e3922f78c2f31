"""Many instances at once, without driving the machine into trouble, and all of them gone at the end.

`memory`, `density` and `scale` fill a machine with instances. Each start is asked first whether there is room
for it; what is started ends with the ``with`` block, also after an exception or Ctrl-C.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from types import TracebackType

from mycontainer.bench.measure import FAULTS, one_line, uninterrupted
from mycontainer.bench.observe import pss
from mycontainer.bench.subject import Instance, NotReady, Subject, Task

RESERVE = 2 << 30   # bytes of MemAvailable that stay free, whatever is asked for; less on a small machine
SPARE_FILES = 64    # descriptors


class NoRoom(Exception):
    """One more would take what the machine needs itself. The text says what."""


def meminfo() -> dict[str, int]:
    """/proc/meminfo in bytes."""
    with open("/proc/meminfo") as rows:
        return {row.partition(":")[0]: int(row.split()[1]) << 10 for row in rows}


def reserve() -> int:
    """What is never given away: 2 GiB, or a quarter of a small machine's memory."""
    return min(RESERVE, meminfo()["MemTotal"] // 4)


class Crowd:
    """Instances that run side by side. ``spare`` is in bytes of MemAvailable."""

    def __init__(self, spare: int | None = None, available: Callable[[], int] | None = None) -> None:
        self.spare = reserve() if spare is None else spare
        self.available = available or (lambda: meminfo()["MemAvailable"])
        self.instances: list[Instance] = []
        self.faults: list[str] = []  # of stopping

    def __enter__(self) -> Crowd:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < hard:  # each holds a few pipes; the programs get what they would get otherwise
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self.files = soft, hard
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:
        with uninterrupted():
            self.stop()
            resource.setrlimit(resource.RLIMIT_NOFILE, self.files)

    def check(self) -> None:
        """Raise NoRoom if the machine should not be asked for one more."""
        if (left := self.available()) < self.spare:
            raise NoRoom(f"memory: {left >> 20} MB available, {self.spare >> 20} MB stay free")
        if len(os.listdir("/proc/self/fd")) + SPARE_FILES > resource.getrlimit(resource.RLIMIT_NOFILE)[0]:
            raise NoRoom("this process may open no more files")

    def add(self, subject: Subject, task: Task, deadline: float) -> float:
        """Start one more and wait until it is seen to work; seconds from the order to that.

        Raises NoRoom before, NotReady (and the like) if it did not come up: then it is stopped again.
        """
        self.check()
        instance = subject.start(task)
        self.instances.append(instance)
        try:
            seconds = instance.ready(deadline) / 1e9
            instance.pids()  # now, in the order of their starts: some of them have to ask for it
            return seconds
        except BaseException:
            with uninterrupted():
                self.instances.remove(instance)
                self._stop(instance)
            raise

    def pss(self) -> int:
        """The memory of all their processes, monitors included; one that several share counts once."""
        return sum(pss(pid) for pid in set[int]().union(*(one.pids() for one in self.instances)))

    def kernel(self) -> int:
        """What their cgroups say the kernel holds for them; 0 where no cgroup tells."""
        return sum(one.memory().kernel for one in self.instances)

    def alive(self) -> bool:
        """Does each of them still have a process?"""
        return all(any(os.path.exists(f"/proc/{pid}") for pid in one.pids()) for one in self.instances)

    def stop(self) -> None:
        """End all, the youngest first; what cannot be stopped is noted in ``faults`` and does not keep us."""
        while self.instances:
            self._stop(self.instances.pop())

    def _stop(self, instance: Instance) -> None:
        try:
            instance.stop()
        except FAULTS as error:
            self.faults.append(one_line(error))


def settle(seconds: float) -> None:
    """A pause: what a start leaves to others (a closing pipe, a lazy free) is done by then."""
    time.sleep(seconds)


def insist(crowd: Crowd) -> None:
    """Raise NotReady when one of them has ended meanwhile: a dead instance costs nothing."""
    if not crowd.alive():
        raise NotReady("one of them ended while it was measured")
