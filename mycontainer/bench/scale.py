"""Does a start get slower when many run already, or when several start at once?

Series "running": the time of a start with so many sleeping instances beside it (label ``running``). Series
"starters": that of each start when so many processes start one at the same moment (label ``starters``): each
is a process of its own, so that none waits for another's lock.
"""

from __future__ import annotations

import json
import os
import select
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from mycontainer.bench import facts, scratch
from mycontainer.bench.crowd import Crowd, NoRoom
from mycontainer.bench.measure import (
    FAULTS,
    Progress,
    Settings,
    interleaved,
    one_line,
    prepared,
    silent,
    uninterrupted,
)
from mycontainer.bench.run import Failure, Run, Sample
from mycontainer.bench.startup import time_of_start
from mycontainer.bench.subject import MACHINE, NotReady, Subject, hello, sleeper
from mycontainer.bench.twin import Twin

RUNNING = (0, 1, 10, 100, 500)
QUICK_RUNNING = (0, 1, 10)
STARTERS = (1, 2, 4, 8)
QUICK_STARTERS = (1, 4)
MACHINES = 4     # so many machines are the most that run, or start, at once
LEAST = 1.0      # seconds that each subject gets
EACH = 10        # starts measured at each number that runs
QUICK_EACH = 4


def measure(subjects: Sequence[Subject], settings: Settings, progress: Progress = silent) -> Run:
    """First with more and more of them running, then with several starters."""
    run = Run("scale", settings=dict(settings._asdict()), machine=facts.machine())
    with prepared(subjects, run, progress) as ready, scratch.directory() as place:
        try:
            began = time.monotonic()
            for number, subject in enumerate(ready):  # what the quick ones leave of their time, others get
                spent = time.monotonic() - began
                progress(spent, settings.budget, f"{subject.name} beside others")
                share = (settings.budget / 2 - spent) / (len(ready) - number)
                beside_others(subject, settings, max(share, LEAST), run)
        except KeyboardInterrupt:
            run.notes.append("interrupted")
            return run

        def once(subject: Subject, number: int) -> list[Sample]:
            return together(subject, number, settings, run, place)

        half = settings._replace(budget=settings.budget / 2, rounds=min(settings.rounds, EACH), warmup=1)
        twins = [Twin(subject) for subject in ready if subject.name == "process"]
        interleaved([*ready, *twins], half, once, run, progress, "starters")
    return run


def beside_others(subject: Subject, settings: Settings, seconds: float, run: Run) -> None:
    """Starts of one subject with more and more others of it beside, while there is time and room."""
    end = time.monotonic() + seconds
    each = QUICK_EACH if settings.quick else EACH
    with Crowd() as crowd:
        for running in steps(QUICK_RUNNING if settings.quick else RUNNING, subject):
            try:
                while len(crowd.instances) < running:
                    if time.monotonic() > end:
                        raise NoRoom(f"its time was up with {len(crowd.instances)} running")
                    crowd.add(subject, sleeper(), settings.deadline)
                for number in range(each):
                    took = time_of_start(subject, hello(), settings.deadline)
                    run.samples.append(Sample(subject.name, "running", took, "s", number, run.clock(),
                                              {"running": running}))
                    if time.monotonic() > end:
                        break
            except NoRoom as error:
                run.notes.append(f"{subject.name}: not with {running} running: {error}")
                break
            except FAULTS as error:
                run.failures.append(Failure(subject.name, "running", one_line(error), running))
                break
    run.notes += [f"{subject.name}: cannot stop: {fault}" for fault in crowd.faults]


def steps(numbers: Sequence[int], subject: Subject) -> list[int]:
    """The numbers that are tried; of machines only a few."""
    return [number for number in numbers if subject.kind != MACHINE or number <= MACHINES]


def together(subject: Subject, number: int, settings: Settings, run: Run, place: Path) -> list[Sample]:
    """The times of one start in each of several processes that begin at the same moment."""
    series = "aa-starters" if isinstance(subject, Twin) else "starters"
    found = []
    for starters in steps(QUICK_STARTERS if settings.quick else STARTERS, subject):
        with Crowd() as crowd:
            crowd.check()
        for seconds in at_once(subject, starters, settings.deadline, place):
            found.append(Sample(subject.name, series, seconds, "s", number, run.clock(),
                                {"starters": starters}))
    return found


def at_once(subject: Subject, starters: int, deadline: float, place: Path) -> list[float]:
    """Seconds that a start took in each of so many processes. Raises NotReady if one did not succeed."""
    gate, open_gate = os.pipe()
    news = []
    children = []
    try:
        for _ in range(starters):
            told, tell = os.pipe()
            child = os.fork()
            if child == 0:  # a starter
                os.close(open_gate)
                _starter(subject, gate, tell, deadline, place)
            os.close(tell)
            children.append(child)
            news.append(told)
        for told in news:
            _line(told, deadline)  # it stands at the gate
        os.close(open_gate)
        open_gate = -1
        answers = [json.loads(_line(told, 2 * deadline) or '{"error": "it ended without a word"}')
                   for told in news]
    finally:
        with uninterrupted():
            if open_gate >= 0:
                os.close(open_gate)
            _bring_home(children)
            for fd in (gate, *news):
                os.close(fd)
    if wrong := [answer["error"] for answer in answers if "error" in answer]:
        raise NotReady(wrong[0])
    return [float(answer["seconds"]) for answer in answers]


def _starter(subject: Subject, gate: int, tell: int, deadline: float, place: Path) -> None:
    """In a process of its own: wait at the gate, start, say how long it took, and leave."""
    answer: dict[str, object] = {"error": "interrupted"}
    try:
        mine = subject.beside(place / str(os.getpid()))
        try:
            os.write(tell, b"here\n")
            os.read(gate, 1)  # until it is opened: closed by the other side
            answer = {"seconds": time_of_start(mine, hello(), deadline)}
        finally:
            if mine is not subject:
                mine.close()
    except BaseException as error:
        answer = {"error": one_line(error)}
    finally:
        with suppress(OSError):
            os.write(tell, json.dumps(answer).encode() + b"\n")
        os._exit(0)


def _line(fd: int, patience: float) -> str:
    """One line of it; what there is when it ends, or when ``patience`` seconds are over."""
    text, end = b"", time.monotonic() + patience
    while not text.endswith(b"\n") and (left := end - time.monotonic()) > 0:
        if not select.select([fd], [], [], left)[0] or not (data := os.read(fd, 4096)):
            break
        text += data
    return text.decode().strip()


def _bring_home(children: Sequence[int], patience: float = 10.0) -> None:
    """Wait for the starters, which stop what they started; who does not come is ended."""
    end = time.monotonic() + patience
    for child in children:
        while os.waitpid(child, os.WNOHANG)[0] == 0:
            if time.monotonic() > end:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                break
            time.sleep(0.002)
