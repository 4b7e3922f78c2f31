"""The process at the lab's door: made by the launcher, it makes the namespaces, then carries the bytes.

    launcher       outside: owns the limits, the progress file and the listeners; takes everything down
    └── doorman    in a first user namespace, where it puts the root together; later it joins the lab's
        │          network namespace and relays. Nothing in the lab can see or signal it.
        └── porter in a second user namespace and all the others; it forks PID 1 and is gone, because
            │      unshare(CLONE_NEWPID) moves only children
            └── PID 1        finishes the root, reaps
                └── kernel   ipykernel

Why two user namespaces: see sandbox.py.
"""

from __future__ import annotations

import errno
import os
import selectors
import signal
import socket
from collections.abc import Callable
from typing import Any, NamedTuple

from mycontainer import chroot, namespaces, syscalls
from mycontainer.errors import ContainerError, explain
from mycontainer.lab import channel, init, outlet, relay, sandbox
from mycontainer.lab.channel import Channel

RESTRICTION = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"
PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 4, 36  # linux/prctl.h


class Errand(NamedTuple):
    """What the doorman is given."""

    launcher: int                               # its pid
    server: int                                 # a pidfd of the launcher's parent
    layout: sandbox.Layout
    payload: init.Payload
    ends: init.Ends
    listeners: list[tuple[socket.socket, relay.Address]]
    before: Callable[[], None]                  # limits that a process can only set for itself


def main(errand: Errand, launcher: Channel) -> int:
    """Outside, the doorman: from the fork to the end of the lab. Returns the kernel's exit code."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the whole process group gets them, the launcher decides
    os.umask(0o022)
    channel.close_all_but(launcher.socket.fileno(), errand.server, *errand.ends,
                          *(listener.fileno() for listener, _ in errand.listeners))
    try:
        leave_keyring()
        launcher.send(channel.JOINING)
        launcher.expect(channel.JOINED)
        view = enter_first(errand, launcher)
        pidfd, pid, asks = make_lab(errand, launcher)
        chroot.pivot(sandbox.ROOT)  # or this copy of the host's mounts would keep its disks busy
        view.hold()
        launcher.send(channel.RUNNING, init=pid, open=view.open)
    except BaseException as error:
        launcher.fail(error)
        return 125
    for fd in errand.ends:
        os.close(fd)
    return carry(errand, launcher, view, asks, pid, pidfd)


def leave_keyring() -> None:
    """Take an empty session keyring: the caller's may hold keys of Kerberos, of file systems, or others.

    man 7 session-keyring. Raises OSError.
    """
    try:
        syscalls.keyctl(syscalls.KEYCTL_JOIN_SESSION_KEYRING)
    except OSError as error:
        # Where the call is not there or filtered out (Docker), nobody inside can ask for keys either.
        if error.errno not in (errno.ENOSYS, errno.EPERM):
            raise


def enter_first(errand: Errand, launcher: Channel) -> sandbox.View:
    """The first user namespace: from here on we are nobody on the host. Put the root together."""
    errand.before()
    try:
        syscalls.unshare(syscalls.CLONE_NEWUSER)
    except OSError as error:
        raise explain("cannot make a user namespace", error, hint_for(error)) from error
    launcher.send(channel.UNSHARED)
    _, trees = launcher.expect(channel.MAPPED)
    try:
        namespaces.become_root()
    except OSError as error:  # AppArmor lets the namespace be made, and then gives no rights in it
        raise explain("cannot be root of a user namespace", error, hint_for(error)) from error
    # After the change of user, which clears it. prctl(2)
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != errand.launcher:
        raise ContainerError("cannot start the lab", "the launcher is gone")
    syscalls.prctl(PR_SET_CHILD_SUBREAPER, 1)
    # It also gave our /proc files, and those of our children, to the host's root: we write the porter's maps.
    syscalls.prctl(PR_SET_DUMPABLE, 1)
    try:
        syscalls.unshare(syscalls.CLONE_NEWNS)
        return sandbox.assemble(errand.layout, trees)
    except OSError as error:
        raise explain("cannot put the lab's root together", error, hint_for(error)) from error


def hint_for(error: OSError) -> str:
    """The cure for a machine that refuses a lab, where we know it better than the call's usual hint."""
    if error.errno == errno.ENOSYS:
        return "The lab needs Linux 5.12 or newer, for mount_setattr(2)."
    if error.errno in (errno.EPERM, errno.EACCES):
        try:
            with open(RESTRICTION) as file:
                if file.read().strip() == "1":
                    return ("AppArmor (Ubuntu 24.04 and later) lets only programs with a profile use user "
                            "namespaces: 'make course' installs one for the lab.")
        except OSError:
            pass  # no AppArmor, or one that has no such restriction
    return ""


