"""Where subjects keep what they need for a run: a directory that is gone afterwards, in any case.

Its owner holds a lock on it, which ends with its process, however that ends: what can be locked belongs to
nobody any more, and the next run sweeps it up, with all that was started from there. man 2 flock.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "mycontainer-bench-"


@contextmanager
def directory() -> Iterator[Path]:
    """A new directory, removed at the end. First the leftovers of runs that were killed are swept up."""
    sweep()
    place = Path(tempfile.mkdtemp(prefix=PREFIX))
    lock = _lock(place)
    try:
        yield place
    finally:
        remove(place)
        if lock is not None:
            os.close(lock)


def room(place: Path, name: str) -> Path:
    """An empty directory in it, for one subject."""
    path = place / name
    path.mkdir()
    return path


def sweep() -> None:
    """Remove what runs left behind that were killed."""
    for place in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):
            if place.lstat().st_uid == os.geteuid() and (lock := _lock(place)) is not None:
                try:
                    remove(place)
                finally:
                    os.close(lock)


def remove(place: Path) -> None:
    """Remove a directory with all that is in it."""
    shutil.rmtree(place, ignore_errors=True)


def _lock(place: Path) -> int | None:
    """Take the lock; None if another has it. Closing the descriptor lets go."""
    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return None
    return fd
