"""Where does the time of a start go?

Our container by the clock inside it (steps.py), a virtual machine by the marks that it passes (its instance's
``marks()``), and all others as one piece, since nobody looks into them. All on one time axis that begins with
the order to start. Series "step": how long it took, with the labels ``step`` (its name), ``begin`` (seconds
since the order), ``order``, ``who`` (which process) and ``chapter``; "total": until its first word was read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from mycontainer.bench import facts, scratch, steps
from mycontainer.bench.measure import Progress, Settings, interleaved, prepared, silent
from mycontainer.bench.ours import CommandLine
from mycontainer.bench.run import Run, Sample
from mycontainer.bench.steps import Step
from mycontainer.bench.subject import Instance, Subject, hello

ROUNDS, QUICK_ROUNDS = 20, 5
FIRMWARE, WHOLE = "QEMU and firmware", "from the order to its first word"
# What a machine does from one mark on; a mark that is not here goes by its own name.
PHASES = {"kernel": "the kernel boots", "init": "init: modules, mounts", "network": "the network",
          "disk": "systemd and its services", "service": "the program"}


def measure(subjects: Sequence[Subject], settings: Settings, progress: Progress = silent) -> Run:
    """Start each of them some times, and see what it does when."""
    run = Run("anatomy", settings=dict(settings._asdict()), machine=facts.machine())
    settings = settings._replace(rounds=min(settings.rounds, QUICK_ROUNDS if settings.quick else ROUNDS))
    with prepared(subjects, run, progress) as ready, scratch.directory() as place:

        def once(subject: Subject, number: int) -> list[Sample]:
            return one_start(subject, number, settings.deadline, place, run)

        interleaved(ready, settings, once, run, progress, "step")
    return run


def one_start(subject: Subject, number: int, deadline: float, place: Path, run: Run) -> list[Sample]:
    """The steps of one start."""
    log = place / "log"
    log.unlink(missing_ok=True)
    instance = with_clock(subject, log) if isinstance(subject, CommandLine) else subject.start(hello())
    try:
        took = instance.ready(deadline)
        found = seen(instance, log, took)
    finally:
        instance.stop()
    at = run.clock()
    samples = [Sample(subject.name, "total", took / 1e9, "s", number, at)]
    return samples + [Sample(subject.name, "step", step.end - step.begin, "s", number, at,
                             {"step": step.name, "begin": step.begin, "order": order, "who": step.who,
                              "chapter": step.chapter}) for order, step in enumerate(found)]


def with_clock(subject: CommandLine, log: Path) -> Instance:
    """`mycontainer run` as the subject starts it, and with a clock inside."""
    subject.launcher = steps.launcher(log)
    try:
        return subject.start(hello())
    finally:
        subject.launcher = ()


def seen(instance: Instance, log: Path, took: int) -> list[Step]:
    """What could be seen of a start that took so many nanoseconds."""
    if log.exists():
        return steps.read(log, instance.began, instance.began + took)
    marks = getattr(instance, "marks", None)
    return phases(marks(), took / 1e9) if marks else [Step(WHOLE, 0.0, took / 1e9)]


def phases(marks: Sequence[tuple[str, float]], total: float) -> list[Step]:
    """From marks (a name, and when it was passed) to what happened between them."""
    begins = [(FIRMWARE, 0.0), *((PHASES.get(name, name), min(at, total)) for name, at in marks)]
    ends = [*(begin for _, begin in begins[1:]), total]
    return [Step(name, begin, end) for (name, begin), end in zip(begins, ends, strict=True) if end > begin]


# ---- what follows from the samples -------------------------------------------------------------------------


class Typical(NamedTuple):
    """A step as it was in the start whose total is the median, in seconds; and all samples of it."""

    name: str
    begin: float
    seconds: float
    chapter: int
    samples: tuple[tuple[float, float], ...]  # when it began and how long it took, a round each


def typical(run: Run, name: str) -> list[Typical]:
    """The steps of one subject in their order."""
    totals = sorted((one.value, one.round) for one in run.samples
                    if (one.subject, one.series) == (name, "total"))
    mine = [one for one in run.samples if (one.subject, one.series) == (name, "step")]
    if not totals:
        return []
    middle = totals[(len(totals) - 1) // 2][1]
    chosen = sorted((one for one in mine if one.round == middle), key=lambda one: int(one.labels["order"]))
    return [Typical(one.labels["step"], one.labels["begin"], one.value, one.labels["chapter"],
                    tuple((other.labels["begin"], other.value) for other in mine
                          if other.labels["step"] == one.labels["step"])) for one in chosen]
