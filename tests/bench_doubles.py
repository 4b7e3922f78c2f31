"""Subjects for the tests of the benchmark: they cost what they are told to, and die when they are told to."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from mycontainer.bench.subject import Command, Instance, Missing, NotReady, Subject, Task

SECOND = 10**9


class Double(Subject):
    """Starts nothing: it claims to be ready after ``cost`` seconds, which it really waits."""

    def __init__(self, name: str, cost: float = 0.0, fails: Callable[[int], object] = lambda start: None,
                 kind: str = "container", lack: Missing | None = None) -> None:
        self.name = self.label = name
        self.cost, self.fails, self.kind, self.lack = cost, fails, kind, lack
        self.diary: list[str] = []
        self.starts = 0

    def available(self) -> Missing | None:
        return self.lack

    def versions(self) -> Mapping[str, str]:
        return {self.name: "1"}

    def prepare(self, scratch: Path) -> None:
        self.diary.append("prepared")

    def close(self) -> None:
        self.diary.append("closed")

    def start(self, task: Task) -> Instance:
        self.starts += 1
        self.fails(self.starts)
        return Waiting(self)


class Waiting(Instance):
    def __init__(self, subject: Double) -> None:
        self.subject = subject
        self.began = time.perf_counter_ns()

    def ready(self, deadline: float) -> int:
        time.sleep(self.subject.cost)
        return int(self.subject.cost * SECOND)

    def pids(self) -> set[int]:
        return set()

    def stop(self) -> None:
        self.subject.diary.append("stopped")


def dies(start: int) -> None:
    """It never starts."""
    raise NotReady("it died")


class Script(Subject):
    """A Python program in place of the task: to see what a probe makes of a subject that does not do it."""

    name = label = "script"

    def __init__(self, text: str) -> None:
        self.text = text

    def available(self) -> Missing | None:
        return None

    def versions(self) -> Mapping[str, str]:
        return {}

    def start(self, task: Task) -> Command:
        return Command([sys.executable, "-I", "-S", "-c", self.text], task)
