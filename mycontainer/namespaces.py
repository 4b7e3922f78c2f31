"""Chapter 2: names of one's own.

A namespace is the kernel's answer to "which ones?": which processes, which host name, which mounts, which
user ids does this process see? Every process is in one namespace of each kind, its parent's unless
somebody asked otherwise. unshare(2) leaves one for a new one, setns(2) joins one that exists, and
``/proc/PID/ns`` shows who is where: the same inode number is the same namespace. man 7 namespaces.
"""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from collections.abc import Iterable, Sequence

from mycontainer import syscalls
from mycontainer.errors import ContainerError

SIOCSIFFLAGS, IFF_UP = 0x8914, 0x1  # linux/sockios.h, linux/if.h: set a network device's flags; "up"

# The order to join them in. The user namespace first: it brings the rights for all the others. The mount
# namespace last: behind it the paths of this side are gone. (The kernel's name for it, from a time when it
# was the only one, is "mnt", and its flag just NEWNS.)
FLAGS = {
    "user": syscalls.CLONE_NEWUSER, "cgroup": syscalls.CLONE_NEWCGROUP, "ipc": syscalls.CLONE_NEWIPC,
    "uts": syscalls.CLONE_NEWUTS, "net": syscalls.CLONE_NEWNET, "pid": syscalls.CLONE_NEWPID,
    "time": syscalls.CLONE_NEWTIME, "mnt": syscalls.CLONE_NEWNS,
}
ORDER = tuple(FLAGS)

# What unshare changes for our *children* only: a process keeps its own pid and its own clocks. (To setns a
# time namespace counts for us too, at once.)
FOR_CHILDREN = ("pid", "time")

IdMap = Sequence[tuple[int, int, int]]  # (first id inside, first id outside, how many)


def create(kinds: Iterable[str]) -> None:
    """Leave the namespaces of these ``kinds`` for new ones.

    One call makes them all, and the kernel makes the user namespace first, so that the others belong to
    it. Raises PermissionError when not root and "user" is not among them. man 2 unshare.
    """
    flags = 0
    for kind in kinds:
        flags |= FLAGS[kind]
    syscalls.unshare(flags)


def identify(pid: int | str = "self") -> dict[str, int]:
    """Which namespaces a process is in: ``{"uts": 4026531838, ...}``, kind to inode number.

    Raises FileNotFoundError if there is no such process, PermissionError if it is not ours to look at
    (ptrace(2), "Ptrace access mode checking").
    """
    return {kind: os.stat(f"/proc/{pid}/ns/{kind}").st_ino for kind in ORDER}


def shared(pid: int | str, other: int | str = "self") -> dict[str, bool]:
    """For each kind of namespace: are the two processes in the same one?"""
    mine, theirs = identify(other), identify(pid)
    return {kind: mine[kind] == theirs[kind] for kind in ORDER}


def own_ids(name: str = "uid_map") -> list[tuple[int, int, int]]:
    """The ids that exist in this user namespace, as the rows of /proc/self/uid_map (or gid_map)."""
    with open(f"/proc/self/{name}") as rows:
        return [(int(inside), int(outside), int(count)) for inside, outside, count in map(str.split, rows)]


def write_map(pid: int, uid_map: IdMap, gid_map: IdMap) -> None:
    """Say which ids the new user namespace of ``pid`` has, and who they are out here. Only once.

    Done from outside. One's own id may be mapped by anybody, on condition that setgroups(2) is denied
    for ever inside: somebody who is kept out of a file *because of* a group must not be able to drop
    the group. Everything else needs root here, or newuidmap(1), which is set-user-id root and looks into
    /etc/subuid for what an administrator gave us. man 7 user_namespaces.
    """
    alone = len(uid_map) == len(gid_map) == 1 and uid_map[0][2] == gid_map[0][2] == 1
    if os.geteuid() == 0 or alone:
        if os.geteuid() != 0:
            _write(pid, "setgroups", "deny")
        _write(pid, "uid_map", _rows(uid_map))
        _write(pid, "gid_map", _rows(gid_map))
    else:
        _ask_helper("newuidmap", pid, uid_map)
        _ask_helper("newgidmap", pid, gid_map)


def _rows(id_map: IdMap) -> str:
    return "".join(f"{inside} {outside} {count}\n" for inside, outside, count in id_map)


def _write(pid: int, name: str, text: str) -> None:
    fd = os.open(f"/proc/{pid}/{name}", os.O_WRONLY)
    try:
        os.write(fd, text.encode())  # in one write: the kernel takes a map whole or not at all
    finally:
        os.close(fd)


def _ask_helper(program: str, pid: int, id_map: IdMap) -> None:
    import shutil  # these two are slow to load, and root never needs them
    import subprocess

    if not shutil.which(program):
        raise ContainerError("cannot map more than one id", f"{program} is not installed",
                             "It comes with the package uidmap (Debian, Ubuntu) or shadow-utils (Fedora).")
    done = subprocess.run([program, str(pid), *_rows(id_map).split()], capture_output=True, text=True)
    if done.returncode:
        raise ContainerError("cannot map ids", done.stderr.strip() or f"{program} failed",
                             "The ids must be yours in /etc/subuid and /etc/subgid.")


def become_root() -> None:
    """Be user 0 and group 0 of the user namespace we are in, once it has its maps.

    The groups we came with go, or they would count for access inside; where the map denies setgroups
    (`write_map`) they stay, as nobody ("65534").
    """
    with open("/proc/self/setgroups") as answer:
        if answer.read().strip() == "allow":
            os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


def set_clocks(seconds: int) -> None:
    """Let the boot clock and the monotonic clock of the *next* children run ``seconds`` ahead.

    To be called after unshare(CLONE_NEWTIME), before the first child. The wall clock is not part of it.
    man 7 time_namespaces.
    """
    with open("/proc/self/timens_offsets", "w") as offsets:
        offsets.write(f"monotonic {seconds} 0\nboottime {seconds} 0\n")


def enter(pid: int, kinds: Iterable[str] = ORDER) -> None:
    """Join the namespaces of another process, as nsenter(1) does; pid counts for our children only.

    All are opened before the first is joined: afterwards ``/proc`` may be another one. A namespace that we
    are in already is left out, as the kernel refuses to join our own user namespace once more.
    """
    ours = identify()
    fds = []
    for kind in [kind for kind in ORDER if kind in set(kinds)]:
        fd = os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY)
        fds.append((kind, fd, os.fstat(fd).st_ino != ours[kind]))
    for kind, fd, elsewhere in fds:
        if elsewhere:
            syscalls.setns(fd, FLAGS[kind])
        os.close(fd)


def keep(pid: int, kind: str, path: str) -> None:
    """Keep a namespace alive without any process in it, by binding it to the file ``path``.

    So `ip netns` does it. umount2(2) on ``path`` lets it go. man 7 namespaces, "Namespace lifetime".
    """
    os.close(os.open(path, os.O_CREAT | os.O_RDONLY, 0o644))
    syscalls.mount(f"/proc/{pid}/ns/{kind}", path, None, syscalls.MS_BIND)


def raise_loopback() -> None:
    """Switch on ``lo``: a new network namespace has nothing else, and even that is down. man 7 netdevice."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))