def make_lab(errand: Errand, launcher: Channel) -> tuple[int, int, socket.socket]:
    """Fork the porter and, through it, PID 1, and join its network.

    Returns (a pidfd of PID 1, its pid as seen from here, where we hear who asks for an outlet).
    """
    ours, theirs = Channel.pair()
    porter = os.fork()
    if porter == 0:  # the porter, and from its fork on PID 1
        channel.close_all_but(theirs.socket.fileno(), *errand.ends)
        code = 125
        try:
            code = _porter(errand, theirs)
        except BaseException as error:
            theirs.fail(error)
        finally:
            os._exit(code)
    theirs.close()
    ours.expect(channel.UNSHARED)
    launcher.send(channel.ROOTED)
    launcher.expect(channel.TAKEN_OUT)
    everybody = [(inside, inside, count) for inside, _, count in namespaces.own_ids("uid_map")]
    every_group = [(inside, inside, count) for inside, _, count in namespaces.own_ids("gid_map")]
    namespaces.write_map(porter, everybody, every_group)
    ours.send(channel.MAPPED)
    pid = ours.expect(channel.BORN)[0]["pid"]
    pidfd = os.pidfd_open(pid)
    os.waitpid(porter, 0)
    net = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    syscalls.setns(net, syscalls.CLONE_NEWNET)
    os.close(net)
    asks = outlet.listen()  # before there is anybody who may ask, or be at our place
    ours.send(channel.GO)
    ours.expect(channel.RUNNING)
    ours.close()
    return pidfd, pid, asks


def _porter(errand: Errand, doorman: Channel) -> int:
    """Inside all of the lab's namespaces, but not yet in the PID namespace."""
    namespaces.create(init.OWN_NAMESPACES)
    doorman.send(channel.UNSHARED)
    doorman.expect(channel.MAPPED)
    namespaces.become_root()
    child = os.fork()
    if child:
        doorman.send(channel.BORN, pid=child)
        return 0
    # Inside, PID 1, before pivot_root. Its parent is now the doorman, the nearest subreaper.
    doorman.expect(channel.GO)
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    init.finish_root(errand.payload.own_cgroup)
    init.execute(errand.payload, errand.ends, doorman)
    raise AssertionError("unreachable")


def carry(errand: Errand, launcher: Channel, view: sandbox.View, asks: socket.socket, pid: int,
          pidfd: int) -> int:
    """Relay between the two networks until PID 1 has ended; returns its exit code.

    When the launcher or the server ends, we end PID 1: root inside could talk PID 1 out of its own
    parent-death signal (ptrace(2)), but cannot reach us. So from now on we must not die before we have seen
    to that.
    """
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, 0)
    def beat() -> None:
        view.refresh()  # a cell sees the files that were there when it was sent
        outlets.wake()

    def heed(_: int) -> None:
        message = said(launcher)
        if message:
            outlets.answered(*message)
        else:
            carrier.selector.unregister(launcher.socket)
            send(pidfd, signal.SIGKILL)

    carrier = relay.Relay(beat)
    outlets = outlet.Outlets(asks, carrier, launcher)
    for listener, inside in errand.listeners:
        carrier.lead(listener, inside)
    carrier.selector.register(launcher.socket, selectors.EVENT_READ, heed)
    # The launcher may be stopped, and see nothing.
    carrier.watch(errand.server, lambda: send(pidfd, signal.SIGKILL))
    carrier.watch(pidfd, lambda: carrier.end(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))
    code = carrier.run()
    return code if code >= 0 else 128 - code


def said(by: Channel) -> tuple[dict[str, Any], list[int]] | None:
    """What the other side says; None if it is gone."""
    try:
        return by.receive()
    except OSError:
        return None


def send(pidfd: int, number: int) -> None:
    """Signal a process that may have ended meanwhile."""
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        pass
