"""The questions of the benchmark: budgets hold, everything ends, and numbers follow from what was read."""

from __future__ import annotations

import hashlib
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from mycontainer.bench import anatomy, crowd, density, layer, memory, overhead, scale, scratch, steps, unpack
from mycontainer.bench.crowd import Crowd, NoRoom
from mycontainer.bench.density import Budget
from mycontainer.bench.measure import Settings
from mycontainer.bench.ours import CommandLine
from mycontainer.bench.plain import Process
from mycontainer.bench.run import Run, Sample
from mycontainer.bench.subject import PROCESS, Command, Missing, NotReady, Subject, Task, hello, sleeper
from needs import needs_tool, needs_userns

SETTINGS = Settings(rounds=2, warmup=1, deadline=10.0, budget=5.0, quick=True)
MANY = Budget(cap=1000, machines=1000, memory=1 << 60, slow=60.0, seconds=60.0)


class Sleepers(Subject):
    """Plain processes that do as they are told, by a shell of this machine; the next after ``lives`` dies."""

    name, label, kind = "sleepers", "sleepers", PROCESS

    def __init__(self, lives: int = 1000) -> None:
        self.lives, self.pids = lives, list[int]()

    def available(self) -> Missing | None:
        return None

    def versions(self) -> Mapping[str, str]:
        return {}

    def start(self, task: Task) -> Command:
        doomed = len(self.pids) >= self.lives
        words = task.argv[-1] if task.argv[1] == "sh" else " ".join(task.argv[1:])
        script = "exit 3" if doomed else words.replace("busybox ", "")
        instance = Command(("sh", "-c", script), task)
        self.pids.append(instance.process.pid)
        return instance


def gone(pids: list[int]) -> bool:
    return not any(os.path.exists(f"/proc/{pid}") for pid in pids)


def samples(run: Run, series: str) -> list[Sample]:
    return [one for one in run.samples if one.series == series]


# ---- the crowd ---------------------------------------------------------------------------------------------


def test_nothing_is_started_when_the_machine_needs_its_memory_itself() -> None:
    subject = Sleepers()
    with Crowd(spare=1 << 60) as all_of_them, pytest.raises(NoRoom, match="memory"):
        all_of_them.add(subject, sleeper(), 5)
    assert subject.pids == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_crowd_ends_whatever_happens(error: type[BaseException]) -> None:
    subject = Sleepers()

    def fails() -> None:
        with Crowd() as all_of_them:
            for _ in range(3):
                all_of_them.add(subject, sleeper(), 5)
            assert all_of_them.alive()
            raise error

    with pytest.raises(error):
        fails()
    assert len(subject.pids) == 3
    assert gone(subject.pids)


def test_one_that_does_not_come_up_is_stopped_and_told() -> None:
    subject = Sleepers(lives=1)
    with Crowd() as all_of_them:
        all_of_them.add(subject, sleeper(), 5)
        with pytest.raises(NotReady):
            all_of_them.add(subject, sleeper(), 5)
        assert len(all_of_them.instances) == 1
        os.kill(subject.pids[0], 9)
        os.waitid(os.P_PID, subject.pids[0], os.WEXITED | os.WNOWAIT)
        all_of_them.instances[0].process.wait()  # type: ignore[attr-defined]
        with pytest.raises(NotReady, match="ended"):
            crowd.insist(all_of_them)


# ---- density -----------------------------------------------------------------------------------------------


def fill(subject: Subject, limits: Budget, tell: Callable[[int], object] = lambda count: None) -> Run:
    run = Run("density")
    density.fill(subject, SETTINGS, limits, run, tell)
    return run


def outcome(run: Run) -> tuple[int, str]:
    (only,) = samples(run, "count")
    return int(only.value), only.labels["stopped_by"]


def test_a_budget_that_cannot_be_hit_stops_at_the_cap() -> None:
    subject = Sleepers()
    run = fill(subject, MANY._replace(cap=4))
    assert outcome(run) == (4, "cap")
    assert [one.labels["running"] for one in samples(run, "start")] == [0, 1, 2, 3]
    assert [one.labels["running"] for one in samples(run, "available")] == [0, 1, 2, 3, 4]
    assert gone(subject.pids)


