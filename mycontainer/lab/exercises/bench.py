"""Chapter 10: numbers that one may believe.

Our solutions stand first, then what the checks look at, then the exercises and the predictions. The checks
try each function on programs and servers that we know all about: how long they take, which of them dies, and
what the clock on the wall does meanwhile. Sources: clock_gettime(2), listen(2), environ(7),
proc_pid_smaps(5).
"""

from __future__ import annotations

import os
import random
import socket
import statistics
import subprocess
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from mycontainer.lab.exercise import Exercise, Prediction, Wrong
from mycontainer.lab.probe import Probe

# ── our solutions ────────────────────────────────────────────────────────────────────────────────────


def probe(start: Callable[[], object], port: int, token: str, patience: float) -> float | None:
    """Start a server: how many seconds later it answers with the token; None: not within patience."""
    began = time.perf_counter()
    start()
    while (took := time.perf_counter() - began) < patience:
        with suppress(OSError), \
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=patience - took) as answer:
            if answer.read().decode().strip() == token:
                return time.perf_counter() - began
        time.sleep(0.001)
    return None


def bench(argv: Sequence[str], token: str, rounds: int) -> tuple[float | None, int]:
    """The median of how many seconds a program takes that says token and ends, and how often it did not."""
    times, failed = [], 0
    for number in range(1 + rounds):  # the first one warms up
        began = time.perf_counter()
        done = subprocess.run(argv, capture_output=True, text=True)
        took = time.perf_counter() - began
        if number == 0:
            continue
        if done.returncode == 0 and done.stdout.strip() == token:
            times.append(took)
        else:
            failed += 1
    return (statistics.median(times) if times else None), failed


