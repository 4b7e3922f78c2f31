"""Terminals of the lab: a shell beside the kernel, on a terminal of the lab's own."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytest.importorskip("jupyter_client", reason="needs the Python module jupyter_client")

from lab_kernel import children_of, everybody_in, kernel, kill, lives, wait_until_gone
from mycontainer.errors import ContainerError
from mycontainer.lab import terminal
from mycontainer.lab.state import labs, started, sweep
from needs import needs_lab, needs_root

pytestmark = needs_lab

COMMAND = [sys.executable, "-m", "mycontainer.lab.terminal"]


class Person:
    """Somebody at a real terminal."""

    def __init__(self, *command: str, cwd: Path | None = None) -> None:
        self.master, own = pty.openpty()
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", 31, 97, 0, 0))
        environment = {**os.environ, "PS1": "", "TERM": "dumb"}
        self.process = subprocess.Popen([*COMMAND, *command], stdin=own, stdout=own, stderr=own, cwd=cwd,
                                        env=environment, start_new_session=True)
        os.close(own)
        self.seen = ""

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def wait_for(self, text: str, seconds: float = 15) -> None:
        """Look at the screen until ``text`` is on it."""
        deadline = time.monotonic() + seconds
        while text not in self.seen:
            if not select.select([self.master], [], [], max(0, deadline - time.monotonic()))[0]:
                raise AssertionError(f"no {text!r} on the screen: {self.seen!r}")
            self.seen += os.read(self.master, 65536).decode(errors="replace")

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        os.kill(self.process.pid, signal.SIGWINCH)

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(10)
        os.close(self.master)


@contextmanager
def person(*command: str, cwd: Path | None = None) -> Iterator[Person]:
    one = Person(*command, cwd=cwd)
    try:
        yield one
    finally:
        one.close()
        sweep()


def test_a_terminal_joins_the_lab_of_its_servers_kernel(tmp_path: Path) -> None:
    with kernel(tmp_path, tmp_path) as lab:
        lab.run("open('/tmp/from-the-kernel', 'w').close()")
        kinds = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup")
        script = f"import os; print([os.stat('/proc/self/ns/' + kind).st_ino for kind in {kinds}])"
        command = f'ls /tmp/from*; id -u; pwd; python -c "{script}"; exit 7'
        done = subprocess.run([*COMMAND, "sh", "-c", command], capture_output=True, text=True,
                              stdin=subprocess.DEVNULL)
        assert done.returncode == 7, done.stderr
        names, uid, directory, namespaces = done.stdout.splitlines()
        assert (names, uid, directory) == ("/tmp/from-the-kernel", "0", str(tmp_path))
        assert namespaces == lab.run(script).strip()
        assert lab.value("1 + 1") == 2
        assert [one["launcher"] for one in labs() if one["server"] == os.getpid()] == [lab.launcher]


def test_without_a_kernel_it_has_a_lab_to_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_SERVER_URL", "http://127.0.0.1/")  # somebody else's lab is not for us
    done = subprocess.run([*COMMAND, "sh", "-c", "echo $$; hostname; tty"], capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, cwd=tmp_path)
    assert done.stdout.splitlines() == ["2", "lab", "/dev/pts/0"]
    assert [one for one in labs() if one["server"] == os.getpid()] == []


def test_job_control_size_and_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_SERVER_URL", "http://127.0.0.1/")
    with person(cwd=tmp_path) as someone:
        someone.type("stty size; tty\n")
        someone.wait_for("31 97")
        someone.wait_for("/dev/pts/0")
        someone.resize(40, 120)
        someone.type("stty size\n")
        someone.wait_for("40 120")
        someone.type("sleep 1000\n")
        time.sleep(0.5)
        someone.type("\x1a")  # Ctrl-Z
        someone.wait_for("Stopped")
        someone.type("jobs; fg\n")
        time.sleep(0.5)
        someone.type("\x03")  # Ctrl-C ends sleep, not the terminal
        someone.type("echo still $((40 + 2))\n")
        someone.wait_for("still 42")
        someone.type("exit 5\n")
        assert someone.process.wait(10) == 5


def test_the_persons_terminal_is_not_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_SERVER_URL", "http://127.0.0.1/")
    with person("sh", "-c", "ls -l /proc/*/fd; echo the end", cwd=tmp_path) as someone:
        someone.wait_for("the end")
        links = [line.split(" -> ")[1] for line in someone.seen.splitlines() if " -> " in line]
        targets = {link.strip("'").split(":")[0] for link in links}
        assert {one for one in targets if not one.startswith("/proc/")} <= {"/dev/null", "/dev/pts/0", "pipe",
                                                                               "socket"}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP, signal.SIGTERM])
def test_the_shell_dies_with_its_terminal(tmp_path: Path, number: int) -> None:
    with kernel(tmp_path, tmp_path) as lab:
        init = lab.lab()["init"]
        with person() as someone:
            someone.type("echo up $((40 + 2))\n")
            someone.wait_for("up 42")
            guide = children_of(someone.process.pid)[0]
            shells = [pid for pid in everybody_in(init) if pid in children_of(guide)]
            assert len(shells) == 1
            kill(someone.process.pid, number)
            assert wait_until_gone([guide, *shells]) == []
        assert lives(init)
        assert lab.value("1 + 1") == 2


def test_kill_9_of_a_terminal_ends_its_own_lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_SERVER_URL", "http://127.0.0.1/")
    with person(cwd=tmp_path) as someone:
        someone.type("echo up $((40 + 2))\n")
        someone.wait_for("up 42")
        init = next(one["init"] for one in labs() if one["server"] == someone.process.pid)
        everybody = everybody_in(init)
        assert len(everybody) == 2
        kill(someone.process.pid)
        assert wait_until_gone(everybody, 1) == []  # buried by the guide, not by the host's PID 1


def test_input_that_is_no_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_SERVER_URL", "http://127.0.0.1/")
    done = subprocess.run([*COMMAND, "sh"], input="echo one\nid -u\nexit 3\n", capture_output=True, text=True,
                          cwd=tmp_path)
    assert (done.returncode, done.stdout.replace("# ", "")) == (3, "one\n0\n")
    done = subprocess.run([*COMMAND, "cat"], input="to the end\n", capture_output=True, text=True,
                          cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "to the end\n")


def test_a_command_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_SERVER_URL", "http://127.0.0.1/")
    done = subprocess.run([*COMMAND, "no-such-command"], capture_output=True, text=True, cwd=tmp_path,
                          stdin=subprocess.DEVNULL)
    assert done.returncode == 127
    assert "no-such-command" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def host_facts(since: int) -> dict[str, object]:
    """A state file whose lab has ended, and whose pid is now that of a process of the host: us."""
    return {"init": os.getpid(), "init_started": since, "cgroups": [], "for_guests": [], "workdir": "/",
            "env": {"MYCONTAINER_LAB_LIMITS": "{}"}}


@pytest.mark.parametrize(("shift", "reason"), [(-1, "it has ended"), (0, "the host|Invalid argument")])
def test_a_reused_pid_opens_no_shell_on_the_host(shift: int, reason: str, tmp_path: Path) -> None:
    facts = host_facts(started(os.getpid()) + shift)
    with pytest.raises(ContainerError, match=reason):
        terminal.visit(facts, ["touch", str(tmp_path / "shell")])
    assert not (tmp_path / "shell").exists()


def test_a_lab_that_has_just_ended_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "find_lab", lambda: host_facts(started(os.getpid()) - 1))
    monkeypatch.setattr(terminal, "alone", lambda command: 42)
    assert terminal.main(["true"]) == 42


def test_a_private_lab_is_nobody_elses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_SERVER_URL", "http://127.0.0.1/")
    with person("sh", "-c", "echo up $((40 + 2)); cat", cwd=tmp_path) as first:
        first.wait_for("up 42")
        monkeypatch.delenv("JUPYTER_SERVER_URL")
        assert first.process.pid in [lab["server"] for lab in labs()]
        found = terminal.find_lab()
        assert found is None or found["server"] != first.process.pid


def test_ancestors_go_up_to_init() -> None:
    assert terminal.ancestors(os.getpid())[0] == os.getppid()
    assert terminal.ancestors(1) == []


def test_a_lab_in_a_lab(tmp_path: Path) -> None:
    with kernel(tmp_path, tmp_path) as lab:
        code, text = lab.sh("python -I -m mycontainer.lab.terminal sh -c 'id -u; hostname; ps -o pid=,comm=' "
                            "< /dev/null")
        assert code == 0, text
        assert text.split()[:3] == ["0", "lab", "2"]


@needs_root
def test_what_lies_below_mnt_is_shown_too() -> None:
    """Data disks are mounted there, and Windows' in WSL."""
    script = ("mount -t tmpfs none /mnt && mkdir /mnt/notes && cd /mnt/notes && touch mine && "
              f"exec {sys.executable} -m mycontainer.cli.main lab ls /mnt/notes")
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], capture_output=True, text=True,
                          env={**os.environ, "JUPYTER_SERVER_URL": "http://127.0.0.1/"})  # no other lab
    assert (done.stdout, done.returncode) == ("mine\n", 0), done.stderr
