"""engine/plan.py and the plan of a bundle: one list for the start, for what is shown, and for clearing up."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bundle import OCI, Oci, environment, eventually, here, needs_busybox
from mycontainer.engine import bundle_cgroup, bundle_launch, bundle_plan, bundle_state, bundle_store, config
from mycontainer.engine.bundle_ground import Ground
from mycontainer.engine.plan import INSIDE, MEETING, OUTSIDE, Journal, Plan, Step, meeting
from mycontainer.errors import ContainerError
from needs import needs_root, needs_tool, needs_userns, needs_v1


@pytest.fixture
def oci(tmp_path: Path) -> Iterator[Oci]:
    tmp_path.chmod(0o755)
    one = Oci(tmp_path / "oci")
    yield one
    one.clean()


# ---- a plan in general


def test_a_step_shows_the_very_arguments_that_it_acts_with() -> None:
    seen: list[object] = []

    def act(*arguments: object) -> None:
        seen.extend(arguments)

    step = Step("try it", 1, OUTSIDE, act, ("a", 3))
    assert step.describe() == 'act("a", 3)'
    step.execute()
    assert seen == ["a", 3]


def test_steps_are_done_in_their_order_by_their_side_between_the_meetings() -> None:
    done: list[str] = []
    steps = [Step("1", 1, OUTSIDE, done.append, ("1",)), meeting("created"),
             Step("2", 1, INSIDE, done.append, ("2",)), Step("3", 1, OUTSIDE, done.append, ("3",)),
             Step("4", 1, OUTSIDE, done.append, ("4",), spawned=True), meeting("go"),
             Step("5", 1, INSIDE, done.append, ("5",))]
    plan = Plan(steps)
    plan.run("", "created", OUTSIDE)
    plan.run("created", "go", OUTSIDE)
    plan.run("created", "", INSIDE)
    assert done == ["1", "3", "2", "5"]
    assert list(plan.times) == done, "each was timed"
    begins = [begin for begin, _ in plan.times.values()]
    assert begins == sorted(begins)


def test_the_intent_is_written_down_before_the_step_acts(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path / "journal"))

    def act() -> None:
        assert journal.records() == [{"step": "make it", "path": "/x"}]
        raise OSError(28, "No space left on device")

    plan = Plan([Step("make it", 1, OUTSIDE, act, record=lambda: {"path": "/x"})], journal)
    with pytest.raises(ContainerError, match="cannot make it: No space left on device"):
        plan.run("", "", OUTSIDE)
    undone: list[object] = []
    assert journal.undo({"make it": undone.append}) == []
    assert undone == [{"step": "make it", "path": "/x"}]


def test_a_journal_that_is_cut_off_anywhere_is_read_up_to_there(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path / "journal"))
    for number in range(3):
        journal.intend(f"step {number}", {"text": 'a"\n\u1234'})
    whole = (tmp_path / "journal").read_bytes()
    ends = [at for at, byte in enumerate(whole, 1) if byte == 10]
    for length in range(len(whole) + 1):
        (tmp_path / "journal").write_bytes(whole[:length])
        assert len(journal.records()) == sum(end <= length for end in ends)


def test_what_cannot_be_undone_does_not_stop_the_rest(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path / "journal"))
    journal.intend("good", {})
    journal.intend("bad", {})
    journal.intend("unknown", {})
    undone: list[object] = []

    def fail(record: object) -> None:
        raise OSError(16, "Device or resource busy")

    failures = journal.undo({"good": undone.append, "bad": fail})
    assert [str(failure) for failure in failures] == [
        "cannot undo unknown: 'unknown'", "cannot undo bad: Device or resource busy"]
    assert undone == [{"step": "good"}]


# ---- the plan of a bundle


def plan_of(oci: Oci, waits: bool = True) -> Plan:
    found, _ = config.load(str(oci.bundle))
    return bundle_plan.make(found, Ground(found, oci.id, str(oci.bundle), f"{oci.root}/{oci.id}"), waits)


@needs_busybox
def test_every_step_has_a_name_of_its_own_and_its_chapter(oci: Oci) -> None:
    steps = [step for step in plan_of(oci).steps if step.where != MEETING]
    names = [step.name for step in steps]
    assert len(set(names)) == len(names)
    assert {step.chapter for step in steps} <= set(range(1, 10))
    meetings = [step.name for step in plan_of(oci).steps if step.where == MEETING]
    assert meetings == ["created", "mapped", "networked", "go"]


@needs_busybox
def test_what_outlives_us_has_a_record_and_every_record_its_undo(oci: Oci) -> None:
    recorded = {step.name for step in plan_of(oci).steps if step.record}
    assert recorded <= bundle_state.UNDO.keys()
    assert {step.where for step in plan_of(oci).steps if step.record} == {OUTSIDE}


@needs_busybox
@needs_userns
def test_explain_touches_nothing(oci: Oci) -> None:
    for verb in ("create", "run"):
        done = here("--root", str(oci.root), verb, "--bundle", str(oci.bundle), "--explain", oci.id)
        assert done.returncode == 0, done.stderr
        assert "── go ──" in done.stdout
        assert 'pivot("' in done.stdout
    assert not oci.root.exists()
    assert not any(map(os.path.exists, bundle_cgroup.directories(f"/mycontainer/{oci.id}")))


@needs_busybox
@needs_userns
@needs_tool("strace", "strace")
def test_what_is_explained_is_what_the_kernel_is_asked(oci: Oci) -> None:
    """The mounts, in their order and with their flags and options; namespaces and the change of root."""
    oci.command("true")
    shown = bundle_launch.explained(oci.id, str(oci.bundle), str(oci.root))
    log = oci.directory / "strace"
    trace = "trace=mount,unshare,pivot_root,sethostname,execve"
    argv = ["strace", "-f", "-o", str(log), "-e", trace, "-s", "200", *OCI, "--root", str(oci.root), "run",
            "-b", str(oci.bundle), oci.id]
    done = subprocess.run(argv, env=environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    calls = log.read_text()
    expected = re.findall(r'  mount\("[^"]*", "[^"]*", "(\w+)", "(\w+)", ([^"]*), "([^"]*)"\)', shown)
    assert len(expected) >= 5
    traced = re.findall(r'mount\("(\w+)", "/proc/self/fd/\d+", "(\w+)", ([^,]*), (?:"([^"]*)"|NULL)\)', calls)
    kinds = {kind for kind, *_ in expected}
    ours = [(source, kind, data) for source, kind, _, data in traced if kind in kinds]
    wanted = [(source, kind, data) for kind, source, _, data in expected]
    assert [one for one in ours if one in wanted] == wanted
    named = re.search(r"create\(\((.*?)\)\)", shown)
    assert named
    flags = re.search(r"unshare\(([^)]*)\)", calls)
    assert flags
    assert len(flags[1].split("|")) == len(named[1].split(","))
    assert calls.index("sethostname(") < calls.index("pivot_root(") < calls.rindex("execve(")


@needs_busybox
@needs_userns
@needs_tool("strace", "strace")
def test_nothing_of_the_image_is_loaded_before_the_command_runs(oci: Oci) -> None:
    """Between the change of root and exec Python opens no file but the user list: no module, no codec."""
    oci.command("true")
    log = oci.directory / "strace"
    trace = "trace=open,openat,openat2,pivot_root,execve"
    argv = ["strace", "-f", "-o", str(log), "-e", trace, *OCI, "--root", str(oci.root), "run", "-b",
            str(oci.bundle), oci.id]
    done = subprocess.run(argv, env=environment(), capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    calls = log.read_text()
    pid = re.findall(r"^(\d+) +pivot_root", calls, re.MULTILINE)[0]
    ours = [line for line in calls[calls.index("pivot_root"):].splitlines() if line.startswith(pid)]
    until = next(number for number, line in enumerate(ours) if "execve" in line and "= 0" in line)
    opened = re.findall(r'open\w*\([^"]*"([^"]*)"', "\n".join(ours[:until]))
    assert set(opened) <= {"/etc/passwd"}


@needs_busybox
@needs_userns
def test_the_time_of_each_step_is_kept(oci: Oci) -> None:
    oci.command("true")
    try:
        assert oci.create().returncode == 0
        steps = json.loads((oci.root / oci.id / "state.json").read_text())["steps"]
        assert {"listen for start", "note PID 1", "mount /proc", "change the root"} <= steps.keys()
        assert all(begin > 0 and 0 <= took < 5 for begin, took in steps.values())
    finally:
        oci("delete", "-f", oci.id)


# ---- killed in the middle


def dies_at(name: str, after: bool, work: Callable[[], object]) -> None:
    """Run ``work`` in a child that is killed, by SIGKILL, before or after the step of this name. If PID 1
    takes the step, it goes on a moment later, as far as it is let."""
    hear, tell = os.pipe()
    child = os.fork()
    if child == 0:
        execute = Step.execute

        def meet_death(step: Step, now: bool) -> None:
            if step.name == name and now:
                os.write(tell, b"x")
                time.sleep(0.02 if step.where == INSIDE else 10)

        def step_and_die(step: Step) -> None:
            meet_death(step, not after)
            execute(step)
            meet_death(step, after)

        Step.execute = step_and_die  # type: ignore[method-assign, assignment]
        try:
            os.dup2(os.open(os.devnull, os.O_RDWR), 1)
            work()
        finally:
            os._exit(1)
    os.close(tell)
    reached = os.read(hear, 1)
    os.kill(child, signal.SIGKILL)
    os.close(hear)
    os.waitpid(child, 0)
    assert reached, f"it did not come to the step: {name}"


def everything_of(oci: Oci) -> list[str]:
    """What there is of it: its directory, and its cgroup."""
    directories = bundle_cgroup.directories(f"/mycontainer/{oci.id}") if os.geteuid() == 0 else []
    return [str(path) for path in (f"{oci.root}/{oci.id}", *directories) if os.path.exists(path)]


def kill_at_each_step(oci: Oci, after: Callable[[int], bool]) -> None:
    """The next command is any: a list, or a delete. That no process is left, the leak check sees."""
    oci.command("sleep", "1000")
    names = [step.name for step in plan_of(oci).steps if step.where != MEETING and not step.spawned]
    for number, name in enumerate(names[: names.index("let go of the outside") + 1]):
        if name == "let go of the outside" and after(number):
            continue  # it would be created by then
        dies_at(name, after(number), lambda: bundle_launch.create(str(oci.root), oci.id, str(oci.bundle)))
        verb = ["list"] if number % 4 < 2 else ["delete", "--force", oci.id]

        def swept(verb: list[str] = verb) -> bool:
            here("--root", str(oci.root), *verb)
            return not everything_of(oci)

        assert eventually(swept), (name, everything_of(oci))


@needs_busybox
@needs_userns
def test_killed_at_any_step_nothing_is_left_by_the_next_command(oci: Oci) -> None:
    """Before one step, after the next, and so on."""
    kill_at_each_step(oci, lambda number: number % 2 == 1)


@pytest.mark.soak
@needs_busybox
@needs_userns
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_killed_before_and_after_every_step(oci: Oci, after: bool) -> None:
    kill_at_each_step(oci, lambda _: after)


@needs_busybox
@needs_userns
def test_a_delete_that_is_killed_is_done_by_the_next(oci: Oci) -> None:
    oci.command("sleep", "1000")

    def dying(where: Callable[..., object]) -> Callable[..., object]:
        def last_act(*arguments: object) -> object:
            where(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)
            return None
        return last_act

    for name in ("note PID 1", "make the cgroup", "unlink"):
        assert oci.create().returncode == 0
        child = os.fork()
        if child == 0:
            if name == "unlink":
                os.unlink = dying(os.unlink)  # type: ignore[assignment]
            else:
                bundle_state.UNDO[name] = dying(bundle_state.UNDO[name])  # type: ignore[assignment]
            here("--root", str(oci.root), "delete", "--force", oci.id)
            os._exit(0)
        os.waitpid(child, 0)
        assert here("--root", str(oci.root), "delete", "--force", oci.id).returncode == 0
        assert eventually(lambda: not everything_of(oci)), name


@needs_busybox
@needs_userns
def test_of_many_creates_of_one_name_one_wins(oci: Oci) -> None:
    oci.command("sleep", "1000")
    children = []
    for _ in range(8):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                bundle_launch.create(str(oci.root), oci.id, str(oci.bundle))
                code = 0
            except ContainerError as error:
                code = 2 if "exists already" in str(error) else 3
            finally:
                os._exit(code)
        children.append(child)
    codes = sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)
    assert codes == [0, *[2] * 7]
    assert oci.status() == "created"
    assert oci("delete", "--force", oci.id).returncode == 0


def test_a_pid_that_was_given_to_another_is_not_signalled(tmp_path: Path) -> None:
    """The record's start time is not that of the process that has its pid now: it is ours, and lives on."""
    record = bundle_state.process_record(os.getpid()) | {"pid_started": 1}
    assert not bundle_state.lives(record)
    bundle_state.end(record)
    assert bundle_state.lives(bundle_state.process_record(os.getpid()))


