"""The lab's promise: nothing that a cell does harms the learner's files, and what they solved is kept."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import socket
import stat
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("jupyter_client", reason="needs the Python module jupyter_client")

from lab_kernel import Kernel, kernel
from mycontainer.lab import limits, record, sandbox
from needs import needs_lab, needs_root, needs_user

SEND = """
import json, os, socket
def send(message):
    with socket.socket(fileno=os.dup(int(os.environ["MYCONTAINER_LAB_FD"]))) as launcher:
        launcher.send(message if isinstance(message, bytes) else json.dumps(message).encode())
"""


def digest(*trees: Path) -> str:
    """Of everything in these trees: names, kinds, modes, owners, times and contents."""
    total = hashlib.sha256()
    for tree in trees:
        for path in sorted(tree.rglob("*")):
            found = path.lstat()
            facts = (path, found.st_mode, found.st_uid, found.st_gid, found.st_mtime_ns)
            total.update(f"{facts}\n".encode())
            if path.is_symlink():
                total.update(os.readlink(path).encode())
            elif stat.S_ISREG(found.st_mode):
                total.update(path.read_bytes())
    return total.hexdigest()


def progress_in(workspace: Path) -> list[dict[str, Any]]:
    file = workspace / record.FILE
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def wait_for(count: int, workspace: Path, seconds: float = 10) -> list[dict[str, Any]]:
    deadline = time.monotonic() + seconds
    while len(progress_in(workspace)) < count and time.monotonic() < deadline:
        time.sleep(0.02)
    return progress_in(workspace)


@pytest.fixture
def learner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home directory with a course in it; returns the workspace."""
    home = tmp_path / "home"
    workspace = home / "course" / "workspace"
    (workspace / "sub").mkdir(parents=True)
    (home / "thesis.txt").write_text("three years\n")
    (home / ".ssh").mkdir(mode=0o700)
    (home / ".ssh" / "id").write_text("secret\n")
    (workspace / "01_chroot.ipynb").write_text("{}\n")
    (workspace / "link").symlink_to(home / "thesis.txt")
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp" / "a file").write_text("of somebody's\n")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("MYCONTAINER_WORKSPACE", str(workspace))
    return workspace


@needs_lab
def test_destroying_everything_destroys_nothing(learner: Path, tmp_path: Path) -> None:
    """`rm -rf --no-preserve-root /`, after a proof in the same kernel that nothing of the host can be hit."""
    home, rest = learner.parent.parent, tmp_path / "tmp"
    with kernel(learner, tmp_path) as lab:
        lab.run(f"{SEND}\nsend({{'type': 'progress', 'exercise': 'chroot.enter', 'event': 'solved'}})")
        assert len(wait_for(1, learner)) == 1
        before = digest(home, rest)
        assert_bounded(lab, learner)
        code, _ = lab.sh("rm -rf --no-preserve-root / 2>/dev/null; ls -A /tmp /root /home; echo done")
        assert code in (0, 2)
        assert digest(home, rest) == before
        assert lab.value("1 + 1") == 2
        lab.restart()
        assert lab.value("1 + 1") == 2
        assert lab.value(f"open({str(learner / record.FILE)!r}).read().count('chroot.enter')") == 1
        assert digest(home, rest) == before


def assert_bounded(lab: Kernel, canary: Path) -> None:
    """Nothing of the host is writable, and nothing can be made so: or we go no further."""
    writable = lab.value(f"""
of_host = {sandbox.superblocks()!r}
rows = [row.split() for row in open("/proc/self/mountinfo")]
[row[4] for row in rows if row[2] in of_host and "ro" not in row[5].split(",")]""")
    assert writable == []
    _, text = lab.sh(f"touch {canary}/canary; mount -o remount,bind,rw {canary}; "
                     f"touch {canary}/canary; ls {canary}")
    assert "canary" not in text.splitlines()
    assert not (canary / "canary").exists()
    assert lab.value("import os\nos.getpid()") == 2


@needs_lab
def test_progress_comes_out_and_nothing_else(learner: Path, tmp_path: Path) -> None:
    with kernel(learner / "sub", tmp_path) as lab:
        assert lab.value("import os\nos.environ['MYCONTAINER_WORKSPACE']") == str(learner)
        lab.run(SEND + """
good = {"type": "progress", "exercise": "chroot.enter", "event": "solved"}
send({**good, "source": "def f(): pass\\n", "x": 1})
for bad in (b"", b"x", b"[" * 60000, b"\\xff" * 100, {"type": "exec"}, {"type": "progress"}, [],
            {**good, "exercise": "../../etc/passwd"}, {**good, "exercise": "a" * 1000},
            {**good, "exercise": 7}, b'{"type": "reset", "exercise": "a", "seconds": NaN}'):
    try:
        send(bad)
    except OSError:
        pass
fd = os.open("/dev/null", os.O_RDONLY)
with socket.socket(fileno=os.dup(int(os.environ["MYCONTAINER_LAB_FD"]))) as launcher:
    socket.send_fds(launcher, [b'{"type": "reset", "exercise": "chroot.cage"}'], [fd] * 50)
""")
        lines = wait_for(2, learner)
        assert [(line["type"], line["exercise"]) for line in lines] == [
            ("progress", "chroot.enter"), ("reset", "chroot.cage")]
        assert lines[0]["source"] == "def f(): pass\n"
        assert "x" not in lines[0]
        assert len(os.listdir(f"/proc/{lab.launcher}/fd")) < 30  # the descriptors sent along are not kept
        assert lab.value("1 + 1") == 2


