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
from typing import Any, TextIO

from mycontainer import paths
from mycontainer.engine.state import started as started
from mycontainer.lab import limits, relay

PREFIX, SUFFIX, NEW = "lab-", ".json", ".new"


class State:
    """The state file of one lab, held by its launcher."""

    def __init__(self, name: str) -> None:
        self.path = f"{paths.runtime_dir()}/{name}{SUFFIX}"
        self.fd = _lock_new(self.path)

    def write(self, facts: dict[str, Any]) -> None:
        """Say what there is to find, and to clear up. Readers see the old facts or the new, never a part."""
        fd = _lock_new(self.path + NEW)
        os.write(fd, json.dumps(facts).encode())
        os.rename(self.path + NEW, self.path)
        os.close(self.fd)  # the lock on the new file is held already
        self.fd = fd

    def release(self, cleared_up: bool) -> None:
        """Give up the lock, and the file too if there is nothing left that a sweep would need it for."""
        if cleared_up:
            os.remove(self.path)
        os.close(self.fd)


def _lock_new(path: str) -> int:
    """Make a file and lock it; a sweep may see it unlocked for a moment, and remove it."""
    while True:
        fd = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX)
        if _is_at(path, fd):
            return fd
        os.close(fd)


def _is_at(path: str, fd: int) -> bool:
    """Whether the open file ``fd`` is still the one at ``path``."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path))
    except FileNotFoundError:
        return False


def labs() -> Iterator[dict[str, Any]]:
    """The facts of every lab of this user that runs."""
    for path in _files(SUFFIX):
        try:
            while (facts := _running(path)) is None:
                pass  # its launcher has just put a new file in place
            yield from facts
        except OSError:
            pass  # it has ended meanwhile


def _running(path: str) -> list[dict[str, Any]] | None:
    """The facts in a state file whose launcher lives, else nothing; None if it is no longer at ``path``."""
    with open(path) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            facts = []
        except BlockingIOError:
            facts = _read(file)
        return facts if _is_at(path, file.fileno()) else None


def sweep() -> None:
    """Clear up after labs whose launcher could not do it itself."""
    for path in _files(SUFFIX, SUFFIX + NEW):
        try:
            with open(path) as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_at(path, file.fileno()) and all(map(_clear_up, _read(file))):
                    _remove(path)
        except OSError:
            pass  # it runs, or another sweep was here first


def _clear_up(facts: dict[str, Any]) -> bool:
    """End what is left of a lab; False if the next sweep must look again: somebody is dying in there."""
    _end(facts.get("init", 0), facts.get("init_started", 0))
    for leftover in facts.get("sockets", []):
        relay.remove_dead(leftover)
    return limits.remove(facts.get("cgroups", []))


def _files(*suffixes: str) -> list[str]:
    base = paths.runtime_dir()
    return [f"{base}/{name}" for name in os.listdir(base)
            if name.startswith(PREFIX) and name.endswith(suffixes)]


def _read(file: TextIO) -> list[dict[str, Any]]:
    try:
        return [json.load(file)]
    except (OSError, ValueError):
        return []  # a launcher that was killed before its first word


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
