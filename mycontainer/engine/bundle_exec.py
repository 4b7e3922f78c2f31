"""One more process in a bundle's container: `mycontainer-oci exec`.

    outside          the caller
    └── the runner       as for any container (spawn.py), but it makes no namespaces
        └── the usher        joins those of PID 1, and its cgroup before
            └── the command      born in its PID namespace: one cannot join that, only one's children do

For a caller that leaves, the usher leaves too, and the command is left to the caller's subreaper.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from mycontainer import container, namespaces, spawn, syscalls
from mycontainer.engine import bundle_launch, bundles, calls, console, join
from mycontainer.engine.bundle_ground import Ground
from mycontainer.engine.bundle_plan import take_rights
from mycontainer.engine.bundle_state import CREATED, RUNNING, Bundle
from mycontainer.engine.bundle_store import find
from mycontainer.engine.config_process import Process
from mycontainer.errors import ContainerError
from mycontainer.namespaces import ORDER


def execute(root: str, identity: str, ask: Callable[[Process | None], Process], *, detach: bool = False,
            console_socket: str = "", kept: int = 3, pid_file: str = "",
            take_terminal: Callable[[int], object] | None = None) -> spawn.Process:
    """Start a process in a container: ``ask`` tells which, and is told the container's own. Returns when it
    runs; for ``detach`` what is returned is our usher, which is gone.
    """
    one = find(root, identity)
    if (status := one.status()) not in (CREATED, RUNNING):
        raise ContainerError(f"cannot exec in {identity}", f"it is {status}")
    config = bundles.saved_config(one)
    process = ask(config.process)
    ground = Ground(config._replace(process=process), identity, one.facts["bundle"], one.path, console_socket,
                    kept, stays=not detach)
    if config.linux.seccomp:
        ground.compile_filter(config.linux.seccomp)
    ours = _prepare_terminal(process, ground, take_terminal)
    hear, tell = os.pipe()
    try:
        usher = spawn.spawn(lambda: _inside(one, ground, process, tell), (), [], [],
                            lambda pid: _join(one, ground, pid))
        command = int(os.read(hear, 20) or b"0")
        if take_terminal and ours >= 0:
            take_terminal(console.receive(ours))
            ours = -1
    finally:
        for fd in (ours, ground.console, hear, tell):
            if fd >= 0:
                os.close(fd)
    if pid_file:
        bundle_launch.write_pid_file(pid_file, command)
    return usher


def _prepare_terminal(process: Process, ground: Ground, take_terminal: object) -> int:
    """Where its master end will be sent to; returns our end of it, if that is us."""
    if not process.terminal:
        return -1
    if ground.console_socket:
        ground.connect_console(ground.console_socket)
        return -1
    if not take_terminal:
        raise ContainerError("process.terminal", "somebody must be its screen", "Give a --console-socket.")
    ours, ground.console = console.pair()
    return ours


def _join(one: Bundle, ground: Ground, pid: int) -> None:
    """Outside: the usher's children are to be counted, and limited, with the others."""
    ground.pid = pid
    if path := one.facts.get("cgroup"):
        ground.join_cgroup(path)
    process = ground.config.process
    assert process
    ground.raise_limits(process.rlimits)
    if process.oom_score_adj is not None:
        ground.set_oom_score(process.oom_score_adj)


def _inside(one: Bundle, ground: Ground, process: Process, tell: int) -> None:
    """The usher: join, then fork the command, which gets ready as PID 1 does."""
    _enter(one, ground)
    command = os.fork()
    if command:  # outside still by its pid, inside by all else: the usher
        os.write(tell, str(command).encode())
        os._exit(join._usher(command) if ground.stays else 0)
    # inside, the command, before exec
    if ground.stays:
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, 9)
    container.settle((), "", own_root=True)
    if process.terminal:
        console.open_terminal(ground.console, process.user.uid, process.console_size)
    ground.let_go(waits=False)
    for step in take_rights(ground.config, process, ground):
        step.execute()


def _enter(one: Bundle, ground: Ground) -> None:
    """Join all its namespaces; what has to be looked up in ``/proc`` is looked up before the last."""
    mine, theirs = namespaces.identify(), namespaces.identify(one.pid)
    if not one.alive():  # that was perhaps another with its pid
        raise ContainerError(f"cannot exec in {one.id}", "it has ended")
    if mine["user"] != theirs["user"]:
        namespaces.enter(one.pid, ["user"])
        namespaces.become_root()
    ground.look()
    # Root in there must not get at us through its /proc before we are a program of its own.
    syscalls.prctl(calls.PR_SET_DUMPABLE, 0)
    namespaces.enter(one.pid, [kind for kind in ORDER if kind != "user"])
