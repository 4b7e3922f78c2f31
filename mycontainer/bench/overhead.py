"""What does it cost to work inside instead of outside?

The same small shell program runs in each subject. It does counted work and says the time by its own clock
when it begins and when it ends; we note by ours when we read it. The two must agree: a guest whose clock goes
wrong would be fast on paper. Series, each with what one unit of its work is:

    cpu       a turn of a shell's counting loop: nothing of the kernel's
    syscall   a read(2) and a write(2) of one byte, /dev/zero to /dev/null: the way into the kernel and back
    create    a small file made and written in /tmp: the file system that /tmp is on
    write     4 KiB appended to a file in /tmp
    loopback  64 KiB from one process to another over the loopback device
    copyup    a file of the image changed for the first time: overlayfs copies all of it
    page      a request from out here to a web server inside: through a bridge or a relay, where there is one

What was done is counted afterwards, so that work which silently failed is no fast work. How much is asked for
is found out for each subject beforehand, so that slow machines need no minutes; a sample is the time of so
much work (label ``work``), by the clock that its label ``clock`` names.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from mycontainer.bench import facts
from mycontainer.bench.measure import Progress, Settings, interleaved, prepared, silent
from mycontainer.bench.observe import wait_for_page
from mycontainer.bench.run import Failure, Run, Sample
from mycontainer.bench.subject import MACHINE, Instance, NotReady, Subject, Task, free_port, hello, page
from mycontainer.bench.twin import Twin

INSIDE, OUTSIDE = "inside", "outside"  # whose clock
LOOP = "i=0;while [ $i -lt $n ];do %s;i=$((i+1));done"


class Work(NamedTuple):
    """A piece of counted work: shell commands that do it ``$n`` times in the directory ``$d``; $b is busybox.

    Short, and without quotes: for a virtual machine it must fit on a kernel's command line.
    """

    words: str
    script: str = ""
    check: str = "echo $n"  # afterwards: says how much was done, in units or in bytes
    size: int = 1           # of a unit, in what ``check`` counts
    before: str = ""        # not timed
    trial: int = 1          # how much is done first, to see how fast it is
    most: int = 1


LISTEN = ("$b nc -l -p $p -e $b wc -c& j=0;"  # it answers with the number of bytes that it got
          "until $b cat /proc/net/tcp*|$b grep -q :{port:04X}.0*:0000.0A||[ $((j+=1)) -gt 50 ];"
          "do $b usleep 20000;done;")
WORKS = {
    "cpu": Work("computing", LOOP % ":", "echo $i", trial=2000, most=10_000_000),
    "syscall": Work("system calls", "$b dd if=/dev/zero of=/dev/null bs=1 count=$n 2>$d/said",
                    "$b head -1 $d/said|$b cut -d+ -f1", trial=5000, most=10_000_000),
    "create": Work("making files", LOOP % "echo>$d/f$i", "$b ls $d|$b wc -l", trial=100, most=4000),
    "write": Work("writing a file", "$b dd if=/dev/zero of=$d/big bs=4096 count=$n 2>/dev/null",
                  "$b stat -c %s $d/big", 4096, trial=100, most=2500),
    "loopback": Work("sending over loopback", "$b dd if=/dev/zero bs=65536 count=$n 2>/dev/null|"
                     "$b nc 127.0.0.1 $p>$d/got||kill $!", "$b cat $d/got", 65536, LISTEN, 100, 100_000),
    "copyup": Work("a file's first change (copy-up)", "$b chmod 755 $f&&c=1", "echo $c",
                   before="c=0;f=$($b which $b);"),
}
PAGE = Work("asked for a page from outside", trial=20, most=1000)
EVERYTHING = {**WORKS, "page": PAGE}
BUSY = 0.4                    # seconds that each piece of work should take
GUESS = 10                    # so many times the trial is some hundredths of a second if nothing is emulated
AGREE = 0.05                  # seconds: by so much, and a tenth, may the two clocks differ


def program(amounts: Mapping[str, int], port: int, token: str) -> Task:
    """The shell program. It says the token, and for each work "b NAME TIME", "e NAME TIME", "c NAME COUNT".
    """
    parts = [f"b=busybox;p={port};d=${{TMPDIR:-/tmp}}/w$$;", "t(){ echo $* $(echo|$b ts %.s);};",
             f"echo {token};$b sleep .1;"]
    for name, work in WORKS.items():
        parts.append(f"n={amounts[name]};$b mkdir -p $d;{work.before.replace('{port:04X}', f'{port:04X}')}"
                     f"t b {name};{work.script};t e {name};echo c {name} $({work.check});$b rm -rf $d;")
    return Task(("busybox", "sh", "-c", "".join([*parts, "echo end;exec $b sleep 1000"])), token)


class Bench:
    """The work of one run: how much each subject is given."""

    def __init__(self, settings: Settings, run: Run) -> None:
        self.settings, self.run = settings, run
        self.amounts: dict[str, dict[str, int]] = {}

    def once(self, subject: Subject, number: int) -> list[Sample]:
        """All the work, once, in one instance; and the requests to another."""
        if subject.name not in self.amounts:
            trial = {name: work.trial for name, work in EVERYTHING.items()}
            self.amounts[subject.name] = (guessed(subject, trial) if self.settings.quick
                                          else self.scaled(trial, self.do(subject, trial)))
        amounts, found = self.amounts[subject.name], []
        for name, times in self.do(subject, amounts).items():
            if isinstance(times, str):
                self.run.failures.append(Failure(subject.name, name, times, number))
                continue
            series = f"aa-{name}" if isinstance(subject, Twin) else name
            found += [Sample(subject.name, series, seconds, "s", number, self.run.clock(),
                             {"clock": clock, "work": amounts[name]}) for clock, seconds in times.items()]
        return found

    def scaled(self, trial: Mapping[str, int], took: Mapping[str, dict[str, float] | str]) -> dict[str, int]:
        """So much of each that it takes a fraction of a second here."""
        amounts = {}
        for name, work in EVERYTHING.items():
            times = took.get(name, "")
            seconds = BUSY if isinstance(times, str) else max(min(times.values()), 1e-3)
            amounts[name] = max(1, min(work.most, int(trial[name] * BUSY / seconds)))
        return amounts

    def do(self, subject: Subject, amounts: Mapping[str, int]) -> dict[str, dict[str, float] | str]:
        """For each work the seconds by each clock, or what went wrong."""
        deadline = self.settings.deadline
        done: dict[str, dict[str, float] | str] = {}
        instance = subject.start(program(amounts, free_port(), hello().token))
        try:
            instance.ready(deadline)
            done |= judged(said(instance, deadline), amounts)
        finally:
            instance.stop()
        if "page" in subject.can:
            task = page()
            instance = subject.start(task)
            try:
                instance.ready(deadline)
                began = time.perf_counter_ns()
                for _ in range(amounts["page"]):
                    wait_for_page(task, time.perf_counter_ns(), deadline)
                done["page"] = {OUTSIDE: (time.perf_counter_ns() - began) / 1e9}
            finally:
                instance.stop()
        return done


def guessed(subject: Subject, trial: Mapping[str, int]) -> dict[str, int]:
    """How much, without trying: a trial costs a start, and `--quick` has time for few."""
    more = 1 if subject.kind == MACHINE else GUESS
    return {name: min(EVERYTHING[name].most, more * amount) for name, amount in trial.items()}


def said(instance: Instance, patience: float) -> Iterator[tuple[float, str]]:
    """The lines of its output until "end", each with the moment at which it was read."""
    fd, text, last = instance.output, b"", time.monotonic() + patience
    ear = select.poll()
    ear.register(fd, select.POLLIN)
    while (left := last - time.monotonic()) > 0:
        if not ear.poll(left * 1e3) or not (data := os.read(fd, 65536)):
            break
        now = time.perf_counter_ns() / 1e9
        *lines, text = (text + data).split(b"\n")
        for line in lines:
            if line.strip() == b"end":
                return
            yield now, line.decode(errors="replace").strip()
    raise NotReady("it did not come to the end of its work")


def judged(lines: Iterator[tuple[float, str]],
           amounts: Mapping[str, int]) -> dict[str, dict[str, float] | str]:
    """From what it said to seconds; work that was not done, or two clocks that differ, are told in words."""
    marks = {tuple(words[:2]): (now, words[2]) for now, line in lines
             if len(words := line.split(None, 2)) == 3}
    found: dict[str, dict[str, float] | str] = {}
    for name, work in WORKS.items():
        wanted, counted = amounts[name] * work.size, marks.get(("c", name), (0.0, "nothing"))[1]
        if counted != str(wanted):
            found[name] = f"it did {counted} of {wanted}"
            continue
        (begin, began), (end, ended) = marks["b", name], marks["e", name]
        inside, outside = float(ended) - float(began), end - begin
        if abs(inside - outside) > AGREE + 0.1 * outside:
            found[name] = f"the clock inside says {inside:.3f} s, the one outside {outside:.3f} s"
        else:
            found[name] = {INSIDE: inside, OUTSIDE: outside}
    return found


def measure(subjects: Sequence[Subject], settings: Settings, progress: Progress = silent) -> Run:
    """The same work in all of them, in turns."""
    run = Run("overhead", settings=dict(settings._asdict()), machine=facts.machine())
    with prepared(subjects, run, progress) as ready:
        twins = [Twin(subject) for subject in ready if subject.name == "process"]
        interleaved([*ready, *twins], settings, Bench(settings, run).once, run, progress, "work")
    return run


# ---- what follows from the samples -------------------------------------------------------------------------


def unit_times(run: Run, name: str, work: str) -> list[float]:
    """Seconds that one unit of this work took, by the clock inside where there is one."""
    clock = OUTSIDE if work.removeprefix("aa-") == "page" else INSIDE
    return [one.value / one.labels["work"] for one in run.samples
            if one.subject == name and one.series == work and one.labels["clock"] == clock]
