"""PID 1 of the lab: it starts the kernel and buries the dead.

Whoever dies inside and has no parent left becomes a child of PID 1, and stays a zombie until PID 1 asks
for its exit status. The kernel of a notebook never would; so it is not PID 1, we are. And when PID 1 ends,
the Linux kernel kills everybody else in the PID namespace: no process can outlive the lab.

PID 1 is visible inside, and root may read all of it: /proc/1/environ, its memory, its descriptors, its
program. So it is executed afresh in the finished root (`execute`), with an environment of its own. The
process that was forked out there has Jupyter's secrets in memory, and its /proc/1/exe would be the
learner's Python through a mount that is writable.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from mycontainer import cgroups, chroot, namespaces, syscalls
from mycontainer.errors import explain
from mycontainer.lab import channel, sandbox
from mycontainer.lab.channel import Channel

PROGRESS_FD = 3  # where the kernel finds the socket for its progress
CONNECTION_FILE = "/run/lab/kernel.json"
OWN_NAMESPACES = ("user", "cgroup", "ipc", "uts", "net", "pid", "mnt")


class Payload(NamedTuple):
    """What runs in the lab."""

    python: str               # the interpreter, as it is called inside
    argv: Sequence[str]       # the kernel; empty: nobody, the lab waits for guests (terminals)
    env: Mapping[str, str]
    workdir: str
    connection: str           # text of the kernel's connection file
    of_host: Sequence[str]    # superblocks that must not be writable
    own_cgroup: bool          # the cgroup we are in was given to us, with the right to make others below it


class Ends(NamedTuple):
    """The descriptors that PID 1 gets."""

    lifeline: int   # a socket, opposite the launcher: end of file says that it is gone. A pipe could be
    #                 opened anew through /proc/1/fd, and would then never end
    progress: int
    log: int        # what the kernel's stderr becomes


def finish_root(own_cgroup: bool) -> None:
    """In the lab's own namespaces: what only they can mount; then make all of it the root directory."""
    syscalls.sethostname(sandbox.HOSTNAME)
    namespaces.raise_loopback()
    chroot.make_private()
    chroot.furnish(sandbox.ROOT)
    if own_cgroup:  # as the root of our cgroup namespace it is all that this shows
        syscalls.mount("cgroup2", f"{sandbox.ROOT}{cgroups.ROOT}", "cgroup2", chroot.NO_SURPRISES)
    for name in chroot.DEVICES:  # the host's nodes, bound: written to all the same, but not changed
        syscalls.mount_setattr(syscalls.AT_FDCWD, f"{sandbox.ROOT}/dev/{name}", 0, syscalls.MOUNT_ATTR_RDONLY)
    chroot.pivot(sandbox.ROOT)


def execute(payload: Payload, ends: Ends, doorman: Channel) -> None:
    """Become PID 1 proper: the same process, a fresh program. Does not return."""
    sandbox.assert_runs(payload.python)
    text = os.memfd_create("payload", 0)
    os.write(text, json.dumps(payload).encode())
    wanted = (*ends, doorman.socket.fileno(), text)
    _arrange(_nothing(), _nothing(), ends.log, *wanted)
    os.execve(payload.python, [payload.python, "-I", "-m", "mycontainer.lab.init"], {"LANG": "C.UTF-8"})


def main() -> None:
    """PID 1 from its first instruction on, in the finished root."""
    lifeline, progress, log, channel_fd, text = range(3, 8)
    for fd in range(3, 8):
        os.set_inheritable(fd, False)
    doorman = Channel(socket.socket(fileno=channel_fd))
    try:
        with open(text, "rb") as file:
            file.seek(0)
            payload = Payload(*json.load(file))
        sandbox.assert_throw_away(set(payload.of_host), [cgroups.ROOT] if payload.own_cgroup else [])
        if payload.own_cgroup:
            cgroups.Cgroup(cgroups.ROOT).enable()  # which moves us, and so whoever we start, out of the way
        kernel = start(payload, log, progress) if payload.argv else 0
    except BaseException as error:
        doorman.fail(error)
        raise
    doorman.send(channel.RUNNING)
    doorman.close()
    os.close(progress)
    sys.exit(serve(kernel, lifeline))


def start(payload: Payload, log: int, progress: int) -> int:
    """Fork the kernel; returns its pid. It has a session of its own, so that ``kill(0, …)`` ends there."""
    sandbox.write_file(CONNECTION_FILE, payload.connection)
    pid = os.fork()
    if pid == 0:  # inside, the kernel, before exec
        try:
            become(payload, log, progress)
        except OSError as error:
            os.write(2, f"mycontainer: {explain(f'cannot start {payload.argv[0]}', error)}\n".encode())
        finally:
            os._exit(126)
    return pid


def become(payload: Payload, log: int, progress: int) -> None:
    """Exec the kernel with exactly these descriptors: 0 and 1 nothing, 2 the log, 3 progress.

    What cells print goes over the kernel's own connections; ipykernel writes all of it to 1 once more.
    """
    os.setsid()
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)  # Python, and the doorman, ignored them
    with open("/proc/self/oom_score_adj", "r+") as score:
        score.write("500")  # if memory runs out, the lab's programs die before the host's. man 5 proc
    _arrange(_nothing(), _nothing(), log, progress)
    os.chdir(payload.workdir)
    os.execve(payload.argv[0], list(payload.argv), dict(payload.env))


def _nothing() -> int:
    return os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)


def _arrange(*wanted: int) -> None:
    """Make these descriptors 0, 1, 2, … for the program that we become, and close all others then."""
    spare = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 100) for fd in wanted]  # out of each other's way
    for at, fd in enumerate(spare):
        os.dup2(fd, at)
    syscalls.close_range(len(wanted), 0x7FFFFFFF, syscalls.CLOSE_RANGE_CLOEXEC)


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


if __name__ == "__main__":
    main()
