"""A bundle's start: its plan, done with the three processes of spawn.py.

Afterwards nothing of ours runs. PID 1 waits at its socket for `start`, and is left to whoever is the caller's
nearest subreaper, which waits for it and learns its exit code.
"""

from __future__ import annotations

import os
import pwd
import signal
import time
from collections.abc import Callable

from mycontainer import spawn
from mycontainer.engine import bundle_plan, bundle_state, bundle_store, config, console
from mycontainer.engine.bundle_ground import Ground
from mycontainer.engine.bundle_state import Bundle
from mycontainer.engine.config import Config
from mycontainer.engine.plan import CREATED, INSIDE, MAPPED, MOUNTED, NETWORKED, OUTSIDE, RUNNER, Plan
from mycontainer.errors import ContainerError, explain
from mycontainer.spawn import Process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

EXIT_FAILED = 1


def explained(identity: str, bundle: str, root: str) -> str:
    """The plan of a start as text; nothing is touched."""
    found, _ = config.load(os.path.abspath(bundle))
    ground = Ground(found, identity, os.path.abspath(bundle), f"{root}/{identity}")
    return bundle_plan.make(found, ground, waits=True).explain()


def create(root: str, identity: str, bundle: str, *, waits: bool = True, stays: bool = False,
           console_socket: str = "", kept: int = 3, pid_file: str = "",
           take_terminal: Callable[[int], object] | None = None) -> Process:
    """Make a container of a bundle, up to its command; without ``waits`` that, too.

    ``stays``: we stay until its end, and it ends with us. ``take_terminal`` gets the master end of its
    terminal, if it is to have one and there is no ``console_socket``.
    """
    bundle = os.path.abspath(bundle)
    found, text = config.load(bundle)
    _check(found, waits, console_socket, take_terminal)
    one, lock = bundle_store.reserve(root, identity)
    try:
        ground = Ground(found, identity, bundle, one.path, console_socket, kept, stays)
        plan = bundle_plan.make(found, ground, waits)
        with open(f"{one.path}/config.json", "wb") as file:
            file.write(text)
        ours = -1
        if found.process and found.process.terminal and not console_socket:
            ours, ground.console = console.pair()
        try:
            process, times = launch(plan, ground)
            if take_terminal and ours >= 0:
                take_terminal(console.receive(ours))
                ours = -1
        finally:
            for fd in (ours, ground.console, ground.listener):
                if fd >= 0:
                    os.close(fd)
        try:
            _keep(one, found, ground, process.pid, times)
            if pid_file:
                write_pid_file(pid_file, process.pid)
        except BaseException:
            process.kill()
            process.wait()
            raise
        if not stays:
            leave(process)
    except BaseException:
        one.take_back()
        raise
    finally:
        os.close(lock)
    return process


def _check(found: Config, waits: bool, console_socket: str, take_terminal: object) -> None:
    if not os.path.isdir(found.root.path):
        raise ContainerError("root.path", f"{found.root.path} is not a directory")
    if found.process is None and not waits:
        raise ContainerError("process", "is missing: there is nothing to run")
    terminal = bool(found.process and found.process.terminal)
    if terminal and not console_socket and not take_terminal:
        raise ContainerError("process.terminal", "somebody must be its screen", "Give a --console-socket.")
    if console_socket and not terminal:
        raise ContainerError("cannot use the console socket", "process.terminal is not true")


def launch(plan: Plan, ground: Ground) -> tuple[Process, dict[str, Any]]:
    """Do what the plan says, with the three processes of spawn.py; returns PID 1 and each step's time."""
    clock, tell = os.pipe()

    def created(runner: int) -> None:
        ground.runner = runner
        plan.run(CREATED, MAPPED, OUTSIDE)

    def born(pid: int) -> None:
        ground.pid = pid
        plan.run(MAPPED, NETWORKED, OUTSIDE)

    def inside() -> None:
        ground.report = lambda: os.write(tell, plan.times_as_text().encode())
        try:
            plan.run(NETWORKED, "", INSIDE)
        except BaseException as error:
            if ground.channel < 0:
                raise
            ground.fail(error)
            os._exit(getattr(error, "exit_code", EXIT_FAILED))

    _, uid_map, gid_map = plan.arguments("write the id maps") or ("", [], [])
    try:
        plan.run("", CREATED, OUTSIDE)
        process = spawn.spawn(
            inside, plan.arguments("make namespaces")[0], uid_map, gid_map, born,
            first=lambda: plan.run("", CREATED, RUNNER),
            meetings={spawn.UNSHARED: created, MOUNTED: lambda _: plan.run(NETWORKED, MOUNTED, OUTSIDE)})
        os.close(tell)
        tell = -1
        inner = os.read(clock, 1 << 16)
    finally:
        os.close(clock)
        if tell >= 0:
            os.close(tell)
    rows = (row.split("\t") for row in inner.decode().splitlines())
    return process, plan.times | {name: [float(begin), float(took)] for name, begin, took in rows}


def _keep(one: Bundle, found: Config, ground: Ground, pid: int, times: dict[str, Any]) -> None:
    seconds, rest = divmod(time.time_ns(), 10 ** 9)
    one.write(ground.facts(pid) | bundle_state.process_record(pid) | {
        "created": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest:09}Z",
        "owner": _user_name(), "cgroup": ground.cgroup, "steps": times})


def _user_name() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def leave(process: Process) -> None:
    """End the runner, so that PID 1 is left to the caller's subreaper; it has let go of us before."""
    os.kill(process.runner, signal.SIGKILL)
    os.waitpid(process.runner, 0)
    os.close(process.pidfd)


def write_pid_file(path: str, pid: int) -> None:
    """Whoever waits for the file finds the whole number in it."""
    try:
        with open(f"{path}.new", "w") as file:
            file.write(str(pid))
        os.rename(f"{path}.new", path)
    except OSError as error:
        raise explain(f"cannot write the pid file {path}", error) from error