def test_the_budget_of_memory_stops_it(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = Sleepers()
    monkeypatch.setattr(Crowd, "check", lambda self: None)
    monkeypatch.setattr(crowd, "meminfo", lambda: {"MemTotal": 1 << 34,
                                                   "MemAvailable": (1 << 33) - 1000 * len(subject.pids)})
    assert outcome(fill(subject, MANY._replace(memory=3000))) == (3, "memory")
    assert gone(subject.pids)


def test_the_reserve_stops_it_even_without_a_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    subject = Sleepers()
    monkeypatch.setattr(crowd, "meminfo", lambda: {"MemTotal": 1 << 34,
                                                   "MemAvailable": crowd.RESERVE + 1500
                                                   - 1000 * len(subject.pids)})
    run = fill(subject, MANY)
    assert outcome(run) == (2, "memory")
    assert any("stay free" in note for note in run.notes)


def test_time_and_slow_starts_stop_it() -> None:
    assert outcome(fill(Sleepers(), MANY._replace(seconds=0.0))) == (0, "time")
    assert outcome(fill(Sleepers(), MANY._replace(slow=0.0))) == (density.SLOW_IN_A_ROW, "time")


def test_one_that_fails_stops_it_and_is_no_time() -> None:
    subject = Sleepers(lives=2)
    run = fill(subject, MANY)
    assert outcome(run) == (2, "failed")
    assert len(samples(run, "start")) == 2
    assert [one.series for one in run.failures] == ["start"]
    assert gone(subject.pids)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_density_cleans_up_after_an_exception(error: type[BaseException]) -> None:
    subject, run = Sleepers(), Run("density")

    def tell(count: int) -> None:
        if count == 3:
            raise error

    with pytest.raises(error):
        density.fill(subject, SETTINGS, MANY, run, tell)
    assert outcome(run) == (3, "interrupted")
    assert len(subject.pids) == 3
    assert gone(subject.pids)


def test_ctrl_c_keeps_what_there_is() -> None:
    done: list[str] = []

    def progress(_: float, __: float, what: str) -> None:
        done.append(what)
        if what == "sleepers: 2":
            raise KeyboardInterrupt

    subject = Sleepers()
    run = density.measure([subject], SETTINGS, progress, MANY)
    assert run.notes == ["interrupted"]
    assert outcome(run) == (2, "interrupted")
    assert gone(subject.pids)


def test_how_many_would_fit_follows_from_the_slope() -> None:
    def measured(each: float) -> Run:
        left = {n: 1e10 - each * n for n in range(6)}
        return Run("density", samples=[Sample("x", "available", value, "bytes", 0, 0, {"running": n})
                                       for n, value in left.items()])

    assert density.taken(measured(1e7), "x") == [(n, 1e7 * n) for n in range(1, 6)]
    assert density.would_fit(measured(1e7), "x", 5.05e8) == 50
    assert density.would_fit(measured(1e5), "x", 5.05e8) == 0  # less than what others take meanwhile
    assert density.would_fit(measured(1e7), "nobody", 5.05e8) == 0


# ---- memory ------------------------------------------------------------------------------------------------


def test_what_one_more_costs_is_recomputed_from_the_readings() -> None:
    run = memory.measure([Sleepers()], SETTINGS._replace(budget=3.0))
    idle = [one for one in run.samples if one.series == "idle" and one.labels["part"] == "pss"]
    for number in {one.round for one in idle}:
        readings = {one.labels["running"]: one.value for one in idle if one.round == number}
        assert set(readings) == {0, 1, memory.QUICK_MOST}
        assert readings[0] == 0
        assert readings[memory.QUICK_MOST] > readings[1] > 0
    expected = [(by_count[memory.QUICK_MOST] - by_count[1]) / (memory.QUICK_MOST - 1) for number in
                dict.fromkeys(one.round for one in idle)
                for by_count in [{one.labels["running"]: one.value for one in idle if one.round == number}]]
    assert memory.one_more(run, "sleepers", "idle", "pss") == expected
    assert 10_000 < statistics.median(expected) < 20_000_000


def test_a_cgroup_is_believed_before_the_whole_machine() -> None:
    def readings(how: str, values: Mapping[int, float], part: str = "kernel") -> Iterator[Sample]:
        for count, value in values.items():
            yield Sample("x", "idle", value, "bytes", 0, 0, {"part": part, "running": count, "how": how})

    machine = [*readings("machine", {0: 0, 1: 1e6, 5: 9e6})]
    assert memory.one_more(Run("memory", samples=machine), "x", "idle", "kernel") == [2e6]
    both = [*machine, *readings("cgroup", {0: 0, 1: 1e5, 5: 3e5})]
    assert memory.one_more(Run("memory", samples=both), "x", "idle", "kernel") == [5e4]
    lost = [*readings("machine", {0: 9e6, 1: 8e6, 5: 4e6}, "available")]
    assert memory.one_more(Run("memory", samples=lost), "x", "idle", "available") == [1e6]


def test_a_dead_instance_is_no_cheap_one() -> None:
    run = memory.measure([Sleepers(lives=2)], SETTINGS._replace(budget=1.0))
    assert memory.one_more(run, "sleepers", "idle", "pss") == []
    assert run.failures


# ---- scale -------------------------------------------------------------------------------------------------


def test_starters_start_at_the_same_moment_and_leave_nothing(tmp_path: Path) -> None:
    taken = scale.at_once(Sleepers(), 4, 5.0, tmp_path)
    assert len(taken) == 4
    assert all(0 < seconds < 5 for seconds in taken)
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_a_starter_that_fails_is_no_time(tmp_path: Path) -> None:
    with pytest.raises(NotReady):
        scale.at_once(Sleepers(lives=0), 2, 5.0, tmp_path)


def test_a_start_is_measured_beside_as_many_as_it_says() -> None:
    subject, run = Sleepers(), Run("scale")
    scale.beside_others(subject, SETTINGS, 20.0, run)
    counts = [one.labels["running"] for one in run.samples]
    assert counts == [number for number in scale.QUICK_RUNNING for _ in range(scale.QUICK_EACH)]
    assert gone(subject.pids)


# ---- overhead ----------------------------------------------------------------------------------------------

AMOUNTS = dict.fromkeys(overhead.EVERYTHING, 2)


def spoken(name: str, inside: float, outside: float, count: str) -> Iterator[tuple[float, str]]:
    yield 10.0, f"b {name} 1000.0"
    yield 10.0 + outside, f"e {name} {1000.0 + inside}"
    yield 10.0 + outside, f"c {name} {count}"


def test_both_clocks_are_kept() -> None:
    told = overhead.judged(spoken("cpu", 0.5, 0.51, "2"), AMOUNTS)["cpu"]
    assert told == {"inside": pytest.approx(0.5), "outside": pytest.approx(0.51)}


def test_work_that_was_not_done_is_not_fast() -> None:
    assert overhead.judged(spoken("cpu", 0.001, 0.001, "1"), AMOUNTS)["cpu"] == "it did 1 of 2"
    assert overhead.judged(spoken("write", 0.1, 0.1, "4096"), AMOUNTS)["write"] == "it did 4096 of 8192"
    assert overhead.judged(iter(()), AMOUNTS)["create"] == "it did nothing of 2"


def test_a_clock_that_goes_wrong_is_noticed() -> None:
    told = overhead.judged(spoken("cpu", 0.2, 0.5, "2"), AMOUNTS)["cpu"]
    assert isinstance(told, str)
    assert "clock" in told


@needs_tool("busybox", "busybox-static")
def test_the_work_is_done_and_counted(tmp_path: Path) -> None:
    subject = Process()
    subject.prepare(tmp_path)
    amounts = {name: min(3, work.most) for name, work in overhead.EVERYTHING.items()}
    done = overhead.Bench(SETTINGS, Run("overhead")).do(subject, amounts)
    assert {name: times for name, times in done.items() if isinstance(times, str)} == {}
    assert set(done) == set(overhead.EVERYTHING)


def test_the_program_fits_on_a_kernels_command_line() -> None:
    most = {name: work.most for name, work in overhead.EVERYTHING.items()}
    script = overhead.program(most, 65535, hello().token).argv[-1]
    assert len(script) < 1700
    assert not set(script) & set("'\"\\\n\t")


# ---- layers ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> layer.Layer:
    return layer.make(tmp_path_factory.mktemp("layer"), 4)


def test_the_layer_is_the_same_each_time(made: layer.Layer, tmp_path: Path) -> None:
    again = layer.make(tmp_path, 4)
    assert (again.digest, again.diff_id) == (made.digest, made.diff_id)
    assert f"sha256:{hashlib.sha256(made.blob.read_bytes()).hexdigest()}" == made.digest
    listed = subprocess.run(["tar", "-tzf", made.blob], capture_output=True, text=True, check=True).stdout
    assert len(listed.splitlines()) == made.entries


@pytest.mark.parametrize("make", [unpack.Tar, unpack.Ours, unpack.Umoci])
def test_all_unpack_the_same_files(made: layer.Layer, make: type[unpack.Unpacker], tmp_path: Path) -> None:
    subject = make()
    if subject.available():
        pytest.skip(f"needs {subject.program}")
    subject.layer = made
    assert 0 < subject.unpack(tmp_path, 60) < 60
    roots = {unpack.Tar: ".", unpack.Ours: f"layers/{made.diff_id.removeprefix('sha256:')}/tree",
             unpack.Umoci: "root"}
    tree = tmp_path / roots[make]
    assert sum(1 for _ in tree.rglob("*")) == made.entries
    told = subprocess.run(["du", "-s", "--block-size=1", tmp_path], capture_output=True, text=True,
                          check=True)
    assert abs(unpack.on_disk(tmp_path) - int(told.stdout.split()[0])) <= 4096  # du counts the top itself


def test_ours_refuses_what_was_not_promised(made: layer.Layer, tmp_path: Path) -> None:
    subject = unpack.Ours()
    subject.layer = made._replace(digest="sha256:" + "0" * 64)
    with pytest.raises(NotReady, match="promised"):
        subject.unpack(tmp_path, 60)


def test_those_that_unpack_are_measured_though_they_start_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "QUICK_MEGABYTES", 2)
    run = unpack.measure([unpack.Tar(), unpack.Ours()], SETTINGS)
    assert run.missing == {}
    assert set(run.subjects) == {"tar", "ours-store"}
    for name in run.subjects:
        assert min(run.values(name, "unpack")) > 0
        assert min(run.values(name, "space")) > 1 << 20


