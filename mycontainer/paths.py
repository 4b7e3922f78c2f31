"""Where our files are, and safe paths inside a root that is not ours.

A root file system is hostile input. If its ``/dev`` is a symlink to ``/etc``, then mounting something
on ``ROOT/dev`` changes the host's ``/etc``; and a symlink may be swapped in between our look and our
deed. So the kernel does the walk: openat2(2) with RESOLVE_IN_ROOT takes every ``/`` and ``..`` and every
symlink as the container would, and answers with a descriptor, which nobody can swap any more.
``/proc/self/fd/N`` then names exactly that file for the calls that want a path.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from mycontainer import syscalls
from mycontainer.errors import ContainerError, explain

_pinned: dict[str, str] = {}
LOOKUP = syscalls.RESOLVE_IN_ROOT | syscalls.RESOLVE_NO_MAGICLINKS


def data_dir() -> str:
    """The directory of what we keep (images): $MYCONTAINER_HOME, or the usual place for root or a user."""
    if _pinned:
        return _pinned["data"]
    if home := os.environ.get("MYCONTAINER_HOME"):
        return os.path.abspath(home)
    if os.geteuid() == 0:
        return "/var/lib/mycontainer"
    share = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return os.path.join(share, "mycontainer")


def runtime_dir() -> str:
    """The directory of what a reboot may take (state, sockets), made if need be: only we can write to it.

    Raises ContainerError if somebody else owns it: in /tmp anybody could have been there first.
    """
    if _pinned:
        return _pinned["runtime"]
    if os.geteuid() == 0 and os.access("/run", os.W_OK):  # root of a user namespace may have another's /run
        path = "/run/mycontainer"
    elif os.access(base := os.environ.get("XDG_RUNTIME_DIR", ""), os.W_OK):  # after su(1): another's
        path = os.path.join(base, "mycontainer")
    else:
        path = f"/tmp/mycontainer-{os.geteuid()}"
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
    except OSError as error:
        raise explain(f"cannot make {path}", error) from error
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise ContainerError(f"cannot use {path}", "not a directory that only you can write to",
                             "Somebody else made it, or its mode is too open: look at it, then remove it, or "
                             "set XDG_RUNTIME_DIR to a directory that is yours alone.")
    if os.geteuid() == 0 and stat.S_IMODE(found.st_mode) != 0o711:
        os.chmod(path, 0o711)  # root of a container is a stranger out here, and must walk through to its root
    return path


def pin() -> None:
    """Keep both places where they are now, also when we become root of a user namespace: still a user."""
    _pinned.update(data=data_dir(), runtime=runtime_dir())


def open_in_root(root: int, path: str, flags: int = os.O_PATH, mode: int = 0) -> int:
    """Open ``path`` as a process would whose root directory is the descriptor ``root``. man 2 openat2.

    Returns a descriptor. A rename beside the walk makes the kernel answer EAGAIN: we ask again, and
    give up after 100 times, as an attacker could keep that up for ever.
    """
    for attempt in range(100):
        try:
            return syscalls.openat2(root, path, flags, mode, LOOKUP)
        except BlockingIOError:
            if attempt == 99:
                raise
    raise AssertionError("unreachable")


def make_directories(root: int, path: str, mode: int = 0o755) -> int:
    """``mkdir -p`` inside ``root``; returns a descriptor of the last directory.

    Each step opens what is there (symlinks are followed inside the root) and makes what is not, so at no
    time is a path trusted that was only looked at. Raises NotADirectoryError for a file in the way, and
    FileNotFoundError for a symlink that leads nowhere.
    """
    names = [name for name in path.split("/") if name not in ("", ".")]
    here = open_in_root(root, "/", os.O_PATH | os.O_DIRECTORY)
    for depth, name in enumerate(names, 1):
        upto = "/".join(names[:depth])
        try:
            below = open_in_root(root, upto, os.O_PATH | os.O_DIRECTORY)
        except FileNotFoundError:
            with suppress(FileExistsError):  # a broken symlink, or somebody made it just now
                os.mkdir(name, mode, dir_fd=here)
            below = open_in_root(root, upto, os.O_PATH | os.O_DIRECTORY)
        finally:
            os.close(here)
        here = below
    return here


def make_file(root: int, path: str, mode: int = 0o644) -> int:
    """Open the file ``path`` inside ``root`` (O_PATH), made empty if it is not there."""
    try:
        return open_in_root(root, path)
    except FileNotFoundError:
        parent, name = os.path.split(path.rstrip("/"))
        directory = make_directories(root, parent)
        try:
            made = os.open(name, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_WRONLY, mode, dir_fd=directory)
            os.close(made)
            return open_in_root(root, path)
        finally:
            os.close(directory)


@contextmanager
def target(root: str, path: str, directory: bool = True) -> Iterator[str]:
    """A path for mount(2) that is certain to lie inside ``root``: made if missing, then held open.

    Yields ``/proc/self/fd/N``. Raises ContainerError if the root has something there that does not fit.
    """
    root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY)
    try:
        fd = make_directories(root_fd, path) if directory else make_file(root_fd, path)
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.EEXIST, errno.ENOENT, errno.ELOOP):
            raise
        hint = "The root file system has a file or a broken symlink where a mount point must be."
        raise ContainerError(f"cannot mount on {path}", error.strerror or "", hint) from error
    finally:
        os.close(root_fd)
    try:
        yield f"/proc/self/fd/{fd}"
    finally:
        os.close(fd)
