"""The lab's life: start, interrupt, restart, and an end that leaves nothing, whoever dies first."""

from __future__ import annotations

import errno
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("jupyter_client", reason="needs the Python module jupyter_client")

from lab_kernel import (
    CellError,
    Kernel,
    children_of,
    everybody_in,
    family,
    kernel,
    kill,
    lives,
    parent_of,
    state_file,
    wait_until_gone,
)
from mycontainer import paths
from mycontainer.errors import ContainerError
from mycontainer.lab import channel, doorman, kernelspec
from mycontainer.lab.channel import Channel
from mycontainer.lab.state import labs, sweep
from needs import needs_lab, needs_root, needs_tool, needs_user

pytestmark = needs_lab


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    base = tmp_path_factory.mktemp("life")
    with kernel(base, base) as one:
        yield one


def test_it_is_not_pid_1_and_the_dead_are_buried(lab: Kernel) -> None:
    assert lab.value("import os\nos.getpid()") == 2
    lab.sh("for i in 1 2 3 4 5 6 7 8 9; do (sleep 0.05 &); done; sleep 0.3")
    states = lab.sh("sleep 0.1; ps -eo state=")[1].split()
    assert "Z" not in states


def test_output_of_children_appears(lab: Kernel) -> None:
    """Also in a test run: with PYTEST_CURRENT_TEST in its environment ipykernel would not see it."""
    assert "PYTEST_CURRENT_TEST" in os.environ
    assert lab.run("import subprocess, time\nsubprocess.run(['echo', 'from a child'])\ntime.sleep(.2)") == \
        "from a child\n"


@pytest.mark.parametrize("cell", ["import time\ntime.sleep(30)",
                                  "import subprocess\nsubprocess.run(['sleep', '30'])"])
def test_interrupt(tmp_path: Path, cell: str) -> None:
    with kernel(tmp_path, tmp_path) as lab:
        start = time.monotonic()
        message = lab.client.execute(cell)
        time.sleep(0.5)
        lab.manager.interrupt_kernel()
        reply = lab.client._recv_reply(message, timeout=10)
        assert reply["content"]["ename"] == "KeyboardInterrupt"
        assert time.monotonic() - start < 10
        assert lab.value("1 + 1") == 2
        assert "S" not in lab.sh("ps -C sleep -o state=")[1]


def test_a_restart_is_a_new_lab(tmp_path: Path) -> None:
    with kernel(tmp_path, tmp_path) as lab:
        lab.run("open('/tmp/left', 'w').close(); x = 1")
        before = everybody_in(lab.lab()["init"])
        lab.restart()
        assert wait_until_gone(before) == []
        assert lab.value("import os\n[os.path.exists('/tmp/left'), 'x' in globals()]") == [False, False]


def test_an_orderly_end_leaves_nothing(tmp_path: Path) -> None:
    with kernel(tmp_path, tmp_path) as lab:
        facts, file, everybody = lab.lab(), state_file(lab), everybody_in(lab.lab()["init"])
        lab.manager.shutdown_kernel()
        assert wait_until_gone(everybody) == []
        assert not file.exists()
        assert [path for path in facts["cgroups"] if os.path.exists(path)] == []


def test_sigterm_ends_the_lab(tmp_path: Path) -> None:
    with kernel(tmp_path, tmp_path) as lab:
        facts, everybody = lab.lab(), everybody_in(lab.lab()["init"])
        os.kill(lab.launcher, signal.SIGTERM)
        assert wait_until_gone(everybody) == []
        deadline = time.monotonic() + 5
        while facts["launcher"] in [one["launcher"] for one in labs()] and time.monotonic() < deadline:
            time.sleep(0.02)
        assert [path for path in facts["cgroups"] if os.path.exists(path)] == []


def test_two_kernels_at_once_are_strangers(lab: Kernel, tmp_path: Path) -> None:
    with kernel(tmp_path, tmp_path) as other:
        here, there = (one.value("import os\n[os.stat(f'/proc/self/ns/{k}').st_ino for k in "
                                 "('user', 'pid', 'mnt', 'net', 'ipc', 'uts')]") for one in (lab, other))
        assert not set(here) & set(there)
        other.run("open('/tmp/mine', 'w').close()")
        assert lab.value("import os\nos.path.exists('/tmp/mine')") is False