# ---- anatomy -----------------------------------------------------------------------------------------------


def test_what_lies_between_two_steps_is_a_step(tmp_path: Path) -> None:
    log = tmp_path / "log"
    rows = [("begun", 5, 5, 7), ("mycontainer.api.start", 20, 20, 7),
            ("mycontainer.namespaces.create", 30, 40, 8),
            ("mycontainer.chroot.pivot", 32, 35, 8), ("mycontainer.container.execute", 60, 60, 9)]
    log.write_text("".join(f'["{name}", {begin * 10**6}, {end * 10**6}, {pid}]\n' for name, begin, end, pid
                           in rows))
    found = steps.read(log, 0, 100 * 10**6)
    assert [(one.name, round(one.begin * 1e3), round(one.end * 1e3)) for one in found] == [
        (steps.PYTHON, 0, 5), (steps.LOADING, 5, 20), (steps.BETWEEN, 20, 30), ("new namespaces", 30, 40),
        (steps.BETWEEN, 40, 60), ("exec, until its first word", 60, 100)]
    assert [one.who for one in found if one.chapter] == [1, 2]


def test_marks_become_phases() -> None:
    found = anatomy.phases([("kernel", 1.0), ("init", 3.0), ("service", 3.5)], 4.0)
    assert [(one.name, one.begin, one.end) for one in found] == [
        (anatomy.FIRMWARE, 0.0, 1.0), ("the kernel boots", 1.0, 3.0), ("init: modules, mounts", 3.0, 3.5),
        ("the program", 3.5, 4.0)]


