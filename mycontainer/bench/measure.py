"""What every question does: prepare the subjects, take samples in turns, and clean up whatever happens."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mycontainer.bench import equal, scratch
from mycontainer.bench.run import Run
from mycontainer.bench.settings import FAULTS as FAULTS
from mycontainer.bench.settings import FULL as FULL
from mycontainer.bench.settings import QUICK as QUICK
from mycontainer.bench.settings import Progress as Progress
from mycontainer.bench.settings import Settings as Settings
from mycontainer.bench.settings import one_line as one_line
from mycontainer.bench.settings import silent as silent
from mycontainer.bench.subject import Subject
from mycontainer.bench.turns import Once as Once
from mycontainer.bench.turns import interleaved as interleaved

FIRST_START = 30.0  # seconds


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
