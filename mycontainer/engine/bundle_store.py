"""Where the bundles' containers are kept, a directory for each; and who may work on them.

A directory that can be locked and has no state.json belongs to a command that was killed on the way: whoever
comes next takes back what its journal says. man 2 flock.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from mycontainer import paths
from mycontainer.engine.bundle_state import Bundle, read
from mycontainer.engine.state import ALPHANUMERIC
from mycontainer.errors import ContainerError, explain

LONGEST_ID = 200  # it is a file's name, with at most 255 bytes


def default_root() -> str:
    """Where they are without ``--root``."""
    return f"{paths.runtime_dir()}/oci"


def find(root: str, identity: str) -> Bundle:
    """The container with this id. Raises ContainerError."""
    path = f"{root}/{checked_id(identity)}"
    if not os.path.isdir(path):
        raise ContainerError(f"container {identity} does not exist", exit_code=1)
    return Bundle(path)


def everyone(root: str) -> list[Bundle]:
    """All of them, by id."""
    try:
        names = sorted(os.listdir(root))
    except FileNotFoundError:
        return []
    return [Bundle(f"{root}/{name}") for name in names if os.path.isdir(f"{root}/{name}")]


def checked_id(identity: str) -> str:
    """The id, which becomes the name of a directory and of a cgroup."""
    if identity.strip(ALPHANUMERIC + "_+.-") or identity in ("", ".", "..") or len(identity) > LONGEST_ID:
        raise ContainerError(f"not an id for a container: {identity!r}",
                             hint="Letters, digits, '_', '+', '-' and '.'.", exit_code=1)
    return identity


def reserve(root: str, identity: str) -> tuple[Bundle, int]:
    """Make the directory of a new container; returns it, and the descriptor that holds its lock."""
    path = f"{root}/{checked_id(identity)}"
    with _everything_locked(root):
        sweep(root)
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            raise ContainerError(f"container {identity} exists already", exit_code=1) from None
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(fd, fcntl.LOCK_EX)
    return Bundle(path), fd


def sweep(root: str) -> None:
    """Take back what commands that were killed had begun. To be called with everything locked."""
    for one in everyone(root):
        if not one.facts:
            with suppress(BlockingIOError, ContainerError), locked(one, wait=False):
                if not read(f"{one.path}/state.json"):
                    one.take_back()


def sweep_all(root: str) -> None:
    """The same, for whoever makes nothing."""
    if os.path.isdir(root):
        with _everything_locked(root):
            sweep(root)


@contextmanager
def locked(one: Bundle, wait: bool = True) -> Iterator[None]:
    """Nobody else changes this container meanwhile."""
    try:
        fd = os.open(one.path, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        raise ContainerError(f"container {one.id} does not exist", exit_code=1) from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.isdir(one.path):  # it was deleted while we waited
            raise ContainerError(f"container {one.id} does not exist", exit_code=1)
        one.facts = read(f"{one.path}/state.json")
        yield
    finally:
        os.close(fd)


@contextmanager
def _everything_locked(root: str) -> Iterator[None]:
    try:
        os.makedirs(root, 0o700, exist_ok=True)
        fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise explain(f"cannot use {root}", error) from error
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
