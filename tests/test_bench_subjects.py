"""The subjects: their probes cannot be fooled, and what they start is seen, looked into, and ended."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bench_doubles import Script
from mycontainer.bench import capabilities, engines, equal, observe, startup, subjects
from mycontainer.bench.subject import NotReady, Subject, Task, hello, page, sleeper
from mycontainer.bench.twin import Twin
from mycontainer.errors import ContainerError

LIGHT = ("process", "chroot", "unshare", "bubblewrap", "ours-api", "ours-cli", "ours-image")  # no root needed
DEADLINE = 20.0


@pytest.fixture(autouse=True)
def _scratch(tmp_path: Path) -> None:
    for above in list(tmp_path.parents)[:3]:  # root of a container is a stranger, and must get through
        if above.stat().st_uid == os.geteuid() and above.name.startswith("pytest"):
            above.chmod(0o755)
    tmp_path.chmod(0o755)


@contextmanager
def prepared(name: str, place: Path) -> Iterator[Subject]:
    [subject] = subjects.named([name])
    if lack := subject.available():
        pytest.skip(f"needs {name}: {lack.reason}")
    try:
        subject.prepare(place)
        yield subject
    finally:
        subject.close()


def lives(pid: int) -> bool:
    """A zombie does not: whoever has to wait for it (init, for orphans) takes its time."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


# ---- a probe cannot pass when nothing started ------------------------------------------------------------


@pytest.mark.parametrize(("text", "why"), [
    ("", "said nothing"),
    ("import sys; sys.exit('no such image')", "no such image"),
    ("print('0123456789abcdef', flush=True)", "said nothing"),  # a token, and not the one that was asked for
    ("import os; os.kill(os.getpid(), 9)", "exit code -9"),
])
@pytest.mark.parametrize("task", [hello, page])
def test_who_does_not_do_the_task_is_not_ready(text: str, why: str, task: type) -> None:
    instance = Script(text).start(task())
    try:
        with pytest.raises(NotReady) as failure:
            instance.ready(0.5)
        assert why in str(failure.value) or "refused" in str(failure.value)
    finally:
        instance.stop()
    assert not list(filter(lives, instance.pids()))


def test_who_never_gets_anywhere_is_given_up_at_the_deadline() -> None:
    instance = Script("import time; time.sleep(60)").start(hello())
    began = time.monotonic()
    with pytest.raises(NotReady):
        instance.ready(0.2)
    assert time.monotonic() - began < 2
    instance.stop()


def test_the_token_as_a_part_of_a_line_is_none() -> None:
    """An error message that repeats the command does not count."""
    task = hello()
    instance = Script(f"print('cannot run: busybox echo {task.token}')").start(task)
    with pytest.raises(NotReady):
        instance.ready(5)
    instance.stop()


STRANGER = """
import socket, sys
with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as server:
    print(flush=True)
    while True:
        with server.accept()[0] as caller:
            caller.recv(1000)
            caller.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\nnot the token")
"""


def test_a_web_server_of_somebody_else_is_not_ours() -> None:
    """It answers at the right port, with a page that has not our token in it."""
    task = page()
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", STRANGER, str(task.port)],
                          stdout=subprocess.PIPE) as stranger:
        try:
            assert stranger.stdout
            stranger.stdout.readline()
            with pytest.raises(NotReady, match="somebody else answered"):
                observe.wait_for_page(task, time.perf_counter_ns(), 0.5)
        finally:
            stranger.kill()


def test_a_server_that_never_answers_ends_with_the_deadline() -> None:
    task = page()
    with socket.create_server(("127.0.0.1", task.port)):
        began = time.perf_counter_ns()
        with pytest.raises(NotReady):
            observe.wait_for_page(task, began, 0.6)
        assert (time.perf_counter_ns() - began) / 1e9 < 2


def test_no_two_tasks_have_the_same_token() -> None:
    assert len({make().token for make in (hello, sleeper, page) for _ in range(10)}) == 30


def test_a_dying_start_is_no_time() -> None:
    """What startup takes the time with: it raises, and nothing is left running."""
    with pytest.raises(NotReady):
        startup.time_of_start(Script("raise SystemExit(3)"), hello(), 5)


# ---- each of them really starts, and really ends ---------------------------------------------------------


@pytest.mark.parametrize("name", LIGHT)
def test_a_subject_starts_serves_and_ends(name: str, tmp_path: Path) -> None:
    with prepared(name, tmp_path) as subject:
        for task in (hello(), sleeper(), page()):
            instance = subject.start(task)
            try:
                assert 0 < instance.ready(DEADLINE) < DEADLINE * 1e9
                pids = instance.pids()
                if task.argv[1] == "sh":  # it stays
                    assert pids
                    assert all(map(lives, pids))
                    assert instance.memory().pss > 10_000
            finally:
                instance.stop()
            instance.stop()  # twice is fine
            assert not list(filter(lives, pids))


