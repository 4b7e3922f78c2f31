"""Which containers there are: names that only one gets, locks that tell who died, files cut off anywhere."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mycontainer import paths
from mycontainer.engine import state
from mycontainer.engine.state import Container, Record
from mycontainer.errors import ContainerError


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A runtime directory of our own."""
    monkeypatch.setattr(paths, "runtime_dir", lambda: str(tmp_path))
    return tmp_path


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that can stand for PID 1 of a container."""
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def made(name: str | None = None, pid: int = 0, remove_at_end: bool = False) -> Record:
    """A container that we look after."""
    record = state.create(name, "busybox", remove_at_end)
    record.runs(pid or os.getpid(), image="busybox", command=["sleep", "60"])
    return record


def in_a_child(work: Callable[[], object]) -> int:
    """Fork a child that does the work, says so, and waits to be killed; returns its pid."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os.write(writer, b"x")
            time.sleep(60)
        finally:
            os._exit(1)
    os.close(writer)
    assert os.read(reader, 1) == b"x"
    os.close(reader)
    return pid


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def names() -> list[str]:
    return [one.name for one in state.containers()]


# ---- the file

@pytest.mark.parametrize("value", [
    {}, {"a": []}, ["", "plain", 'quo"te', "back\\slash", "new\nline", "\0\x7f", "ä€😀", "\udcff"],
    {"n": 1, "f": 1732446000.25, "yes": True, "no": False, "none": None, "deep": {"a": ["b", {"c": -1}]}},
])
def test_what_is_written_is_json(value: object) -> None:
    assert json.loads(state.to_json(value)) == value


def test_a_state_cut_off_at_any_byte_hides_nobody_and_stops_nothing(base: Path) -> None:
    record = made("web")
    file = base / "containers" / record.id / "state.json"
    whole = file.read_bytes()
    for length in range(0, len(whole), 7):
        file.write_bytes(whole[:length])
        assert [one.id for one in state.containers()] == [record.id]
        assert state.find("web").id == state.find(record.id[:9]).id == record.id
    with pytest.raises(ContainerError, match="cannot reach"):
        state.find("web").signal(signal.SIGTERM)
    record.ended(0)
    state.find("web").remove()
    assert names() == []


@pytest.mark.parametrize("left", ["", "[1, 2]", '"text"'])
def test_a_state_that_makes_no_sense(base: Path, left: str) -> None:
    record = made("web")
    (base / "containers" / record.id / "state.json").write_text(left)
    assert len(state.containers()) == 1
    record.remove()


# ---- names

@pytest.mark.parametrize(("word", "valid"), [
    ("web", True), ("a1", True), ("0_.-", True), ("A.b-c_d", True), ("x" * 200, True),
    ("", False), ("a", False), ("-a", False), (".a", False), ("_a", False), ("a/b", False), ("..", False),
    ("a b", False), ("ä1", False), ("a\n", False), ("x" * 201, False), ("a:b", False),
])
def test_names_are_dockers(word: str, valid: bool) -> None:
    assert state.is_name(word) == valid
    if not valid and word:
        with pytest.raises(ContainerError, match="not a name"):
            state.create(word, "busybox", False)


def test_without_a_name_it_is_the_image_and_the_first_free_number() -> None:
    records = [made() for _ in range(3)]
    assert [record.name for record in records] == ["busybox-1", "busybox-2", "busybox-3"]
    records[1].remove()
    again = made()
    assert again.name == "busybox-2"
    odd = state.create(None, "../Odd:image", False)
    assert odd.name == "odd-1"
    for record in (*records, again, odd):
        record.remove()


def test_a_name_is_free_again_when_its_container_is_removed() -> None:
    first = made("web")
    with pytest.raises(ContainerError, match=f"the name web is taken by container {first.id[:12]}"):
        made("web")
    first.ended(0)
    with pytest.raises(ContainerError, match="taken"):  # it has ended, and is there
        made("web")
    state.find("web").remove()
    made("web").remove()


def test_of_many_that_want_one_name_exactly_one_gets_it(base: Path) -> None:
    go, gun = os.pipe()
    children = []
    for _ in range(20):
        pid = os.fork()
        if pid == 0:
            os.close(gun)
            os.read(go, 1)
            try:
                made("web")
                code = 0
            except ContainerError as error:
                code = 1 if "taken" in str(error) else 2
            except BaseException:
                code = 3
            if code == 0:
                time.sleep(0.5)  # or the next one would find its keeper dead
            os._exit(code)
        children.append(pid)
    os.close(go)
    os.close(gun)
    codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in children]
    assert sorted(codes) == [0] + [1] * 19


