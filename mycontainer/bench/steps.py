"""The clock inside `mycontainer run`: which of our functions ran from when to when, in which process.

The functions stay as they are. A program that is started by `command` replaces them, in its own memory and
before it does anything else, by ones that also write down the time, to a file that lies open in all the
processes that it forks. The clock is the machine's (CLOCK_MONOTONIC), so all of them read the same.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

# Function -> what it does, in a reader's words, and in which chapter it is built.
STEPS = {
    "mycontainer.engine.limits.Limits.__init__": ("make a cgroup", 3),
    "mycontainer.namespaces.create": ("new namespaces", 2),
    "mycontainer.namespaces.write_map": ("map the user ids", 2),
    "mycontainer.namespaces.become_root": ("become root inside", 2),
    "mycontainer.engine.cgroup_v1.CgroupV1.join": ("join the cgroup", 3),
    "mycontainer.cgroups.Cgroup.join": ("join the cgroup", 3),
    "mycontainer.container.settle": ("host name, loopback, session", 2),
    "mycontainer.chroot.mount_proc": ("mount /proc", 1),
    "mycontainer.chroot.mount_sys": ("mount /sys", 1),
    "mycontainer.chroot.make_dev": ("make /dev", 1),
    "mycontainer.images.unpack": ("unpack the image", 4),
    "mycontainer.chroot.bind": ("show a volume", 4),
    "mycontainer.chroot.pivot": ("pivot_root", 1),
    "mycontainer.container.execute": ("exec, until its first word", 6),
}
PYTHON, LOADING, BETWEEN = "Python starts", "load and read the command line", "forks and pipes between"
BEGUN, CALLED, LAST = "begun", "mycontainer.api.start", "mycontainer.container.execute"

PROGRAM = """
import sys
from mycontainer.bench import steps
steps.install(sys.argv.pop(1))
import runpy
runpy.run_module("mycontainer.cli.main", run_name="__main__")
"""


class Step(NamedTuple):
    """Seconds since the start, from when to when; ``who`` is the process, counted from 0 as they appear."""

    name: str
    begin: float
    end: float
    who: int = 0
    chapter: int = 0


def launcher(log: Path) -> tuple[str, ...]:
    """What is started instead of `mycontainer`: the same with a clock inside, that writes to ``log``."""
    return sys.executable, "-c", PROGRAM, str(log)


def install(log: str) -> None:
    """Replace the functions by ones that write down when they ran. In the program that is measured."""
    began = time.perf_counter_ns()
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def tell(name: str, begin: int, end: int) -> None:
        try:
            os.write(fd, json.dumps([name, begin, end, os.getpid()]).encode() + b"\n")
        except OSError:  # one of the processes has closed all that it does not need
            pass

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            begin = time.perf_counter_ns()
            if name in (CALLED, LAST):  # whoever reads us will not wait until they return
                tell(name, begin, begin)
            try:
                return function(*args, **kwargs)
            finally:
                tell(name, begin, time.perf_counter_ns())
        return wrapper

    tell(BEGUN, began, began)
    for path in (*STEPS, CALLED):
        holder, name = _find(path)
        setattr(holder, name, timed(path, getattr(holder, name)))


def _find(path: str) -> tuple[Any, str]:
    """The module or class that holds it, and its name there."""
    parts = path.split(".")
    for length in range(len(parts) - 1, 0, -1):
        try:
            holder: Any = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:-1]:
            holder = getattr(holder, part)
        return holder, parts[-1]
    raise AssertionError(path)


def read(log: Path, began: int, ready: int) -> list[Step]:
    """The steps of a start that was asked for at ``began`` (ns), and whose word came at ``ready``.

    What one function does within another counts as the outer one's. The time between two steps is a step
    too: somebody forks, or waits for another's word.
    """
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    people: dict[int, int] = {}
    found: list[Step] = []
    called = 0
    for name, begin, end, pid in sorted(rows, key=lambda row: (row[1], -row[2])):
        who = people.setdefault(pid, len(people))
        if name == BEGUN:
            found.append(Step(PYTHON, 0, (begin - began) / 1e9, who))
        elif name == CALLED:
            called = called or begin
        elif begin < ready and not (found and (begin - began) / 1e9 < found[-1].end):
            until = ready if name == LAST else min(end, ready)
            words, chapter = STEPS[name]
            found.append(Step(words, (begin - began) / 1e9, (until - began) / 1e9, who, chapter))
    return _filled(found, (called - began) / 1e9)


def _filled(steps: list[Step], called: float) -> list[Step]:
    """With what lies between them."""
    whole: list[Step] = []
    for step in steps:
        last = whole[-1].end if whole else 0.0
        if step.begin > last:
            middle = min(max(last, called), step.begin)
            if middle > last:
                whole.append(Step(LOADING, last, middle))
            if step.begin > middle:
                whole.append(Step(BETWEEN, middle, step.begin))
        whole.append(step)
    return whole