@pytest.mark.parametrize("name", LIGHT)
def test_a_subject_that_cannot_run_its_command_says_so(name: str, tmp_path: Path) -> None:
    with prepared(name, tmp_path) as subject:
        instance = subject.start(Task(("busybox", "no-such-applet"), "token"))
        try:
            with pytest.raises(NotReady):
                instance.ready(DEADLINE)
        finally:
            instance.stop()


def test_a_subject_is_ended_while_it_starts(tmp_path: Path) -> None:
    """As Ctrl-C does it: the leak check sees what is left."""
    with prepared("ours-cli", tmp_path) as subject:
        for pause in (0, 0.01, 0.05):
            instance = subject.start(sleeper())
            time.sleep(pause)
            instance.stop()


def test_our_caller_of_python_functions_survives_its_containers(tmp_path: Path) -> None:
    with prepared("ours-api", tmp_path) as subject:
        three = [subject.start(sleeper()) for _ in range(3)]
        assert all(instance.ready(DEADLINE) for instance in three)
        assert not set.intersection(*(instance.pids() for instance in three))
        for instance in three:
            instance.stop()
        again = subject.start(hello())
        again.ready(DEADLINE)
        again.stop()


# ---- equal work ------------------------------------------------------------------------------------------


def test_what_a_container_has_is_looked_up_and_not_believed(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    with prepared("ours-cli", tmp_path / "one") as ours, prepared("process", tmp_path / "two") as plain:
        container, process = equal.examine(ours, DEADLINE), equal.examine(plain, DEADLINE)
    assert container.namespaces == {"cgroup", "ipc", "mnt", "net", "pid", "user", "uts"}
    assert container.own_root
    assert {"/", "/proc", "/sys", "/dev"} <= set(container.mounts)
    assert process.namespaces == set()
    assert not process.own_root
    assert equal.differences(container, container) == []
    words = equal.differences(process, container)
    assert "no root directory of its own" in words
    assert any(word.startswith("no cgroup, ipc, mnt, net, pid, user, uts namespaces") for word in words)


def test_capabilities_have_the_kernels_numbers() -> None:
    assert capabilities.NAMES.index("SYS_ADMIN") == 21
    assert capabilities.names(1 << 21 | 1) == ["CHOWN", "SYS_ADMIN"]
    header = Path("/usr/include/linux/capability.h")
    if header.exists():
        rows = [row.split() for row in header.read_text().splitlines() if row.startswith("#define CAP_")]
        numbers = {row[1].removeprefix("CAP_"): int(row[2]) for row in rows if row[2].isdecimal()}
        assert [numbers[name] for name in capabilities.NAMES] == list(range(len(capabilities.NAMES)))


def test_both_engines_get_one_configuration(tmp_path: Path) -> None:
    """And it asks for what ours gives: that they are the same in the end is looked up at each run."""
    config = engines.configuration(hello(), tmp_path, "/mycontainer/x")
    assert {row["type"] for row in config["linux"]["namespaces"]} == {
        "user", "mount", "pid", "ipc", "uts", "cgroup", "network"}
    assert config["linux"]["cgroupsPath"] == "/mycontainer/x"
    assert "CAP_SYS_ADMIN" not in config["process"]["capabilities"]["bounding"]
    served = engines.configuration(page(), tmp_path, None)
    assert "network" not in {row["type"] for row in served["linux"]["namespaces"]}
    assert "cgroupsPath" not in served["linux"]


# ---- the registry ----------------------------------------------------------------------------------------


def test_a_wrong_name_is_told_with_a_guess() -> None:
    with pytest.raises(ContainerError) as error:
        subjects.named(["process", "dokcer"])
    assert "dokcer" in str(error.value)
    assert "docker" in error.value.hint


def test_every_subject_describes_itself() -> None:
    for name, make in subjects.ALL.items():
        subject = make()
        assert subject.name == name
        assert subject.label
        assert subject.kind in ("process", "container", "machine")
        assert subject.temperature in ("cold", "warm")


def test_who_is_not_installed_is_missing_with_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None)
    for name in ("bubblewrap", "crun", "runc", "podman", "lxc", "nspawn"):
        lack = subjects.ALL[name]().available()
        assert lack
        assert "apt install" in lack.cure


def test_a_twin_is_the_other_under_another_name(tmp_path: Path) -> None:
    with prepared("process", tmp_path) as subject:
        twin = Twin(subject)
        assert twin.name != subject.name
        assert startup.time_of_start(twin, hello(), DEADLINE) > 0
