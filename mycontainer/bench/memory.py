"""What does one more instance cost in memory?

Not what the first one takes, which loads what all share, but what each further one adds: the readings with
one and with N running, their difference divided by N - 1. Three parts are read, since no single number has
them all:

    pss     proportional set size of all its processes: the program, monitors, shims, the machine's emulator
    kernel  what the kernel holds for it: of its cgroup where it has one (memory.kmem, or memory.stat), else
            the change of the whole machine's stacks, page tables and slabs that it cannot give back
    files   what lies in its own memory file systems (tmpfs, such as a throw-away root), if no process of it
            has mapped it

and beside them the change of MemAvailable, the machine's own account of all of it, as a check. What is
machine-wide moves when anybody does anything: such a sample says so in its label ``how``.
man 5 proc_meminfo, proc_pid_smaps; admin-guide/cgroup-v1/memory.rst; cgroup-v2.rst.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import suppress

from mycontainer.bench import facts
from mycontainer.bench.crowd import Crowd, NoRoom, insist, meminfo, settle
from mycontainer.bench.measure import Progress, Settings, interleaved, prepared, silent
from mycontainer.bench.run import Run, Sample
from mycontainer.bench.subject import MACHINE, NotReady, Subject, page, sleeper
from mycontainer.bench.twin import Twin

FORMULA = "One more is (the reading with N running - the reading with 1) / (N - 1), N being up to 10."
PARTS = {"pss": "its processes", "kernel": "the kernel's part", "files": "files in memory"}
AVAILABLE = "available"  # MemAvailable: all of it, by the machine's own account
TASKS = {"idle": sleeper, "serving": page}
NEEDS = {"idle": "byte", "serving": "page"}      # `Subject.can`
CGROUP, WHOLE = "cgroup", "machine"              # how the kernel's part was found out
OF_KERNEL = ("SUnreclaim", "KernelStack", "PageTables", "SecPageTables", "Percpu")
MOST, MOST_MACHINES = 10, 3                      # so many instances at once
QUICK_MOST, QUICK_MACHINES = 3, 2
ROUNDS, QUICK_ROUNDS = 8, 3


def measure(subjects: Sequence[Subject], settings: Settings, progress: Progress = silent) -> Run:
    """Idle (a sleeping program) and serving (a web server that was asked), in turns."""
    run = Run("memory", settings=dict(settings._asdict()), machine=facts.machine())
    # One round is many starts, and memory hardly varies: few rounds say as much as many.
    settings = settings._replace(rounds=min(settings.rounds, QUICK_ROUNDS if settings.quick else ROUNDS),
                                 warmup=1)
    with prepared(subjects, run, progress) as ready:
        for series in TASKS:
            able = [one for one in ready if NEEDS[series] in one.can]
            if not _series(able, series, settings, run, progress):
                break
    return run


def _series(subjects: Sequence[Subject], series: str, settings: Settings, run: Run,
            progress: Progress) -> bool:
    def once(subject: Subject, number: int) -> list[Sample]:
        return one_round(subject, number, series, settings, run)

    twins = [Twin(subject) for subject in subjects if subject.name == "process"]
    return interleaved([*subjects, *twins], settings, once, run, progress, series)


def one_round(subject: Subject, number: int, series: str, settings: Settings, run: Run) -> list[Sample]:
    """The readings of one subject with none, one, and N instances."""
    few, many = (QUICK_MACHINES, QUICK_MOST) if settings.quick else (MOST_MACHINES, MOST)
    most, pause = few if subject.kind == MACHINE else many, 0.1 if settings.quick else 0.5
    name = f"aa-{series}" if isinstance(subject, Twin) else series
    found: list[Sample] = []
    with Crowd() as crowd:
        for count in range(most + 1):
            if count in (0, 1, most):
                settle(pause)
                insist(crowd)
                found += readings(subject.name, name, crowd, number, run.clock())
            if count < most:
                try:
                    crowd.add(subject, TASKS[series](), settings.deadline)
                except NoRoom as full:
                    raise NotReady(f"no room for {most} of them: {full}") from None
    run.notes += [f"{subject.name}: cannot stop: {fault}" for fault in crowd.faults]
    return found


def readings(name: str, series: str, crowd: Crowd, number: int, at: float) -> list[Sample]:
    """What the machine, the cgroups and the processes say now."""
    info, count, ours = meminfo(), len(crowd.instances), crowd.kernel()
    pids = set[int]().union(*(one.pids() for one in crowd.instances))
    kernel = sum(info.get(field, 0) for field in OF_KERNEL)
    files = max(0, in_memory_files(pids) - sum(mapped_shared(pid) for pid in pids))
    values = [("pss", crowd.pss(), "processes"), ("kernel", kernel, WHOLE), ("files", files, "mounts"),
              (AVAILABLE, info["MemAvailable"], WHOLE)]
    if ours:
        values.append(("kernel", ours, CGROUP))
    return [Sample(name, series, value, "bytes", number, at, {"part": part, "running": count, "how": how})
            for part, value, how in values]


def mapped_shared(pid: int) -> int:
    """The part of a process's PSS that is pages of a memory file system: they are not counted twice."""
    with suppress(OSError), open(f"/proc/{pid}/smaps_rollup") as rows:
        for row in rows:
            if row.startswith("Pss_Shmem:"):
                return int(row.split()[1]) << 10
    return 0