def test_ipc_sockets_work_as_well(tmp_path: Path) -> None:
    with kernel(tmp_path, tmp_path, transport="ipc", ip=str(tmp_path / "k")) as lab:
        assert lab.value("1 + 1") == 2
        lab.manager.shutdown_kernel()
    assert list(tmp_path.glob("k-*")) == []


# ── whoever dies first ──────────────────────────────────────────────────────────────────────────────────

ROLES = ("server", "launcher", "doorman", "init", "kernel")
STUBBORN = "trap '' TERM HUP INT; setsid sleep 1000 & sleep 1000"

# A server that starts a lab, as Jupyter would; instead of a notebook kernel it runs stubborn programs.
SERVER = f"""
import os, subprocess, sys
launcher = '''
import os, sys
from mycontainer.lab.launcher import Lab
lab = Lab(os.getcwd())
lab.start(["/bin/sh", "-c", {STUBBORN!r}])
print(lab.init, flush=True)
sys.exit(lab.watch())
'''
subprocess.run([sys.executable, "-c", launcher], start_new_session=True)
"""


@contextmanager
def stubborn_lab(cwd: Path) -> Iterator[dict[str, int]]:
    """A lab under a server of its own; yields the pid of each role."""
    server = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True, cwd=cwd)
    assert server.stdout
    init = int(server.stdout.readline())
    while not children_of(init) or len(everybody_in(init)) < 4:
        time.sleep(0.01)
    doorman = parent_of(init)
    roles = {"server": server.pid, "launcher": parent_of(doorman), "doorman": doorman, "init": init,
             "kernel": children_of(init)[0]}
    try:
        yield roles
    finally:
        for pid in roles.values():
            if pid != server.pid and lives(pid):
                kill(pid)
        server.kill()
        server.wait()
        server.stdout.close()
        sweep()


def assert_nothing_is_left(roles: dict[str, int], order: tuple[str, ...], cwd: Path) -> None:
    with_pid = dict(roles)
    everybody = everybody_in(roles["init"])
    facts = next(one for one in labs() if one["init"] == roles["init"])
    assert len(everybody) == 4
    for role in order:
        kill(with_pid[role])
    others = [with_pid["launcher"], with_pid["doorman"]]
    assert wait_until_gone([*everybody, *others]) == []
    deadline = time.monotonic() + 2
    sweep()
    while any(map(os.path.exists, facts["cgroups"])) and time.monotonic() < deadline:
        time.sleep(0.05)
        sweep()
    assert [path for path in facts["cgroups"] if os.path.exists(path)] == []
    assert facts["launcher"] not in [one["launcher"] for one in labs()]


@pytest.mark.parametrize("order", [(role,) for role in ROLES], ids="-".join)
def test_a_sigkill_leaves_nothing(order: tuple[str, ...], tmp_path: Path) -> None:
    with stubborn_lab(tmp_path) as roles:
        assert_nothing_is_left(roles, order, tmp_path)