def test_found_by_name_or_by_the_beginning_of_the_id() -> None:
    one, two = made("web"), made("db")
    assert state.find("web").id == one.id
    assert state.find(one.id).id == state.find(one.id[:12]).id == one.id
    for nobody in ("nobody", "", "../" + two.id, "zz", "."):
        with pytest.raises(ContainerError, match="no such container"):
            state.find(nobody)
    three = made(two.id[:12])  # a name wins over an id
    assert state.find(two.id[:12]).id == three.id
    records = [made() for _ in range(20)]  # of so many, two begin with the same digit
    first = sorted(record.id[0] for record in records)
    twice = next(a for a, b in itertools.pairwise(first) if a == b)
    with pytest.raises(ContainerError, match="which container"):
        state.find(twice)
    for record in (one, two, three, *records):
        record.remove()


# ---- life and death

def test_it_lives_as_long_as_its_keeper_says() -> None:
    record = made("web")
    one = state.find("web")
    assert (one.alive, one.end) == (True, None)
    with pytest.raises(ContainerError, match="it is running"):
        one.remove()
    assert one.wait(0.02) is None
    record.ended(7)
    assert not one.alive
    assert one.end
    assert one.end[0] == one.wait() == 7
    one.remove()
    with pytest.raises(ContainerError, match="no such container"):
        one.wait()


def test_who_waits_gets_the_exit_code_of_one_that_is_removed_at_its_end() -> None:
    record = made("web", remove_at_end=True)
    one = state.find("web")
    reader, writer = os.pipe()
    waiter = os.fork()
    if waiter == 0:
        record.let_go()  # the lock is our parent's
        os.write(writer, b"x")
        os._exit(int(one.wait() or 0))
    os.read(reader, 1)
    time.sleep(0.1)
    record.ended(9)
    assert os.waitstatus_to_exitcode(os.waitpid(waiter, 0)[1]) == 9
    assert names() == []
    os.close(reader)
    os.close(writer)


def test_a_killed_keeper_is_found_out_and_its_container_ended(sleeper: subprocess.Popen[bytes]) -> None:
    keeper = in_a_child(lambda: made("web", sleeper.pid))
    assert state.find("web").end is None
    kill(keeper)
    one = state.find("web")
    assert sleeper.wait(5) == -signal.SIGKILL
    assert one.end
    assert one.end[0] == one.wait() == state.UNKNOWN
    one.remove()


@pytest.mark.parametrize("moment", ["reserved", "running", "ended"])
def test_whatever_moment_a_keeper_is_killed_no_name_stays_taken(moment: str, base: Path) -> None:
    def work() -> None:
        record = state.create("web", "busybox", moment != "reserved")
        if moment != "reserved":
            record.runs(1 << 22, image="busybox", command=[])
        if moment == "ended":
            state._write_end(record.path, 0, remove_at_end=True)

    kill(in_a_child(work))
    made("web").remove()
    assert [list(directory.iterdir()) for directory in base.iterdir()] == [[], []]


def test_a_stranger_with_its_pid_is_never_signalled(sleeper: subprocess.Popen[bytes],
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(state, "started", lambda pid: 1)  # as if that process had started at another time
        keeper = in_a_child(lambda: made("web", sleeper.pid))
    with pytest.raises(ContainerError, match="web is not running"):
        state.find("web").signal(signal.SIGKILL)
    kill(keeper)
    state.find("web").remove()
    assert sleeper.poll() is None


def test_a_pid_of_another_boot_or_namespace_means_nothing_here(sleeper: subprocess.Popen[bytes],
                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(state, "place", lambda: "elsewhere")
        keeper = in_a_child(lambda: made("web", sleeper.pid))
    with pytest.raises(ContainerError, match="cannot reach web: it was started in another PID namespace"):
        state.find("web").signal(signal.SIGKILL)
    kill(keeper)
    assert state.find("web").end
    state.find("web").remove()
    assert sleeper.poll() is None


def test_what_process_1_ignores_is_known() -> None:
    script = 'trap "" USR1; trap : USR2; echo; read x'
    with subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.read(1)
        one = Container("/nowhere/x", {"pid": process.pid})
        assert one.ignores(signal.SIGUSR1)
        assert one.ignores(signal.SIGTERM)
        assert not one.ignores(signal.SIGUSR2)
        process.communicate(b"\n")


def test_a_full_disk_loses_no_exit_code(base: Path) -> None:
    record = made("web")
    blocks = os.stat(f"{record.path}/end").st_size
    record.ended(137)
    assert os.stat(f"{record.path}/end").st_size == blocks == 64  # written in place
    state.find("web").remove()
