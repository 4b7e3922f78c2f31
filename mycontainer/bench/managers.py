"""Podman and Docker: with an image store, a monitor for each container, and in Docker's case a daemon.

Both get a store, a socket and settings of their own, so that nothing is seen or touched of those that a
person has on this machine.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from mycontainer.bench import cgroup, rootfs, world
from mycontainer.bench.plain import version
from mycontainer.bench.subject import (
    NO_NETWORK,
    WARM,
    Command,
    Missing,
    NotReady,
    Subject,
    Task,
    descendants,
    end,
    is_init,
    mentioning,
)
from mycontainer.errors import ContainerError

PATIENCE = 20.0  # seconds: for a daemon to come up, for a container to be taken away
ROOT_NEEDED = "run it as root: sudo mycontainer bench ..."


def run_directory(scratch: Path, name: str) -> Path:
    """For sockets and the like, by a short path: Podman takes no more than 50 characters, sockets 107.

    In the benchmark's own place (world.py) /run is empty, and ours alone.
    """
    place = Path("/run", name) if world.isolated() else scratch / "run"
    place.mkdir(exist_ok=True)
    return place


class Manager(Subject):
    """What both have in common: the words of their command line."""

    network = NO_NETWORK
    scratch: Path
    run: Path
    programs: tuple[str, ...]
    package: str

    @property
    @abstractmethod
    def command(self) -> list[str]:
        """The program with the options that lead to its store."""

    def available(self) -> Missing | None:
        for program in self.programs:
            if not shutil.which(program):
                return Missing(f"no {program}", f"apt install {self.package}")
        return rootfs.lack()

    def versions(self) -> Mapping[str, str]:
        return {name: version(name, "--version") for name in self.programs}

    def environment(self) -> dict[str, str]:
        """Nothing of a person's own settings."""
        return {**os.environ, "XDG_RUNTIME_DIR": str(self.scratch), "XDG_CONFIG_HOME": str(self.scratch)}

    def options(self, task: Task) -> list[str]:
        return [f"--network={'host' if task.port else 'none'}"]

    def ask(self, *words: str) -> str:
        """Run one of its commands. Raises ContainerError with what it says."""
        done = subprocess.run([*self.command, *words], capture_output=True, text=True, timeout=PATIENCE,
                              stdin=subprocess.DEVNULL, env=self.environment())
        if done.returncode:
            said = next(reversed(done.stderr.strip().splitlines()), f"exit code {done.returncode}")
            raise ContainerError(f"{self.name} {words[0]} failed", said)
        return done.stdout

    def start(self, task: Task) -> Managed:
        name = f"bench-{secrets.token_hex(4)}"
        cidfile = self.scratch / name
        argv = [*self.command, "run", "--rm", f"--name={name}", f"--cidfile={cidfile}", *self.options(task),
                self.image, *task.argv]
        return Managed(self, name, cidfile, argv, task)

    image = "bench:latest"


class Managed(Command):
    """A container of one of them: our command is only its client, and others look after it."""

    def __init__(self, manager: Manager, name: str, cidfile: Path, argv: Sequence[str], task: Task) -> None:
        self.manager, self.name, self.cidfile = manager, name, cidfile
        self.client_left = self.stopped = False
        super().__init__(argv, task, manager.environment())

    def _monitors(self) -> set[int]:
        """Conmon, the shim, and whoever else is busy with it just now."""
        with suppress(OSError):
            if identity := self.cidfile.read_text().strip():
                return mentioning(identity) - descendants(self.process.pid)
        return set()

    def pids(self) -> set[int]:
        """Those of the container and its monitor; not the client, which is there for its output only."""
        return set().union(*map(descendants, self._monitors()))

    def detach(self) -> None:
        self.client_left = True
        end({self.process.pid})
        self.process.wait()

    def stop(self) -> None:
        if self.stopped:
            return
        self.stopped = True
        end(filter(is_init, self.pids()))  # nobody else: they clear up after it
        if not self.client_left:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(PATIENCE)
        if self.process.poll() != 0:  # it had to be killed, or has failed: did it clear up?
            with suppress(ContainerError, subprocess.SubprocessError):
                self.manager.ask("rm", "--force", self.name)
        self._await_monitors()
        super().stop()
        self.cidfile.unlink(missing_ok=True)

    def _await_monitors(self) -> None:
        last = time.monotonic() + PATIENCE
        while (left := self._monitors()) and time.monotonic() < last:
            time.sleep(0.005)
        end(left)