@needs_lab
def test_a_flood_is_slowed_down_and_the_kernel_still_answers(learner: Path, tmp_path: Path) -> None:
    with kernel(learner, tmp_path) as lab:
        lab.run(SEND + """
import threading
def flood():
    for _ in range(100000):
        send({"type": "reset", "exercise": "chroot.enter"})
threading.Thread(target=flood, daemon=True).start()""")
        time.sleep(2)
        assert lab.value("1 + 1") == 2
        assert 0 < len(progress_in(learner)) <= record.BURST + 4 * record.PER_SECOND


@pytest.mark.parametrize("message", [
    b"", b"{", b"null", b"[]", b"1", b'{"type": "progress"}', b'{"type": ["progress"], "exercise": "a"}',
    b'{"type": "progress", "exercise": "A"}', b'{"type": "progress", "exercise": "a/b"}',
    b'{"type": "progress", "exercise": "a\\n"}', b'{"type": "reset", "exercise": "a", "seconds": Infinity}',
    b'{"type": "reset", "exercise": "' + b"a" * 100 + b'"}', b"[" * 100000, b"\xff\xfe",
    b'{"type": "reset", "exercise": "a", "source": "' + b"x" * record.LARGEST + b'"}'])
def test_what_is_not_progress_is_dropped(message: bytes) -> None:
    assert record.accept(message) is None


def test_only_known_fields_of_their_types_are_kept() -> None:
    kept = record.accept(
        b'{"type": "progress", "exercise": "a.b", "seconds": true, "source": 1, "pick": "b"}')
    assert kept is not None
    assert {key: kept[key] for key in kept if key != "time"} == {
        "type": "progress", "exercise": "a.b", "pick": "b"}


def test_no_number_is_infinite() -> None:
    kept = record.accept(b'{"type": "reset", "exercise": "a", "seconds": 1e999}')
    assert kept is not None
    assert "seconds" not in kept


def test_half_a_line_does_not_spoil_the_next(tmp_path: Path) -> None:
    (tmp_path / record.FILE).write_text('{"type": "res')  # the disk was full
    record.append(str(tmp_path), {"type": "reset"})
    record.append(str(tmp_path), {"type": "progress"})
    assert (tmp_path / record.FILE).read_text().splitlines() == [
        '{"type": "res', '{"type": "reset"}', '{"type": "progress"}']


def test_one_lab_has_only_its_share_of_the_file(tmp_path: Path, capfd: pytest.CaptureFixture[str],
                                                monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "LARGEST_SHARE", 1000)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        recorder = record.Recorder(ours, str(tmp_path))
        for _ in range(30):
            theirs.send(b'{"type": "reset", "exercise": "a.b"}')
            assert recorder.take()
    assert 1000 <= (tmp_path / record.FILE).stat().st_size < 1100
    assert capfd.readouterr().err.count("no more progress is saved") == 1
    other, end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with other, end:
        end.send(b'{"type": "reset", "exercise": "of.another"}')
        assert record.Recorder(other, str(tmp_path)).take()
    assert progress_in(tmp_path)[-1]["exercise"] == "of.another"


