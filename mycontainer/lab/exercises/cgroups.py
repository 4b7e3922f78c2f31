"""Chapter 3: limits that hold.

The reference solutions stand first, then what the checks look at, then the exercises and the predictions.
Three of the checks make cgroups, and need a lab that may (version 2); the other three need none.
Sources: the kernel's admin-guide/cgroup-v2.rst; cgroups(7), signal(7).
"""

from __future__ import annotations

import math
import os
import random
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mycontainer import cgroups
from mycontainer.cgroups import Cgroup
from mycontainer.errors import ContainerError
from mycontainer.lab import hogs
from mycontainer.lab.exercise import Exercise, Prediction, Wrong
from mycontainer.lab.probe import CannotTry, Child, Probe, Process

DOC = "kernel: admin-guide/cgroup-v2.rst"


# ── our solutions ────────────────────────────────────────────────────────────────────────────────────

def cap_memory(path: str, size: int) -> None:
    """Make the cgroup path, where all together get at most size bytes and no swap, and go in."""
    os.mkdir(path)
    Path(path, "memory.max").write_text(str(size))
    Path(path, "memory.swap.max").write_text("0")
    Path(path, "cgroup.procs").write_text("0")


def who_killed_me(code: int, before: str, after: str) -> str:
    """Who ended a process, from its exit code and what memory.events said before and after."""
    kills = [int(dict(map(str.split, text.splitlines()))["oom_kill"]) for text in (before, after)]
    if code == 128 + signal.SIGKILL and kills[1] > kills[0]:
        return "OOM"
    try:
        return signal.Signals(code - 128).name
    except ValueError:
        return "itself"


def comb(work: int, quota: int, period: int) -> tuple[int, int]:
    """The median and the 99th percentile, in µs, of how long a request takes that works for work µs."""
    pauses, rest = divmod(work, quota)
    median = work + (period - quota) * (pauses + (rest > 0.50 * quota))
    p99 = work + (period - quota) * (pauses + (rest > 0.01 * quota))
    return median, p99


def three_to_one(big: str, small: str, cpu: int) -> None:
    """Let big have three times as much as small of one CPU, when both want it."""
    for path, weight in ((big, 300), (small, 100)):
        Path(path, "cpuset.cpus").write_text(str(cpu))
        Path(path, "cpu.weight").write_text(str(weight))


def bomb_proof(path: str, children: int) -> None:
    """Make the cgroup path, and go in, so that this process can have so many children and no more."""
    os.mkdir(path)
    Path(path, "pids.max").write_text(str(children + 1))
    Path(path, "cgroup.procs").write_text("0")


def honest_nproc(limits: Sequence[str], allowed: set[int]) -> int:
    """How many threads can work at once: by each cpu.max from our cgroup upwards, and the CPUs allowed."""
    cpus = len(allowed)
    for limit in limits:
        quota, period = limit.split()
        if quota != "max":
            cpus = min(cpus, math.ceil(int(quota) / int(period)))
    return cpus


# ── what the checks look at ──────────────────────────────────────────────────────────────────────────

@contextmanager
def fresh_cgroup(p: Probe) -> Iterator[Cgroup]:
    """A cgroup for the length of a check, to make others below."""
    try:
        home = cgroups.create(f"check-{p.token()}")
    except (ContainerError, OSError) as error:
        why = error.reason if isinstance(error, ContainerError) else error.strerror
        raise CannotTry(f"its check makes cgroups, and this lab cannot: {why}") from None
    try:
        home.enable()
        yield home
    finally:
        home.remove()


