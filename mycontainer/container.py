"""A container: an ordinary process, wrapped.

What the chapters have made, put together: a root file system, namespaces, limits, and a command in them.
How the processes that do it meet is told in spawn.py.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence

from mycontainer import chroot, namespaces, syscalls
from mycontainer.cgroups import Cgroup
from mycontainer.errors import ContainerError
from mycontainer.namespaces import IdMap
from mycontainer.spawn import PATH, Process, execute, spawn

KINDS = ("user", "cgroup", "ipc", "uts", "net", "pid", "mnt")  # time is for those who ask for it
Volume = tuple[str, str, bool]  # (our path, path inside, read-only)
ENVIRONMENT = {"PATH": PATH, "HOME": "/root"}


def run(argv: Sequence[str], root: str | None = None, **how: object) -> int:
    """Run a command in a container to its end, as `start` does. Returns the exit code."""
    return start(argv, root, **how).wait()  # type: ignore[arg-type]


def start(argv: Sequence[str], root: str | None = None, *, kinds: Iterable[str] = KINDS,
          layers: Sequence[str] = (), unpack: Callable[[str], object] | None = None,
          volumes: Iterable[Volume] = (), hostname: str = "mycontainer",
          env: Mapping[str, str] = ENVIRONMENT, workdir: str = "/", uid_map: IdMap | None = None,
          gid_map: IdMap | None = None, cgroup: Cgroup | None = None,
          connect: Callable[[int], object] | None = None) -> Process:
    """Start a command in namespaces of its own, and in ``cgroup`` if there is one.

    ``root`` becomes ``/`` (None: keep ours). With ``layers`` (directories, the lowest first) or ``unpack`` it
    is only a place to mount a fresh tmpfs, which vanishes with the container: it takes what is changed in the
    layers, and what ``unpack(root)`` writes. The maps are as `namespaces.write_map` takes them (None: only
    ourselves, as root; if we are the machine's root, so is root inside). ``connect`` is called out here with
    the pid of the waiting PID 1, to give its network namespace a wire. Raises ContainerError with a shell's
    exit code for it.
    """
    kinds = tuple(kinds)
    if root is not None and "mnt" not in kinds:
        raise ContainerError("cannot change the root", "that needs a mount namespace of its own")

    def outside(pid: int) -> None:
        if cgroup:
            cgroup.join(pid)
        if connect:
            connect(pid)

    def inside() -> None:
        settle(kinds, hostname, own_root=root is not None)
        if root is not None:
            change_root(root, kinds, layers, unpack, volumes)
        syscalls.chdir(workdir)
        execute(argv, env)

    return spawn(inside, kinds, uid_map or [(0, os.geteuid(), 1)],
                 gid_map or [(0, os.getegid(), 1)], outside)


def settle(kinds: Sequence[str], hostname: str, own_root: bool) -> None:
    """Make ourselves at home in the new namespaces, and let go of the caller's session."""
    os.setsid()  # out of its terminal session, or we could type into it (TIOCSTI)
    syscalls.keyctl(syscalls.KEYCTL_JOIN_SESSION_KEYRING)  # and away from its keys
    os.umask(0o022)
    if "uts" in kinds:
        syscalls.sethostname(hostname)
    if "net" in kinds:
        namespaces.raise_loopback()
    if "mnt" in kinds:
        chroot.make_private()
        if "pid" in kinds and not own_root:
            chroot.mount_proc("/")


def change_root(root: str, kinds: Sequence[str], layers: Sequence[str],
                unpack: Callable[[str], object] | None, volumes: Iterable[Volume]) -> None:
    """Fill and furnish ``root``, and make it the root of this mount namespace."""
    if layers or unpack:
        syscalls.mount("tmpfs", root, "tmpfs", syscalls.MS_NODEV, "mode=755")
    if layers:
        from mycontainer.layers import make_upper, stack  # with tarfile, which no other start should load

        stack(layers, root, *make_upper(root))
    if unpack:
        unpack(root)
    chroot.furnish(root, own_pids="pid" in kinds, own_net="net" in kinds)
    for source, path, readonly in volumes:
        chroot.bind(source, root, path, readonly)
    chroot.pivot(root)
