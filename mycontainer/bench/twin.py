"""The same subject under a second name: what an A/A run compares it with."""

from __future__ import annotations

from collections.abc import Mapping

from mycontainer.bench.subject import Instance, Missing, Subject, Task

AGAIN = "-again"


class Twin(Subject):
    """Another's double: it is prepared and closed by the other."""

    def __init__(self, other: Subject) -> None:
        self.other = other
        self.name, self.label = other.name + AGAIN, other.label + ", again"
        self.kind, self.temperature, self.network = other.kind, other.temperature, other.network
        self.differences, self.can = other.differences, other.can

    def available(self) -> Missing | None:
        return None

    def versions(self) -> Mapping[str, str]:
        return self.other.versions()

    def start(self, task: Task) -> Instance:
        return self.other.start(task)
