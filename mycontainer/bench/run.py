"""One run of a benchmark: raw samples, and all that one must know to judge them, in one JSON file.

No number is kept that can be computed from the samples.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FORMAT = 1


@dataclass(frozen=True)
class Sample:
    """One measured value: whose, of what (``series``: "byte", "page", "pss", ...), in which unit."""

    subject: str
    series: str
    value: float
    unit: str                # "s", "bytes", "count", "1/s"
    round: int
    at: float                # seconds since the run began: a slow hour shows
    labels: Mapping[str, Any] = field(default_factory=dict)  # {"running": 100}, {"step": "mount proc"}, ...


@dataclass(frozen=True)
class Failure:
    """A start that was not timed, and why."""

    subject: str
    series: str
    why: str
    round: int


@dataclass
class Run:
    """Everything about one run of one question."""

    question: str            # "startup", "memory", ...
    settings: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)    # facts.machine()
    subjects: dict[str, dict[str, Any]] = field(default_factory=dict)  # label kind temperature network ...
    missing: dict[str, dict[str, str]] = field(default_factory=dict)   # reason, cure
    samples: list[Sample] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)           # what a reader must know: "interrupted", ...
    began: float = field(default_factory=time.time)

    def clock(self) -> float:
        """Seconds since the run began, for `Sample.at`."""
        return round(time.time() - self.began, 3)

    def values(self, subject: str, series: str, **labels: Any) -> list[float]:
        """The samples of one subject and series (with these labels), in the order they were taken."""
        return [one.value for one in self.samples if one.subject == subject and one.series == series
                and all(one.labels.get(key) == value for key, value in labels.items())]

    def save(self, path: Path) -> None:
        """Write it; whole or not at all."""
        part = path.with_name(path.name + ".part")
        part.write_text(json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n")
        os.replace(part, path)

    @staticmethod
    def load(path: Path) -> Run:
        """Read it again. Raises ValueError for what is not one of ours."""
        text = json.loads(path.read_text())
        if not isinstance(text, dict) or text.pop("format", None) != FORMAT:
            raise ValueError(f"{path}: not a benchmark's file of format {FORMAT}")
        text["samples"] = [Sample(**one) for one in text["samples"]]
        text["failures"] = [Failure(**one) for one in text["failures"]]
        return Run(**text)