@pytest.mark.parametrize("order", list(itertools.permutations(ROLES, 2)), ids="-".join)
def test_two_sigkills_at_once_leave_nothing(order: tuple[str, ...], tmp_path: Path) -> None:
    with stubborn_lab(tmp_path) as roles:
        assert_nothing_is_left(roles, order, tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize("order", list(itertools.permutations(ROLES)), ids="-".join)
def test_sigkills_in_every_order_leave_nothing(order: tuple[str, ...], tmp_path: Path) -> None:
    with stubborn_lab(tmp_path) as roles:
        assert_nothing_is_left(roles, order, tmp_path)


def test_a_real_kernel_dies_with_its_launcher(tmp_path: Path) -> None:
    with kernel(tmp_path, tmp_path) as lab:
        roles, everybody = family(lab), everybody_in(lab.lab()["init"])
        kill(roles["launcher"])
        assert wait_until_gone([*everybody, roles["doorman"]]) == []


def test_a_pid_1_that_outlived_everybody_is_swept(tmp_path: Path) -> None:
    """Root inside can undo PID 1's parent-death signal by ptrace; then only the sweep is left."""
    from mycontainer.lab.state import State, started

    stray = subprocess.Popen(["sleep", "1000"])
    try:
        state = State("lab-0-test")
        state.write({"launcher": 0, "init": stray.pid, "init_started": started(stray.pid), "cgroups": []})
        sweep()
        assert lives(stray.pid)  # the lock is held: its launcher lives
        state.release(cleared_up=False)
        sweep()
        assert stray.wait(5) == -signal.SIGKILL
        assert not os.path.exists(state.path)
    finally:
        stray.kill()
        stray.wait()


def test_a_pid_that_was_given_away_again_is_left_alone() -> None:
    from mycontainer.lab.state import State, started

    stranger = subprocess.Popen(["sleep", "1000"])
    try:
        state = State("lab-0-test")
        state.write({"init": stranger.pid, "init_started": started(stranger.pid) - 1, "cgroups": []})
        state.release(cleared_up=False)
        sweep()
        assert lives(stranger.pid)
    finally:
        stranger.kill()
        stranger.wait()


def test_a_stopped_launcher_does_not_keep_the_lab_alive(tmp_path: Path) -> None:
    with stubborn_lab(tmp_path) as roles:
        everybody = everybody_in(roles["init"])
        os.kill(roles["launcher"], signal.SIGSTOP)
        kill(roles["server"])
        try:
            assert wait_until_gone([*everybody, roles["doorman"]]) == []
        finally:
            os.kill(roles["launcher"], signal.SIGCONT)
        assert wait_until_gone([roles["launcher"]]) == []


def test_a_stopped_pid_1_ends_with_the_launcher(tmp_path: Path) -> None:
    """It sees nothing, as one whose parent-death signal root inside has undone: the doorman ends it."""
    with stubborn_lab(tmp_path) as roles:
        everybody = everybody_in(roles["init"])
        for role in ("init", "server"):  # the server would end, and the doorman sees that too
            os.kill(roles[role], signal.SIGSTOP)
        kill(roles["launcher"])
        assert wait_until_gone([*everybody, roles["doorman"]]) == []


def test_what_will_be_made_is_written_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever kills the launcher between the two leaves nothing that a sweep misses."""
    from mycontainer.lab import launcher, limits, state

    written: list[list[str]] = []

    def made(directory: str) -> None:
        written.append(next(one["cgroups"] for one in labs() if one["launcher"] == os.getpid()))
        raise KeyboardInterrupt

    monkeypatch.setattr(limits, "_make", made)
    monkeypatch.setattr(limits.Limits, "_places", lambda self: iter([(str(tmp_path / "a"), "max", "memory")]))
    lab = launcher.Lab(str(tmp_path))
    with pytest.raises(KeyboardInterrupt):
        lab.start()
    os.close(lab.parent)
    assert written == [[str(tmp_path / "a")]]
    assert not os.path.exists(f"{paths.runtime_dir()}/{lab.name}{state.SUFFIX}")


def test_a_state_file_is_replaced_whole_and_stays_locked() -> None:
    from mycontainer.lab.state import NEW, State

    state = State("lab-0-test")
    for number in range(3):
        state.write({"init": 0, "launcher": -1, "number": number})
        sweep()
        assert [one["number"] for one in labs() if one["launcher"] == -1] == [number]
        assert not os.path.exists(state.path + NEW)
    Path(state.path + NEW).touch()  # of a launcher that was killed between two steps
    sweep()
    assert not os.path.exists(state.path + NEW)
    assert os.path.exists(state.path)
    state.release(cleared_up=True)


def test_a_socket_file_in_use_is_not_swept(tmp_path: Path) -> None:
    from mycontainer.lab import relay

    path = tmp_path / "k-1"
    with socket.socket(socket.AF_UNIX) as of_a_newer_kernel:
        of_a_newer_kernel.bind(str(path))
        of_a_newer_kernel.listen()
        relay.remove_dead(str(path))
        assert path.exists()
    relay.remove_dead(str(path))
    assert not path.exists()
    path.write_text("no socket")
    relay.remove_dead(str(path))
    assert path.exists()


def test_an_unexpected_word_is_refused() -> None:
    ours, theirs = Channel.pair()
    theirs.send(channel.JOINED)
    with pytest.raises(ContainerError, match="expected 'running', got 'joined'"):
        ours.expect(channel.RUNNING)
    ours.close()
    theirs.close()


# ── where it cannot run, and where it can only just ─────────────────────────────────────────────────────

def wrapped(prefix: Path, *wrapper: str) -> None:
    """Let the kernelspec start the launcher by way of another program."""
    file = Path(kernelspec.install(str(prefix))) / "kernel.json"
    spec = json.loads(file.read_text())
    spec["argv"] = [*wrapper, *spec["argv"]]
    file.write_text(json.dumps(spec))


@needs_root
@needs_tool("unshare", "util-linux")
def test_without_user_namespaces_every_cell_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrapped(tmp_path, "unshare", "-Ur", "sh", "-c",
            'echo 0 > /proc/sys/user/max_user_namespaces; exec "$@"', "sh")
    monkeypatch.setattr(kernelspec, "install", lambda prefix: prefix)
    with kernel(tmp_path, tmp_path) as explaining:
        with pytest.raises(CellError, match="cannot make a user namespace: No space left") as seen:
            explaining.run(f"open({str(tmp_path / 'ran')!r}, 'w')")
        assert "hint:" in str(seen.value)
        assert not (tmp_path / "ran").exists()
        assert "mycontainer: cannot make a user namespace" in explaining.written()


@needs_root
@needs_tool("unshare", "util-linux")
def test_with_a_single_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrapped(tmp_path, "unshare", "--user", "--map-root-user")
    monkeypatch.setattr(kernelspec, "install", lambda prefix: prefix)
    with kernel(tmp_path, tmp_path) as lab:
        assert lab.value("open('/proc/self/uid_map').read().split()") == ["0", "0", "1"]
        assert lab.value("import os\n[os.getuid(), os.getpid()]") == [0, 2]


@needs_user
def test_an_ordinary_user_without_newuidmap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with kernel(tmp_path, tmp_path) as lab:
        assert lab.value("open('/proc/self/uid_map').read().split()") == ["0", "0", "1"]
        assert lab.sh("touch /tmp/mine && stat -c %u /tmp/mine") == (0, "0\n")


@pytest.mark.parametrize(("number", "switch", "cure"), [
    (errno.EPERM, "1", "AppArmor"), (errno.EACCES, "1", "AppArmor"), (errno.EPERM, "0", ""),
    (errno.EPERM, "", ""), (errno.ENOSYS, "", "Linux 5.12"), (errno.ENOSPC, "1", "")])
def test_a_refusal_is_told_with_its_cure(number: int, switch: str, cure: str, tmp_path: Path,
                                         monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doorman, "RESTRICTION", str(tmp_path / "switch"))
    if switch:
        (tmp_path / "switch").write_text(f"{switch}\n")
    hint = doorman.hint_for(OSError(number, ""))
    assert (cure in hint) if cure else hint == ""


@pytest.mark.parametrize(("text", "problem"), [
    ("{", "cannot start the lab"), ("{}", "shell_port"), (None, "No such file")])
def test_a_bad_connection_file_is_one_line(tmp_path: Path, text: str | None, problem: str) -> None:
    file = tmp_path / "connection.json"
    if text is not None:
        file.write_text(text)
    done = subprocess.run([sys.executable, "-I", "-m", "mycontainer.lab.launcher", str(file)],
                          capture_output=True, text=True, timeout=20)
    assert done.returncode == 125
    assert problem in done.stderr
    assert done.stderr.count("\n") == 1
