"""Chapter 3: every limit is run into, on whichever version of cgroups this machine has.

Here and in `make test-vm` the same tests run on version 1 and version 2, as root and in a delegated subtree.
"""

from __future__ import annotations

import errno
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mycontainer import api, cgroups, container, images, spawn
from mycontainer.cgroups import LEAF, Cgroup
from mycontainer.engine import limits
from mycontainer.errors import ContainerError
from mycontainer.images import base
from mycontainer.lab import hogs
from needs import needs_cgroups, needs_userns, needs_v2, new_cgroup

MB = 1 << 20


@pytest.fixture
def group() -> Iterator[Cgroup]:
    made = new_cgroup("one")
    yield made
    made.remove()
    assert not made.has("cgroup.procs")


@pytest.fixture
def other() -> Iterator[Cgroup]:
    made = new_cgroup("other")
    yield made
    made.remove()


class Child:
    """A child in a cgroup: `end` waits and returns (exit code or -signal, what the function returned)."""

    def __init__(self, group: Cgroup, function: Callable[..., Any], *arguments: Any) -> None:
        self.answer, say = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                group.join()
                os.write(say, pickle.dumps(function(*arguments)))
                code = 0
            except BaseException as error:
                os.write(say, pickle.dumps(error))
            finally:
                os._exit(code)
        os.close(say)

    def end(self) -> tuple[int, Any]:
        with open(self.answer, "rb") as pipe:
            data = pipe.read()
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return code, pickle.loads(data) if data else None


def run(group: Cgroup, function: Callable[..., Any], *arguments: Any) -> tuple[int, Any]:
    return Child(group, function, *arguments).end()


# ---- memory

@needs_cgroups
def test_a_hog_is_killed_at_its_limit_and_counted(group: Cgroup) -> None:
    group.limit_memory(48 * MB)
    assert run(group, hogs.eat, group, 90 * MB) == (-signal.SIGKILL, None)
    assert group.numbers("memory.events")["oom_kill"] == 1
    assert 40 * MB <= group.memory()[1] <= 48 * MB


@needs_cgroups
def test_below_its_limit_it_lives(group: Cgroup) -> None:
    group.limit_memory(96 * MB)
    assert run(group, hogs.eat, group, 60 * MB) == (0, 60 * MB)
    assert group.numbers("memory.events")["oom_kill"] == 0
    assert group.memory()[1] >= 60 * MB


@needs_cgroups
def test_the_limit_is_for_all_together(group: Cgroup) -> None:
    group.limit_memory(64 * MB)
    children = [Child(group, lambda: hogs.eat(group, 40 * MB, hold=60)) for _ in range(2)]
    end = time.monotonic() + 20
    while not group.numbers("memory.events")["oom_kill"] and time.monotonic() < end:
        time.sleep(0.02)
    group.kill()
    assert {child.end()[0] for child in children} == {-signal.SIGKILL}
    assert group.numbers("memory.events")["oom_kill"] == 1


@needs_cgroups
@needs_v2
def test_from_high_on_there_is_pressure_and_no_death(group: Cgroup) -> None:
    group.limit_memory(64 * MB, high=16 * MB)
    assert group.pressure("memory")["some"]["total"] == 0
    child = Child(group, hogs.eat, group, 48 * MB)  # each further page costs it milliseconds, then seconds
    end = time.monotonic() + 60
    while group.pressure("memory")["some"]["total"] < 50_000 and time.monotonic() < end:
        time.sleep(0.02)
    assert group.pressure("memory")["some"]["total"] >= 50_000
    events = group.numbers("memory.events")
    assert (events["high"] > 0, events["oom_kill"]) == (True, 0)
    group.kill()
    assert child.end()[0] == -signal.SIGKILL


# ---- the hogs themselves

@needs_cgroups
@pytest.mark.parametrize("hog", [lambda group: hogs.eat(group, MB), hogs.bomb], ids=["eat", "bomb"])
def test_a_hog_without_a_limit_does_not_start(group: Cgroup, hog: Callable[[Cgroup], Any]) -> None:
    with pytest.raises(ContainerError, match="not in that cgroup"):
        hog(group)
    code, error = run(group, hog, group)
    assert code == 1
    assert "more than you may be able to spare" in str(error)


# ---- CPU

@needs_cgroups
def test_a_quota_is_a_comb(group: Cgroup) -> None:
    group.limit_cpu(20_000, 100_000)
    share, gaps = run(group, hogs.burn, 1.5)[1]
    stat = group.numbers("cpu.stat")
    assert 0.05 < share < 0.3  # on a busy machine less than the quota
    assert stat["nr_throttled"] >= 5
    assert stat["throttled_usec"] > 200_000
    assert max(gaps) > 0.04  # it stood still, rather than ran slowly
    group.limit_cpu(None)
    assert run(group, hogs.burn, 0.5)[0] == 0
    assert group.numbers("cpu.stat")["nr_throttled"] <= stat["nr_throttled"] + 1