def test_a_symlink_in_place_of_the_progress_file_is_not_followed(
        tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    precious = tmp_path / "precious"
    precious.write_text("as it was")
    (tmp_path / record.FILE).symlink_to(precious)
    record.append(str(tmp_path), {"type": "reset"})
    assert precious.read_text() == "as it was"
    assert "cannot save progress" in capfd.readouterr().err


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_not_written_to(tmp_path: Path, make: Any) -> None:
    make(tmp_path / record.FILE)
    record.append(str(tmp_path), {"type": "reset"})


def test_the_progress_file_does_not_grow_without_end(tmp_path: Path) -> None:
    with open(tmp_path / record.FILE, "w") as file:
        file.truncate(record.LARGEST_FILE)
    record.append(str(tmp_path), {"type": "reset"})
    assert (tmp_path / record.FILE).stat().st_size == record.LARGEST_FILE


# ── limits ──────────────────────────────────────────────────────────────────────────────────────────────

BOMB = """
import os, signal, time
children, refused = [], False
try:
    while len(children) < {most}:
        pid = os.fork()
        if pid == 0:
            time.sleep(60)
            os._exit(0)
        children.append(pid)
except OSError:
    refused = True
for pid in children:
    os.kill(pid, signal.SIGKILL)
for pid in children:
    os.waitpid(pid, 0)
print(len(children), refused)
"""


def run_in_a_child(lab: Kernel, script: str) -> tuple[int, str]:
    return lab.sh(f"python -I -c '{script}'")


@needs_lab
@needs_root
def test_a_fork_bomb_is_bounded(tmp_path: Path) -> None:
    with kernel(tmp_path, tmp_path) as lab:
        directory = next((path for path in lab.lab()["cgroups"] if "pids" in path), "")
        if not directory:
            pytest.skip("needs a cgroup with the pids controller")
        Path(directory, "pids.max").write_text("60")  # proved to be in force, and small enough to be quick
        assert int(Path(directory, "pids.max").read_text()) == 60
        inside = Path(directory, "cgroup.procs").read_text().split()
        assert str(lab.lab()["init"]) in inside
        count, refused = run_in_a_child(lab, BOMB.format(most=200))[1].split()
        assert refused == "True"
        assert int(count) < 60
        assert lab.value("1 + 1") == 2


@needs_lab
@needs_root
def test_a_memory_hog_is_killed_and_the_kernel_lives(tmp_path: Path) -> None:
    with kernel(tmp_path, tmp_path) as lab:
        directory = next((path for path in lab.lab()["cgroups"] if "memory" in path), "")
        limit = Path(directory, "memory.limit_in_bytes")
        if not directory or not limit.exists():
            pytest.skip("needs a cgroup with the memory controller")
        limit.write_text(str(300 << 20))
        assert int(limit.read_text()) == 300 << 20
        code, _ = run_in_a_child(lab, "x = b\"x\" * (600 << 20)")
        assert code in (-9, 137)
        assert lab.value("1 + 1") == 2


@needs_lab
@needs_root
def test_the_limits_are_a_share_of_the_machine(tmp_path: Path) -> None:
    with kernel(tmp_path, tmp_path) as lab:
        in_force = lab.value("json.loads(__import__('os').environ['MYCONTAINER_LAB_LIMITS'])")
        for path in lab.lab()["for_guests"]:
            assert str(lab.lab()["init"]) in Path(path, "cgroup.procs").read_text().split()
        for path in lab.lab()["cgroups"]:
            assert path.split("/")[-2:] == ["mycontainer", lab.lab()["name"]]
        assert set(in_force) == {"memory", "processes"}


@needs_lab
@needs_user
def test_a_fork_bomb_is_bounded_by_the_rlimit(tmp_path: Path) -> None:
    with kernel(tmp_path, tmp_path) as lab:
        if lab.lab()["cgroups"]:
            pytest.skip("a cgroup does it here")
        limit = lab.value("__import__('resource').getrlimit(6)")[1]
        assert 0 < limit < 4 * limits.PROCESSES  # in force, or we go no further
        count, refused = run_in_a_child(lab, BOMB.format(most=limit + 100))[1].split()
        assert refused == "True"
        assert int(count) < limit
        assert lab.value("1 + 1") == 2


@needs_lab
@needs_user
def test_a_memory_hog_is_refused_by_the_rlimit(tmp_path: Path) -> None:
    with kernel(tmp_path, tmp_path) as lab:
        if lab.lab()["cgroups"]:
            pytest.skip("a cgroup does it here")
        soft, hard = lab.value("__import__('resource').getrlimit(__import__('resource').RLIMIT_DATA)")
        assert 0 < soft <= limits.memory()
        assert hard == soft
        code, text = run_in_a_child(lab, f"bytearray({soft} + 1)")  # refused before a page is touched
        assert code == 1
        assert "MemoryError" in text


def test_rlimits_are_only_ever_lowered() -> None:
    """In a child, as an ordinary process could not raise them again."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            resource.setrlimit(resource.RLIMIT_DATA, (1 << 32, 1 << 33))
            limits._lower(resource.RLIMIT_DATA, 1 << 40)
            code = 0 if resource.getrlimit(resource.RLIMIT_DATA) == (1 << 32, 1 << 32) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_a_recorder_takes_no_more_than_its_share() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        recorder = record.Recorder(ours, None)
        for _ in range(record.BURST):
            assert recorder.ready_in() == 0.0
            theirs.send(b"{}")
            assert recorder.take()
        assert 0 < recorder.ready_in() <= 1 / record.PER_SECOND
        theirs.close()
        assert recorder.take() is False
