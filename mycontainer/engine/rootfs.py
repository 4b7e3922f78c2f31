"""The root directory of a bundle, furnished from inside as its configuration says.

All of it happens before pivot_root, with the bundle's directory as it is out here: the core's `chroot.pivot`
takes the mounts along. Every target is walked to by the kernel with that directory as its root (paths.py),
for whatever is in there may be hostile.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from mycontainer import chroot, paths, syscalls
from mycontainer.engine.config_linux import Device
from mycontainer.errors import ContainerError, explain
from mycontainer.syscalls import AT_FDCWD, AT_RECURSIVE, MOUNT_ATTR_RDONLY, MS_BIND, MS_RDONLY, MS_REC, Flags

NULL = os.makedev(1, 3)
Attributes = tuple[int, int]  # what mount_setattr(2) sets and clears


def mount(root: str, destination: str, kind: str, source: str, flags: Flags, data: str) -> None:
    """Mount a file system of the kernel's or of a disk: man 2 mount."""
    try:
        with paths.target(root, destination) as target:
            syscalls.mount(source or kind, target, kind, flags, data or None)
    except OSError as error:
        raise explain(f"cannot mount {kind} on {destination}", error) from error


def bind(root: str, destination: str, source: str, recursive: bool, attributes: Attributes,
         below: Attributes, again: bool) -> None:
    """Show ``source``, a file or directory out here. Unlike `chroot.bind` it changes any of a mount's
    attributes, for itself and with all ``below`` it; with ``again`` it changes one that is there.
    """
    try:
        directory = stat.S_ISDIR(os.stat(source).st_mode)
        if not again:
            with paths.target(root, destination, directory) as target:
                syscalls.mount(source, target, None, MS_BIND | (MS_REC if recursive else 0))
        with paths.target(root, destination, directory) as target:  # now the mounted one
            for change, flags in ((attributes, 0), (below, AT_RECURSIVE)):
                if any(change):
                    syscalls.mount_setattr(AT_FDCWD, target, flags, set_=change[0], clear=change[1])
    except OSError as error:
        raise explain(f"cannot show {source} as {destination}", error) from error


def mount_cgroups(root: str, destination: str, own: Sequence[tuple[str, str]], flags: Flags) -> None:
    """Show the container its own cgroup, in each of version 1's trees: (name of the tree, our path)."""
    mount(root, destination, "tmpfs", "tmpfs", Flags("MS_", flags & ~MS_RDONLY), "mode=755")
    read_only = bool(flags & MS_RDONLY)
    for name, path in own:
        chroot.bind(path, root, f"{destination}/{name}")
        with paths.target(root, f"{destination}/{name}") as target:
            syscalls.mount_setattr(AT_FDCWD, target, 0, set_=0xE | MOUNT_ATTR_RDONLY * read_only)
    if read_only:
        with paths.target(root, destination) as target:
            syscalls.mount_setattr(AT_FDCWD, target, 0, set_=MOUNT_ATTR_RDONLY)


def mount_new_cgroups(root: str, destination: str, trees: Sequence[tuple[str, str]], flags: Flags) -> None:
    """The same in a cgroup namespace, where a new mount shows our own cgroup as its root: (name of the tree,
    its controllers). man 7 cgroup_namespaces.
    """
    mount(root, destination, "tmpfs", "tmpfs", Flags("MS_", flags & ~MS_RDONLY), "mode=755")
    for name, controllers in trees:
        mount(root, f"{destination}/{name}", "cgroup", "cgroup", flags, controllers)
    if flags & MS_RDONLY:
        with paths.target(root, destination) as target:
            syscalls.mount_setattr(AT_FDCWD, target, 0, set_=MOUNT_ATTR_RDONLY)


def propagate(destination: str, flags: Flags) -> None:
    """Say how mounts spread from a mount to its copies and back. man 7 mount_namespaces."""
    syscalls.mount(None, destination, None, flags)


