"""In turns, in an order drawn by lot, after a warm-up, within the time: how samples are taken.

What is done in a turn is the question's (startup.py, ...); here is how often, in which order, and what
becomes of a subject that fails.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Sequence

from mycontainer.bench.run import Failure, Run, Sample
from mycontainer.bench.settings import FAULTS, Progress, Settings, one_line, silent
from mycontainer.bench.subject import MACHINE, Subject

PATIENCE = 3  # so many failures in a row, and a subject is not tried again
Once = Callable[[Subject, int], Iterable[Sample]]


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
        order.sort(key=lambda subject: subject.kind == MACHINE)
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
    return {subject: numbers[subject] for subject in costs}  # in an order that no clock has decided


def schedule(numbers: dict[Subject, int], lot: random.Random) -> list[tuple[int, Subject]]:
    """Who has a turn in which round: each subject's are spread over the whole time, the order is drawn."""
    most = max(numbers.values(), default=0)
    plan: list[tuple[int, Subject]] = []
    for number in range(most):
        due = [subject for subject, share in numbers.items()
               if (number + 1) * share // most > number * share // most]
        plan += [(number + 1, subject) for subject in lot.sample(due, len(due))]
    return plan