class Podman(Manager):
    """Without a daemon: each command reads its store anew."""

    name, label = "podman", "podman run"
    programs, package = ("podman",), "podman"
    image = "localhost/bench:latest"

    def __init__(self) -> None:
        self.parent = cgroup.given()
        self.hybrid = os.path.ismount(world.UNIFIED)  # both versions of cgroups, which crun refuses

    @property
    def command(self) -> list[str]:
        return ["podman", f"--root={self.scratch}/store", f"--runroot={self.run}",
                f"--tmpdir={self.scratch}/tmp", "--cgroup-manager=cgroupfs",
                *(["--runtime=runc"] if self.hybrid else [])]

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "CONTAINERS_CONF": f"{self.scratch}/containers.conf"}

    def options(self, task: Task) -> list[str]:
        if self.parent:
            return [*super().options(task), f"--cgroup-parent={self.parent}/podman"]
        return [*super().options(task), *([] if self.hybrid else ["--cgroups=disabled"])]

    def prepare(self, scratch: Path) -> None:
        self.scratch, self.run = scratch, run_directory(scratch, self.name)
        (scratch / "containers.conf").write_text(
            '[containers]\ndefault_ulimits = []\nlog_driver = "k8s-file"\n[engine]\nevents_logger = "file"\n')
        self.ask("import", str(rootfs.image(scratch)), "bench:latest")

    def versions(self) -> Mapping[str, str]:
        found = self.ask("info", "--format", "{{.Host.OCIRuntime.Name}} {{.Store.GraphDriverName}}").split()
        return {**super().versions(), **dict(zip(("engine", "store"), found, strict=False))}

    def close(self) -> None:
        for file in self.scratch.rglob("pause.pid") if os.geteuid() else ():  # keeps a user's namespaces open
            with suppress(OSError, ValueError):
                end({int(file.read_text())})


class Docker(Manager):
    """A client, a daemon, containerd, a shim, runc."""

    name, label, temperature = "docker", "docker run", WARM
    programs, package = ("docker", "dockerd", "containerd"), "docker.io"
    differences = ("warm: its daemon and containerd run already",)
    daemon: subprocess.Popen[bytes] | None = None

    @property
    def command(self) -> list[str]:
        return ["docker", f"--host=unix://{self.run}/socket"]

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "DOCKER_CONFIG": str(self.scratch / "config")}

    def available(self) -> Missing | None:
        if shutil.which("docker") and not cgroup.given():
            return Missing("its daemon must be started by root", ROOT_NEEDED)
        return super().available()

    def prepare(self, scratch: Path) -> None:
        self.scratch, self.run = scratch, run_directory(scratch, self.name)
        with open(scratch / "log", "wb") as log:
            self.daemon = subprocess.Popen(
                ["dockerd", f"--data-root={scratch}/data", f"--exec-root={self.run}/exec",
                 f"--pidfile={scratch}/pid", f"--host=unix://{self.run}/socket",
                 f"--cgroup-parent={cgroup.given()}/docker", "--bridge=none", "--iptables=false",
                 "--ip-forward=false", "--ip-masq=false", "--exec-opt=native.cgroupdriver=cgroupfs"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env=self.environment())
        self._await_daemon()
        self.ask("import", str(rootfs.image(scratch)), "bench:latest")

    def _await_daemon(self) -> None:
        assert self.daemon
        last = time.monotonic() + PATIENCE
        while time.monotonic() < last and self.daemon.poll() is None:
            with suppress(ContainerError):
                self.ask("version")
                return
            time.sleep(0.05)
        said = (self.scratch / "log").read_text(errors="replace").strip().splitlines()
        raise NotReady(f"its daemon does not answer: {said[-1] if said else 'it said nothing'}")

    def versions(self) -> Mapping[str, str]:
        found = self.ask("info", "--format", "{{.DefaultRuntime}} {{.Driver}} {{.ServerVersion}}").split()
        return {**super().versions(), **dict(zip(("engine", "store", "server"), found, strict=False))}

    def close(self) -> None:
        if self.daemon:
            self.daemon.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.daemon.wait(PATIENCE)
            end(descendants(self.daemon.pid) if self.daemon.poll() is None else ())
            self.daemon.wait()
            self.daemon = None