def make_default_devices(root: str) -> None:
    """The devices and links that every container has: config-linux.md, "Default Devices"."""
    for name in chroot.DEVICES:
        try:
            chroot.make_device(root, f"dev/{name}")
        except FileExistsError:
            _check_device(root, f"dev/{name}", os.stat(f"/dev/{name}").st_rdev)
    with paths.target(root, "dev") as directory:
        for name, leads_to in chroot.DEV_LINKS.items():
            try:
                os.symlink(leads_to, f"{directory}/{name}")
            except FileExistsError:
                continue


def _check_device(root: str, path: str, number: int) -> None:
    """A node that is there already must be the device, or what we bind over it."""
    with paths.target(root, path, directory=False) as target:
        found = os.stat(target)
    if stat.S_ISREG(found.st_mode) and not found.st_size:  # a place for a bind mount, of an earlier start
        chroot.bind(f"/{path}", root, path)
    elif found.st_rdev != number or not stat.S_ISCHR(found.st_mode):
        raise ContainerError(f"cannot make /{path}", "the root directory has something else there")


def make_device(root: str, device: Device) -> None:
    """Make one of the configuration's own devices. Where mknod(2) is refused, ours is shown, if it is one."""
    kind = {"c": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}[device.kind]
    number = os.makedev(device.major, device.minor)
    with paths.target(root, os.path.dirname(device.path)) as directory:
        node = f"{directory}/{os.path.basename(device.path)}"
        umask = os.umask(0)  # not chmod(2) afterwards, which would follow a link that somebody puts there
        try:
            os.mknod(node, kind | device.mode, number)
            os.chown(node, device.uid, device.gid, follow_symlinks=False)
            return
        except FileExistsError as error:
            found = os.lstat(node)
            if (stat.S_IFMT(found.st_mode), found.st_rdev) == (kind, number):
                return
            raise ContainerError(f"cannot make {device.path}", "something else is there") from error
        except PermissionError:
            ours = os.stat(device.path)
            if (stat.S_IFMT(ours.st_mode), ours.st_rdev) != (kind, number):
                raise
        finally:
            os.umask(umask)
    chroot.bind(device.path, root, device.path)


def make_directory(root: str, path: str) -> None:
    """Make a directory inside that may be missing, such as the working directory."""
    with paths.target(root, path):
        pass


def make_read_only(root: str, path: str) -> None:
    """Let nobody change what is at ``path``, if anything is."""
    _over(root, path, None)


def mask(root: str, path: str) -> None:
    """Hide what is at ``path``, if anything is: behind an empty directory, or behind /dev/null."""
    _over(root, path, "dev/null")


def _over(root: str, path: str, cover: str | None) -> None:
    """Mount something over what is there: itself, read-only, or a cover. What is not there stays so."""
    root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY)
    fds = [root_fd]
    try:
        try:
            fds.append(fd := paths.open_in_root(root_fd, path))
        except (FileNotFoundError, NotADirectoryError):
            return
        target = f"/proc/self/fd/{fd}"
        if cover is None:
            syscalls.mount(target, target, None, MS_BIND | MS_REC)
            fds.append(upper := paths.open_in_root(root_fd, path))
            syscalls.mount_setattr(AT_FDCWD, f"/proc/self/fd/{upper}", AT_RECURSIVE, set_=MOUNT_ATTR_RDONLY)
        elif stat.S_ISDIR(os.fstat(fd).st_mode):
            syscalls.mount("tmpfs", target, "tmpfs", MS_RDONLY)
        else:
            fds.append(null := paths.open_in_root(root_fd, cover))
            if os.fstat(null).st_rdev != NULL:  # an image can have anything there, and we would show it
                raise ContainerError(f"cannot mask {path}", "the container's /dev/null is none")
            syscalls.mount(f"/proc/self/fd/{null}", target, None, MS_BIND)
    finally:
        for each in fds:
            os.close(each)


def close_root(readonly: bool) -> None:
    """Once it is the root: nobody writes to it any more."""
    if readonly:
        syscalls.mount_setattr(AT_FDCWD, "/", 0, set_=MOUNT_ATTR_RDONLY)
