"""PID 1 of the lab: it finishes the root, starts the kernel, and buries the dead.

Whoever dies inside and has no parent left becomes a child of PID 1, and stays a zombie until PID 1 asks
for its exit status. The kernel of a notebook never would; so it is not PID 1, we are. And when PID 1 ends,
the Linux kernel kills everybody else in the PID namespace: no process can outlive the lab.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mycontainer import chroot, namespaces, syscalls
from mycontainer.errors import explain
from mycontainer.lab import sandbox

PROGRESS_FD = 3  # where the kernel finds the socket for its progress
CONNECTION_FILE = "/run/lab/kernel.json"
OWN_NAMESPACES = ("user", "cgroup", "ipc", "uts", "net", "pid", "mnt")


class Payload(NamedTuple):
    """What runs in the lab."""

    argv: Sequence[str]       # empty: nobody, the lab waits for guests (terminals)
    env: Mapping[str, str]
    workdir: str
    connection: str           # text of the kernel's connection file
    of_host: set[str]         # superblocks that must not be writable


class Ends(NamedTuple):
    """The descriptors that PID 1 holds."""

    lifeline: int   # a pipe that only the launcher writes to: end of file says that the launcher is gone
    progress: int
    log: int        # what the kernel's stderr becomes


def finish_root(payload: Payload) -> None:
    """In the lab's own namespaces: what only they can mount; then make all of it the root directory."""
    syscalls.sethostname(sandbox.HOSTNAME)
    namespaces.raise_loopback()
    chroot.make_private()
    chroot.furnish(sandbox.ROOT)
    for name in chroot.DEVICES:  # the host's nodes, bound: written to all the same, but not changed
        syscalls.mount_setattr(syscalls.AT_FDCWD, f"{sandbox.ROOT}/dev/{name}", 0, syscalls.MOUNT_ATTR_RDONLY)
    chroot.pivot(sandbox.ROOT)
    sandbox.assert_throw_away(payload.of_host)
    if payload.argv:
        sandbox.assert_runs(payload.argv[0])
        sandbox.write_file(CONNECTION_FILE, payload.connection)


def start(payload: Payload, ends: Ends) -> int:
    """Fork the kernel; returns its pid. It has a session of its own, so that ``kill(0, …)`` ends there."""
    pid = os.fork()
    if pid == 0:  # inside, the kernel, before exec
        try:
            become(payload, ends)
        except OSError as error:
            os.write(2, f"mycontainer: {explain(f'cannot start {payload.argv[0]}', error)}\n".encode())
        finally:
            os._exit(126)
    return pid


def become(payload: Payload, ends: Ends) -> None:
    """Exec the kernel with exactly these descriptors: 0 and 1 nothing, 2 the log, 3 progress.

    What cells print goes over the kernel's own connections; ipykernel writes all of it to 1 once more.
    """
    os.setsid()
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    _eagerly_killed()
    nothing = os.open("/dev/null", os.O_RDWR)
    wanted = (nothing, nothing, ends.log, ends.progress)
    spare = [os.dup2(fd, 100 + at) for at, fd in enumerate(wanted)]
    for at, fd in enumerate(spare):
        os.dup2(fd, at)
    syscalls.close_range(PROGRESS_FD + 1, 0x7FFFFFFF, syscalls.CLOSE_RANGE_CLOEXEC)
    os.chdir(payload.workdir)
    os.execve(payload.argv[0], list(payload.argv), dict(payload.env))


def _eagerly_killed() -> None:
    """If memory runs out, let the lab's programs die before the host's. man 5 proc, oom_score_adj."""
    with open("/proc/self/oom_score_adj", "r+") as score:
        score.write("500")


def serve(kernel: int, lifeline: int) -> int:
    """Reap until the kernel ends or the launcher is gone; returns an exit code.

    ``kernel`` is its pid, 0 for a lab without. SIGINT is passed on to the kernel and all it has started.
    """
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, lambda *_: _interrupt(kernel))
    poll = select.poll()
    poll.register(woken, select.POLLIN)
    poll.register(lifeline, select.POLLIN)
    while True:
        ended = _reap()
        if kernel in ended:
            code = os.waitstatus_to_exitcode(ended[kernel])
            return code if code >= 0 else 128 - code
        ready = [fd for fd, _ in poll.poll()]
        if lifeline in ready:
            return 0
        if woken in ready:
            os.read(woken, 4096)


def _reap() -> dict[int, int]:
    """Bury all that are dead: pid to exit status."""
    ended: dict[int, int] = {}
    try:
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return ended
            ended[pid] = status
    except ChildProcessError:
        return ended


def _interrupt(kernel: int) -> None:
    """As Ctrl-C at a terminal: the kernel, and what runs in its process group, get SIGINT."""
    if kernel:
        try:
            os.killpg(kernel, signal.SIGINT)
        except ProcessLookupError:
            pass  # it has not come so far, or is gone
