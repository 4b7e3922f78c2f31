"""A tmpfs that begins with what the image has there: the option ``tmpcopyup`` of a mount.

Podman asks for it where an image's files are to be changed, and forgotten afterwards. No link is followed:
the image's own directory is held open, and every name in it is taken as it is.
"""

from __future__ import annotations

import os
import stat

from mycontainer import paths
from mycontainer.engine import rootfs
from mycontainer.syscalls import Flags

PIECE = 1 << 20  # bytes


def mount(root: str, destination: str, source: str, flags: Flags, data: str) -> None:
    """Mount a tmpfs over a directory, and copy there what was in it."""
    with paths.target(root, destination) as target:
        old = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
    try:
        rootfs.mount(root, destination, "tmpfs", source, flags, data)
        with paths.target(root, destination) as target:
            new = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
        try:
            copy(old, new)
            if "mode=" not in data:
                os.fchmod(new, stat.S_IMODE(os.fstat(old).st_mode))
        finally:
            os.close(new)
    finally:
        os.close(old)


def copy(old: int, new: int) -> None:
    """Copy what is in one directory into another, with owners, modes and links; but no devices."""
    for name in os.listdir(old):
        found = os.stat(name, dir_fd=old, follow_symlinks=False)
        if stat.S_ISLNK(found.st_mode):
            os.symlink(os.readlink(name, dir_fd=old), name, dir_fd=new)
        elif stat.S_ISDIR(found.st_mode):
            os.mkdir(name, dir_fd=new)
            _descend(old, new, name)
        elif stat.S_ISREG(found.st_mode):
            _copy_file(old, new, name)
        else:
            continue
        os.chown(name, found.st_uid, found.st_gid, dir_fd=new, follow_symlinks=False)
        if not stat.S_ISLNK(found.st_mode):
            os.chmod(name, stat.S_IMODE(found.st_mode), dir_fd=new)


def _descend(old: int, new: int, name: str) -> None:
    below = [os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=each) for each in (old, new)]
    try:
        copy(*below)
    finally:
        for fd in below:
            os.close(fd)


def _copy_file(old: int, new: int, name: str) -> None:
    source = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=old)
    try:
        target = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=new)
        try:
            while piece := os.read(source, PIECE):
                while piece:
                    piece = piece[os.write(target, piece):]
        finally:
            os.close(target)
    finally:
        os.close(source)