@needs_userns
@needs_tool("busybox", "busybox-static")
def test_our_own_start_is_seen_from_end_to_end() -> None:
    subject = CommandLine()
    with scratch.directory() as place:  # not pytest's, into which root of a container may not look
        subject.prepare(place)
        found = anatomy.one_start(subject, 0, 30.0, place, Run("anatomy"))
    (total,) = [one.value for one in found if one.series == "total"]
    parts = [one for one in found if one.series == "step"]
    names = [one.labels["step"] for one in parts]
    for wanted in (steps.PYTHON, "new namespaces", "mount /proc", "pivot_root", "exec, until its first word"):
        assert wanted in names
    assert sum(one.value for one in parts) == pytest.approx(total, rel=1e-3)
    assert all(one.labels["begin"] >= 0 for one in parts)
    ends = [one.labels["begin"] + one.value for one in parts]
    assert ends == sorted(ends)


def test_the_typical_start_is_the_one_with_the_median_total() -> None:
    run = Run("anatomy")
    for number, seconds in enumerate((3.0, 1.0, 2.0)):
        run.samples += [Sample("x", "total", seconds, "s", number, 0),
                        Sample("x", "step", seconds, "s", number, 0,
                               {"step": "all", "begin": 0.0, "order": 0, "who": 0, "chapter": 0})]
    (only,) = anatomy.typical(run, "x")
    assert only.seconds == 2.0
    assert sorted(value for _, value in only.samples) == [1.0, 2.0, 3.0]


def test_questions_are_bounded_in_time() -> None:
    began = time.monotonic()
    density.measure([Sleepers()], SETTINGS._replace(budget=1.0))
    assert time.monotonic() - began < 10
