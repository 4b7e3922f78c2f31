"""What can be done with a container that was created from a bundle: the operations of the OCI runtime-spec
(runtime.md), and a few more. How one is created is in bundle_launch.py.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from contextlib import suppress

from mycontainer import spawn
from mycontainer.cgroups import Cgroup
from mycontainer.engine import bundle_state, config, hooks
from mycontainer.engine.bundle_ground import ABOUT_TO, GO_ON
from mycontainer.engine.bundle_state import CREATED, CREATING, PAUSED, RUNNING, STOPPED, Bundle
from mycontainer.engine.bundle_store import find, locked
from mycontainer.engine.config import Config, Hook
from mycontainer.engine.state import to_json
from mycontainer.errors import ContainerError, explain


def saved_config(one: Bundle) -> Config:
    """The configuration as it was when the container was created."""
    try:
        with open(f"{one.path}/config.json", "rb") as file:
            return config.read(file.read(), one.facts.get("bundle", "/"))
    except OSError as error:
        raise explain(f"cannot read what {one.id} was created from", error) from error


def start(root: str, identity: str) -> None:
    """Let PID 1 become the command. Returns when it is; raises the ContainerError that it met."""
    one = find(root, identity)
    with locked(one):
        if (status := one.status()) != CREATED:
            raise ContainerError(f"cannot start {identity}", f"it is {status}, not created")
        found = saved_config(one)
        if found.process is None:
            raise ContainerError(f"cannot start {identity}", "its configuration has no process")
        _say_go(one)
        if these := found.hooks.get("poststart"):
            hooks.call("poststart", these, to_json(one.describe() | {"status": RUNNING}))


def _say_go(one: Bundle) -> None:
    fd = one.connect()
    said = b""
    try:
        os.write(fd, GO_ON)
        while more := os.read(fd, 4096):
            said += more
    except OSError as error:
        raise explain(f"cannot start {one.id}", error) from error
    finally:
        os.close(fd)
    last = said.decode(errors="surrogateescape").splitlines()[-1:] or [""]
    word, *rest = last[0].split("\t")
    if word == spawn.FAILED:
        raise ContainerError(rest[1], rest[2], rest[3], int(rest[0]))
    if word != ABOUT_TO:
        raise ContainerError(f"cannot start {one.id}", "somebody killed it on the way")


def kill(root: str, identity: str, number: int, everybody: bool = False) -> None:
    """Send a signal to PID 1; or to all in its cgroup, whether PID 1 lives or not."""
    one = find(root, identity)
    if everybody and (group := one.cgroup()):
        with suppress(FileNotFoundError):
            for pid in group.processes():
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
        return
    if (status := one.status()) in (STOPPED, CREATING):
        raise ContainerError(f"cannot signal {identity}", f"the container is not running, but {status}")
    one.signal(number)
    if number == signal.SIGKILL and status == PAUSED and (group := one.cgroup()):
        group.thaw()  # a frozen process of version 1 does not even die


def delete(root: str, identity: str, force: bool = False) -> None:
    """Take back all that was made for it. With ``force`` also one that runs, or is not there."""
    try:
        one = find(root, identity)
        with locked(one):
            _delete(one, force)
    except ContainerError as error:
        if not (force and error.what.endswith("does not exist")):
            raise


def _delete(one: Bundle, force: bool) -> None:
    if one.alive():
        if not force and (status := one.status()) != STOPPED:
            raise ContainerError(f"cannot delete {one.id}", f"it is {status}, not stopped",
                                 "mycontainer-oci delete --force ends it first.")
        if one.paused() and (group := one.cgroup()):
            group.thaw()
        bundle_state.end(one.facts)
    told = one.describe()
    these: Sequence[Hook] = ()
    with suppress(ContainerError):  # of one that was never whole
        these = saved_config(one).hooks.get("poststop", ())
    if failures := one.take_back():
        raise failures[0]
    if these:
        with suppress(ContainerError):  # config.md: a warning at most, and the others are called all the same
            hooks.call("poststop", these, to_json(told))


def pause(root: str, identity: str) -> None:
    """Stop all of its processes where they are."""
    one = find(root, identity)
    with locked(one):
        if (status := one.status()) not in (RUNNING, CREATED):
            raise ContainerError(f"cannot pause {identity}", f"it is {status}")
        _cgroup(one, "pause").freeze()


def resume(root: str, identity: str) -> None:
    """Let them go on."""
    one = find(root, identity)
    with locked(one):
        if (status := one.status()) != PAUSED:
            raise ContainerError(f"cannot resume {identity}", f"it is {status}, not paused")
        _cgroup(one, "resume").thaw()


def _cgroup(one: Bundle, verb: str) -> Cgroup:
    if (group := one.cgroup()) is None:
        raise ContainerError(f"cannot {verb} {one.id}", "it has no cgroup of its own")
    return group


def processes(one: Bundle) -> list[int]:
    """The pids of all its processes; of one without a cgroup, of those in its PID namespace."""
    if group := one.cgroup():
        return group.processes() if group.has("cgroup.procs") else []
    theirs = _pid_namespace(one.pid)
    return [int(pid) for pid in os.listdir("/proc") if pid.isdecimal() and theirs
            and _pid_namespace(int(pid)) == theirs]


def _pid_namespace(pid: int) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid")
    except OSError:
        return ""