def in_memory_files(pids: Iterable[int]) -> int:
    """Bytes in the memory file systems that these processes have mounted and we have not, each once."""
    used: dict[str, int] = {}
    seen: set[int] = set()
    ours = {mount.split()[2] for mount in _mounts("self")}
    for pid in pids:
        with suppress(OSError):
            namespace = os.stat(f"/proc/{pid}/ns/mnt").st_ino
            if namespace in seen:
                continue
            seen.add(namespace)
            for mount in _mounts(pid):
                device, point = mount.split()[2], mount.split()[4]
                if mount.partition(" - ")[2].startswith("tmpfs ") and device not in ours:
                    room = os.statvfs(f"/proc/{pid}/root{point}")
                    used[device] = (room.f_blocks - room.f_bfree) * room.f_frsize
    return sum(used.values())


def _mounts(pid: int | str) -> list[str]:
    with open(f"/proc/{pid}/mountinfo") as rows:
        return rows.readlines()


# ---- what follows from the readings ------------------------------------------------------------------------


def one_more(run: Run, name: str, series: str, part: str) -> list[float]:
    """What one more instance cost, a number a round, in bytes; of what a cgroup and the machine both tell,
    the cgroup's word counts."""
    how = source(run, name, series) if part == "kernel" else None
    rounds: dict[int, dict[int, float]] = {}
    for one in run.samples:
        mine = (one.subject, one.series, one.labels["part"]) == (name, series, part)
        if mine and how in (None, one.labels["how"]):
            rounds.setdefault(one.round, {})[one.labels["running"]] = one.value
    sign = -1 if part == AVAILABLE else 1
    costs = []
    for readings_by_count in rounds.values():
        most = max(readings_by_count)
        if most > 1 and 1 in readings_by_count:
            costs.append(sign * (readings_by_count[most] - readings_by_count[1]) / (most - 1))
    return costs


def source(run: Run, name: str, series: str) -> str:
    """Who told the kernel's part of a subject: its cgroup, or the machine as a whole."""
    told = any(one.labels.get("how") == CGROUP for one in run.samples
               if one.subject == name and one.series == series)
    return CGROUP if told else WHOLE


def total(run: Run, name: str, series: str) -> list[float]:
    """All parts of one more instance together, a number a round. What shrank by chance counts as nothing."""
    parts = [one_more(run, name, series, part) for part in PARTS]
    return [sum(max(0.0, value) for value in values) for values in zip(*parts, strict=False)]
