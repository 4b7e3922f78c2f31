"""Greedy programs to try limits on. None of them starts unless a limit is proved to hold for this process.

Call them in a process of their own that has joined the cgroup: ``lab.run(eat, group, 200 << 20)`` with a
function that first calls ``group.join()``. Each has an end of its own besides.
"""

from __future__ import annotations

import os
import resource
import signal
import time

from mycontainer import syscalls
from mycontainer.cgroups import Cgroup
from mycontainer.errors import ContainerError

MOST_MEMORY = 512 << 20  # bytes: with a higher limit a hog does not start
MOST_PROCESSES = 256


def prove(group: Cgroup, file: str, most: int) -> int:
    """The limit in ``file``, if it is at most ``most`` and we are under it. Raises ContainerError if not."""
    limit = group.read(file)
    if os.getpid() not in group.processes():
        raise ContainerError("a hog does not start", "this process is not in that cgroup",
                             "Call group.join() first, in the process that shall be limited.")
    if limit == "max" or int(limit) > most:
        raise ContainerError("a hog does not start", f"{file} is {limit}: more than you may be able to spare",
                             f"Set a limit of at most {most} first.")
    return int(limit)


def eat(group: Cgroup, size: int, step: int = 1 << 20, pause: float = 0.0, hold: float = 0.0) -> int:
    """Take ``size`` bytes, ``step`` at a time with ``pause`` seconds between, and touch each page: a page
    that nobody ever wrote to takes no memory. Give them back after ``hold`` seconds. Returns how much it
    got, if it gets that far.
    """
    limit = prove(group, "memory.max", MOST_MEMORY)
    most = min(size, 2 * limit) + _data() + (64 << 20)  # the second net, with room for the interpreter
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    eaten = []
    for _ in range(min(size, 2 * limit) // step):
        eaten.append(bytearray(step))
        for page in range(0, step, resource.getpagesize()):
            eaten[-1][page] = 1
        time.sleep(pause)
    time.sleep(hold)
    return len(eaten) * step


def _data() -> int:
    """How many bytes we have that a limit of data counts. man 5 proc_pid_status, VmData."""
    with open("/proc/self/status") as rows:
        return next(int(row.split()[1]) << 10 for row in rows if row.startswith("VmData:"))


def bomb(group: Cgroup, pause: float = 0.0) -> int:
    """Fork until it is refused, or four times as often as allowed; all children end with us. Returns how many
    children it got.
    """
    limit = prove(group, "pids.max", MOST_PROCESSES)
    children: list[int] = []
    try:
        while len(children) < 4 * limit:
            child = os.fork()
            if child == 0:
                syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
                signal.pause()
                os._exit(0)
            children.append(child)
            time.sleep(pause)
    except BlockingIOError:  # EAGAIN
        pass
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    return len(children)


def burn(seconds: float) -> tuple[float, list[float]]:
    """Keep a CPU busy for ``seconds`` of wall-clock time; it harms nobody. Returns the share of one CPU that
    we got, and the pauses of more than a millisecond, in seconds: the gaps of the comb.
    """
    begin = last = time.perf_counter()
    worked, gaps = time.process_time(), []
    while last - begin < seconds:
        now = time.perf_counter()
        if now - last > 0.001:
            gaps.append(now - last)
        last = now
    return (time.process_time() - worked) / (last - begin), gaps


def stretches(seconds: float, pause: float = 0.002) -> list[tuple[float, float]]:
    """Keep a CPU busy for ``seconds`` of wall-clock time. Returns when we ran, as (from, to) in seconds since
    the beginning. Where two stretches do not meet the clock on the wall went on for more than ``pause``
    without our CPU time: so it is the kernel that made us wait, and not a busy host of this machine, if it
    is a virtual one.
    """
    begin = start = last = time.perf_counter()
    worked = time.process_time()
    found = []
    while last - begin < seconds:
        now, work = time.perf_counter(), time.process_time()
        if now - last - (work - worked) > pause:
            found.append((start - begin, last - begin))
            start = now
        last, worked = now, work
    return [*found, (start - begin, last - begin)]


def requests(number: int, work: float) -> list[float]:
    """Answer so many requests, one after the other, each of which takes ``work`` seconds of a CPU. Returns
    how long each took by the clock on the wall, in seconds.
    """
    took = []
    for _ in range(number):
        begin, done = time.perf_counter(), time.process_time() + work
        while time.process_time() < done:
            pass
        took.append(time.perf_counter() - begin)
    return took


def hog(path: str, what: str) -> None:
    """Be a hog of one kind in the cgroup ``path`` for ten minutes: what the buttons of the gauge start."""
    group = Cgroup(path)
    group.join()
    {"eat": lambda: eat(group, 8 << 20, hold=600), "burn": lambda: burn(600),
     "sleep": lambda: time.sleep(600)}[what]()


if __name__ == "__main__":
    import sys

    hog(*sys.argv[1:])
