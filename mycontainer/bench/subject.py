"""What is measured: something that can be asked to do a task, and can be seen to do it.

A subject is a way to start a program: as a plain process, in a container of this engine or that, in a virtual
machine. The harness knows nothing about any of them but what is here. That one is ready is *observed*: the
program must bring out a token that nobody could know before, as a line on its output or in a web page.
"""

from __future__ import annotations

import secrets
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from mycontainer.bench.observe import NotReady as NotReady
from mycontainer.bench.observe import descendants as descendants
from mycontainer.bench.observe import end as end
from mycontainer.bench.observe import is_init as is_init
from mycontainer.bench.observe import mentioning as mentioning
from mycontainer.bench.observe import pss as pss
from mycontainer.bench.observe import wait_for_line as wait_for_line
from mycontainer.bench.observe import wait_for_page as wait_for_page

COLD, WARM = "cold", "warm"  # nothing of it runs before; or a daemon (a server, a library) waits for orders
PROCESS, CONTAINER, MACHINE = "process", "container", "machine"
HOST, BRIDGE, NO_NETWORK = "host", "bridge", "none"


class Task(NamedTuple):
    """A command for a busybox user space, and how it is seen to have begun: ``token`` comes out of it."""

    argv: tuple[str, ...]
    token: str
    port: int = 0  # of the web server (the same inside and outside), or 0: the token is a line of its output


class Missing(NamedTuple):
    """Why a subject cannot be measured here, and what would change that."""

    reason: str
    cure: str


class Memory(NamedTuple):
    """What an instance costs, in bytes."""

    pss: int     # of all its processes, monitors and shims too: a page that n share counts for 1/n
    kernel: int  # what the kernel holds for it, where a cgroup tells; else 0


def hello() -> Task:
    """Say the token and end."""
    token = secrets.token_hex(8)
    return Task(("busybox", "echo", token), token)


def sleeper() -> Task:
    """Say the token and stay."""
    token = secrets.token_hex(8)
    return Task(("busybox", "sh", "-c", f"echo {token}; exec busybox sleep 100000"), token)


def page() -> Task:
    """Serve a page with the token in it."""
    token, port = secrets.token_hex(8), free_port()
    home = f"${{TMPDIR:-/tmp}}/www-{port}"
    script = (f"mkdir -p {home}; echo {token} >{home}/index.html; "
              f"exec busybox httpd -f -p 127.0.0.1:{port} -h {home}")
    return Task(("busybox", "sh", "-c", script), token, port)


def free_port() -> int:
    """A TCP port of 127.0.0.1 that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


class Instance(ABC):
    """One start of a subject. ``began`` is when it was asked for (time.perf_counter_ns)."""

    began: int
    output: int = -1  # the descriptor from which one reads what the program says, also after `ready`, or -1

    @abstractmethod
    def ready(self, deadline: float) -> int:
        """Wait until the token is seen from outside; returns the nanoseconds since ``began``.

        Raises NotReady when it ends before, or after ``deadline`` seconds.
        """

    @abstractmethod
    def pids(self) -> set[int]:
        """The processes that are there because of it: its program, and whoever watches over that."""

    def detach(self) -> None:  # noqa: B027 (most have nothing to let go)
        """Once it is ready: let go of whoever only waits for its output. With -d such a client ends at once,
        so it should not count for what an instance costs."""

    @abstractmethod
    def stop(self) -> None:
        """End it, whatever state it is in, and wait until nothing of it is left. Done twice is fine."""

    def memory(self) -> Memory:
        """What it costs now."""
        return Memory(sum(pss(pid) for pid in self.pids()), 0)


class Subject(ABC):
    """One way to start a program. Class attributes describe it; an object of it is used for one run."""

    name: str                           # one word, as typed after --subjects
    label: str                          # on a plot
    kind: str = CONTAINER
    temperature: str = COLD
    network: str = HOST                 # what the program is in: the host's network, a bridge, none
    differences: tuple[str, ...] = ()   # what it does less or more than others of its kind, in words
    can: tuple[str, ...] = ("byte", "page")  # the tasks it takes: a command that says a token; a web server

    @abstractmethod
    def available(self) -> Missing | None:
        """None if it can be measured here; found out by trying, with a deadline, and without traces."""

    @abstractmethod
    def versions(self) -> Mapping[str, str]:
        """The programs that take part, and their versions."""

    def prepare(self, scratch: Path) -> None:  # noqa: B027 (many need nothing)
        """What is not part of a start: a bundle, an image, a daemon. ``scratch`` is an empty directory."""

    def close(self) -> None:  # noqa: B027
        """Undo `prepare`: no daemon, mount, cgroup or file stays. Called after an interruption as well."""

    def beside(self, scratch: Path) -> Subject:
        """What a forked process starts with while others do so too: ourselves, unless that would mix them up.

        A new object is the caller's, who closes it. ``scratch`` may be made and used for it.
        """
        return self

    @abstractmethod
    def start(self, task: Task) -> Instance:
        """Begin a task; the clock starts here."""


class Command(Instance):
    """An instance that is a command of this machine's, its output a pipe."""

    def __init__(self, argv: Sequence[str], task: Task, env: Mapping[str, str] | None = None) -> None:
        self.task = task
        self.began = time.perf_counter_ns()
        self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, env=env, start_new_session=True)
        assert self.process.stdout
        self.output = self.process.stdout.fileno()

    def ready(self, deadline: float) -> int:
        if self.task.port:
            return wait_for_page(self.task, self.began, deadline, self._complain_if_dead)
        moment = wait_for_line(self.output, self.task.token, self.began, deadline)
        if moment is None:
            raise NotReady(self._last_words() or "no word of it came")
        return moment

    def _complain_if_dead(self) -> None:
        if self.process.poll() is not None:
            raise NotReady(self._last_words())

    def _last_words(self) -> str:
        """Why it failed, as far as it says; it is ended for that."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(0.5)
        code = self.process.poll()
        self._kill()
        assert self.process.stderr
        said = self.process.stderr.read().decode(errors="replace").strip().splitlines()
        return f"{said[-1] if said else 'it said nothing'} (exit code {code})"

    def pids(self) -> set[int]:
        return descendants(self.process.pid)

    def _kill(self) -> None:
        if self.process.poll() is None:
            end(self.pids())
        self.process.wait()

    def stop(self) -> None:
        self._kill()
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe:
                pipe.close()


class Attended(Command):
    """A container that the command looks after, and clears up after when its process 1 has ended."""

    killed = False  # the command had to be killed, too: it could not clear up

    def _kill(self) -> None:
        last = time.monotonic() + 5
        while self.process.poll() is None and time.monotonic() < last:
            end(filter(is_init, self.pids()))  # again and again: it may be starting just now
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(0.01)
        self.killed = self.killed or self.process.poll() is None
        super()._kill()
