"""How it is measured: in turns, in an order drawn by lot, after a warm-up, and cleaned up whatever happens.

Each question (startup.py, ...) says what is done once; this says how often, in which order, and what becomes
of a subject that fails.
"""

from __future__ import annotations

import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from mycontainer.bench import equal, scratch
from mycontainer.bench.run import Failure, Run, Sample
from mycontainer.bench.subject import NotReady, Subject
from mycontainer.errors import ContainerError

PATIENCE = 3  # so many failures in a row, and a subject is not tried again
FIRST_START = 30.0  # seconds
FAULTS = (NotReady, ContainerError, OSError, subprocess.SubprocessError)

Once = Callable[[Subject, int], Iterable[Sample]]
Progress = Callable[[float, float, str], None]  # seconds done, seconds in all (expected), what is going on


class Settings(NamedTuple):
    """How thoroughly."""

    rounds: int = 40          # at most so many samples of a subject
    warmup: int = 2           # rounds before, that are dropped
    deadline: float = 60.0    # seconds that one start may take
    budget: float = 180.0     # seconds that all of it may take: dear subjects get fewer rounds
    quick: bool = False
    seed: int = 0             # of the order


QUICK = Settings(rounds=20, warmup=1, deadline=40.0, budget=48.0, quick=True)
FULL = Settings(rounds=100, warmup=3, deadline=120.0, budget=1800.0)


def silent(done: float, total: float, what: str) -> None:
    """The progress of one who does not want to see any."""


@contextmanager
def prepared(subjects: Sequence[Subject], run: Run, progress: Progress = silent) -> Iterator[list[Subject]]:
    """Those of the subjects that can be measured here, prepared; `run` gets to know them, and who is missing.

    At the end all are closed, in any case, and their files removed.
    """
    with scratch.directory() as place:
        begun: list[Subject] = []
        try:
            ready = []
            for subject in subjects:
                progress(0, 0, f"preparing {subject.name}")
                if not (lack := _lack(subject)):
                    begun.append(subject)
                    lack = _prepare(subject, scratch.room(place, subject.name))
                if lack:
                    run.missing[subject.name] = lack
                    continue
                ready.append(subject)
                run.subjects[subject.name] = describe(subject)
            yield _compare(ready, run, progress)
        finally:
            with uninterrupted():
                for subject in reversed(begun):
                    progress(0, 0, f"closing {subject.name}")
                    try:
                        subject.close()
                    except FAULTS as error:
                        run.notes.append(f"{subject.name}: cannot clean up: {one_line(error)}")


def _compare(subjects: list[Subject], run: Run, progress: Progress) -> list[Subject]:
    """Start each of them once, and note in what they differ; those that do not start are missing."""
    found = {}
    for subject in equal.comparable(subjects):
        progress(0, 0, f"looking into {subject.name}")
        try:
            found[subject.name] = equal.examine(subject, FIRST_START)
        except FAULTS as error:
            run.missing[subject.name] = {"reason": f"does not start: {one_line(error)}", "cure": ""}
            del run.subjects[subject.name]
    for name, words in equal.compared(found).items():
        run.subjects[name]["differences"] += words
        run.subjects[name]["inside"] = found[name].facts()
    return [subject for subject in subjects if subject.name in run.subjects]


def _lack(subject: Subject) -> dict[str, str]:
    try:
        missing = subject.available()
    except FAULTS as error:
        return {"reason": one_line(error), "cure": ""}
    return dict(missing._asdict()) if missing else {}


def _prepare(subject: Subject, place: Path) -> dict[str, str]:
    try:
        subject.prepare(place)
    except FAULTS as error:
        return {"reason": f"cannot be prepared: {one_line(error)}", "cure": ""}
    return {}


def describe(subject: Subject) -> dict[str, Any]:
    """What a reader must know of a subject."""
    return {"label": subject.label, "kind": subject.kind, "temperature": subject.temperature,
            "network": subject.network, "differences": list(subject.differences),
            "versions": dict(subject.versions())}


def interleaved(subjects: Sequence[Subject], settings: Settings, once: Once, run: Run,
                progress: Progress = silent, series: str = "") -> bool:
    """Call ``once(subject, round)`` for all subjects in turns; its samples go to ``run``.

    The first rounds warm up and are dropped; from what they cost follows how many more each subject gets
    within the budget. Each round is in an order of its own, drawn by lot. A failure is noted and not timed,
    and the others go on. Returns False after Ctrl-C, which keeps what there is.
    """
    turns = _Turns(settings, once, run, progress, series)
    try:
        turns.warm_up(subjects)
        turns.measure()
    except KeyboardInterrupt:
        if "interrupted" not in run.notes:
            run.notes.append("interrupted")
        return False
    return True


