"""Without a container engine: a process as it is, and what util-linux and bubblewrap wrap it in."""

from __future__ import annotations

import os
import shutil
import subprocess
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

from mycontainer.bench import rootfs
from mycontainer.bench.subject import CONTAINER, HOST, NO_NETWORK, PROCESS, Command, Missing, Subject, Task


def version(*argv: str) -> str:
    """The first line of what a program says of its version."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=10, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return next(iter((done.stdout or done.stderr).strip().splitlines()), "unknown")


def tried(argv: Sequence[str], cure: str, deadline: float = 20.0) -> Missing | None:
    """Run a trial: None if it succeeds, else what it said."""
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=deadline,
                              stdin=subprocess.DEVNULL)
    except OSError as error:
        return Missing(str(error), cure)
    except subprocess.TimeoutExpired:
        return Missing(f"{argv[0]} did not end within {deadline:g} s", cure)
    if done.returncode == 0:
        return None
    return Missing(next(reversed(done.stderr.strip().splitlines()), f"exit code {done.returncode}"), cure)


class Wrapped(Subject):
    """A command before the command: all of them share the way they are started, seen and ended."""

    program = ""          # which must be there
    package = ""          # what brings it
    root: Path

    @abstractmethod
    def wrap(self, task: Task) -> list[str]:
        """The command line that does the task."""

    def trial(self) -> list[str]:
        """A command that succeeds if it works here; none: nothing can hinder it."""
        return []

    def available(self) -> Missing | None:
        if lack := rootfs.lack():
            return lack
        if self.program and not shutil.which(self.program):
            return Missing(f"no {self.program}", f"apt install {self.package}")
        trial = self.trial()
        return tried(trial, "see: mycontainer doctor") if trial else None

    def prepare(self, scratch: Path) -> None:
        self.scratch = scratch
        self.root = rootfs.unpacked(scratch)

    def versions(self) -> Mapping[str, str]:
        return {self.program: version(self.program, "--version")} if self.program else {}

    def start(self, task: Task) -> Command:
        return Command(self.wrap(task), task, self.environment())

    def environment(self) -> Mapping[str, str] | None:
        return None


class Outside(Wrapped):
    """Those that keep this machine's root directory: they find busybox, and a place for a page, in ours."""

    def environment(self) -> Mapping[str, str]:
        return {**os.environ, "PATH": f"{self.root}/bin:{os.environ.get('PATH', '')}",
                "TMPDIR": f"{self.root}/tmp"}


class Process(Outside):
    """fork and exec, and nothing else: what all others are compared with."""

    name, label, kind, network = "process", "plain process", PROCESS, HOST

    def wrap(self, task: Task) -> list[str]:
        return [f"{self.root}/bin/busybox", *task.argv[1:]]

    def versions(self) -> Mapping[str, str]:
        return {"busybox": version("busybox")}


class Chroot(Wrapped):
    """Another root directory."""

    name, label, kind, network = "chroot", "chroot", PROCESS, HOST
    program, package = "unshare", "util-linux"
    def _options(self) -> list[str]:
        return [] if os.geteuid() == 0 else ["--user", "--map-root-user"]

    def trial(self) -> list[str]:
        return ["unshare", *self._options(), "--root=/", "true"]

    def wrap(self, task: Task) -> list[str]:
        return ["unshare", *self._options(), f"--root={self.root}", f"/bin/{task.argv[0]}", *task.argv[1:]]


class Unshare(Outside):
    """Namespaces, and this machine's root directory."""

    name, label, network = "unshare", "unshare", NO_NETWORK
    program, package = "unshare", "util-linux"
    OPTIONS = ("--user", "--map-root-user", "--mount", "--uts", "--ipc", "--pid", "--cgroup", "--fork",
               "--kill-child", "--mount-proc")

    def trial(self) -> list[str]:
        return ["unshare", *self.OPTIONS, "--net", "true"]

    def wrap(self, task: Task) -> list[str]:
        net = [] if task.port else ["--net"]
        return ["unshare", *self.OPTIONS, *net, f"{self.root}/bin/busybox", *task.argv[1:]]


class Bubblewrap(Wrapped):
    """What Flatpak starts its programs with."""

    name, label, kind, network = "bubblewrap", "bubblewrap", CONTAINER, NO_NETWORK
    program, package = "bwrap", "bubblewrap"
    OPTIONS = ("--unshare-all", "--unshare-user", "--unshare-cgroup", "--die-with-parent", "--proc", "/proc",
               "--dev", "/dev", "--hostname", "bench")

    def trial(self) -> list[str]:
        return ["bwrap", "--ro-bind", "/", "/", *self.OPTIONS, "true"]

    def wrap(self, task: Task) -> list[str]:
        net = ["--share-net"] if task.port else []
        return ["bwrap", "--bind", str(self.root), "/", *self.OPTIONS, *net, "--setenv", "PATH", "/bin",
                "--", f"/bin/{task.argv[0]}", *task.argv[1:]]
