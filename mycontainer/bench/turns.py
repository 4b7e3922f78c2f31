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

PATIENCE = 3   # so many failures in a row, and a subject is not tried again
LATEST = 1.15  # of the time that one has, and rounds that were planned are left out
INTERRUPTED = "interrupted"
Turn = tuple[int, Subject]  # the number of the round, and whose turn it is
Once = Callable[[Subject, int], Iterable[Sample]]


def interleaved(subjects: Sequence[Subject], settings: Settings, once: Once, run: Run,
                progress: Progress = silent, series: str = "") -> bool:
    """Call ``once(subject, round)`` for all subjects in turns; its samples go to ``run``.

    The first rounds warm up and are dropped; from what they cost follows how many more each subject gets
    within ``settings.budget`` seconds. Each round is in an order of its own, drawn by lot. A failure is noted
    and not timed, and the others go on. Returns False after Ctrl-C, which keeps what there is.

    A virtual machine may cost a thousand times as much as all others together. They have half of the time,
    and one start of each machine comes in the midst of their rounds; if there is no time for another, that
    one is kept, and it is said that nothing was warm. Then the machines join the turns.
    """
    turns = _Turns(settings, once, run, progress, series)
    machines = [subject for subject in subjects if subject.kind == MACHINE]
    light = [subject for subject in subjects if subject.kind != MACHINE]
    try:
        turns.warm_up(light)
        plan = turns.plan(light, settings.budget / 2 if machines else settings.budget)
        middle = len(plan) // 2 if machines else len(plan)
        turns.take(plan[:middle])
        turns.try_once(machines, reserve=turns.cost(plan[middle:]))
        dear = turns.plan(machines, settings.budget - turns.cost(plan[middle:]))
        turns.take(merged(plan[middle:], dear))
    except KeyboardInterrupt:
        if INTERRUPTED not in run.notes:
            run.notes.append(INTERRUPTED)
        return False
    finally:
        turns.tell_about_the_cold()
    return True


class _Turns:
    def __init__(self, settings: Settings, once: Once, run: Run, progress: Progress, series: str) -> None:
        self.settings, self.once, self.run, self.progress, self.series = settings, once, run, progress, series
        self.lot = random.Random(settings.seed)
        self.began = time.monotonic()
        self.costs: dict[Subject, float] = {}          # seconds that one turn takes, stopping included
        self.first: dict[Subject, list[Sample]] = {}   # what the first turn brought
        self.faults: dict[Subject, int] = {}           # failures in a row
        self.cold: list[str] = []                      # those whose first turn had to be kept
        self.late: list[str] = []                      # those that were not even begun

    def spent(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self.began

    def cost(self, plan: Sequence[Turn]) -> float:
        """How long these turns are expected to take, in seconds."""
        return sum(self.costs[subject] for _, subject in plan)

    def warm_up(self, subjects: Sequence[Subject]) -> None:
        """The rounds that are dropped; after the first one, only of those that cost little."""
        for number in range(self.settings.warmup):
            for subject in self.lot.sample(subjects, len(subjects)):
                if number == 0 or (subject in self.first and self.costs[subject] * 50 < self.settings.budget):
                    self.try_out(subject, number)

    def try_once(self, machines: Sequence[Subject], reserve: float) -> None:
        """A first start of each, in this order, as long as there is time and ``reserve`` seconds stay."""
        dearest = 0.0
        for machine in machines:
            if self.spent() + dearest + reserve > self.settings.budget:
                self.late.append(machine.name)
                continue
            self.try_out(machine, 0)
            dearest = max(dearest, self.costs[machine])

    def try_out(self, subject: Subject, number: int) -> None:
        """A turn that does not count, and what it costs."""
        self.progress(self.spent(), self.settings.budget, f"{self.series} {subject.name}")
        began = time.monotonic()
        samples = self.turn(subject, number)
        took = time.monotonic() - began
        self.costs[subject] = min(took, self.costs.get(subject, took))
        if samples is not None:
            self.first.setdefault(subject, samples)

    def plan(self, subjects: Sequence[Subject], until: float) -> list[Turn]:
        """The turns of these subjects that fit into the time until ``until`` seconds after the beginning.

        For whom not even one does, the first turn is kept after all.
        """
        costs = {subject: self.costs[subject] for subject in subjects
                 if subject in self.costs and self.faults.get(subject, 0) < PATIENCE}
        numbers = allot(costs, self.settings.rounds, until - self.spent())
        for subject in [subject for subject, number in numbers.items() if number == 0]:
            del numbers[subject]
            if samples := self.first.get(subject):
                self.run.samples += samples
                self.cold.append(subject.name)
        return schedule(numbers, self.lot)

    def take(self, plan: Sequence[Turn]) -> None:
        """The turns that count, until the time is up: on a machine that others use, they may take longer."""
        left = self.cost(plan)
        for number, subject in plan:
            if self.spent() > LATEST * self.settings.budget:
                self.run.notes.append(f"{self.series}: ended when the time was up, in round {number}")
                break
            self.progress(self.spent(), self.spent() + left, f"{self.series} {subject.name}")
            left -= self.costs[subject]
            if self.faults.get(subject, 0) < PATIENCE:
                self.run.samples += self.turn(subject, number) or []

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

    def tell_about_the_cold(self) -> None:
        """One line each for those who had less than the others."""
        what = self.series or self.run.question
        if self.cold:
            self.run.notes.append(f"{what}: started once and not warmed up, for want of time: "
                                  f"{', '.join(self.cold)}")
        if self.late:
            self.run.notes.append(f"{what}: no time was left for {', '.join(self.late)}")


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


def schedule(numbers: dict[Subject, int], lot: random.Random) -> list[Turn]:
    """Who has a turn in which round: each subject's are spread over the whole time, the order is drawn."""
    most = max(numbers.values(), default=0)
    due: list[list[Subject]] = [[] for _ in range(most)]
    for subject, share in numbers.items():
        for turn in range(share):
            due[int((turn + 0.5) * most / share)].append(subject)  # a single one in the middle
    return [(number, subject) for number, round_ in enumerate(due, 1)
            for subject in lot.sample(round_, len(round_))]


def merged(plan: Sequence[Turn], dear: Sequence[Turn]) -> list[Turn]:
    """Both, the dear ones spread evenly among the others."""
    placed = [((place + 0.5) / len(turns), turn)
              for turns in (plan, dear) for place, turn in enumerate(turns)]
    return [turn for _, turn in sorted(placed, key=lambda one: one[0])]
