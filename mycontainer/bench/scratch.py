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

from mycontainer import spawn, syscalls
from mycontainer.bench.observe import end, mentioning
from mycontainer.engine import idmap
from mycontainer.errors import ContainerError

PREFIX = "mycontainer-bench-"


@contextmanager
def directory() -> Iterator[Path]:
    """A new directory, removed at the end. First the leftovers of runs that were killed are swept up."""
    sweep()
    place, lock = _made()
    try:
        yield place
    finally:
        remove(place)
        os.close(lock)


def room(place: Path, name: str) -> Path:
    """An empty directory in it, for one subject."""
    path = place / name
    path.mkdir()
    path.chmod(0o755)
    return path


def sweep() -> None:
    """Remove what runs left behind that were killed, and end who lives on in it: a user's monitors do."""
    for place in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):
            if place.lstat().st_uid == os.geteuid() and (lock := _lock(place)) is not None:
                try:
                    end(filter(_is_ours, mentioning(f"{place}/")))
                    remove(place)
                finally:
                    os.close(lock)


def remove(place: Path) -> None:
    """Remove a directory with all that is in it, mounts too. Whatever of it cannot be removed stays."""
    for mount in sorted(_mounts_below(place), reverse=True):
        with suppress(OSError):
            syscalls.umount2(mount, syscalls.MNT_DETACH)
    shutil.rmtree(place, ignore_errors=True)
    if place.exists():  # files of an ordinary user's containers belong to other ids, and go to root of those
        def remove_all() -> None:
            shutil.rmtree(place, ignore_errors=True)

        with suppress(ContainerError, OSError):
            spawn.spawn(remove_all, ("user",), *idmap.choose_maps()).wait()


def _is_ours(pid: int) -> bool:
    with suppress(OSError):
        return os.stat(f"/proc/{pid}").st_uid == os.geteuid()
    return False


def _mounts_below(place: Path) -> list[str]:
    with open("/proc/self/mountinfo") as rows:
        points = [row.split()[4] for row in rows]
    return [point for point in points if point.startswith(f"{place}/")]


def _made() -> tuple[Path, int]:
    for _ in range(10):
        place = Path(tempfile.mkdtemp(prefix=PREFIX))
        with suppress(OSError):  # a sweep beside us saw it unlocked for a moment, and removed it
            lock = _lock(place)
            if lock is not None and place.exists():
                place.chmod(0o755)  # root of a container is a stranger out here, and must get through
                return place, lock
            if lock is not None:
                os.close(lock)
    raise ContainerError("cannot make a directory for the benchmark", "somebody removes it each time")


def _lock(place: Path) -> int | None:
    """Take the lock; None if another has it. Closing the descriptor lets go."""
    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        return None
    return fd
