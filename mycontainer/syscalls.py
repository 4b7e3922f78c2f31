"""The kernel's door: the system calls a container is made of, and nothing else.

Python's ``os`` module has no mount(2), and unshare(2) and setns(2) only since 3.12. So we hand the C
library's syscall(2), the one function behind them all, the number of the call that we want. All names are
those of the kernel's headers and of the manual: ``syscalls.unshare`` does what ``man 2 unshare`` says.

A call that fails raises OSError (PermissionError, FileNotFoundError, ... by its errno); ``filename``
holds the call as it was made, and a note tells the likely cause where one is known.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from mycontainer.errors import likely_cause

# sched.h: a namespace of one's own
CLONE_NEWNS = 0x00020000  # the first namespace there was, hence the name: mounts
CLONE_NEWUTS, CLONE_NEWIPC = 0x04000000, 0x08000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
CLONE_NEWCGROUP, CLONE_NEWTIME = 0x02000000, 0x00000080
# sys/mount.h
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 0x1, 0x2, 0x4, 0x8
MS_BIND, MS_REC, MS_PRIVATE = 0x1000, 0x4000, 0x40000
MNT_DETACH = 2
# linux/mount.h: the newer calls, which work on descriptors and on whole trees
OPEN_TREE_CLONE, OPEN_TREE_CLOEXEC = 0x1, os.O_CLOEXEC
FSOPEN_CLOEXEC, FSMOUNT_CLOEXEC = 0x1, 0x1
FSCONFIG_SET_FLAG, FSCONFIG_SET_STRING, FSCONFIG_CMD_CREATE = 0, 1, 6
MOVE_MOUNT_F_EMPTY_PATH = 0x4
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_IDMAP = 0x1, 0x2, 0x100000
# linux/fcntl.h, linux/openat2.h, linux/close_range.h, linux/prctl.h
AT_FDCWD, AT_EMPTY_PATH, AT_RECURSIVE = -100, 0x1000, 0x8000
RESOLVE_NO_MAGICLINKS, RESOLVE_IN_ROOT = 0x02, 0x10
CLOSE_RANGE_CLOEXEC = 4
PR_SET_PDEATHSIG = 1
PR_CAPBSET_DROP = 24
# linux/capability.h, linux/keyctl.h
CAP_SYS_ADMIN = 21
KEYCTL_JOIN_SESSION_KEYRING = 1

# asm/unistd_64.h for x86_64, asm-generic/unistd.h for aarch64; from 424 on all architectures agree.
NUMBERS = {
    "x86_64": {"chdir": 80, "pivot_root": 155, "prctl": 157, "chroot": 161, "mount": 165,
               "umount2": 166, "sethostname": 170, "keyctl": 250, "unshare": 272, "setns": 308},
    "aarch64": {"chdir": 49, "pivot_root": 41, "prctl": 167, "chroot": 51, "mount": 40,
                "umount2": 39, "sethostname": 161, "keyctl": 219, "unshare": 97, "setns": 268},
}
NUMBERS_EVERYWHERE = {"open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432,
                      "close_range": 436, "openat2": 437, "mount_setattr": 442}


class Flags(int):
    """An int that prints as the kernel's names: ``MS_BIND|MS_REC``."""
    prefix: str | tuple[str, ...] = ""

    def __new__(cls, prefix: str | tuple[str, ...], value: int) -> Flags:
        (flags := super().__new__(cls, value)).prefix = prefix
        return flags

    def __repr__(self) -> str:
        known = {n: b for n, b in globals().items() if n.startswith(self.prefix) and 0 < b & self == b}
        unknown = self & ~sum(known.values())
        return "|".join([*known, *[hex(unknown)] * (unknown != 0)]) or "0"


def _kernel(name: str, *arguments: object) -> int:
    """Make the call; the return value, or OSError."""
    number = NUMBERS[os.uname().machine].get(name) or NUMBERS_EVERYWHERE[name]
    if any(isinstance(a, str) and "\0" in a for a in arguments):  # the kernel would see the part before it
        raise ValueError(f"a zero byte in {describe(name, *arguments)!r}")
    raw = [os.fsencode(a) if isinstance(a, str) else a if isinstance(a, (bytes, type(None)))
           else ctypes.c_long(a) for a in arguments]  # type: ignore[arg-type]
    while (result := _libc.syscall(ctypes.c_long(number), *raw)) == -1:
        error = ctypes.get_errno()
        if error != errno.EINTR:
            failure = OSError(error, os.strerror(error), describe(name, *arguments))
            if cause := likely_cause(name, error):
                failure.add_note(cause)
            raise failure
    return int(result)


_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_call = _kernel


