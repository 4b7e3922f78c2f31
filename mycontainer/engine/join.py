"""One more command in a container that runs: `mycontainer exec`.

    outside          the caller
    └── the runner       as for any container (spawn.py), but it makes no namespaces
        └── the usher        joins those of the container; passes signals on
            └── the command      born in its PID namespace: one cannot join that, only one's children do

man 2 setns, man 1 nsenter.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from mycontainer import cgroups, container, namespaces, spawn, syscalls
from mycontainer.cgroups import Cgroup
from mycontainer.engine import cgroup_v1
from mycontainer.engine.cgroup_v1 import CgroupV1
from mycontainer.engine.limits import PREFIX
from mycontainer.engine.state import Container, NotRunning
from mycontainer.errors import EXIT_CANNOT_RUN, explain
from mycontainer.spawn import Process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

PR_SET_DUMPABLE = 4  # linux/prctl.h
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2,
             signal.SIGWINCH)


def start(one: Container, argv: Sequence[str], env: Mapping[str, str], workdir: str = "/",
          take_terminal: Callable[[], object] | None = None) -> Process:
    """Start a command in a container: its namespaces, and its cgroup with its limits.

    Returns it running, as `container.start` does. ``take_terminal`` is called inside, by
    the leader of a new session.
    """
    pidfd = one.pidfd()
    group = cgroup_of(one.pid)

    def inside() -> None:
        _enter(one, pidfd)
        command = os.fork()
        if command:  # outside still by its pid, inside by all else: the usher
            os._exit(_usher(command))
        # inside, the command, before exec
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        container.settle((), "", own_root=True)
        if take_terminal:
            take_terminal()
        try:
            syscalls.chdir(workdir)
        except OSError as error:
            raise explain(f"cannot work in {workdir}", error, exit_code=EXIT_CANNOT_RUN) from error
        spawn.execute(argv, env)

    try:
        return spawn.spawn(inside, (), [], [], group.join if group else lambda pid: None)
    finally:
        os.close(pidfd)


def _enter(one: Container, pidfd: int) -> None:
    """Join all its namespaces. Nothing is looked up in ``/proc`` afterwards: it is the container's."""
    namespaces.enter(one.pid, ["user"])
    if select.select([pidfd], [], [], 0)[0]:  # it has ended, and that was perhaps another with its pid
        raise NotRunning(one.name)
    namespaces.become_root()
    # Root in there must not get at us through its /proc before we are a program of its own.
    syscalls.prctl(PR_SET_DUMPABLE, 0)
    namespaces.enter(one.pid, container.KINDS)
    if select.select([pidfd], [], [], 0)[0]:
        raise NotRunning(one.name)


def _usher(command: int) -> int:
    """Wait for the command, passing on signals; returns its exit code."""
    def pass_on(number: int, _: FrameType | None) -> None:
        with suppress(ProcessLookupError):
            os.kill(command, number)

    for number in PASSED_ON:
        signal.signal(number, pass_on)
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    syscalls.close_range(3, 0x7FFFFFFF, 0)  # the pipe among them by whose end the outside sees that it runs
    code = os.waitstatus_to_exitcode(os.waitpid(command, 0)[1])
    return code if code >= 0 else 128 - code


def cgroup_of(pid: int) -> Cgroup | None:
    """The cgroup of ours that a process is in, if any. man 7 cgroups, /proc/PID/cgroup."""
    with open(f"/proc/{pid}/cgroup") as rows:
        paths = {row.rstrip("\n").split(":", 2)[2] for row in rows}
    for path in paths:
        if path.rpartition("/")[2].startswith(PREFIX):
            return CgroupV1(path) if cgroup_v1.in_use() else Cgroup(cgroups.ROOT + path)
    return None
