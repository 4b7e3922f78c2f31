"""From files to a layer's tar, the same to the last byte for the same tree.

Names in the order of their bytes, a directory before what is in it, whiteouts before all else in a directory;
owners as numbers; times as they are, or none later than a given one; extended attributes in order. Nothing
of the machine gets in: no inode numbers, no names of users, no order of a directory's listing.

Three kinds of layer: `snapshot`, a whole tree; `changes`, what an overlay's upper says; `difference`, what
makes one tree into another.

Sources: OCI image-spec, layer.md ("Change Types"); https://reproducible-builds.org/docs/archives/
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple

from mycontainer import layers, paths
from mycontainer.errors import ContainerError
from mycontainer.images import tarstream
from mycontainer.images.apply import NOT_FOR_LAYERS
from mycontainer.images.tarstream import Entry

DEVICES = {stat.S_IFCHR: tarstream.CHARACTER, stat.S_IFBLK: tarstream.BLOCK_DEVICE}
KINDS = {stat.S_IFREG: tarstream.FILE, stat.S_IFDIR: tarstream.DIRECTORY, stat.S_IFLNK: tarstream.SYMLINK,
         stat.S_IFIFO: tarstream.FIFO, **DEVICES}
PIECE = 1 << 20  # bytes


class Found(NamedTuple):
    """A file of a tree: its path from the root, "" for the root itself, and all that a tar keeps of it."""

    path: str
    status: os.stat_result
    link: str
    xattrs: tuple[tuple[str, bytes], ...]


class Tree:
    """A directory to be packed; paths are walked inside of it (openat2), as the tree may be a stranger's."""

    def __init__(self, path: str) -> None:
        self.root = os.open(path, os.O_RDONLY | os.O_DIRECTORY)

    def __enter__(self) -> Tree:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.root)

    def walk(self) -> Iterator[Found]:
        """All files, in order, the root first. Sockets are left out: no tar has them."""
        waiting = [""]
        while waiting:
            found = self.look(waiting.pop())
            if stat.S_ISSOCK(found.status.st_mode):
                continue
            yield found
            if stat.S_ISDIR(found.status.st_mode):
                fd = self.open(found.path, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    names = sorted(os.listdir(fd), key=os.fsencode, reverse=True)
                finally:
                    os.close(fd)
                waiting += [f"{found.path}/{name}" if found.path else name for name in names]

    def open(self, path: str, flags: int) -> int:
        """A descriptor of a file of the tree, never of what a symlink in its place leads to."""
        return paths.open_in_root(self.root, path or "/", flags | os.O_NOFOLLOW)

    def look(self, path: str) -> Found:
        """What is at ``path``."""
        fd = self.open(path, os.O_PATH)
        try:
            status = os.fstat(fd)
            link = os.readlink("", dir_fd=fd) if stat.S_ISLNK(status.st_mode) else ""
            return Found(path, status, link, () if link else _attributes(f"/proc/self/fd/{fd}"))
        finally:
            os.close(fd)

    def content(self, path: str) -> Iterator[bytes]:
        """The content of a file, in pieces."""
        with open(self.open(path, os.O_RDONLY), "rb", buffering=0) as stream:
            while piece := stream.read(PIECE):
                yield piece


def _attributes(path: str) -> tuple[tuple[str, bytes], ...]:
    try:
        names = sorted(os.listxattr(path))
    except OSError:  # a file system without any
        return ()
    return tuple((name, os.getxattr(path, name)) for name in names
                 if not any(word in name for word in NOT_FOR_LAYERS))


class Packed(NamedTuple):
    """A tar that was written: its name and its size in bytes."""

    diff_id: str
    size: int


class _Writer:
    """Writes entries, and counts and hashes what it writes."""

    def __init__(self, tree: Tree, out: BinaryIO, latest: int | None) -> None:
        self.tree, self.out, self.latest = tree, out, latest
        self.sum, self.size = hashlib.sha256(), 0
        self.first: dict[tuple[int, int], str] = {}  # of files with several names: the one that was written

    def write(self, data: bytes) -> None:
        self.out.write(data)
        self.sum.update(data)
        self.size += len(data)

    def whiteout(self, path: str) -> None:
        above, name = os.path.split(path)
        self.write(tarstream.header(Entry(os.path.join(above, layers.WHITEOUT + name))))

    def add(self, found: Found) -> None:
        status, kind = found.status, KINDS[stat.S_IFMT(found.status.st_mode)]
        if os.path.basename(found.path).startswith(layers.WHITEOUT):
            raise ContainerError(f"cannot pack {found.path}", "in a layer, such a name means a deleted file")
        mtime = status.st_mtime_ns
        if self.latest is not None:
            mtime = min(mtime, self.latest * tarstream.SECOND)
        name = f"{found.path}/" if found.path and kind == tarstream.DIRECTORY else found.path or "./"
        entry = Entry(name, kind, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid,
                      status.st_size if kind == tarstream.FILE else 0, mtime, found.link,
                      status.st_rdev if kind in DEVICES.values() else 0, found.xattrs)
        inode = status.st_dev, status.st_ino
        if kind != tarstream.DIRECTORY and status.st_nlink > 1:
            if inode in self.first:
                self.write(tarstream.header(entry._replace(kind=tarstream.HARD_LINK, size=0, xattrs=(),
                                                           link=self.first[inode], device=0)))
                return
            self.first[inode] = found.path
        self.write(tarstream.header(entry))
        if kind == tarstream.FILE:
            self._content(found.path, entry.size)

    def _content(self, path: str, size: int) -> None:
        left = size
        for piece in self.tree.content(path):
            self.write(piece[:left])
            left -= len(piece[:left])
        if left:
            raise ContainerError(f"cannot pack {path}", "it became shorter while it was read")
        self.write(bytes(-size % tarstream.BLOCK))

    def end(self) -> Packed:
        self.write(tarstream.END)
        return Packed(f"sha256:{self.sum.hexdigest()}", self.size)


def snapshot(directory: str, out: BinaryIO, latest: int | None = None) -> Packed:
    """Write a whole tree as a layer. ``latest``: seconds since 1970, later times become that.

    Raises OSError, and ContainerError for what a layer cannot hold (a file named ".wh.x").
    """
    with Tree(directory) as tree:
        writer = _Writer(tree, out, latest)
        for found in tree.walk():
            writer.add(found)
        return writer.end()


def changes(upper: str, out: BinaryIO, latest: int | None = None) -> Packed:
    """Write what the upper directory of an overlay says as a layer, deletions and opaque directories too."""
    with Tree(upper) as tree:
        writer = _Writer(tree, out, latest)
        for found in tree.walk():
            if _is_whiteout(tree, found):
                writer.whiteout(found.path)
                continue
            writer.add(found)
            if stat.S_ISDIR(found.status.st_mode) and _note(tree, found.path, "opaque") == b"y":
                writer.write(tarstream.header(Entry(os.path.join(found.path, layers.OPAQUE))))
        return writer.end()


def _is_whiteout(tree: Tree, found: Found) -> bool:
    """In the form that overlayfs makes, or in the other that it reads: an empty file with a note on it."""
    if stat.S_ISCHR(found.status.st_mode):
        return found.status.st_rdev == 0
    return (stat.S_ISREG(found.status.st_mode) and found.status.st_size == 0
            and _note(tree, found.path, "whiteout") is not None)


def _note(tree: Tree, path: str, name: str) -> bytes | None:
    fd = tree.open(path, os.O_PATH)
    try:
        for kind in ("trusted", "user"):
            try:
                return os.getxattr(f"/proc/self/fd/{fd}", f"{kind}.overlay.{name}")
            except OSError:
                continue
        return None
    finally:
        os.close(fd)


def difference(old: str, new: str, out: BinaryIO, latest: int | None = None) -> Packed:
    """Write the layer that makes the tree ``old`` into ``new``: what was added, changed and deleted.

    Contents are compared, not only times. Directories above a change come along, as it alters their times.
    """
    with Tree(old) as before, Tree(new) as after:
        olds = {found.path: found for found in before.walk()}
        news = {found.path: found for found in after.walk()}
        changed = {path for path, found in news.items() if _differs(before, olds.get(path), after, found)}
        _with_their_links(changed, olds, news)
        deleted = {path for path in olds.keys() - news.keys() if path.rpartition("/")[0] in news
                   and stat.S_ISDIR(news[path.rpartition("/")[0]].status.st_mode)}
        touched = changed | {above for path in changed | deleted for above in _above(path)}
        marks: dict[str, list[str]] = {}
        for path in sorted(deleted, key=os.fsencode):
            marks.setdefault(path.rpartition("/")[0], []).append(path)
        writer = _Writer(after, out, latest)
        for path, found in news.items():
            if path in touched:
                writer.add(found)
            for gone in marks.get(path, ()):
                writer.whiteout(gone)
        return writer.end()


def _above(path: str) -> Iterator[str]:
    while path:
        path = path.rpartition("/")[0]
        yield path


def _differs(before: Tree, old: Found | None, after: Tree, new: Found) -> bool:
    if old is None or _identity(old) != _identity(new):
        return True
    if not stat.S_ISREG(new.status.st_mode):
        return False
    pieces = zip(before.content(old.path), after.content(new.path), strict=False)
    return any(one != other for one, other in pieces)  # of files of one size, in pieces of one size


def _identity(found: Found) -> tuple[object, ...]:
    status = found.status
    return (status.st_mode, status.st_uid, status.st_gid, status.st_rdev, status.st_mtime_ns, found.link,
            found.xattrs, status.st_size if stat.S_ISREG(status.st_mode) else 0)


def _with_their_links(changed: set[str], olds: dict[str, Found], news: dict[str, Found]) -> None:
    """Add to ``changed`` all names of a file of which one is in it, or whose names are not what they were."""
    groups_before, groups = _links(olds), _links(news)
    known = set(groups_before.values())
    for path, names in groups.items():
        if not names.isdisjoint(changed) or (len(names) > 1 and names not in known):
            changed |= names
        elif len(names) == 1 and len(groups_before.get(path, names)) > 1:
            changed.add(path)


def _links(tree: dict[str, Found]) -> dict[str, frozenset[str]]:
    """For each file that is no directory: all names that it has in this tree."""
    names: dict[tuple[int, int], set[str]] = {}
    for path, found in tree.items():
        if not stat.S_ISDIR(found.status.st_mode):
            names.setdefault((found.status.st_dev, found.status.st_ino), set()).add(path)
    return {path: frozenset(group) for group in names.values() for path in group}


Pack = Callable[[BinaryIO], Packed]  # any of the three, with its trees filled in