def describe(name: str, *arguments: object) -> str:
    """The call as strace would show it: ``mount("proc", "/proc", "proc", MS_NOSUID, NULL)``."""
    shown = ("NULL" if a is None else f'"{a}"' if isinstance(a, str) else "AT_FDCWD" if a == AT_FDCWD
             else "{...}" if isinstance(a, bytes) else repr(a) for a in arguments)
    return f"{name}({', '.join(shown)})"


def unshare(flags: int) -> None:
    """Leave the shared namespaces named by ``flags`` (CLONE_NEW*) for new ones. man 2 unshare."""
    _call("unshare", Flags("CLONE_", flags))


def setns(fd: int, flags: int = 0) -> None:
    """Enter the namespace behind ``fd``; ``flags`` (CLONE_NEW*) insists on its kind. man 2 setns."""
    _call("setns", fd, Flags("CLONE_", flags))


def mount(source: str | None, target: str, fstype: str | None = None, flags: int = 0,
          data: str | None = None) -> None:
    """Attach a file system, or change a mount: bind, remount, propagation. man 2 mount."""
    _call("mount", source, target, fstype, Flags("MS_", flags), data)


def umount2(target: str, flags: int = 0) -> None:
    """Take a mount away; MNT_DETACH: now for new look-ups, later for those inside. man 2 umount."""
    _call("umount2", target, Flags("MNT_", flags))


def pivot_root(new_root: str, put_old: str) -> None:
    """Make ``new_root`` this mount namespace's root; the old one hangs at ``put_old``. man 2 pivot_root."""
    _call("pivot_root", new_root, put_old)


def chroot(path: str) -> None:
    """Let ``/`` mean ``path`` for this process and its children. man 2 chroot."""
    _call("chroot", path)


def chdir(path: str) -> None:
    """Change the working directory. man 2 chdir."""
    _call("chdir", path)


def sethostname(name: str) -> None:
    """Set the host name of this UTS namespace. man 2 sethostname."""
    _call("sethostname", name, len(os.fsencode(name)))


def prctl(option: int, argument: int | str = 0) -> None:
    """Change an attribute of this process (PR_SET_*). man 2 prctl."""
    _call("prctl", option, argument, 0, 0, 0)


def keyctl(operation: int, argument: str | None = None) -> int:
    """Work on the kernel's key rings, where a login session keeps its secrets (KEYCTL_*). man 2 keyctl."""
    return _call("keyctl", operation, argument)


def close_range(first: int, last: int, flags: int) -> None:
    """Close the descriptors ``first`` to ``last``, or only mark them close-on-exec. man 2 close_range."""
    _call("close_range", first, last, Flags("CLOSE_RANGE_", flags))


def openat2(directory: int, path: str, flags: int, mode: int = 0, resolve: int = 0) -> int:
    """open(2) with a rule for the walk (RESOLVE_*); returns a descriptor, close-on-exec. man 2 openat2."""
    return _call("openat2", directory, path, struct.pack("QQQ", flags | os.O_CLOEXEC, mode, resolve), 24)


def open_tree(directory: int, path: str, flags: int) -> int:
    """Take a mount in hand, or a copy of it that is mounted nowhere yet. man 2 open_tree."""
    return _call("open_tree", directory, path, Flags(("OPEN_TREE_", "AT_"), flags))


def move_mount(from_fd: int, from_path: str, to_fd: int, to_path: str, flags: int) -> None:
    """Put a mount somewhere else, or one in hand somewhere at last. man 2 move_mount."""
    _call("move_mount", from_fd, from_path, to_fd, to_path, Flags("MOVE_MOUNT_", flags))


def mount_setattr(fd: int, path: str, flags: int, set_: int = 0, clear: int = 0, userns_fd: int = 0) -> None:
    """Change a mount's attributes (MOUNT_ATTR_*), with AT_RECURSIVE of all below. man 2 mount_setattr."""
    _call("mount_setattr", fd, path, Flags("AT_", flags), struct.pack("QQQQ", set_, clear, 0, userns_fd), 32)


def fsopen(fstype: str) -> int:
    """Begin a mount piece by piece: a descriptor, to which `fsconfig` tells the options. man 2 fsopen."""
    return _call("fsopen", fstype, Flags("FSOPEN_", FSOPEN_CLOEXEC))


def fsconfig(fd: int, command: int, key: str | None = None, value: str | None = None) -> None:
    """Tell one option (FSCONFIG_SET_*), or that these were all (FSCONFIG_CMD_CREATE). man 2 fsconfig."""
    _call("fsconfig", fd, Flags("FSCONFIG_", command), key, value, 0)


def fsmount(fd: int) -> int:
    """The mount that was asked for, in hand: `move_mount` puts it somewhere. man 2 fsmount."""
    return _call("fsmount", fd, Flags("FSMOUNT_", FSMOUNT_CLOEXEC), 0)
