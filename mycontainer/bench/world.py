"""Where a benchmark runs: in a place of its own, so that whatever happens to it, nothing of it stays.

As root that is a mount, a PID, a network and an IPC namespace. Everything that the subjects mount, every
daemon and shim that outlives its parent, every bridge and packet filter ends with the last process of it; and
nobody's containers on this machine are touched, for /run is empty in there. An ordinary user has no such
means but by a user namespace, in which Podman without root would be something else: there the orphans are
collected and ended.

    outside      mycontainer bench: passes signals on, waits
    └── init     PID 1 in there: waits for whoever ends, and then ends what is left
        └── the worker   measures
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

from mycontainer import chroot, namespaces, spawn, syscalls
from mycontainer.bench import cgroup
from mycontainer.bench.cgroup import Parent
from mycontainer.bench.observe import descendants, end
from mycontainer.errors import ContainerError

KINDS = ("ipc", "net", "pid", "mnt")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PATIENCE = 3  # the third Ctrl-C is meant
PR_SET_CHILD_SUBREAPER = 36
UNIFIED = "/sys/fs/cgroup/unified"
SBIN = ("/usr/local/sbin", "/usr/sbin", "/sbin")  # an ordinary user of Debian does not look there
MARK = "MYCONTAINER_BENCH_WORLD"  # in the environment of all in there


def run(work: Callable[[], int]) -> int:
    """Call ``work`` in there and return what it returns; 128 + N if signal N ended it."""
    sys.stdout.flush()
    sys.stderr.flush()
    group = _cgroup()
    try:
        return _attended(_started(work, group))
    finally:
        if group:
            group.remove()


def _cgroup() -> Parent | None:
    """A cgroup of our own, or None where we may not have one."""
    if os.geteuid() == 0:
        with suppress(OSError):
            return Parent()
    return None


def _started(work: Callable[[], int], group: Parent | None) -> spawn.Process:
    take = group.take if group else lambda pid: None
    path = group.path if group else ""
    if os.geteuid() == 0:
        with suppress(ContainerError):  # root of a container may lack the right to: then as a user
            return spawn.spawn(lambda: os._exit(_init(work, KINDS, path)), KINDS, [], [], take)
    return spawn.spawn(lambda: os._exit(_init(work, (), path)), (), [], [], take)


def _attended(init: spawn.Process) -> int:
    """Wait for it, and pass on what we are told by signals."""
    asked = 0

    def pass_on(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        asked += 1
        init.kill(number if asked < PATIENCE else signal.SIGKILL)

    before = {number: signal.signal(number, pass_on) for number in SIGNALS}
    try:
        return init.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def isolated() -> bool:
    """Are we in such a place, and it has namespaces of its own?"""
    return os.environ.get(MARK) == "namespaces"


def _init(work: Callable[[], int], kinds: tuple[str, ...], group: str) -> int:
    """PID 1: start the worker, wait for all, end what is left; returns the worker's exit code."""
    syscalls.close_range(3, 0x7FFFFFFF, 0)  # the pipes to whoever started us: they wait for their end
    os.environ[MARK] = "namespaces" if kinds else "user"
    os.environ["PATH"] = ":".join([os.environ.get("PATH", os.defpath), *SBIN])  # dockerd, runc
    if group:
        os.environ[cgroup.MARK] = group
    if kinds:
        _furnish()
    syscalls.prctl(PR_SET_CHILD_SUBREAPER, 1)
    worker = os.fork()
    if worker == 0:  # the worker
        _work(work)
    for number in SIGNALS:
        signal.signal(number, lambda number, frame: _send(worker, number))
    code = _wait_for(worker)
    if left := descendants(os.getpid()) - {os.getpid()}:
        end(left)
    return code


def _furnish() -> None:
    """Make the new namespaces usable."""
    chroot.make_private()
    namespaces.raise_loopback()
    syscalls.mount("proc", "/proc", "proc", chroot.NO_SURPRISES)
    syscalls.mount("tmpfs", "/run", "tmpfs", chroot.NO_SURPRISES, "mode=755")
    if os.path.ismount(UNIFIED):  # crun refuses a machine that mounts both versions
        syscalls.umount2(UNIFIED, syscalls.MNT_DETACH)


def _work(work: Callable[[], int]) -> None:
    """The worker: any of the three signals is a Ctrl-C to it, and so is the end of init."""
    code = 1
    try:
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGTERM)
        for number in SIGNALS:
            signal.signal(number, signal.default_int_handler)
        code = work()
    finally:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _wait_for(worker: int) -> int:
    """Collect orphans until the worker has ended; returns its exit code."""
    while True:
        pid, status = os.wait()
        if pid == worker:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
