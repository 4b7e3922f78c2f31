"""How many run at once, until a budget is hit?

One subject after the other fills the machine with sleeping programs, until one of these says stop:

    memory     so much of MemAvailable is gone, or no more than the reserve is left
    time       the next start takes too long (three in a row), or this subject's time is up
    cap        there are as many as asked for
    failed     the next one does not come up

What is noted is what was measured: the time of each start, and MemAvailable after it. Each subject has the
machine to itself, and is gone before the next begins.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from mycontainer.bench import facts
from mycontainer.bench.crowd import Crowd, NoRoom, meminfo, reserve, settle
from mycontainer.bench.measure import FAULTS, Progress, Settings, one_line, prepared, silent
from mycontainer.bench.run import Failure, Run, Sample
from mycontainer.bench.subject import MACHINE, Subject, sleeper

MEMORY, TIME, CAP, FAILED, INTERRUPTED = "memory", "time", "cap", "failed", "interrupted"
SLOW_IN_A_ROW = 3
NOTICEABLE = 32 << 20  # bytes: less memory than this comes and goes without us
ONE_START = 12.0  # seconds that each start may take, however short of time we are


class Budget(NamedTuple):
    """When to stop."""

    cap: int             # instances
    machines: int        # the same for virtual machines
    memory: int          # bytes of MemAvailable that a subject may take
    slow: float          # seconds: three starts in a row that take longer are too many
    seconds: float       # for one subject


def budget(settings: Settings, subjects: int) -> Budget:
    """What fits the settings: seconds for `--quick`, hundreds of containers else."""
    share = settings.budget / max(1, subjects)
    free = max(0, meminfo()["MemAvailable"] - reserve())
    if settings.quick:
        return Budget(20, 3, min(2 << 30, free), 5.0, share)
    return Budget(500, 100, min(8 << 30, free), 10.0, max(share, 120.0))


def measure(subjects: Sequence[Subject], settings: Settings, progress: Progress = silent,
            limits: Budget | None = None) -> Run:
    """Fill the machine with each subject in turn."""
    limits = limits or budget(settings, len(subjects))
    run = Run("density", settings={**settings._asdict(), "limits": limits._asdict(), "reserve": reserve()},
              machine=facts.machine())
    with prepared(subjects, run, progress) as ready:
        for place, subject in enumerate(ready):
            def tell(count: int, place: int = place, name: str = subject.name) -> None:
                progress(place * limits.seconds, len(ready) * limits.seconds, f"{name}: {count}")

            try:
                fill(subject, settings, limits, run, tell)
            except KeyboardInterrupt:
                run.notes.append(INTERRUPTED)
                break
    return run


def fill(subject: Subject, settings: Settings, limits: Budget, run: Run,
         tell: Callable[[int], object] = lambda count: None) -> None:
    """Start one after the other until a budget is hit; ``run`` gets the samples, the last of which says how
    many there were, and which budget it was. All are stopped at the end, whatever that is.
    """
    def note(series: str, value: float, unit: str, **labels: object) -> None:
        run.samples.append(Sample(subject.name, series, value, unit, 0, run.clock(), labels))

    began, slow, stopped = time.monotonic(), 0, INTERRUPTED
    cap = limits.machines if subject.kind == MACHINE else limits.cap
    with Crowd() as crowd:
        settle(0.1)
        before = crowd.available()
        note("available", before, "bytes", running=0)
        try:
            while True:
                count = len(crowd.instances)
                tell(count)
                hit = full(count, cap, before - crowd.available(), time.monotonic() - began, slow, limits)
                if hit:
                    stopped = hit
                    break
                try:
                    deadline = min(settings.deadline, max(limits.seconds, ONE_START))
                    seconds = crowd.add(subject, sleeper(), deadline)
                except NoRoom as error:
                    run.notes.append(f"{subject.name}: {error}")
                    stopped = MEMORY
                    break
                except FAULTS as error:
                    run.failures.append(Failure(subject.name, "start", one_line(error), count))
                    stopped = FAILED
                    break
                slow = slow + 1 if seconds > limits.slow else 0
                note("start", seconds, "s", running=count)
                note("available", crowd.available(), "bytes", running=count + 1)
            if not crowd.alive():
                run.notes.append(f"{subject.name}: not all of them were alive at the end")
        finally:
            note("count", len(crowd.instances), "count", stopped_by=stopped)
    run.notes += [f"{subject.name}: cannot stop: {fault}" for fault in crowd.faults]


def full(count: int, cap: int, taken: float, seconds: float, slow: int, limits: Budget) -> str:
    """Which budget is hit, or none."""
    if count >= cap:
        return CAP
    if taken >= limits.memory:
        return MEMORY
    if seconds >= limits.seconds or slow >= SLOW_IN_A_ROW:
        return TIME
    return ""


# ---- what follows from the samples -------------------------------------------------------------------------


def taken(run: Run, name: str) -> list[tuple[int, float]]:
    """How many ran, and how much of the machine's memory was gone by then, in bytes."""
    rows = sorted((one.labels["running"], one.value) for one in run.samples
                  if one.subject == name and one.series == "available")
    return [(count, rows[0][1] - value) for count, value in rows[1:]]


def would_fit(run: Run, name: str, memory: float) -> int:
    """How many would fit into ``memory`` bytes, by the slope of what was measured; 0: cannot be told,
    since too little was taken to be told from what others on this machine do meanwhile."""
    rows = taken(run, name)
    if len(rows) < 3 or rows[-1][1] < NOTICEABLE:
        return 0
    middle_x = sum(count for count, _ in rows) / len(rows)
    middle_y = sum(used for _, used in rows) / len(rows)
    slope = (sum((count - middle_x) * (used - middle_y) for count, used in rows)
             / sum((count - middle_x) ** 2 for count, _ in rows))
    return int(memory / slope) if slope > 0 else 0