def in_group(group: Cgroup, job: Callable[[], object]) -> tuple[int, str]:
    """Call job in a process that has joined the group; its exit code, as a shell has it, and what it said."""
    hear, say = os.pipe()
    pid = os.fork()
    if pid == 0:  # a hog of the check
        code = 1
        try:
            group.join()
            os.write(say, str(job()).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(say)
    with open(hear) as pipe:
        said = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code if code >= 0 else 128 - code, said


def is_in(process: Process, group: Cgroup) -> bool:
    """Whether the process is in this very cgroup."""
    return process.pid in group.processes()


def must_be_there(p: Probe, group: Cgroup) -> None:
    p.expect("whether there is a cgroup at path", group.has("cgroup.procs"), True,
             cause="Nobody has made it. A cgroup is a directory; it comes into being as directories do.",
             look=f'{DOC}, "Organizing Processes and Threads"')


def must_be_in(p: Probe, process: Child, group: Cgroup) -> None:
    p.expect("whether your process is in that cgroup", is_in(process, group), True,
             cause="The limit is set, and nobody is in there to feel it.",
             look=f'{DOC}, "cgroup.procs"')


def probe_cap_memory(p: Probe) -> None:
    size = random.randrange(24, 40) << 20
    with fresh_cgroup(p) as home:
        group = Cgroup(f"{home.path}/{p.token()}")
        with p.child(group.path, size, may_raise=True) as process:
            if process.error and process.error.kind == "PermissionError":
                no_swap = "memory.swap.max" in process.error.message and not home.has("memory.swap.max")
                p.fail("how your function went", str(process.error), "it does not raise",
                       cause="This kernel was built without swap, and has no such file. Leave it out here."
                       if no_swap else
                       "Only the kernel makes files in a cgroup. One is not there: is its name right?",
                       look=f'{DOC}, "Memory Interface Files"')
            must_be_there(p, group)
            got, high = group.read("memory.max"), group.read("memory.high")
            if high == str(size):
                cause = "memory.high slows processes down from there on. It is not the wall."
            elif got == "max":
                cause = "There is no limit in it."
            else:
                cause = "The kernel counts in bytes, and rounds to whole pages."
            p.expect("memory.max, the wall", got, str(size), cause=cause,
                     look=f'{DOC}, "Memory Interface Files"')
            if home.has("memory.swap.max"):
                p.expect("memory.swap.max", group.read("memory.swap.max"), "0",
                         cause="What does not fit is written to the swap, if the machine has one, and there "
                               "is no limit on that.", look=f'{DOC}, "memory.swap.max"')
            must_be_in(p, process, group)
            code, _ = in_group(group, lambda: hogs.eat(group, 2 * size))
            p.expect("the exit code of a hog that takes twice the limit in there", code, 137)


def probe_bomb_proof(p: Probe) -> None:
    children = random.randrange(5, 20)
    with fresh_cgroup(p) as home:
        group = Cgroup(f"{home.path}/{p.token()}")
        with p.child(group.path, children) as process:
            must_be_there(p, group)
            number = group.read("pids.max")
            if number == "max":
                below = group.read("cgroup.max.descendants") != "max"
                p.fail("pids.max", number, "a number", look=f'{DOC}, "PID Interface Files"',
                       cause="You have limited the number of cgroups below. Processes are another matter."
                       if below else "There is no limit in the cgroup. RLIMIT_NPROC counts processes of a "
                       "user, wherever they are, and root's are not counted at all.")
            must_be_in(p, process, group)
            if int(number) > hogs.MOST_PROCESSES:
                p.fail("pids.max", number, f"at most {hogs.MOST_PROCESSES}, or no bomb is tried")
            _, got = in_group(group, lambda: hogs.bomb(group))  # the bomb is a child already
            p.expect("how many children your process could have", int(got or 0) + 1, children,
                     cause="Who else is counted in there, before the first child is born?"
                     if int(number) == children else "That is not what was asked for.",
                     look=f'{DOC}, "PID Interface Files"')


def probe_three_to_one(p: Probe) -> None:
    with fresh_cgroup(p) as home:
        big, small = cgroups.create("big", home), cgroups.create("small", home)
        cpu = random.choice(sorted(os.sched_getaffinity(0)))
        with p.child(big.path, small.path, cpu):
            weights = [int(group.read("cpu.weight")) for group in (big, small)]
            capped = any(group.read("cpu.max").split()[0] != "max" for group in (big, small))
            p.expect("whether each of them gets the whole CPU while the other sleeps", not capped, True,
                     cause="You have set caps. What one of them does not use, the other does not get.",
                     look=f'{DOC}, "CPU Interface Files"')
            ratio = weights[0] / weights[1]
            p.expect("cpu.weight of big, by that of small", round(ratio, 2), 3.0,
                     cause="The other way round." if round(1 / ratio, 2) == 3 else
                     "A weight is a number from 1 to 10000; only the ratio matters.",
                     look=f'{DOC}, "CPU Interface Files"')
            p.expect("the CPUs on which they may run",
                     [group.read("cpuset.cpus.effective") for group in (big, small)], [str(cpu)] * 2,
                     cause="With a CPU for each nobody needs to share, and weights change nothing.",
                     look=f'{DOC}, "Cpuset Interface Files"')


EVENTS = "low 0\nhigh {high}\nmax {max}\noom {oom}\noom_kill {kill}\noom_group_kill 0"


def probe_who_killed_me(p: Probe) -> None:
    some, more = random.randrange(1, 9), random.randrange(10, 99)
    calm = EVENTS.format(high=0, max=more, oom=some, kill=some)
    busy = EVENTS.format(high=some, max=more + 40, oom=some + 5, kill=some)
    killed = EVENTS.format(high=0, max=more + 40, oom=some + 5, kill=some + 1)
    for case, code, after, expected, cause in (
            ("137, and oom_kill has grown", 137, killed, "OOM",
             "137 is 128 + 9: SIGKILL. oom_kill counts what the OOM killer has killed in the cgroup."),
            ("137, and oom_kill is what it was", 137, calm, "SIGKILL",
             "It was killed by SIGKILL, but everybody may send that. What in memory.events says who?"),
            ("137, oom has grown and oom_kill has not", 137, busy, "SIGKILL",
             "oom counts how often memory could not be had, oom_kill who died of it."),
            ("143, and oom_kill has grown", 143, killed, "SIGTERM",
             "The OOM killer has struck in this cgroup, but somebody else: it never sends this signal."),
            ("0, and nothing has grown", 0, calm, "itself", "It ended, and was well."),
            ("3, and nothing has grown", 3, calm, "itself", "128 + n is a signal. What is below, is not."),
            ("255, and nothing has grown", 255, calm, "itself",
             "There is no signal number 127: this is exit(-1).")):
        p.expect(f"what your function says of exit code {case}", p.call(code, calm, after), expected, cause,
                 look='man 7 signal, "Standard signals"; ' + f'{DOC}, "memory.events"')


def answer_times(work: int, quota: int, period: int, number: int = 4000) -> tuple[int, int]:
    """The same, by trying it: answer requests one after the other on paper, and sort."""
    start = random.randrange(quota)  # how much of the first quota was used before
    took = []
    for one in range(number):
        begin = start + one * work
        pauses = (begin + work - 1) // quota - (begin - 1) // quota  # as often as the quota runs out in it
        took.append(work + pauses * (period - quota))
    took.sort()
    return took[number // 2], took[number * 99 // 100]


def probe_comb(p: Probe) -> None:
    quota, period = random.randrange(8, 25) * 1000 + 7, random.randrange(60, 110) * 1000
    for part, least, most in (("less than half the quota", 0.11, 0.4),  # as in the text: the fast track
                              ("less than a hundredth of the quota", 0.003, 0.006),
                              ("more than half the quota", 0.6, 0.93),
                              ("more than two quotas", 2.1, 2.4)):
        work = int(quota * random.uniform(least, most)) | 1
        expected = answer_times(work, quota, period)
        got = p.call(work, quota, period)
        if not (isinstance(got, (tuple, list)) and len(got) == 2
                and all(isinstance(one, (int, float)) for one in got)):
            p.fail("what your function returned", got, "two numbers, (median, p99), in µs")
        got = round(got[0]), round(got[1])
        p.expect(f"(median, p99) of requests of {work} µs, quota {quota}, period {period}: {part}",
                 got, expected, cause=why_not_so_long(got, expected, work, quota, period),
                 look=f'{DOC}, "cpu.max"; kernel: scheduler/sched-bwc.rst')


def why_not_so_long(got: tuple[int, int], expected: tuple[int, int], work: int, quota: int,
                    period: int) -> str:
    """The likely cause of a wrong prediction."""
    gap = period - quota
    slower = work * period // quota
    if all(abs(one - slower) <= 2 for one in got):
        return "That is a slower clock. But it runs at full speed, and then not at all."
    if got[1] - work and (got[1] - work) % period == 0:
        return "A pause does not last a whole period: part of that it runs."
    if got[0] == got[1] != expected[1]:
        return "Some requests meet a pause more than the others. How many: more than 1 in 100, or 1 in 2?"
    if got[1] == expected[1] + gap or got[0] == expected[0] + gap:
        return "Not every request meets that pause: how often does the quota run out, per request?"
    return "Count the pauses: one each time that the quota is used up. How many fall into one request?"


def probe_honest_nproc(p: Probe) -> None:
    many = set(range(random.randrange(13, 17)))
    one = random.randrange(1, 4)
    for case, limits, allowed, expected, cause in (
            ("half a CPU", ["50000 100000"], many, 1,
             "Nobody can start less than one thread; and 1 may use up half a CPU very well."),
            (f"{one} and a half CPUs", [f"{one}50000 100000"], many, one + 1,
             "Rounded down, half a CPU that was paid for is never used."),
            ("another period", [f"{4 * one * 20000} 20000"], many, 4 * one,
             "The second number is the period. It need not be 100000."),
            ("a limit further up", ["max 100000", f"{one * 100000} 100000", "max 100000"], many, one,
             "A limit holds for all below it. The cgroup above has a say."),
            ("four CPUs, two of them allowed", ["400000 100000"], {3, 5}, 2,
             "It may have the time of four CPUs, but run on two of them only."),
            ("no limit", ["max 100000", "max 100000"], many, len(many),
             "Where nobody limits it, it has what it may run on.")):
        p.expect(f"what your function says of {case}: {limits}, {len(allowed)} allowed",
                 p.call(limits, allowed), expected, cause, look=f'{DOC}, "cpu.max"')


# ── the exercises ────────────────────────────────────────────────────────────────────────────────────

EXERCISES = [
    Exercise(
        id="cgroups.who_killed_me", title="Exit code 137", difficulty=2, minutes=5, lines=6,
        syscalls=(),
        hints=("A shell, and Docker, say 128 + n if signal n ended a process. What is 137 - 128?",
               "signal.Signals(9).name is a name; of a number that is no signal it raises ValueError.",
               ("SIGKILL can come from anybody. memory.events has a counter that only the OOM killer turns: "
                "compare the two texts.")),
        reference="mycontainer.lab.exercises.cgroups.who_killed_me",
        stub='''
            def my_who_killed_me(code, before, after):
                """Who ended it? "itself", "OOM" for the OOM killer, or the signal's name: "SIGTERM".

                `code` is its exit code, as a shell has it; `before` and `after` are what memory.events said.
                """
                ...
            ''',
        probe=probe_who_killed_me,
        fast_track="Tell only signals from other ends; the check says what 137 needs besides.",
        wrong=(
            Wrong("""
                def my_who_killed_me(code, before, after):
                    if code == 137:
                        return "OOM"
                    return signal.Signals(code - 128).name if 128 < code < 192 else "itself"
                """, says="everybody may send that"),
            Wrong("""
                def my_who_killed_me(code, before, after):
                    def count(text):
                        return int(dict(line.split() for line in text.splitlines())["oom"])
                    if code == 137:
                        return "OOM" if count(after) > count(before) else "SIGKILL"
                    return signal.Signals(code - 128).name if 128 < code < 192 else "itself"
                """, says="oom counts how often"),
            Wrong("""
                def my_who_killed_me(code, before, after):
                    def count(text):
                        return int(dict(line.split() for line in text.splitlines())["oom_kill"])
                    if count(after) > count(before):
                        return "OOM"
                    return signal.Signals(code - 128).name if 128 < code < 192 else "itself"
                """, says="it never sends this signal"),
            Wrong("""
                def my_who_killed_me(code, before, after):
                    def count(text):
                        return int(dict(line.split() for line in text.splitlines())["oom_kill"])
                    if code == 137 and count(after) > count(before):
                        return "OOM"
                    names = {137: "SIGKILL", 143: "SIGTERM"}
                    return names.get(code, "a signal") if code > 128 else "itself"
                """, says="no signal number 127"),
        ),
    ),
    Exercise(
        id="cgroups.cap_memory", title="A wall around memory", difficulty=2, minutes=5, lines=4, cgroups=True,
        syscalls=("mkdir", "openat", "write"),
        hints=("Four steps, and each is a file operation: make it, two limits, go in.",
               "A cgroup is made with os.mkdir; Path(path, \"memory.max\").write_text(…) sets a limit.",
               ("The two limits are memory.max and memory.swap.max, in bytes. To go in, write 0, which "
                "means whoever writes, to cgroup.procs.")),
        reference="mycontainer.lab.exercises.cgroups.cap_memory",
        forbid=("mycontainer.cgroups.create", "mycontainer.cgroups.Cgroup.limit_memory",
                "mycontainer.cgroups.Cgroup.join", "mycontainer.cgroups.Cgroup.write"),
        stub='''
            def my_cap_memory(path, size):
                """Make the cgroup `path`, with `size` bytes of memory and no swap, and go into it."""
                ...
            ''',
        probe=probe_cap_memory,
        fast_track="Directory and `memory.max` only: two lines. The check says what is missing.",
        wrong=(
            Wrong("""
                def my_cap_memory(path, size):
                    os.mkdir(path)
                    Path(path, "memory.high").write_text(str(size))
                    Path(path, "cgroup.procs").write_text("0")
                """, says="It is not the wall"),
            Wrong("""
                def my_cap_memory(path, size):
                    os.mkdir(path)
                    Path(path, "memory.limit_in_bytes").write_text(str(size))
                    Path(path, "cgroup.procs").write_text("0")
                """, says="is its name right"),
            Wrong("""
                def my_cap_memory(path, size):
                    os.mkdir(path)
                    Path(path, "memory.max").write_text(str(size))
                    Path(path, "cgroup.procs").write_text("0")
                """, says="written to the swap"),
            Wrong("""
                def my_cap_memory(path, size):
                    os.mkdir(path)
                    Path(path, "memory.max").write_text(str(size))
                    Path(path, "memory.swap.max").write_text("0")
                """, says="nobody is in there to feel it"),
        ),
    ),
    Exercise(
        id="cgroups.comb", title="How long a request takes", difficulty=4, minutes=8, lines=4,
        syscalls=(),
        hints=("A pause lasts from the moment that the quota is used up to the end of the period: how long?",
               ("The quota runs out once for each `quota` µs of work. A request of work µs: "
                "divmod(work, quota) says how many pauses it meets for certain, and what is left."),
               ("What is left, by the quota, is the share of requests that meet one pause more. The median "
                "has it if that is more than a half; the 99th percentile if it is more than 1 in 100.")),
        reference="mycontainer.lab.exercises.cgroups.comb",
        stub='''
            def my_comb(work, quota, period):
                """(median, p99) of how long a request takes, in µs.

                Each needs `work` µs of CPU; they come one after the other, in a cgroup with cpu.max
                `quota` `period`.
                """
                ...
            ''',
        probe=probe_comb,
        fast_track="The server above, as a formula: one line. The check goes on to shorter and longer work.",
        wrong=(
            Wrong("""
                def my_comb(work, quota, period):
                    slower = period / quota
                    return round(work * slower), round(work * slower)
                """, says="That is a slower clock"),
            Wrong("""
                def my_comb(work, quota, period):
                    return work, work + period * max(1, round(work / quota)) * (work > 0.01 * quota)
                """, says="A pause does not last a whole period"),
            Wrong("""
                def my_comb(work, quota, period):
                    pauses = round(work // quota)
                    return work + pauses * (period - quota), work + pauses * (period - quota)
                """, says="Some requests meet a pause more"),
            Wrong("""
                def my_comb(work, quota, period):
                    pauses = round(work // quota)
                    return work + pauses * (period - quota), work + (pauses + 1) * (period - quota)
                """, says="Not every request meets that pause"),
        ),
    ),
    Exercise(
        id="cgroups.three_to_one", title="Three to one", difficulty=2, minutes=4, lines=3, cgroups=True,
        syscalls=("openat", "write"),
        hints=("A share, not a cap: which file of the CPU controller holds a weight?",
               "cpu.weight is from 1 to 10000, and 100 to begin with.",
               ("Two CPUs for two hogs: nobody shares. cpuset.cpus says on which ones a cgroup may run, "
                "such as 0-2,5.")),
        reference="mycontainer.lab.exercises.cgroups.three_to_one",
        forbid=("mycontainer.cgroups.Cgroup.weigh_cpu", "mycontainer.cgroups.Cgroup.pin_cpus",
                "mycontainer.cgroups.Cgroup.write"),
        stub='''
            def my_three_to_one(big, small, cpu):
                """Of the CPU number `cpu` let the cgroup `big` get three times what `small` gets.

                Both are there already, as directories. While one of them sleeps, the other gets all.
                """
                ...
            ''',
        probe=probe_three_to_one,
        fast_track="The weights alone, in two lines; read what the check says.",
        wrong=(
            Wrong("""
                def my_three_to_one(big, small, cpu):
                    for path, quota in ((big, 75000), (small, 25000)):
                        Path(path, "cpuset.cpus").write_text(str(cpu))
                        Path(path, "cpu.max").write_text(f"{quota} 100000")
                """, says="You have set caps"),
            Wrong("""
                def my_three_to_one(big, small, cpu):
                    Path(big, "cpu.weight").write_text("300")
                """, says="nobody needs to share"),
            Wrong("""
                def my_three_to_one(big, small, cpu):
                    for path, weight in ((big, 100), (small, 300)):
                        Path(path, "cpuset.cpus").write_text(str(cpu))
                        Path(path, "cpu.weight").write_text(str(weight))
                """, says="The other way round"),
        ),
    ),
    Exercise(
        id="cgroups.bomb_proof", title="Bomb-proof", difficulty=2, minutes=4, lines=3, cgroups=True,
        syscalls=("mkdir", "openat", "write"),
        hints=("The same three steps as for memory: make it, limit it, go in.",
               "pids.max is the file. It counts all processes and threads that are in the cgroup.",
               "Who is in there before the first child is born?"),
        reference="mycontainer.lab.exercises.cgroups.bomb_proof",
        forbid=("mycontainer.cgroups.create", "mycontainer.cgroups.Cgroup.limit_processes",
                "mycontainer.cgroups.Cgroup.join", "mycontainer.cgroups.Cgroup.write"),
        stub='''
            def my_bomb_proof(path, children):
                """Make the cgroup `path`, and go in: this process can have `children` children, no more."""
                ...
            ''',
        probe=probe_bomb_proof,
        fast_track="Copy yours from *cap_memory* and exchange the limit.",
        wrong=(
            Wrong("""
                def my_bomb_proof(path, children):
                    os.mkdir(path)
                    Path(path, "pids.max").write_text(str(children))
                    Path(path, "cgroup.procs").write_text("0")
                """, says="before the first child is born"),
            Wrong("""
                def my_bomb_proof(path, children):
                    import resource
                    os.mkdir(path)
                    Path(path, "cgroup.procs").write_text("0")
                    resource.setrlimit(resource.RLIMIT_NPROC, (children, children))
                """, says="RLIMIT_NPROC counts processes of a user"),
            Wrong("""
                def my_bomb_proof(path, children):
                    os.mkdir(path)
                    Path(path, "pids.max").write_text(str(children + 1))
                """, says="nobody is in there to feel it"),
            Wrong("""
                def my_bomb_proof(path, children):
                    os.mkdir(path)
                    Path(path, "cgroup.max.descendants").write_text(str(children))
                    Path(path, "cgroup.procs").write_text("0")
                """, says="Processes are another matter"),
        ),
    ),
    Exercise(
        id="cgroups.honest_nproc", title="An honest nproc", difficulty=2, minutes=5, lines=5,
        syscalls=(),
        hints=("cpu.max is two words: quota and period, or max and period.",
               "quota / period is a number of CPUs. Which way do you round half a CPU?",
               "A limit further up holds as well, and so does the set of CPUs allowed: take the smallest."),
        reference="mycontainer.lab.exercises.cgroups.honest_nproc",
        stub='''
            def my_honest_nproc(limits, allowed):
                """How many threads can really work at once?

                `limits` are the texts of cpu.max, of this cgroup and of each above it; `allowed` is the set
                of CPUs to run on, as os.sched_getaffinity(0) has it.
                """
                ...
            ''',
        probe=probe_honest_nproc,
        fast_track="Only for a single limit that is not max.",
        wrong=(
            Wrong("""
                def my_honest_nproc(limits, allowed):
                    quota, period = limits[0].split()
                    if quota == "max":
                        return len(allowed)
                    return min(len(allowed), -(-int(quota) // int(period)))
                """, says="The cgroup above has a say"),
            Wrong("""
                def my_honest_nproc(limits, allowed):
                    cpus = len(allowed)
                    for quota, period in map(str.split, limits):
                        if quota != "max":
                            cpus = min(cpus, int(quota) // int(period))
                    return cpus
                """, says="Nobody can start less than one thread"),
            Wrong("""
                def my_honest_nproc(limits, allowed):
                    cpus = len(allowed)
                    for quota, period in map(str.split, limits):
                        if quota != "max":
                            cpus = min(cpus, max(1, int(quota) // int(period)))
                    return cpus
                """, says="half a CPU that was paid for"),
            Wrong("""
                def my_honest_nproc(limits, allowed):
                    cpus = 1024
                    for quota, period in map(str.split, limits):
                        if quota != "max":
                            cpus = min(cpus, -(-int(quota) // int(period)))
                    return cpus if cpus < 1024 else len(allowed)
                """, says="run on two of them only"),
            Wrong("""
                def my_honest_nproc(limits, allowed):
                    cpus = len(allowed)
                    for quota, period in map(str.split, limits):
                        if quota != "max":
                            cpus = min(cpus, -(-int(quota) // 100000))
                    return cpus
                """, says="It need not be 100000"),
        ),
    ),
]

PREDICTIONS = [
    Prediction(
        id="cgroups.malloc",
        question="A process in a cgroup with 32 MB asks for 256 MB of memory, then fills it. What happens?",
        choices={"a": "asking fails: malloc returns NULL, Python raises MemoryError",
                 "b": "asking works; the process is killed while it fills it",
                 "c": "it gets slow: what does not fit goes to the disk"},
        answer="b",
        why="Asking for memory only reserves addresses. A page is counted when it is first written to, and "
            "then there is no call that could fail: the kernel takes back what it can, and if that is not "
            "enough, its OOM killer ends a process in the cgroup.",
        misconceptions={
            "a": "malloc is asked for addresses, of which there are plenty. The limit is on pages in use. "
                 "(ulimit -v limits addresses: that makes malloc fail.)",
            "c": "Only if there is swap, and memory.swap.max lets it. Our limit_memory sets that to 0, so "
                 "that a limit is a limit."}),
    Prediction(
        id="cgroups.half",
        question="A program that computes without a break gets a limit of half a CPU. How does it run?",
        choices={"a": "half as fast, all the time", "b": "at full speed, and then not at all, in turns",
                 "c": "on every second CPU"},
        answer="b",
        why="A quota is time in each period: 50 ms in every 100 ms. While there is some left it runs at full "
            "speed; then all its threads stand still until the next period. On average that is a half. "
            "For a request that comes at the wrong moment it is 50 ms of nothing.",
        misconceptions={
            "a": "A quota does not touch the processor's clock. It stops the process, and lets it go on.",
            "c": "Which CPUs it may use is another limit (cpuset). A quota is time, on whichever CPU; four "
                 "threads use up 50 ms in 12.5."}),
    Prediction(
        id="cgroups.bomb",
        question="A program forks without end in a cgroup with pids.max 32. What happens?",
        choices={"a": "the kernel kills it, as with memory",
                 "b": "fork fails, and everybody in there lives on",
                 "c": "nobody on the machine can fork any more"},
        answer="b",
        why="Fork is a system call, so it can say no: EAGAIN, \"Resource temporarily unavailable\". Nobody "
            "needs to die. Outside the cgroup everything goes on.",
        misconceptions={
            "a": "Memory is taken by writing to a page, and there nobody can be told no. fork can be.",
            "c": "That is the bomb without a limit. The counter is the cgroup's."}),
    Prediction(
        id="cgroups.free",
        question="A container has a limit of 64 MB and half a CPU. What do free and nproc say in it?",
        choices={"a": "64 MB, and one CPU", "b": "what the machine has",
                 "c": "64 MB of memory, but all CPUs"},
        answer="b",
        why="free reads /proc/meminfo, nproc asks on which CPUs it may run. No namespace changes the one, "
            "and a quota does not change the other. The limit stands in the cgroup's files, nowhere else.",
        misconceptions={
            "a": "There is no namespace for amounts. Programs that size themselves by what they see (heaps, "
                 "thread pools) take the machine for theirs.",
            "c": "nproc does obey a cpuset; /proc/meminfo obeys nothing. lxcfs is a program that fakes it."}),
    Prediction(
        id="cgroups.own_limit",
        question="Root of a container can write to the files of its own cgroup. The cgroup above has a "
                 "limit, too, and belongs to somebody else. Can it get out of its limit?",
        choices={"a": "yes: it raises the number, and the limit is gone",
                 "b": "no: the kernel lets nobody raise the limit that they are under",
                 "c": "no: it can raise the number, but the limit further up holds all the same"},
        answer="c",
        why="A file is a file: who may write to it may set the limit. What holds is a limit that belongs to "
            "somebody else, in a cgroup above. That is delegation: one gives away a cgroup, and keeps a "
            "limit. Or one shows the files read-only.",
        misconceptions={
            "a": "Only where no cgroup above has a limit: the first container of the cell got away. Of all "
                 "limits on the way up the smallest counts.",
            "b": "It asks who may write to the file, not who is limited by it: a matter of the file's "
                 "owner, and of how it is mounted. An engine has to see to that."}),
]
