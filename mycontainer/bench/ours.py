"""Our own container, called from Python and from the command line."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mycontainer import __version__
from mycontainer.bench import rootfs
from mycontainer.bench.subject import (
    NO_NETWORK,
    WARM,
    Attended,
    Instance,
    Missing,
    NotReady,
    Subject,
    Task,
    descendants,
    end,
    wait_for_line,
    wait_for_page,
)
from mycontainer.engine.limits import Limits
from mycontainer.errors import ContainerError

PIDS_LIMIT = 512  # a limit that hurts nobody: with one, a container has a cgroup


def cgroup_refusal() -> str:
    """Why we cannot give a container a cgroup here; empty if we can. It is tried."""
    try:
        Limits(f"bench-{os.getpid()}", processes=PIDS_LIMIT).remove()
    except (ContainerError, OSError) as error:
        return str(error)
    return ""


class Ours(Subject):
    """What both have in common: the directory that they start in."""

    network = NO_NETWORK
    scratch: Path
    root: Path

    def __init__(self) -> None:
        self.limit = None if cgroup_refusal() else PIDS_LIMIT

    def available(self) -> Missing | None:
        if lack := rootfs.lack():
            return lack
        refusal = _user_namespaces()
        return Missing(refusal, "see: mycontainer doctor") if refusal else None

    def versions(self) -> Mapping[str, str]:
        return {"mycontainer": __version__, "python": sys.version.split()[0]}

    def prepare(self, scratch: Path) -> None:
        self.scratch, self.root = scratch, rootfs.unpacked(scratch)


def _user_namespaces() -> str:
    from mycontainer.bench.plain import tried

    missing = tried(["unshare", "--user", "--map-root-user", "--mount", "true"], "")
    return missing.reason if missing else ""


class CommandLine(Ours):
    """`mycontainer run --rootfs DIR`."""

    name, label = "ours-cli", "mycontainer run"
    launcher: tuple[str, ...] = ()  # what is started as mycontainer; empty: as it is installed

    def options(self, task: Task) -> list[str]:
        network = ["--network", "host"] if task.port else []
        return [*([f"--pids-limit={self.limit}"] if self.limit else []), *network]

    def start(self, task: Task) -> Instance:
        command = self.launcher or program()
        argv = [*command, "run", *self.options(task), f"--rootfs={self.root}", *task.argv]
        return Attended(argv, task, environment(self.scratch))


class FromImage(CommandLine):
    """`mycontainer run IMAGE`: a fresh root file system for each."""

    name, label = "ours-image", "mycontainer run busybox"
    differences = ("more: unpacks its image, 2 MB, into memory at each start",)

    def prepare(self, scratch: Path) -> None:
        self.scratch = scratch
        images = scratch / "images"
        images.mkdir()
        rootfs.image(images)

    def start(self, task: Task) -> Instance:
        argv = [*(self.launcher or program()), "run", *self.options(task), "busybox", *task.argv]
        return Attended(argv, task, environment(self.scratch))


def program() -> list[str]:
    """The command as it is installed, beside the Python that we run in."""
    script = Path(sys.executable).with_name("mycontainer")
    return [str(script)] if os.access(script, os.X_OK) else [sys.executable, "-m", "mycontainer.cli.main"]


def environment(scratch: Path) -> dict[str, str]:
    """Ours, without what would have Python compile everything anew at each start; and places of its own for
    images and for what it notes down of its containers (root's is /run, see world.py)."""
    usual = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**usual, "MYCONTAINER_HOME": str(scratch), "XDG_RUNTIME_DIR": str(scratch)}


class Api(Ours):
    """`mycontainer.api.start`, called by a small Python process that runs already (caller.py)."""

    name, label, temperature = "ours-api", "mycontainer from Python", WARM
    differences = ("warm: a Python that has loaded the library runs already",)
    server: subprocess.Popen[bytes] | None = None

    def prepare(self, scratch: Path) -> None:
        super().prepare(scratch)
        self._hire(scratch)

    def beside(self, scratch: Path) -> Subject:
        """With a Python of its own: one hears only one order at a time."""
        scratch.mkdir(exist_ok=True)
        other = Api()
        other.root = self.root
        other._hire(scratch)
        return other

    def _hire(self, scratch: Path) -> None:
        self.orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.server = subprocess.Popen([sys.executable, "-I", "-m", "mycontainer.bench.caller"],
                                           stdin=theirs.fileno(),
                                           stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                           env=environment(self.scratch), start_new_session=True)

    def close(self) -> None:
        if self.server:
            self.orders.close()
            try:
                self.server.wait(5)
            except subprocess.TimeoutExpired:
                end(descendants(self.server.pid))
                self.server.wait()
            self.server = None

    def start(self, task: Task) -> Instance:
        return Called(self, task)

    def order(self, order: Mapping[str, Any], *fds: int) -> None:
        """Tell the other process what to do."""
        socket.send_fds(self.orders, [json.dumps(order).encode()], fds)

    def answer(self) -> dict[str, Any]:
        """What it says to the last order."""
        text = self.orders.recv(65536)
        answer: dict[str, Any] = json.loads(text) if text else {"error": "the process that calls us is gone"}
        return answer


class Called(Instance):
    """A container that the other process has started."""

    def __init__(self, api: Api, task: Task) -> None:
        self.api, self.task, self.id = api, task, secrets.token_hex(4)
        self.output, theirs = os.pipe()
        self.told: dict[str, Any] | None = None
        self.stopped = False
        order = {"start": self.id, "argv": task.argv, "root": str(api.root), "limit": api.limit,
                 "network": "host" if task.port else "none"}
        try:
            self.began = time.perf_counter_ns()
            api.order(order, theirs, theirs)
        except BaseException:
            os.close(self.output)
            raise
        finally:
            os.close(theirs)

    def ready(self, deadline: float) -> int:
        if self.task.port:
            return wait_for_page(self.task, self.began, deadline, self._complain_if_dead)
        moment = wait_for_line(self.output, self.task.token, self.began, deadline)
        if moment is None:
            raise NotReady(self._facts().get("error") or "no word of it came")
        return moment

    def _facts(self) -> dict[str, Any]:
        if self.told is None:
            self.told = self.api.answer()
        return self.told

    def _complain_if_dead(self) -> None:
        facts = self._facts()
        if "error" in facts or not os.path.exists(f"/proc/{facts['pid']}"):
            raise NotReady(facts.get("error") or "it has ended")

    def pids(self) -> set[int]:
        facts = self._facts()
        return descendants(facts["runner"]) if "runner" in facts else set()

    def stop(self) -> None:
        if self.stopped:
            return
        self.stopped = True
        try:
            if "pid" in self._facts():
                self.api.order({"stop": self.id})
                self.api.answer()
        finally:
            os.close(self.output)
