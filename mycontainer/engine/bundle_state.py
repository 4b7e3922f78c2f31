"""Which bundles run: what `mycontainer-oci` knows of its containers between two calls.

    ROOT/ID/              locked by the command that works on it
        state.json        what it is: there as soon as it is created
        config.json       the configuration as it was then; what is changed later must not count
        journal           what is to be taken back (plan.py)
        start             the socket at which PID 1 waits for `start`

Whether a container waits for its start, runs, or has
ended is written nowhere, as whoever wrote it could be killed before it is true. It is asked: the kernel
whether the process lives, the socket whether somebody listens.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Mapping
from contextlib import suppress

from mycontainer.cgroups import Cgroup
from mycontainer.engine import bundle_cgroup, state
from mycontainer.engine.plan import Journal
from mycontainer.engine.state import to_json
from mycontainer.errors import ContainerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

CREATING, CREATED, RUNNING, PAUSED, STOPPED = "creating", "created", "running", "paused", "stopped"
PATIENCE = 10.0  # seconds that a process has to die of SIGKILL


class Bundle:
    """A container by its directory; ``facts`` is state.json, empty while it is created."""

    def __init__(self, path: str) -> None:
        self.id, self.path = os.path.basename(path), path
        self.facts: dict[str, Any] = read(f"{path}/state.json")
        self.journal = Journal(f"{path}/journal")

    @property
    def pid(self) -> int:
        return int(self.facts.get("pid", 0))

    def alive(self) -> bool:
        """Is its PID 1 there, and no zombie?"""
        return bool(self.facts) and lives(self.facts)

    def status(self) -> str:
        """One of the specification's words (runtime.md, "State")."""
        if not self.facts:
            return CREATING
        if not self.alive():
            return STOPPED
        if self.waits():
            return CREATED
        return PAUSED if self.paused() else RUNNING

    def waits(self) -> bool:
        """Does PID 1 still wait at its socket? To exec the command closes it."""
        try:
            os.close(self.connect())
        except OSError:
            return False
        return True

    def connect(self) -> int:
        """A connection to the waiting PID 1, through a descriptor: such a name has at most 107 bytes."""
        directory = os.open(self.path, os.O_PATH | os.O_DIRECTORY)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as one:
                one.connect(f"/proc/self/fd/{directory}/start")
                return one.detach()
        finally:
            os.close(directory)

    def paused(self) -> bool:
        group = self.cgroup()
        try:
            return group is not None and group.read("cgroup.freeze") == "1"
        except OSError:
            return False

    def cgroup(self) -> Cgroup | None:
        """Its cgroup, if it has one."""
        path = self.facts.get("cgroup")
        return bundle_cgroup.find(path) if path else None

    def signal(self, number: int) -> None:
        """Send a signal to PID 1, and to nobody who has its pid by now."""
        kill(self.facts, number)

    def describe(self) -> dict[str, Any]:
        """What `state` prints, and hooks are told: runtime.md, "State"."""
        status = self.status()
        return {"ociVersion": self.facts.get("ociVersion", ""), "id": self.id,
                "pid": 0 if status in (STOPPED, CREATING) else self.pid, "status": status,
                "bundle": self.facts.get("bundle", ""), "rootfs": self.facts.get("rootfs", ""),
                "created": self.facts.get("created", ""), "owner": self.facts.get("owner", ""),
                "annotations": self.facts.get("annotations", {})}

    def write(self, facts: Mapping[str, Any]) -> None:
        """Say what it is: all of it or nothing, also after a power cut."""
        new = f"{self.path}/state.json.new"
        with open(new, "w") as file:
            file.write(to_json(facts))
            file.flush()
            os.fsync(file.fileno())
        os.rename(new, f"{self.path}/state.json")
        self.facts = dict(facts)

    def take_back(self) -> list[ContainerError]:
        """Take back whatever was made for it. Returns what failed: then its directory stays."""
        failures = self.journal.undo(UNDO)
        if not failures:
            with suppress(FileNotFoundError):
                for file in sorted(os.listdir(self.path), key=_state_first_journal_last):
                    os.unlink(f"{self.path}/{file}")
                os.rmdir(self.path)
        return failures


def _state_first_journal_last(file: str) -> tuple[bool, bool]:
    return file == "journal", file != "state.json"  # without a state what is left is swept, by the journal


def lives(record: Mapping[str, Any]) -> bool:
    """Is this the same process still, and no zombie? A pid is given to another one day."""
    if record.get("place") != state.place() or not record.get("pid_started"):
        return False
    try:
        with open(f"/proc/{record['pid']}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return False
    return int(fields[19]) == record["pid_started"] and fields[0] not in "ZX"


def kill(record: Mapping[str, Any], number: int) -> None:
    """Signal a process by a pidfd, after a look whether it is still the one."""
    try:
        pidfd = os.pidfd_open(record["pid"])
    except (OSError, KeyError):
        return
    try:
        if lives(record):
            signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        pass
    finally:
        os.close(pidfd)


def end(record: Mapping[str, Any]) -> None:
    """Kill a process, and wait until it is dead."""
    until = time.monotonic() + PATIENCE
    while lives(record):
        kill(record, signal.SIGKILL)
        if time.monotonic() > until:
            raise ContainerError(f"cannot kill process {record['pid']}", "it does not die")
        time.sleep(0.002)


def process_record(pid: int) -> dict[str, Any]:
    """What identifies a process for good."""
    return {"pid": pid, "pid_started": state.started(pid), "place": state.place()}


# What a step has made, by its name, and how to take it back: the other half of bundle_plan.py.
UNDO = {"make the cgroup": bundle_cgroup.undo, "note PID 1": end}


def read(path: str) -> dict[str, Any]:
    """A file of ours; nothing if it is not there or was cut off."""
    try:
        with open(path) as file:
            found = json.load(file)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