@needs_cgroups
def test_three_to_one_on_one_cpu(group: Cgroup, other: Cgroup) -> None:
    for each, weight in ((group, 300), (other, 100)):
        each.pin_cpus("0")
        each.weigh_cpu(weight)
    children = [Child(each, lambda: (os.sched_getaffinity(0), hogs.burn(3))) for each in (group, other)]
    answers = [child.end() for child in children]
    assert {tuple(answer[1][0]) for answer in answers} == {(0,)}
    used = [each.numbers("cpu.stat")["usage_usec"] for each in (group, other)]
    assert 2.0 < used[0] / used[1] < 4.2


@needs_cgroups
@needs_v2
def test_two_who_want_one_cpu_feel_pressure(group: Cgroup) -> None:
    group.pin_cpus("0")
    children = [Child(group, hogs.burn, 1) for _ in range(2)]
    assert [child.end()[0] for child in children] == [0, 0]
    assert group.pressure("cpu")["some"]["total"] > 100_000


# ---- processes

@needs_cgroups
def test_a_bomb_stops_at_the_limit(group: Cgroup) -> None:
    group.limit_processes(12)
    assert run(group, hogs.bomb, group) == (0, 11)  # itself is the twelfth
    group.limit_processes(20)
    assert run(group, hogs.bomb, group) == (0, 19)


@needs_cgroups
def test_frozen_and_thawed(group: Cgroup) -> None:
    child = Child(group, hogs.burn, 60)
    time.sleep(0.3)
    group.freeze()
    before = group.numbers("cpu.stat")["usage_usec"]
    time.sleep(0.4)
    assert group.numbers("cpu.stat")["usage_usec"] - before < 10_000
    group.thaw()
    time.sleep(0.4)
    assert group.numbers("cpu.stat")["usage_usec"] - before > 50_000
    group.kill()
    assert child.end()[0] == -signal.SIGKILL


@needs_cgroups
def test_kill_takes_all_even_frozen_ones(group: Cgroup) -> None:
    def family() -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        os.fork()
        os.setsid() if os.getpid() != group.processes()[0] else None
        time.sleep(60)

    child = Child(group, family)
    end = time.monotonic() + 10
    while len(group.processes()) < 2 and time.monotonic() < end:
        time.sleep(0.01)
    assert len(group.processes()) == 2
    group.freeze()
    group.remove()
    assert child.end()[0] == -signal.SIGKILL


@needs_cgroups
def test_what_joins_is_seen(group: Cgroup) -> None:
    with subprocess.Popen(["sleep", "60"]) as sleeper:
        group.join(sleeper.pid)
        assert group.processes() == [sleeper.pid]
        group.kill()
        assert sleeper.wait() == -signal.SIGKILL
    with pytest.raises(ProcessLookupError) as refused:
        group.join(sleeper.pid)
    assert refused.value.__notes__ == ["There is no such process."]


# ---- version 2's own rules

@needs_cgroups
@needs_v2
def test_no_internal_processes(group: Cgroup) -> None:
    child = Child(group, time.sleep, 60)
    while not group.processes():
        time.sleep(0.01)
    with pytest.raises(OSError, match="subtree_control") as refused:
        group.write("cgroup.subtree_control", "+memory")
    assert refused.value.errno == errno.EBUSY
    assert "No internal processes" in refused.value.__notes__[0]
    below = cgroups.create("below", group)  # makes room
    below.limit_memory(32 * MB)
    assert group.processes() == []
    assert Cgroup(f"{group.path}/{LEAF}").processes() == [child.pid]
    group.kill()
    assert child.end()[0] == -signal.SIGKILL


@needs_cgroups
@needs_v2
def test_a_file_without_its_controller(group: Cgroup) -> None:
    os.mkdir(f"{group.path}/bare")
    with pytest.raises(FileNotFoundError) as refused:
        Cgroup(f"{group.path}/bare").limit_processes(3)
    assert "controller is not passed on" in refused.value.__notes__[0]


@needs_cgroups
@needs_v2
def test_io_is_limited_where_there_is_a_disk(group: Cgroup) -> None:
    disk = next((row.split() for row in Path("/proc/partitions").read_text().splitlines()[2:]
                 if not row.split()[3].startswith(("loop", "ram"))), None)
    if disk is None or not group.has("io.max"):
        pytest.skip("needs a disk, and the io controller")
    group.limit_io(f"{disk[0]}:{disk[1]}", rbps=MB, wiops=10)
    assert group.read("io.max") == f"{disk[0]}:{disk[1]} rbps={MB} wbps=max riops=max wiops=10"


def test_without_version_2_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(cgroups, "ROOT", str(tmp_path))
    with pytest.raises(ContainerError, match="no cgroup version 2") as refused:
        cgroups.home()
    assert "unified_cgroup_hierarchy=1" in refused.value.hint


def test_where_nothing_is_delegated_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").touch()
    monkeypatch.setattr(cgroups, "ROOT", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ContainerError, match="not ours") as refused:
        cgroups.home()
    assert "Delegate=yes" in refused.value.hint


