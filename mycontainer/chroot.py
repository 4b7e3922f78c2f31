"""Chapter 1: a file system of one's own.

Every process has a root directory: what it means by ``/``. chroot(2) moves it, and that is all chroot
does: the old files are still mounted, and a process that may call chroot again walks out (`escape`).
The cure is to take the old files away: in a mount namespace of our own (a private list of what is
mounted where) we make our directory the root of *everything*, and detach the rest (`pivot`).

What a root file system still lacks is what the kernel makes up as it goes: /proc, /sys and /dev.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from mycontainer import paths, syscalls
from mycontainer.syscalls import MNT_DETACH, MS_BIND, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_PRIVATE, MS_REC

NO_SURPRISES = MS_NOSUID | MS_NODEV | MS_NOEXEC  # no set-user-id files, no devices, no programs

DEVICES = ("null", "zero", "full", "random", "urandom", "tty")

# Where programs look, and where it leads.
DEV_LINKS = {"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "/proc/self/fd/0",
             "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"}


def enter(root: str) -> None:
    """Make ``root`` the root directory of this process, and stand in it.

    Without the second step the working directory stays outside, and ``..`` leads on from there. Raises
    PermissionError without CAP_SYS_CHROOT. man 2 chroot, "This call does not change the current working
    directory".
    """
    syscalls.chroot(root)
    syscalls.chdir("/")


def escape() -> None:
    """Walk out of a chroot, as every root inside can: for demonstrations.

    A second chroot moves the root *below* where we stand. ``..`` stops only at the root directory, which
    we have now left behind us, so it leads up to the real one.
    """
    os.makedirs("/tmp/deeper", exist_ok=True)
    syscalls.chroot("/tmp/deeper")
    for _ in range(64):
        syscalls.chdir("..")
    syscalls.chroot(".")


def make_private() -> None:
    """Stop mounts of this mount namespace from appearing in others, and theirs from appearing here.

    A new mount namespace is a copy, and the copies stay linked ("shared"): most systems mount ``/`` so.
    man 7 mount_namespaces, "SHARED SUBTREES".
    """
    syscalls.mount(None, "/", None, MS_REC | MS_PRIVATE)


def bind(source: str, root: str, path: str, readonly: bool = False) -> None:
    """Show ``source``, a file or directory of ours, at ``path`` inside ``root``: a volume.

    A bind mount is the same file under a second name, not a copy. ``readonly`` holds for everything
    mounted below ``source`` too, which MS_REMOUNT could not do. Raises FileNotFoundError if ``source``
    is not there. man 2 mount, "Creating a bind mount"; man 2 mount_setattr.
    """
    directory = stat.S_ISDIR(os.stat(source).st_mode)  # it has to be there before we make a place for it
    with paths.target(root, path, directory=directory) as target:
        syscalls.mount(source, target, None, MS_BIND | MS_REC)
    if readonly:
        with paths.target(root, path, directory=directory) as target:  # now the mounted one
            syscalls.mount_setattr(syscalls.AT_FDCWD, target, syscalls.AT_RECURSIVE,
                                   set_=syscalls.MOUNT_ATTR_RDONLY)


def mount_proc(root: str) -> None:
    """Mount /proc inside ``root``: the processes of the PID namespace that we are in. man 5 proc."""
    with paths.target(root, "proc") as target:
        syscalls.mount("proc", target, "proc", NO_SURPRISES)


def mount_sys(root: str) -> None:
    """Mount /sys inside ``root``: the devices of the network namespace that we are in. man 5 sysfs."""
    with paths.target(root, "sys") as target:
        syscalls.mount("sysfs", target, "sysfs", NO_SURPRISES | syscalls.MS_RDONLY)


def make_dev(root: str) -> None:
    """Give ``root`` a /dev: a few harmless devices, terminals and shared memory of its own.

    The set is the runtime-spec's (config-linux, "Default Devices"). /dev/shm and /dev/mqueue hold what POSIX
    IPC keeps; the latter belongs to the IPC namespace that we are in.
    """
    with paths.target(root, "dev") as target:
        syscalls.mount("tmpfs", target, "tmpfs", MS_NOSUID, "mode=755,size=64k")
    for name in DEVICES:
        make_device(root, f"dev/{name}")
    with paths.target(root, "dev/pts") as target:
        _mount_devpts(target)
    with paths.target(root, "dev/shm") as target:
        syscalls.mount("tmpfs", target, "tmpfs", NO_SURPRISES, "mode=1777,size=64m")
    with paths.target(root, "dev/mqueue") as target, suppress(PermissionError):  # not our IPC namespace
        syscalls.mount("mqueue", target, "mqueue", NO_SURPRISES)
    with paths.target(root, "dev") as target:
        for name, leads_to in DEV_LINKS.items():
            os.symlink(leads_to, f"{target}/{name}")


def make_device(root: str, path: str) -> None:
    """Make the device ``path`` inside ``root``, the one that has this path on our side.

    Only the real root may make a device node, or root of a user namespace could make itself the disk.
    Where mknod(2) is refused we bind ours, which is safe: it is there already, and so are its permissions.
    """
    ours = os.stat(f"/{path}")
    with paths.target(root, os.path.dirname(path)) as directory:
        node = f"{directory}/{os.path.basename(path)}"
        try:
            os.mknod(node, ours.st_mode, ours.st_rdev)
            os.chmod(node, 0o666)  # whatever the umask is
        except PermissionError:
            bind(f"/{path}", root, path)


def _mount_devpts(target: str) -> None:
    """A set of terminals of our own; group 5 is ``tty``, where this user namespace knows a group 5."""
    options = "newinstance,ptmxmode=0666,mode=620"
    try:
        syscalls.mount("devpts", target, "devpts", MS_NOSUID | MS_NOEXEC, f"{options},gid=5")
    except OSError:
        syscalls.mount("devpts", target, "devpts", MS_NOSUID | MS_NOEXEC, options)


def furnish(root: str, own_pids: bool = True, own_net: bool = True) -> None:
    """Mount /proc, /sys and /dev inside ``root``, to be called in the namespaces that they shall show.

    Without a PID namespace of our own /proc is that of the outside; without a network namespace of our
    own there is no /sys, since it would bring the outside's devices and cgroups along.
    """
    if own_pids:
        mount_proc(root)
    else:
        bind("/proc", root, "proc")
    if own_net:
        mount_sys(root)
    make_dev(root)


def pivot(root: str) -> None:
    """Make ``root`` the root of this mount namespace, and take everything else away.

    Needs a mount namespace of our own (`make_private` first). The bind makes ``root`` a mount point,
    which pivot_root(2) asks for. Putting the old root on the very spot where the new one is ("." and ".")
    needs no directory for it: the two lie on top of each other, and we lift off the upper, the old one.
    man 2 pivot_root, "pivot_root(".", ".")".
    """
    syscalls.mount(root, root, None, MS_BIND | MS_REC)
    syscalls.chdir(root)
    syscalls.pivot_root(".", ".")
    syscalls.umount2(".", MNT_DETACH)
    syscalls.chdir("/")
