"""How long does a start take: until the first instruction of one's own program, and the first page served?

Series "byte": the program says a token and ends; the time is from the order to the moment at which the token
was read, one start after another. Series "byte-idle" is the same when nothing happened for a while before:
as a person meets it, with colder caches, and the kernel's waits are longer. Series "page": it serves a web
page, asked for until it comes; all share this machine's network for that, or lead a port to it. "aa-byte" and
so on are the plain process once more, under another name: what differs there differs by chance.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from mycontainer.bench import facts
from mycontainer.bench.measure import QUICK, Progress, Settings, interleaved, prepared, silent
from mycontainer.bench.run import Run, Sample
from mycontainer.bench.subject import Subject, Task, hello, page
from mycontainer.bench.twin import Twin

TASKS = {"byte": hello, "byte-idle": hello, "page": page}
IDLE = 0.1    # seconds
GRACE = 10.0  # seconds that the last start may take when the time of a quick run is up
# Two Debian machines, where there is little time: one for each series.
LEFT_OUT_IF_QUICK = {"byte": "vm-web", "page": "vm-debian"}


def measure(subjects: Sequence[Subject], settings: Settings, progress: Progress = silent) -> Run:
    """Start each of the subjects many times, and take the times."""
    run = Run("startup", settings=dict(settings._asdict()), machine=facts.machine())
    with prepared(subjects, run, progress) as ready:
        wanted = [series for series in TASKS if not (settings.quick and series == "byte-idle")]
        for place, series in enumerate(wanted):
            share = (settings.budget - run.clock()) / (len(wanted) - place)
            able = [subject for subject in ready if series.removesuffix("-idle") in subject.can
                    and not (settings.quick and subject.name == LEFT_OUT_IF_QUICK[series])]
            if not _series(able, series, settings._replace(budget=share), run, progress):
                break
    return run


def _series(subjects: Sequence[Subject], series: str, settings: Settings, run: Run,
            progress: Progress) -> bool:
    twins = [Twin(subject) for subject in subjects if subject.name == "process"]

    def once(subject: Subject, number: int) -> list[Sample]:
        time.sleep(IDLE if series.endswith("-idle") else 0)
        deadline = settings.deadline
        if settings.quick:  # it is promised to end within the minute
            deadline = min(deadline, max(5.0, QUICK.budget + GRACE - run.clock()))
        seconds = time_of_start(subject, TASKS[series](), deadline)
        name = f"aa-{series}" if isinstance(subject, Twin) else series
        return [Sample(subject.name, name, seconds, "s", number, run.clock())]

    return interleaved([*subjects, *twins], settings, once, run, progress, series)


def time_of_start(subject: Subject, task: Task, deadline: float) -> float:
    """Seconds from the order to the token. Raises NotReady; the instance has ended then, too."""
    instance = subject.start(task)
    try:
        return instance.ready(deadline) / 1e9
    finally:
        instance.stop()