# ---- containers

@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(base.build(tmp_path_factory.mktemp("home") / "images" / "busybox.tar"))


@pytest.fixture
def start(image: str, tmp_path: Path) -> Callable[..., spawn.Process]:
    (tmp_path / "root").mkdir()

    def begin(*argv: str, **how: Any) -> spawn.Process:
        return container.start(argv, str(tmp_path / "root"),
                               unpack=lambda root: images.unpack(image, root), **how)
    return begin


@needs_cgroups
@needs_userns
def test_pid_1_is_in_its_cgroup_which_is_the_root_of_its_world(
        group: Cgroup, start: Callable[..., spawn.Process], capfd: pytest.CaptureFixture[str]) -> None:
    process = start("sh", "-c", "cat /proc/self/cgroup; exec sleep 60", cgroup=group)
    inside = group.processes()
    assert process.pid in inside
    assert process.runner not in inside
    end = time.monotonic() + 10
    out = ""
    while "0::" not in out and time.monotonic() < end:
        out += capfd.readouterr().out
        time.sleep(0.02)
    rows = dict(row.split(":")[1:] for row in out.splitlines())
    assert rows["pids" if "pids" in rows else ""] == "/"
    process.kill()
    assert process.wait() == 137


@needs_cgroups
@needs_userns
def test_the_oom_killer_ends_a_container_with_137(group: Cgroup,
                                                  start: Callable[..., spawn.Process]) -> None:
    group.limit_memory(24 * MB)
    assert int(group.read("memory.max")) == 24 * MB  # proved before anybody eats
    process = start("sh", "-c", "head -c 96m /dev/zero | tail -n 1 > /dev/null", cgroup=group)
    assert process.wait() == 137
    assert group.numbers("memory.events")["oom_kill"] >= 1  # the other end of the pipe may be taken as well


@needs_cgroups
@needs_userns
def test_without_its_cgroup_nothing_starts(group: Cgroup, start: Callable[..., spawn.Process]) -> None:
    group.remove()
    with pytest.raises(OSError, match=r"cgroup\.procs|tasks"):
        start("true", cgroup=group)


# ---- as a person asks for them

@pytest.fixture
def home(image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MYCONTAINER_HOME", str(Path(image).parents[1]))


@needs_cgroups
@needs_userns
def test_run_has_its_limits_and_takes_them_away(home: None) -> None:
    process = api.start("busybox", ["sleep", "60"], memory=32 * MB, cpus=0.5, pids_limit=7)
    found = [each for each in limits._found() if each.processes() == [process.pid]]
    assert len(found) == 1
    assert found[0].read("memory.max") == str(32 * MB)
    assert found[0].read("cpu.max") == "50000 100000"
    assert found[0].read("pids.max") == "7"
    limits.sweep()  # of somebody else, who must not take what is in use
    assert found[0].processes() == [process.pid]
    process.kill()
    assert process.wait() == 137
    assert not found[0].has("cgroup.procs")


@needs_cgroups
@needs_userns
def test_a_command_that_does_not_start_leaves_no_cgroup(home: None) -> None:
    before = {each.path for each in limits._found()}
    with pytest.raises(ContainerError, match="no such command"):
        api.start("busybox", ["nothing"], pids_limit=5)
    assert {each.path for each in limits._found()} == before


@needs_cgroups
@needs_v2
@needs_userns
def test_a_container_reads_its_limits_and_cannot_change_them(home: None,
                                                             capfd: pytest.CaptureFixture[str]) -> None:
    script = "cat /sys/fs/cgroup/memory.max; echo max > /sys/fs/cgroup/memory.max; echo $?"
    assert api.run("busybox", ["sh", "-c", script], memory=32 * MB) == 0
    assert capfd.readouterr().out.split() == [str(32 * MB), "1"]


@needs_cgroups
@needs_userns
def test_what_a_killed_caller_leaves_is_swept_by_the_next(home: None) -> None:
    script = ("import os\nfrom mycontainer import api\n"
              "process = api.start('busybox', ['sleep', '60'], pids_limit=9)\n"
              "print(process.pid, flush=True)\nprocess.wait()")
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as caller:
        assert caller.stdout
        pid = int(caller.stdout.readline())
        left = next(each for each in limits._found() if each.processes() == [pid])
        caller.kill()
    end = time.monotonic() + 10
    while left.processes() and time.monotonic() < end:
        time.sleep(0.02)
    assert left.has("cgroup.procs")
    assert api.run("busybox", ["true"], pids_limit=5) == 0
    assert not left.has("cgroup.procs")


@pytest.mark.parametrize(("wish", "words"), [
    ({"memory": 1000}, "6m is the least"), ({"cpus": 0.0}, "From 0.01"), ({"cpus": 1e6}, "From 0.01"),
])
def test_an_absurd_limit_is_refused(home: None, wish: dict[str, Any], words: str) -> None:
    with pytest.raises(ContainerError) as refused:
        api.start("busybox", ["true"], **wish)
    assert words in refused.value.hint