def density(one: float, many: float, count: int, budget: float) -> int:
    """How many fit into budget bytes, where one takes `one` bytes, and count of them together `many`."""
    each = (many - one) / (count - 1)
    if budget < one:
        return 0
    return 1 + int((budget - one) // each)


def when_vm(job: Mapping[str, object], costs: Mapping[str, tuple[float, float]]) -> str | None:
    """The cheapest in memory of what is right for a job, and fits; None if nothing does."""
    right = {"windows": ["VM"], "linux of its own": ["microVM", "VM"]}.get(str(job["kernel"]), list(costs))
    if job["code"] == "a stranger's" and "container" in right:
        right.remove("container")
    within, count, memory = float(str(job["within"])), int(str(job["count"])), float(str(job["memory"]))
    fits = [name for name in right if costs[name][0] <= within and costs[name][1] * count <= memory]
    return min(fits, key=lambda name: costs[name][1], default=None)


# ── probe ────────────────────────────────────────────────────────────────────────────────────────────

LISTEN = "man 2 listen (backlog); man 2 connect"
LATE = 0.5  # seconds that a busy machine may add to what a function measures


def server(port: int, token: str, *, asking: float = 0.0, listens: float = 0.0, deaf: float = 0.0,
           other: str = "", ready: float = 0.0) -> Callable[[], None]:
    """What starts a server: after ``asking`` seconds the call returns, after ``listens`` it has its port,
    after ``deaf`` it answers, with ``other`` until ``ready``; all counted from the call.
    """
    def start() -> None:
        began = time.perf_counter()

        def until(moment: float) -> None:
            time.sleep(max(0.0, began + moment - time.perf_counter()))

        if os.fork() == 0:  # the server
            try:
                until(listens)
                with socket.create_server(("127.0.0.1", port)) as listener:
                    until(deaf)
                    while True:
                        with listener.accept()[0] as caller:
                            early = time.perf_counter() < began + ready
                            _answer(caller, other if early else token)
            finally:
                os._exit(1)
        until(asking)

    return start


def _answer(caller: socket.socket, body: str) -> None:
    """One page, and the end."""
    with suppress(OSError):
        caller.recv(65536)
        caller.sendall(f"HTTP/1.0 200 OK\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())


def probe_probe(p: Probe) -> None:
    ports, token = random.sample(range(2000, 30000), 4), p.token()  # the last server may not have ended yet
    asking = "The clock was started late: start() itself takes time as well, and belongs to it."
    rarely = "Between two looks of your function much time passes; all of that is counted as the server's."
    _timed(p, server(ports[0], token, asking=0.12, listens=0.4), (ports[0], token, 5.0), 0.4,
           "a server that listens after 0.4 s", asking, rarely)
    _timed(p, server(ports[1], token, deaf=0.25), (ports[1], token, 5.0), 0.25,
           "a server that has its port at once, and answers after 0.25 s",
           "A connection is made by the kernel, once somebody listens: nobody has answered yet.", rarely)
    _timed(p, server(ports[2], token, other=p.token(), ready=0.3), (ports[2], token, 5.0), 0.3,
           "a server that sends another page until 0.3 s are over",
           "It was an answer, but not the one that only this start can give: an old server does so.", rarely)
    began = time.perf_counter()
    got = p.call(server(ports[3], token, deaf=60), ports[3], token, 0.3, seconds=3)
    p.expect("what your function returns for a server that never answers, with a patience of 0.3 s", got,
             None, "A number says that it was ready.", LISTEN)
    p.expect("whether it comes back soon after its patience", time.perf_counter() - began < 2.5, True,
             "It waits for an answer without end. urlopen takes a timeout.", "help(urllib.request.urlopen)")


def _timed(p: Probe, start: Callable[[], None], args: tuple[int, str, float], truth: float, what: str,
           early: str, rarely: str) -> None:
    """Expect the truth; ``early`` is the likely cause of less than that, ``rarely`` of much more."""
    got = p.call(start, *args, seconds=5)
    looked = f"the seconds until your function sees {what}"
    if type(got) is not float:
        p.fail(looked, got, "a number of seconds", "It gave up, and had patience for 5 s." if got is None else
               "", LISTEN)
    if got < truth:
        p.fail(looked, round(got, 3), f"{truth} or a little more", early, LISTEN)
    if got > truth + LATE:
        p.fail(looked, round(got, 3), f"{truth} or a little more", rarely, "man 2 poll")


PROBE = Exercise(
    id="bench.probe", title="Ready, seen from outside", difficulty=3, minutes=8, lines=9, syscalls=(),
    hints=(
        "Three things: the clock before start(), a loop until patience is over, one attempt in it.",
        ("An attempt: urllib.request.urlopen(f\"http://127.0.0.1:{port}/\", timeout=…).read(). While nobody "
         "is "
         "there it raises an OSError: catch it, wait a millisecond, try again."),
        ("Only one page counts: the one that says token. And the timeout of an attempt is what is left of "
         "the "
         "patience, or the last attempt may last for ever."),
    ),
    reference="mycontainer.lab.exercises.bench.probe", probe=probe_probe,
    stub='''
        def my_probe(start, port, token, patience):
            """Call start(), and say how many seconds later http://127.0.0.1:port/ answers with `token`.

            None if that does not happen within `patience` seconds.
            """
            ...
        ''',
    fast_track="Connect in a loop with socket.create_connection, and see what the check says to that.",
    equivalent_mutants={"without time.sleep(0.001)": "it then asks without a pause: right, and takes a CPU "
                                                     "that its subject could use"},
    wrong=(
        Wrong("""
            def my_probe(start, port, token, patience):
                began = time.perf_counter()
                start()
                while time.perf_counter() - began < patience:
                    try:
                        socket.create_connection(("127.0.0.1", port)).close()
                        return time.perf_counter() - began
                    except OSError:
                        time.sleep(0.001)
            """, says="nobody has answered yet"),
        Wrong("""
            def my_probe(start, port, token, patience):
                from urllib.request import urlopen
                start()
                began = time.perf_counter()
                while time.perf_counter() - began < patience:
                    try:
                        if token in urlopen(f"http://127.0.0.1:{port}").read().decode():
                            return time.perf_counter() - began
                    except OSError:
                        time.sleep(0.001)
            """, says="The clock was started late"),
        Wrong("""
            def my_probe(start, port, token, patience):
                from urllib.request import urlopen
                began = time.perf_counter()
                start()
                while time.perf_counter() - began < patience:
                    try:
                        if token in urlopen(f"http://127.0.0.1:{port}").read().decode():
                            return time.perf_counter() - began
                    except OSError:
                        time.sleep(1)
            """, says="Between two looks"),
        Wrong("""
            def my_probe(start, port, token, patience):
                from urllib.request import urlopen
                began = time.perf_counter()
                start()
                while time.perf_counter() - began < patience:
                    try:
                        urlopen(f"http://127.0.0.1:{port}", timeout=patience).read()
                        return time.perf_counter() - began
                    except OSError:
                        time.sleep(0.001)
            """, says="an old server does so"),
    ),
)


# ── bad_bench ────────────────────────────────────────────────────────────────────────────────────────

WORK = 0.05        # seconds that the program sleeps as a rule
COLD, SLOW = 0.4, 0.8  # the first time; once in a while
SAYS, DIES = "says its token", "dies at once"


def program(path: str, token: str, argument: str, plan: Sequence[tuple[float, str]]) -> None:
    """Write a program that notes how it was started, and does in its n-th run what the plan has for that."""
    runs = "\n".join(f"{number}) sleep {seconds}; " + (f"echo {token}" if what == SAYS else "exit 1") + " ;;"
                     for number, (seconds, what) in enumerate(plan))
    with open(path, "w") as file:
        file.write(f"""#!/bin/sh
tr '\\0' '\\n' <"/proc/$$/environ" | grep -q '^PWD=' && : >"$0.shell"
[ "$1" = '{argument}' ] || : >"$0.mangled"
read -r run <"$0.run"
echo $((run + 1)) >"$0.run"
case $run in
{runs}
*) echo {token} ;;
esac
""")
    with open(f"{path}.run", "w") as file:
        file.write("0\n")
    os.chmod(path, 0o755)


def set_back_the_clock() -> None:
    """In this process each look at the clock on the wall finds it set back by an hour once more."""
    real, looks = time.time, [0]

    def wall_clock() -> float:
        looks[0] += 1
        return real() - 3600 * looks[0]

    time.time = wall_clock
    time.time_ns = lambda: int(wall_clock() * 1e9)


def probe_bad_bench(p: Probe) -> None:
    plan = [(COLD, SAYS), (WORK, SAYS)]
    got = _measured(p, 1, plan)
    if got < 0:
        p.fail("the seconds of a program that sleeps for 0.05 s", round(got), "0.05 or a little more",
               "Somebody set the clock while it ran, as happens on each machine with NTP. Yours goes with "
               "it.",
               "man 2 clock_gettime, CLOCK_MONOTONIC")
    p.expect("whether 1 round of a program that takes 0.4 s at first, and 0.05 s from then on, gives less "
             "than "
             "0.4 s", got < COLD, True, "In its first run its files come from the disk: cold. It is the only "
             "one that you have.", "man 2 posix_fadvise, NOTES")
    if got < WORK:
        p.fail("the seconds of a program that sleeps for 0.05 s", got, "0.05 or a little more",
               "That clock stands still while one sleeps, or waits for somebody.", "man 2 clock_gettime")
    good, dead = (WORK, SAYS), (0, DIES)
    plan = [good, dead, (SLOW, SAYS), dead, good, dead, dead, good]
    got = _measured(p, 7, plan, failed=4)
    if got < WORK:
        p.fail("the seconds of a program that sleeps for 0.05 s, or dies", round(got, 3),
               "0.05 or a little more", "Who dies at once is fast, and was counted.", "man 2 wait")
    p.expect("whether one slow run in three moves the result to more than 0.25 s", got > 0.25, False,
             "The mean follows a single run, however rare. Which number is in the middle?",
             "help(statistics)")


def _measured(p: Probe, rounds: int, plan: Sequence[tuple[float, str]], failed: int = 0) -> float:
    """What the function measures of such a program; how it was started is judged here."""
    path, token, argument = f"/tmp/{p.token()}", p.token(), f"{p.token(3)} * $HOME"

    def before() -> None:
        program(path, token, argument, plan)
        for name in ("PWD", "OLDPWD", "SHLVL", "_"):
            os.environ.pop(name, None)
        set_back_the_clock()

    got = p.call([path, argument], token, rounds, before=before)
    p.expect("whether a shell stood between your function and the program",
             p.world.inside(os.path.exists, f"{path}.shell"), False,
             "It is a program too. Its start was measured as well.", "help(subprocess.run)")
    p.expect("whether the program got its argument as it is in argv",
             p.world.inside(os.path.exists, f"{path}.mangled"), False,
             "Spaces, stars and dollars mean something to somebody on the way.", "help(subprocess.run)")
    if not (isinstance(got, (tuple, list)) and len(got) == 2 and type(got[0]) in (int, float)):
        p.fail("what your function returned", got, "(seconds, number of failed runs)",
               "There was at least one good run." if got is not None else "")
    p.expect(f"how many of {rounds} runs failed: they ended without the token", got[1], failed,
             "An end is no success. The token tells, and the exit code.", "man 2 wait")
    return float(got[0])


BAD_BENCH = Exercise(
    id="bench.bad_bench", title="Five faults", difficulty=3, minutes=10, lines=10, syscalls=(),
    hints=(
        "What is run? Which clock is read? In which run does it count? Who counts? What is returned?",
        ("subprocess.run takes argv as it is. time.perf_counter is a clock that nobody sets. "
         "statistics.median "
         "is the one in the middle."),
        ("One run before the clock matters. Of a run that ended without the token, or with another exit code "
         "than 0, count that it failed, and no time."),
    ),
    reference="mycontainer.lab.exercises.bench.bench", probe=probe_bad_bench,
    stub='''
        def my_bench(argv, token, rounds):
            """(seconds, failed): the median time of a program that says `token` and ends, and how often
            it did not. Of `rounds` runs, after one that does not count.
            """
            total, failed = 0, 0
            for _ in range(rounds):
                began = time.time()
                subprocess.run(" ".join(argv), shell=True, capture_output=True, text=True)
                total += time.time() - began
            return total / rounds, failed
        ''',
    fast_track="Mend the one that you see first; the check names the next.",
    wrong=(
        Wrong("""
            def my_bench(argv, token, rounds):
                times, failed = [], 0
                for number in range(1 + rounds):
                    began = time.time()
                    done = subprocess.run(argv, capture_output=True, text=True)
                    took = time.time() - began
                    if done.stdout.strip() != token:
                        failed += 1
                    elif number:
                        times.append(took)
                return sorted(times)[len(times) // 2], failed
            """, says="Yours goes with it"),
        Wrong("""
            def my_bench(argv, token, rounds):
                import shlex
                times, failed = [], 0
                for number in range(1 + rounds):
                    began = time.perf_counter()
                    done = subprocess.run(shlex.join(argv), shell=True, capture_output=True, text=True)
                    took = time.perf_counter() - began
                    if done.stdout.strip() != token:
                        failed += 1
                    elif number:
                        times.append(took)
                return sorted(times)[len(times) // 2], failed
            """, says="Its start was measured as well"),
        Wrong("""
            def my_bench(argv, token, rounds):
                times, failed = [], 0
                for number in range(rounds):
                    began = time.perf_counter()
                    done = subprocess.run(argv, capture_output=True, text=True)
                    took = time.perf_counter() - began
                    if done.stdout.strip() == token:
                        times.append(took)
                    else:
                        failed += 1
                return sorted(times)[len(times) // 2], failed
            """, says="It is the only one that you have"),
        Wrong("""
            def my_bench(argv, token, rounds):
                times, failed = [], 0
                for number in range(1 + rounds):
                    began = time.perf_counter()
                    done = subprocess.run(argv, capture_output=True, text=True)
                    took = time.perf_counter() - began
                    if done.stdout.strip() != token:
                        failed += 1
                    elif number:
                        times.append(took)
                return sum(times) / len(times), failed
            """, says="The mean follows"),
        Wrong("""
            def my_bench(argv, token, rounds):
                times, failed = [], 0
                for number in range(1 + rounds):
                    began = time.perf_counter()
                    done = subprocess.run(argv, capture_output=True, text=True)
                    failed += done.returncode != 0
                    if number:
                        times.append(time.perf_counter() - began)
                return sorted(times)[len(times) // 2], failed
            """, says="and was counted"),
    ),
)


# ── density ──────────────────────────────────────────────────────────────────────────────────────────

def probe_density(p: Probe) -> None:
    shared, each = random.randrange(900, 2000) << 10, random.randrange(40, 90) << 10
    count, more = random.randrange(8, 30), random.randrange(100, 400)
    one, many = shared + each, shared + count * each
    budget = shared + more * each + each // 2
    what = f"how many fit into {budget} bytes: one takes {one}, {count} take {many}"
    got = p.call(one, many, count, budget)
    if type(got) is float:
        p.fail(what, got, more, "Half an instance is none. Whole ones only.", "help(int)")
    p.expect(what, got, more, _why_not_so_many(got, one, many, count, budget), "man 5 proc_pid_smaps, Pss")
    vm = random.randrange(150, 300) << 20
    fit = random.randrange(5, 20)
    p.expect("how many virtual machines fit that share nothing", p.call(vm, 4 * vm, 4, fit * vm + vm // 2),
             fit, "There nothing is shared: each costs as much as the first.", "man 5 proc_pid_smaps, Pss")
    p.expect("how many fit where not even the first one does", p.call(one, many, count, one // 2), 0,
             "The first one needs what all share, too.", "man 5 proc_pid_smaps, Pss")


def _why_not_so_many(got: object, one: int, many: int, count: int, budget: int) -> str:
    """The likely cause of a wrong number."""
    each = (many - one) / (count - 1)
    if got in (budget // one, round(budget / one)):
        return "What all of them share was paid for by each once more."
    if got in (int(budget * count // many), round(budget * count / many)):
        return "The share of the first one was spread over a few. A hundred spread it further."
    if got in (int(budget // each), round(budget / each)):
        return "Somebody has to bring what all share. You forgot to pay for it."
    return "What does one more cost? And what did the first one cost on top of that?"


DENSITY = Exercise(
    id="bench.density", title="How many fit", difficulty=2, minutes=6, lines=4, syscalls=(),
    hints=(
        "Two numbers hide in the two that you have: what one more costs, and what the first brings along.",
        "From 1 to count there are count - 1 more. They cost many - one.",
        "The first takes `one`. What is left of the budget is for the others. Whole ones only, maybe none.",
    ),
    reference="mycontainer.lab.exercises.bench.density", probe=probe_density,
    stub='''
        def my_density(one, many, count, budget):
            """How many instances fit into `budget` bytes.

            One takes `one` bytes; `count` of them, at the same time, take `many` bytes in all.
            """
            ...
        ''',
    fast_track="budget // one: one line. The check says what is wrong with it.",
    wrong=(
        Wrong("""
            def my_density(one, many, count, budget):
                return int(budget // one)
            """, says="paid for by each once more"),
        Wrong("""
            def my_density(one, many, count, budget):
                return int(budget // (many / count))
            """, says="was spread over a few"),
        Wrong("""
            def my_density(one, many, count, budget):
                return int(budget // ((many - one) / (count - 1)))
            """, says="You forgot to pay for it"),
        Wrong("""
            def my_density(one, many, count, budget):
                return 1 + (budget - one) / ((many - one) / (count - 1))
            """, says="Half an instance is none"),
        Wrong("""
            def my_density(one, many, count, budget):
                return 1 + abs(int((budget - one) / ((many - one) / (count - 1))))
            """, says="The first one needs what all share"),
    ),
)


# ── when_vm ──────────────────────────────────────────────────────────────────────────────────────────

def probe_when_vm(p: Probe) -> None:
    costs = {"container": (random.uniform(0.02, 0.2), float(random.randrange(1, 4))),
             "microVM": (random.uniform(0.3, 0.7), float(random.randrange(30, 60))),
             "VM": (random.uniform(6, 12), float(random.randrange(300, 500)))}
    whole = {"kernel": "any linux", "system": "linux", "code": "ours", "within": 60.0, "count": 5,
             "memory": 16000.0}
    for what, changes, expected, cause in (
            ("our own service, five times", {}, "container",
             "Everything is right for it and fits. Which takes the least memory?"),
            ("an old program that needs Debian 7", {"system": "debian 7"}, "container",
             "Another distribution is other files, and a container brings its own. The kernel is shared."),
            ("a stranger's program", {"code": "a stranger's"}, "microVM",
             "A fault in the kernel that all share, and the stranger is in all of them."),
            ("a stranger's program, 200 times, each to be there within 2 s",
             {"code": "a stranger's", "count": 200, "within": 2.0}, "microVM",
             "It is safe there, and it is not there in time, or does not fit."),
            ("a Windows program", {"kernel": "windows", "system": "windows"}, "VM",
             "A microVM has no firmware and hardly a device: it boots a Linux that was built for it."),
            ("a program that loads a module into the kernel", {"kernel": "linux of its own"}, "microVM",
             "It would load it into the kernel of everybody, if that let it."),
            ("a Windows program within one second", {"kernel": "windows", "within": 1.0}, None,
             "What is right takes longer, and what is fast is not right. Say so: None."),
            ("our own service, on 100 MB and 4000 times", {"count": 4000, "memory": 100.0}, None,
             "4000 of them do not fit, whatever they are.")):
        p.expect(f"what your function takes for {what}", p.call({**whole, **changes}, costs), expected, cause,
                 'the section "When a virtual machine is right"')


WHEN_VM = Exercise(
    id="bench.when_vm", title="When it has to be a VM", difficulty=2, minutes=6, lines=8, syscalls=(),
    hints=(
        "Two questions, in this order: what is right for the job? Of that, what fits, and is the cheapest?",
        ("Windows leaves only the VM. A Linux kernel of its own, or a stranger's code, leaves microVM and "
         "VM. "
         "Else all three are right, whichever distribution it is."),
        ("What fits: it starts within job[\"within\"], and count of them take at most job[\"memory\"]. Then "
         "min(…, key=…, default=None)."),
    ),
    reference="mycontainer.lab.exercises.bench.when_vm", probe=probe_when_vm,
    stub='''
        def my_when_vm(job, costs):
            """The name in `costs` that takes least memory, of those that are right for the job and fit.

            `costs`: name -> (seconds to start, MB each), for "container", "microVM" and "VM".
            `job`: kernel "any linux", "linux of its own" or "windows"; system, as "debian 7"; code "ours" or
            "a stranger's"; within seconds; count; memory, in MB, for all of them. None if nothing fits.
            """
            ...
        ''',
    fast_track="Only which ones are right; take the first in the order of costs.",
    wrong=(
        Wrong("""
            def my_when_vm(job, costs):
                return min(costs, key=lambda name: costs[name][1])
            """, says="the stranger is in all of them"),
        Wrong("""
            def my_when_vm(job, costs):
                if job["kernel"] != "any linux" or job["system"] != "linux" or job["code"] != "ours":
                    return "VM"
                return "container"
            """, says="Another distribution is other files"),
        Wrong("""
            def my_when_vm(job, costs):
                safe = job["code"] != "ours" or job["kernel"] != "any linux"
                return "microVM" if safe else "container"
            """, says="no firmware and hardly a device"),
        Wrong("""
            def my_when_vm(job, costs):
                if job["kernel"] == "windows":
                    return "VM"
                safe = job["code"] != "ours" or job["kernel"] != "any linux"
                return "microVM" if safe else "container"
            """, says="what is fast is not right"),
        Wrong("""
            def my_when_vm(job, costs):
                if job["kernel"] == "windows":
                    return "VM"
                return "microVM" if job["code"] != "ours" else "container"
            """, says="the kernel of everybody"),
    ),
)

EXERCISES = [PROBE, BAD_BENCH, DENSITY, WHEN_VM]

PREDICTIONS = [
    Prediction(
        id="bench.same",
        question="The very same program is measured as A and as B, twenty times each, in turns. By how much "
                 "do "
                 "their medians differ?",
        choices={"a": "not at all: it is the same program",
                 "b": "by some per cent, another number each time",
                 "c": "B is faster, since A has warmed everything up"},
        answer="b",
        why="Something else always runs, and takes the CPU now and then. What this difference is on your "
            "machine "
            "is the first thing to know: nothing smaller can be told from chance.",
        misconceptions={
            "a": "That would be so on a machine that does nothing else. Yours takes interrupts, saves power, "
                 "and "
                 "runs a browser.",
            "c": "That would be so if A came first and B afterwards. In turns each is as warm as the other: "
                 "that "
                 "is why one takes turns.",
        }),
    Prediction(
        id="bench.seconds",
        question="How long does a virtual machine take from the order to the first word of a program in it?",
        choices={"a": "several seconds at least: it has to boot",
                 "b": "as long as what one boots in it: well below a second can be had",
                 "c": "as long as a container, with hardware that helps"},
        answer="b",
        why="Most of the time is firmware, a kernel that looks for devices, and an init system that starts "
            "services. A machine that has none of these, with a kernel that finds few devices, is quickly "
            "there: "
            "Firecracker's specification promises 125 ms until the guest's first process.",
        misconceptions={
            "a": "Booting is work, and it is the guest's choice how much of it there is. A Debian starts "
                 "systemd "
                 "and dozens of services; a microVM starts one program.",
            "c": "Hardware helps to run instructions, not to skip them: a kernel has to start, which in a "
                 "container has been running for days.",
        }),
    Prediction(
        id="bench.slower",
        question="A program that only computes: how much slower is it in a container than outside?",
        choices={"a": "not measurably: the CPU does not know of containers",
                 "b": "some per cent: each namespace costs a little",
                 "c": "much: each instruction goes through the container engine"},
        answer="a",
        why="A namespace is looked at when the kernel is asked something: a name, a pid, a mount. An "
            "addition asks "
            "nobody. What may cost: system calls under seccomp, files on an overlay, packets through a "
            "bridge, "
            "and a limit.",
        misconceptions={
            "b": "It costs where it is looked at, in system calls, and there little. Computing has none.",
            "c": "The engine has started the process, and sleeps. Nothing of it lies between a program and "
                 "its "
                 "CPU. That would be an emulator.",
        }),
    Prediction(
        id="bench.windows",
        question="A file that is a program for Windows lies in a container, and is executed. What happens?",
        choices={"a": "it runs, if the image is one of Windows",
                 "b": "it runs, if the container is privileged",
                 "c": "the kernel refuses to execute it"},
        answer="c",
        why="exec is a system call, and there is one kernel to answer it: Linux. It looks at the first "
            "bytes, and does not know this kind of program.",
        misconceptions={
            "a": "An image is files (chapter 4). Windows' own kernel would be a file among them, which "
                 "nobody boots.",
            "b": "Privileges decide what one may ask the kernel. They teach it nothing.",
        }),
    Prediction(
        id="bench.twenty",
        question="One copy of a program has 1.4 MB in memory, says `ps` (RSS). Twenty copies run. How much "
                 "memory "
                 "do they take together?",
        choices={"a": "28 MB: twenty times as much", "b": "about 2.5 MB", "c": "1.4 MB: it is one program"},
        answer="b",
        why="Its file is in memory once (the page cache, chapter 3), and all twenty look at the same pages. "
            "Only "
            "what each has written to is its own: some dozens of kB.",
        misconceptions={
            "a": "RSS counts a page once for each process that sees it. The sum counts the same page twenty "
                 "times.",
            "c": "A stack, a heap, the variables: these are written to, so each has its own.",
        }),
]
