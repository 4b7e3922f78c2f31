"""A start as a list: what is done, by whom, in which order.

    outside          makes what the kernel does not clean up by itself: a cgroup, a socket
    runner           in the new namespaces, not yet below them (spawn.py)
    inside           PID 1, which builds its root directory, and then becomes the command
    ── meeting ──    both wait here for the other: created, mapped, networked, mounted, go

One list serves for all: the start itself, `explain` (which touches nothing), the time of each step, and
clearing up. What an outside step makes outlives us, also when we are killed in the middle of it. So before it
acts it writes down what it is about to do, in the journal, and ``undo`` of that record is all there is for
taking it back: after an error, at the end, or by the next command after a SIGKILL. It may come at any
moment, and twice, so it must not mind that a thing is not there yet, or not any more. Inside steps need no
undo: their namespaces die with them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from mycontainer.engine.state import to_json
from mycontainer.errors import ContainerError, explain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Record = Mapping[str, Any]
    Undo = Mapping[str, Callable[[Record], object]]

OUTSIDE, RUNNER, INSIDE, MEETING = "outside", "runner", "inside", "meeting"
CREATED, MAPPED, NETWORKED, MOUNTED, GO = "created", "mapped", "networked", "mounted", "go"
WHAT_MEETS = {
    CREATED: "the namespaces are there, and nobody in them is anybody yet",
    MAPPED: "root inside is somebody outside: PID 1 can be born",
    NETWORKED: "PID 1 is in its cgroup, and its wires are plugged in: it may use both",
    MOUNTED: "all is mounted, and the old root still there: the moment for hooks",
    GO: "all is ready but the command: `start` says go",
}


class Step(NamedTuple):
    """One thing to do: ``act`` with ``arguments``, and nothing else; so that what `describe` shows is what
    `execute` does. ``record`` is what undo would need to know; a callable is asked just before. What
    `spawn.spawn` does by itself, with the same arguments, is ``spawned``.
    """

    name: str
    chapter: int
    where: str
    act: Callable[..., object]
    arguments: tuple[object, ...] = ()
    record: Callable[[], Record] | None = None
    spawned: bool = False

    def describe(self) -> str:
        """The call, as one would write it in Python."""
        shown = ", ".join(f'"{each}"' if isinstance(each, str) else repr(each) for each in self.arguments)
        return f"{getattr(self.act, '__name__', 'call')}({shown})"

    def execute(self) -> None:
        """Do it. Raises ContainerError that says at which step."""
        try:
            self.act(*self.arguments)
        except OSError as error:
            raise explain(f"cannot {self.name}", error) from error


def meeting(name: str, chapter: int = 7) -> Step:
    """A point at which outside and inside wait for each other."""
    return Step(name, chapter, MEETING, lambda: None)


class Plan:
    """The steps of a start in their order. ``times`` has for each that was done, by name, when it began and
    how long it took, both in seconds on the monotonic clock.
    """

    def __init__(self, steps: Iterable[Step], journal: Journal | None = None) -> None:
        self.steps, self.journal = tuple(steps), journal
        self.times: dict[str, list[float]] = {}

    def between(self, after: str, before: str, where: str) -> Iterable[Step]:
        """The steps of one side between two meetings; an empty name is the beginning, or the end."""
        here = not after
        for step in self.steps:
            if step.where == MEETING:
                here = step.name == after or (here and step.name != before)
            elif here and step.where == where and not step.spawned:
                yield step

    def arguments(self, name: str) -> tuple[Any, ...]:
        """The arguments of a step by its name; none if there is no such step."""
        return next((step.arguments for step in self.steps if step.name == name), ())

    def run(self, after: str, before: str, where: str) -> None:
        """Do the steps of one side between two meetings."""
        for step in self.between(after, before, where):
            if step.record and self.journal:
                self.journal.intend(step.name, step.record())
            begin = time.monotonic()
            step.execute()
            self.times[step.name] = [begin, time.monotonic() - begin]

    def times_as_text(self) -> str:
        """`times` for a pipe: made without loading anything, for whoever has changed its root already."""
        return "".join(f"{name}\t{begin}\t{took}\n" for name, (begin, took) in self.times.items())

    def explain(self) -> str:
        """What would be done, a line for each step; nothing is touched."""
        width = max(len(step.name) for step in self.steps)
        rows = []
        for step in self.steps:
            if step.where == MEETING:
                rows.append(f"── {step.name} ── {WHAT_MEETS[step.name]}")
            else:
                rows.append(f"{step.where:8}{step.chapter:2}  {step.name:{width}}  {step.describe()}")
        return "\n".join(rows)


class Journal:
    """The file of intents: a line of JSON for each, written in one piece before its step acts."""

    def __init__(self, path: str) -> None:
        self.path = path

    def intend(self, step: str, record: Record) -> None:
        """Write down what a step is about to do."""
        line = to_json({"step": step, **record}) + "\n"
        fd = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, line.encode())
        finally:
            os.close(fd)

    def records(self) -> Sequence[Record]:
        """What was written down, the oldest first. A line that is cut off was never acted upon."""
        import json  # a start only writes

        try:
            with open(self.path, "rb") as file:
                lines = file.read().split(b"\n")[:-1]
        except OSError:
            return []
        found = []
        for line in lines:
            with suppress(ValueError):
                record = json.loads(line)
                if isinstance(record, dict):
                    found.append(record)
        return found

    def undo(self, by: Undo) -> list[ContainerError]:
        """Take everything back, the youngest first; returns what failed, which the next sweep tries again."""
        failures = []
        for record in reversed(self.records()):
            try:
                by[record["step"]](record)
            except ContainerError as error:
                failures.append(error)
            except (OSError, KeyError, TypeError) as error:
                failures.append(explain(f"cannot undo {record.get('step')}", error))
        return failures
