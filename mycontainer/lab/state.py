"""Which labs there are: a small file for each in the runtime directory, locked while its launcher lives.

A lock ends with the process that holds it, however it ends. So a file that can be locked belongs to a lab
that is gone, and whoever finds it clears up what could not vanish by itself: cgroups, socket files.
man 2 flock.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
from collections.abc import Iterator
from typing import Any

from mycontainer import paths
from mycontainer.lab import limits

PREFIX = "lab-"


class State:
    """The state file of one lab, held by its launcher."""

    def __init__(self, name: str) -> None:
        self.path = f"{paths.runtime_dir()}/{name}.json"
        while True:
            self.fd = os.open(self.path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            fcntl.flock(self.fd, fcntl.LOCK_EX)
            if os.path.exists(self.path) and os.path.samestat(os.fstat(self.fd), os.stat(self.path)):
                return
            os.close(self.fd)  # a sweep saw it unlocked for a moment, and removed it

    def write(self, facts: dict[str, Any]) -> None:
        """Say what there is to find, and to clear up. Written in one go: readers see all of it or nothing."""
        os.ftruncate(self.fd, 0)
        os.pwrite(self.fd, json.dumps(facts).encode(), 0)

    def release(self, cleared_up: bool) -> None:
        """Give up the lock, and the file too if there is nothing left that a sweep would need it for."""
        if cleared_up:
            os.remove(self.path)
        os.close(self.fd)


def labs() -> Iterator[dict[str, Any]]:
    """The facts of every lab of this user that runs."""
    for path in _files():
        try:
            with open(path) as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:  # its launcher lives
            yield from _read(path)
        except OSError:
            pass


def sweep() -> None:
    """Clear up after labs whose launcher could not do it itself."""
    for path in _files():
        try:
            with open(path) as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                for facts in _read(path):
                    _end(facts.get("init", 0), facts.get("init_started", 0))
                    for leftover in facts.get("sockets", []):
                        _remove(leftover)
                    if not limits.remove(facts.get("cgroups", [])):
                        break  # somebody is dying in there: the next sweep
                else:
                    _remove(path)
        except OSError:
            pass  # it runs, or another sweep was here first


def _files() -> list[str]:
    base = paths.runtime_dir()
    return [f"{base}/{name}" for name in os.listdir(base)
            if name.startswith(PREFIX) and name.endswith(".json")]


def _read(path: str) -> list[dict[str, Any]]:
    try:
        with open(path) as file:
            return [json.load(file)]
    except (OSError, ValueError):
        return []  # being written right now


def started(pid: int) -> int:
    """When a process started, in clock ticks since boot: with it a pid is unique. 0 if there is none."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return int(file.read().rpartition(")")[2].split()[19])
    except OSError:
        return 0


def _end(pid: int, since: int) -> None:
    """Kill PID 1 of a lab that outlived its launcher and its doorman, which takes root inside to arrange."""
    try:
        fd = os.pidfd_open(pid)
    except (OSError, ValueError):
        return
    if since and started(pid) == since:
        signal.pidfd_send_signal(fd, signal.SIGKILL)
    os.close(fd)


def _remove(path: str) -> None:
    try:
        os.remove(path)
    except OSError:
        pass
