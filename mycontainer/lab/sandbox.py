"""The lab's throw-away root: the host's programs to read, a tmpfs for everything else.

Assembled directory by directory, as bubblewrap does it. An overlay over the whole host would show all of
it, and a user namespace may not mount one with ``lowerdir=/`` anyway.

It is built in one user namespace and used in another below it. For the kernel the mounts then came from
somebody more privileged, so it locks them: root in the lab can neither unmount them nor make them writable
again (man 7 mount_namespaces, "Restrictions on mount namespaces"). Without that second namespace
``mount -o remount,bind,rw`` would open the learner's own files to the lab.

A read-only mount does not close the sockets and FIFOs in it: connect(2), and writing to a FIFO, change no
file. So the learner's trees are shown through a read-only overlay, where the same names are there and lead
nowhere: a socket or a FIFO belongs to its inode, and an overlay has inodes of its own. `View` keeps it fresh.
Sources: Documentation/filesystems/overlayfs.rst; man 7 unix, man 7 fifo.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from mycontainer import paths, syscalls
from mycontainer.chroot import make_private
from mycontainer.engine import idmap
from mycontainer.errors import ContainerError, explain

ROOT = "/tmp"  # where the new root is put together: some directory that every system has
KEPT = "/var/lib/mycontainer"  # of what the host keeps for us, the lab sees the images and the machines
HOSTNAME = "lab"

# Where programs and their libraries are: for most systems /usr, and links to it. Not all of /nix: the socket
# of its daemon is there.
SYSTEM = ("usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "nix/store", "gnu/store")
# Directories that start out empty, and how: who may write where is part of what a program expects.
EMPTY = {"dev": 0o755, "etc": 0o755, "home": 0o755, "mnt": 0o755, "opt": 0o755, "proc": 0o755, "root": 0o700,
         "run": 0o755, "run/lock": 0o1777, "srv": 0o755, "sys": 0o755, "tmp": 0o1777, "var": 0o755,
         "var/lib": 0o755, "var/log": 0o755, "var/cache": 0o755, "var/tmp": 0o1777}
# Never shown as the notebook's directory: they must stay the lab's own and writable, or hold too much.
TOO_MUCH = ("/", "/tmp", "/var", "/var/tmp", "/run", "/dev", "/dev/shm", "/proc", "/sys", "/home", "/root",
            "/mnt", "/srv", "/opt", "/etc")

MS_REMOUNT = 0x20  # sys/mount.h
READ_ONLY = syscalls.MS_RDONLY | syscalls.MS_NOSUID | syscalls.MS_NODEV

ETC = {
    "hosts": f"127.0.0.1\tlocalhost\n::1\tlocalhost\n127.0.1.1\t{HOSTNAME}\n",
    "hostname": f"{HOSTNAME}\n",
    "resolv.conf": "# No name server: the lab's network ends at its own loopback.\n",
    "mtab": "",
}


class Layout(NamedTuple):
    """What the lab sees of the host besides the system: decided outside, before anything is changed."""

    trees: list[tuple[str, str]]  # (directory on the host, where the lab sees it)
    links: list[tuple[str, str]]  # (symlink, what it says): how the host writes paths into the trees
    workdir: str                  # where the kernel starts


def plan(workdir: str, kept: Mapping[str, str], more: Iterable[str] = ()) -> Layout:
    """Choose the trees: the interpreter, its packages, this project, the notebook's directory, what we keep.

    ``workdir`` is the notebook's directory. The home directory itself, /tmp and the like are not shown
    even if a notebook lies there: the kernel then starts in /root. ``more`` are further directories, ``kept``
    those that have another place in the lab: below `KEPT`, by the names that this maps to them.
    """
    workdir = os.path.realpath(workdir)
    shown = not (workdir in TOO_MUCH or workdir == os.path.realpath(os.path.expanduser("~")))
    wanted = [sys.prefix, sys.base_prefix, project(), *more, *([workdir] if shown else [])]
    trees: list[tuple[str, str]] = []
    for path in sorted({os.path.realpath(path) for path in wanted}):
        if os.path.isdir(path) and not _below(path, [f"/{name}" for name in SYSTEM] + [t for _, t in trees]):
            trees.append((path, path))
    links = list(_links([*wanted, sys.executable], [target for _, target in trees]))
    trees += [(path, f"{KEPT}/{name}") for name, path in kept.items()]
    return Layout(trees, links, workdir if shown else "/root")


def project() -> str:
    """The directory that this package was imported from: the checkout, or site-packages."""
    return os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def _below(path: str, directories: Iterable[str]) -> bool:
    return any(path == one or path.startswith(one + "/") for one in directories)


def _links(wanted: Iterable[str], trees: list[str]) -> Iterator[tuple[str, str]]:
    """Symlinks on the way from the wanted paths to the trees, where a tree does not hold them itself."""
    seen = set()
    for path in wanted:
        path = os.path.abspath(path)
        for _ in range(40):  # as many as the kernel would follow
            link = next((part for part in _parts(path) if os.path.islink(part)), None)
            if link is None:
                break
            text = os.readlink(link)
            if link not in seen and not _below(link, trees) and link[1:] not in SYSTEM \
                    and not _below(link, ["/usr"]):
                seen.add(link)
                yield link, text
            path = os.path.normpath(os.path.join(os.path.dirname(link), text) + path[len(link):])


def _parts(path: str) -> Iterator[str]:
    for at in range(1, len(path) + 1):
        if at == len(path) or path[at] == "/":
            yield path[:at]


def take_trees(layout: Layout, userns_fd: int) -> list[int]:
    """Outside, as root: the layout's trees, read-only, their owners seen through the lab's user namespace.

    Taken by root, they need no path that the lab's root may walk: a closed home above does not matter.
    """
    return [idmap.idmapped_tree(source, userns_fd) for source, _ in layout.trees]


def assemble(layout: Layout, trees: list[int]) -> View:
    """Put the new root together at `ROOT`; to be called in a mount namespace that shall be thrown away.

    ``trees`` are what `take_trees` took, or empty to take them here. All sources are in hand before the
    first mount: it may hide them. Returns the view of the trees, to be kept fresh.
    """
    make_private()
    whole = [not _has_mounts_below(source) for source, _ in layout.trees]
    try:
        trees = trees or [idmap.readonly_tree(source) for source, _ in layout.trees]
        system = {name: os.readlink(f"/{name}") if os.path.islink(f"/{name}")
                  else idmap.readonly_tree(f"/{name}") for name in SYSTEM if os.path.lexists(f"/{name}")}
    except OSError as error:
        raise explain("cannot take the host's directories read-only", error) from error
    syscalls.mount("tmpfs", ROOT, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV,
                   f"mode=755,size={room()},nr_inodes=1m")
    for name, mode in EMPTY.items():
        os.mkdir(f"{ROOT}/{name}")
        os.chmod(f"{ROOT}/{name}", mode)  # whatever the umask is
    for name, source in system.items():
        if isinstance(source, str):
            os.symlink(source, f"{ROOT}/{name}")
        else:
            idmap.place(source, ROOT, name)
    _mount_etc()
    for link, text in layout.links:
        os.makedirs(os.path.dirname(ROOT + link), exist_ok=True)
        if not os.path.lexists(ROOT + link):
            os.symlink(text, ROOT + link)
    view = View()
    with _workshop() as workshop:
        for tree, one, (_, target) in zip(trees, whole, layout.trees, strict=True):
            view.show(tree, target, workshop if one else None)
    return view


class View:
    """The trees as the lab sees them.

    An overlay remembers which names it found, and which it did not: by what it knows a file that is made,
    replaced or removed behind its back stays as it was. To remount it makes it forget (reconfigure_super()
    in the kernel's fs/super.c calls shrink_dcache_sb()); what is appended to a file is seen anyway.
    """

    def __init__(self) -> None:
        self.targets: list[str] = []
        self.overlays: list[int] = []  # descriptors of them
        self.open: list[str] = []  # trees whose sockets and FIFOs lead out, because no overlay can be had

    def show(self, tree: int, target: str, workshop: str | None) -> None:
        """Mount the tree at ``target`` of the new root, through an overlay if there is a ``workshop``."""
        if workshop is None:
            idmap.place(tree, ROOT, target)
            self.open.append(target)
            return
        idmap.place(tree, workshop, "tree")
        with paths.target(ROOT, target) as place:
            try:
                syscalls.mount("overlay", place, "overlay", READ_ONLY,
                               f"lowerdir={workshop}/tree:{workshop}/empty")
            except OSError:  # a file system that cannot lie below one; before Linux 5.19 an idmapped tree
                syscalls.move_mount(syscalls.AT_FDCWD, f"{workshop}/tree", syscalls.AT_FDCWD, place,
                                    idmap.MOVE_MOUNT_T_SYMLINKS)
                self.open.append(target)
                return
        syscalls.umount2(f"{workshop}/tree", syscalls.MNT_DETACH)  # the overlay keeps a copy of the mount
        self.targets.append(target)

    def hold(self) -> None:
        """Take the overlays in hand, in the finished root: root inside can rename what lies on a path."""
        self.overlays = [os.open(target, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                         for target in self.targets]

    def refresh(self) -> None:
        """See the trees as they are now. Takes some 20 microseconds for each, and costs later look-ups."""
        for overlay in self.overlays:
            try:
                os.fchdir(overlay)
                syscalls.mount(None, ".", None, MS_REMOUNT | READ_ONLY)
            except OSError:
                pass  # a directory that we may not enter: then nobody inside may, and nothing is remembered


@contextmanager
def _workshop() -> Iterator[str]:
    """Two directories below which overlays are put together: ``tree``, and ``empty`` since one is too few.

    On a tmpfs that nobody sees later: ``rm -rf /`` inside would take the empty one from under the overlays.
    """
    place = f"{ROOT}/run/lab/workshop"  # nowhere that a tree of the host's may lie below, as it may /mnt
    os.makedirs(place)
    syscalls.mount("tmpfs", place, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, "mode=755,size=64k")
    os.mkdir(f"{place}/tree")
    os.mkdir(f"{place}/empty")
    yield place
    syscalls.umount2(place, syscalls.MNT_DETACH)
    os.rmdir(place)


def _has_mounts_below(path: str) -> bool:
    """Whether other file systems are mounted below: an overlay would show their mount points empty."""
    escaped = "".join(f"\\{ord(c):03o}" if c in " \t\n\\" else c for c in path)  # as man 5 proc has it
    return any(_below(point, [escaped]) and point != escaped for _, point, _, _ in _mounts())


def room() -> int:
    """How many bytes the tmpfs may take: a quarter of the memory, at most 2 GiB."""
    return min(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 4, 2 << 30)


def _mount_etc() -> None:
    """/etc: the host's, with files of our own in front. A read-only overlay is one mount for all of it."""
    own = f"{ROOT}/run/lab/etc"
    os.makedirs(own)
    for name, text in ETC.items():
        with open(f"{own}/{name}", "w") as file:
            file.write(text)
    os.remove(f"{own}/mtab")
    os.symlink("/proc/self/mounts", f"{own}/mtab")
    syscalls.mount("overlay", f"{ROOT}/etc", "overlay",
                   READ_ONLY, f"lowerdir={own}:/etc")


def superblocks() -> set[str]:
    """The file systems that are mounted here, as device numbers ("0:26"). man 5 proc, mountinfo."""
    return {device for device, _, _, _ in _mounts()}


def _mounts() -> Iterator[tuple[str, str, str, str]]:
    with open("/proc/self/mountinfo") as rows:
        for row in rows:
            fields = row.split()
            yield fields[2], fields[4], fields[5], fields[fields.index("-") + 1]


def mounts_writable() -> list[tuple[str, str]]:
    """The mounts of this process that are not read-only, as (device number, mount point)."""
    return [(device, point) for device, point, options, _ in _mounts() if "rw" in options.split(",")]


def assert_throw_away(of_host: set[str], allowed: Iterable[str] = ()) -> None:
    """Refuse to go on if anything of the host can be written to. To be called in the finished root.

    ``of_host`` are the host's `superblocks`; ``allowed`` mount points that are the host's and meant to be
    written to (the lab's own part of the cgroup tree). Raises ContainerError.
    """
    for device, point in mounts_writable():
        if device in of_host and point not in allowed:
            raise ContainerError("cannot start the lab", f"{point} is the host's, and writable",
                                 "A fault of mycontainer: report it, please, with /proc/self/mountinfo.")


def assert_runs(program: str) -> None:
    """Refuse to go on if ``program`` cannot be executed in here."""
    if not os.access(program, os.X_OK):
        raise ContainerError("cannot start the lab", f"{program} cannot be executed inside",
                             "Make the environment from a Python that everybody may execute, such as "
                             "/usr/bin/python3.")


def write_file(path: str, text: str) -> None:
    """Write a file of the lab's own that only its root reads."""
    with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        file.write(text)