class _Turns:
    def __init__(self, settings: Settings, once: Once, run: Run, progress: Progress, series: str) -> None:
        self.settings, self.once, self.run, self.progress, self.series = settings, once, run, progress, series
        self.lot = random.Random(settings.seed)
        self.began = time.monotonic()
        self.costs: dict[Subject, float] = {}          # seconds that one turn takes, stopping included
        self.first: dict[Subject, list[Sample]] = {}   # what the first turn brought
        self.faults: dict[Subject, int] = {}           # failures in a row

    def warm_up(self, subjects: Sequence[Subject]) -> None:
        """Find out what each costs. Machines come last: if the time is up, it is them that we do without."""
        order = self.lot.sample(subjects, len(subjects))
        order.sort(key=lambda subject: subject.kind == "machine")
        for subject in order:
            if self.spent() > self.settings.budget:
                self.run.notes.append(f"{subject.name}: no time was left for {self.series or 'it'}")
                continue
            self.progress(self.spent(), self.settings.budget, subject.name)
            began = time.monotonic()
            samples = self.turn(subject, 0)
            if samples is not None:
                self.first[subject] = samples
            self.costs[subject] = time.monotonic() - began
        for number in range(1, self.settings.warmup):
            for subject in order:
                if subject in self.first and self.costs[subject] * 50 < self.settings.budget:
                    began = time.monotonic()
                    self.turn(subject, number)
                    self.costs[subject] = min(self.costs[subject], time.monotonic() - began)

    def measure(self) -> None:
        """The rounds that count."""
        candidates = {subject: cost for subject, cost in self.costs.items()
                      if self.faults.get(subject, 0) < PATIENCE}
        numbers = allot(candidates, self.settings.rounds, self.settings.budget - self.spent())
        for subject in [subject for subject, number in numbers.items() if number == 0]:
            del numbers[subject]
            if self.first.get(subject):  # too dear for a second time
                self.run.samples += self.first[subject]
                self.run.notes.append(f"{subject.name}: a single {self.series or 'start'}, not warmed up")
        plan = schedule(numbers, self.lot)
        expected = sum(self.costs[subject] for _, subject in plan)
        done, base = 0.0, self.spent()
        for number, subject in plan:
            self.progress(base + done, base + expected, subject.name)
            done += self.costs[subject]
            if self.faults.get(subject, 0) < PATIENCE:
                self.run.samples += self.turn(subject, number) or []
        self.progress(base + expected, base + expected, "")

    def turn(self, subject: Subject, number: int) -> list[Sample] | None:
        """One turn of one subject: its samples, or None after a failure, which is noted."""
        try:
            samples = list(self.once(subject, number))
        except FAULTS as error:
            self.run.failures.append(Failure(subject.name, self.series, one_line(error), number))
            self.faults[subject] = self.faults.get(subject, 0) + 1
            if self.faults[subject] == PATIENCE:
                self.run.notes.append(f"{subject.name}: not tried again after {PATIENCE} failures in a row")
            return None
        self.faults[subject] = 0
        return samples

    def spent(self) -> float:
        return time.monotonic() - self.began


def allot(costs: dict[Subject, float], rounds: int, budget: float) -> dict[Subject, int]:
    """How many rounds each gets: as many as fit into equal shares of the time, at most ``rounds``.

    What the cheap ones do not need of their share goes to the dear ones.
    """
    numbers: dict[Subject, int] = {}
    left = max(budget, 0.0)
    for place, subject in enumerate(sorted(costs, key=lambda one: costs[one])):
        share = left / (len(costs) - place)
        numbers[subject] = min(rounds, int(share / max(costs[subject], 1e-6)))
        left -= numbers[subject] * costs[subject]
    return numbers


def schedule(numbers: dict[Subject, int], lot: random.Random) -> list[tuple[int, Subject]]:
    """Who has a turn in which round: each subject's are spread over the whole time, the order is drawn."""
    most = max(numbers.values(), default=0)
    plan: list[tuple[int, Subject]] = []
    for number in range(most):
        due = [subject for subject, share in numbers.items()
               if (number + 1) * share // most > number * share // most]
        plan += [(number + 1, subject) for subject in lot.sample(due, len(due))]
    return plan


def one_line(error: BaseException) -> str:
    """What went wrong, for a table."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:199] + "…"


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let the cleaning up come to its end: a second Ctrl-C waits until then."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    wanted = []
    before = {number: signal.signal(number, lambda number, frame: wanted.append(number))
              for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if wanted:
        raise KeyboardInterrupt