def test_state_that_was_cut_off_at_any_byte_is_no_traceback(tmp_path: Path) -> None:
    facts = bundle_state.process_record(1) | {"id": "x", "bundle": "/b", "annotations": {"a": "b"}}
    (tmp_path / "x").mkdir()
    bundle_state.Bundle(str(tmp_path / "x")).write(facts)
    whole = (tmp_path / "x" / "state.json").read_bytes()
    for length in range(0, len(whole), 7):
        (tmp_path / "x" / "state.json").write_bytes(whole[:length])
        assert here("--root", str(tmp_path), "state", "x").returncode == 0
    assert here("--root", str(tmp_path), "delete", "--force", "x").returncode == 0
    assert bundle_store.everyone(str(tmp_path)) == []


@needs_root
@needs_v1
def test_a_cgroup_is_taken_away_as_far_as_we_made_it(tmp_path: Path) -> None:
    path = f"/mycontainer/test-plan-{os.getpid()}/below/it"
    record = bundle_cgroup.missing(path)
    bundle_cgroup.make(path)
    assert all(map(os.path.isdir, bundle_cgroup.directories(path)))
    inner = bundle_cgroup.missing(path)
    assert inner["made"] == []
    bundle_cgroup.undo(inner)  # of whoever found it there
    assert all(map(os.path.isdir, bundle_cgroup.directories(path)))
    bundle_cgroup.undo(record)
    bundle_cgroup.undo(record)
    assert not any(map(os.path.exists, bundle_cgroup.directories(path.removesuffix("/below/it"))))


