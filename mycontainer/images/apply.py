"""From the entries of a layer's tar to files, whatever the tar says.

The tar is a stranger's. Its names may hold ``..``; its symlinks may point to /etc, with a later entry behind
them; its hard links may name a file of ours; and where somebody else can write to the tree, a directory may
be swapped for a symlink between two of our calls. So no path is ever walked by name from the outside: the
kernel walks inside the root (`paths.open_in_root`) and gives a descriptor, and each file is made by its last
name relative to that, never following what is there. What is new has no set-user-id bit and no owner but us
until it is whole.

What cannot be kept is decided once, in `Rights`: as an ordinary user everything belongs to us; in a user
namespace owners are translated by its map, and devices are left out, as Podman does it.

Sources: OCI image-spec, layer.md; openat2(2); overlayfs.html, "whiteouts and opaque directories".
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from mycontainer import layers, namespaces, paths
from mycontainer.images import tarstream
from mycontainer.images.tarstream import BadTar, Entry

OPEN_DIRECTORIES = 64  # descriptors that we keep at hand
NOT_FOR_LAYERS = (".overlay.", "security.selinux", "system.nfs4_acl")  # overlayfs' and the host's own notes
DIRECTORY = os.O_PATH | os.O_DIRECTORY
OLD_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Rights:
    """What this process may give to files: any owner, devices, trusted attributes."""

    def __init__(self) -> None:
        ids = namespaces.own_ids()
        root = os.geteuid() == 0
        self.host = root and layers._is_host()
        self.owners = root and sum(count for _, _, count in ids) > 1
        self.notes = "trusted.overlay." if self.host else "user.overlay."


class Directory:
    """A directory of the tree that we hold open."""

    def __init__(self, fd: int) -> None:
        self.fd, self.inode = fd, os.fstat(fd).st_ino


class Applier:
    """Puts entries into the directory ``root`` (a descriptor, which stays the caller's).

    With ``as_layer`` whiteouts become overlayfs' marks, else they delete what is there. `add` each entry,
    then `finish`; `close` in any case. ``skipped`` then lists the devices that we had no right to make.
    """

    def __init__(self, root: int, as_layer: bool = True) -> None:
        self.root, self.as_layer, self.rights = root, as_layer, Rights()
        self.open: OrderedDict[str, Directory] = OrderedDict()
        self.made: set[tuple[int, str]] = set()  # (inode of the directory, name): what this layer brought
        self.directories: dict[str, Entry] = {}
        self.skipped: list[str] = []

    def add(self, entry: Entry, content: Iterator[memoryview]) -> None:
        """Make, or delete, what ``entry`` describes. Raises BadTar, or OSError as the kernel reports it."""
        above, name = split(entry.name)
        if not name:
            if entry.kind != tarstream.DIRECTORY:
                raise BadTar("the root of the layer is not a directory")
            self.directories[""] = entry
            return
        parent = self._directory(above)
        if name.startswith(layers.WHITEOUT):
            self._delete(parent, name)
            return
        if entry.kind == tarstream.DIRECTORY:
            self._make_directory(parent, name)
            self.directories[f"{above}/{name}" if above else name] = entry
        elif entry.kind == tarstream.FILE:
            self._make_file(parent, name, entry, content)
        elif entry.kind == tarstream.HARD_LINK:
            self._make_link(parent, name, entry)
        else:
            self._make_special(parent, name, entry)
        self.made.add((parent.inode, name))

    def finish(self) -> None:
        """Give the directories their owners, modes and times, the deepest first: all is in them now."""
        self.close()
        for path in sorted(self.directories, reverse=True):  # "a/b" comes after "a"
            with suppress(FileNotFoundError, NotADirectoryError):  # replaced by a later entry
                fd = paths.open_in_root(self.root, path or "/", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
                try:
                    self._give(fd, self.directories[path])
                finally:
                    os.close(fd)

    def close(self) -> None:
        """Let go of all descriptors."""
        for directory in self.open.values():
            os.close(directory.fd)
        self.open.clear()

    # ---- where

    def _directory(self, path: str) -> Directory:
        """The directory ``path`` of the tree, made if it is not there, held open."""
        if found := self.open.get(path):
            self.open.move_to_end(path)
            return found
        try:
            fd = paths.open_in_root(self.root, path or "/", DIRECTORY)
        except FileNotFoundError:
            fd = self._make_missing(path)
        found = self.open[path] = Directory(fd)
        if len(self.open) > OPEN_DIRECTORIES:
            os.close(self.open.popitem(last=False)[1].fd)
        return found

    def _make_missing(self, path: str) -> int:
        """mkdir -p. A whiteout of ours in the way means: deleted, and made anew."""
        above, _, name = path.rpartition("/")
        parent = self._directory(above)
        with suppress(FileExistsError):
            os.mkdir(name, 0o755, dir_fd=parent.fd)
            self.made.add((parent.inode, name))
        return paths.open_in_root(self.root, path, DIRECTORY)

    # ---- deleting

    def _delete(self, parent: Directory, mark: str) -> None:
        name = mark.removeprefix(layers.WHITEOUT)
        if mark == layers.OPAQUE:
            self._hide_below(parent)
        elif name.startswith(layers.WHITEOUT):
            pass  # .wh..wh.plnk and the like: aufs' own, of no meaning here
        elif name in ("", ".", ".."):
            raise BadTar(f"a whiteout of nothing, or of what is outside: {mark!r}")
        elif (parent.inode, name) not in self.made:  # a mark means the layers below, not its own
            self._remove(parent, name)
            if self.as_layer:
                os.mknod(name, stat.S_IFCHR, 0, dir_fd=parent.fd)
        elif self.as_layer:
            with suppress(NotADirectoryError):
                self._mark_opaque(os.open(name, OLD_DIRECTORY, dir_fd=parent.fd))

    def _hide_below(self, parent: Directory) -> None:
        fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=parent.fd)
        if self.as_layer:
            self._mark_opaque(fd)
            return
        try:
            for name in os.listdir(fd):
                if (parent.inode, name) not in self.made:
                    self._remove(parent, name)
        finally:
            os.close(fd)

    def _mark_opaque(self, fd: int) -> None:
        try:
            os.setxattr(fd, f"{self.rights.notes}opaque", b"y")
        finally:
            os.close(fd)

    def _remove(self, parent: Directory, name: str) -> bool:
        """Remove what is there, a whole tree of it if need be. Returns whether it was a whiteout."""
        try:
            found = os.stat(name, dir_fd=parent.fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        if stat.S_ISDIR(found.st_mode):
            self._forget_below(parent)
            shutil.rmtree(name, dir_fd=parent.fd)
        else:
            os.unlink(name, dir_fd=parent.fd)
        self.made.discard((parent.inode, name))
        return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0

    def _forget_below(self, parent: Directory) -> None:
        """Close all directories but this one: some may lie in what is removed."""
        for path, directory in list(self.open.items()):
            if directory is not parent:
                os.close(self.open.pop(path).fd)

    # ---- making

    def _make_directory(self, parent: Directory, name: str) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=parent.fd)
            return
        except FileExistsError:
            found = os.stat(name, dir_fd=parent.fd, follow_symlinks=False)
        if stat.S_ISDIR(found.st_mode):
            return
        was_whiteout = self._remove(parent, name)
        os.mkdir(name, 0o700, dir_fd=parent.fd)
        if was_whiteout and self.as_layer:
            self._mark_opaque(os.open(name, OLD_DIRECTORY, dir_fd=parent.fd))

    def _make_file(self, parent: Directory, name: str, entry: Entry, content: Iterator[memoryview]) -> None:
        try:
            fd = os.open(name, NEW_FILE, 0o600, dir_fd=parent.fd)
        except FileExistsError:
            self._remove(parent, name)
            fd = os.open(name, NEW_FILE, 0o600, dir_fd=parent.fd)
        try:
            if entry.extents is None:
                for piece in content:
                    write_all(fd, piece)
            else:
                write_sparse(fd, entry, content)
            self._give(fd, entry)
        finally:
            os.close(fd)

    def _make_link(self, parent: Directory, name: str, entry: Entry) -> None:
        above, last = split(entry.link)
        if not last:
            raise BadTar(f"{entry.name!r} is a hard link to the root")
        try:
            first = paths.open_in_root(self.root, f"{above}/{last}", os.O_PATH | os.O_NOFOLLOW)
        except (FileNotFoundError, NotADirectoryError):
            raise BadTar(f"{entry.name!r} links to {entry.link!r}, which is not in this layer") from None
        try:
            if stat.S_ISDIR(os.fstat(first).st_mode):
                raise BadTar(f"{entry.name!r} is a hard link to a directory")
            if os.path.samestat(os.fstat(first), self._stat(parent, name) or os.fstat(self.root)):
                return  # that very file already
            self._remove(parent, name)
            # The kernel follows /proc/self/fd/N to the file that we hold, whatever its name leads to by now.
            os.link(f"/proc/self/fd/{first}", name, src_dir_fd=self.root, dst_dir_fd=parent.fd)
        finally:
            os.close(first)

    def _stat(self, parent: Directory, name: str) -> os.stat_result | None:
        try:
            return os.stat(name, dir_fd=parent.fd, follow_symlinks=False)
        except FileNotFoundError:
            return None

    def _make_special(self, parent: Directory, name: str, entry: Entry) -> None:
        """A symlink, a FIFO or a device."""
        if entry.kind == tarstream.SYMLINK and not entry.link:
            raise BadTar(f"{entry.name!r} is a symlink to nowhere")
        if entry.kind == tarstream.CHARACTER and entry.device == 0:
            raise BadTar(f"{entry.name!r} is a device 0:0, which is a whiteout to overlayfs")
        self._remove(parent, name)
        if entry.kind == tarstream.SYMLINK:
            os.symlink(entry.link, name, dir_fd=parent.fd)
        elif entry.kind == tarstream.FIFO:
            os.mkfifo(name, 0o600, dir_fd=parent.fd)
        elif entry.kind in (tarstream.CHARACTER, tarstream.BLOCK_DEVICE):
            if not self._make_device(parent, name, entry):
                return
        else:
            raise BadTar(f"{entry.name!r} is of kind {entry.kind!r}, which no layer has")
        fd = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=parent.fd)
        try:
            self._give(fd, entry)
        finally:
            os.close(fd)

    def _make_device(self, parent: Directory, name: str, entry: Entry) -> bool:
        kind = stat.S_IFCHR if entry.kind == tarstream.CHARACTER else stat.S_IFBLK
        with suppress(PermissionError):
            if self.rights.host:
                os.mknod(name, kind | 0o600, entry.device, dir_fd=parent.fd)
                return True
        self.skipped.append(entry.name)
        return False

    # ---- owner, attributes, mode, times: in this order, as each may change the one before

    def _give(self, fd: int, entry: Entry) -> None:
        """Give an open file what ``entry`` says. What is open as a mere place (O_PATH) by its magic link."""
        open_file = entry.kind in (tarstream.FILE, tarstream.DIRECTORY)
        target: int | str = fd if open_file else f"/proc/self/fd/{fd}"
        if self.rights.owners:
            self._set_owner(target, entry)
        if entry.kind != tarstream.SYMLINK:  # it has no mode, and hardly an attribute
            for key, value in entry.xattrs:
                if not any(word in key for word in NOT_FOR_LAYERS):
                    self._set_attribute(target, key, value)
            os.chmod(target, entry.mode)
        os.utime(target, ns=(entry.mtime, entry.mtime))

    def _set_owner(self, target: int | str, entry: Entry) -> None:
        try:
            os.chown(target, entry.uid, entry.gid)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOVERFLOW):
                raise
            raise BadTar(f"{entry.name!r} belongs to {entry.uid}:{entry.gid}, ids that this user namespace "
                         "does not have") from error

    def _set_attribute(self, target: int | str, key: str, value: bytes) -> None:
        try:
            os.setxattr(target, key, value)
        except OSError as error:
            allowed = {errno.ENOTSUP} if self.rights.host else {errno.ENOTSUP, errno.EPERM, errno.EINVAL}
            if error.errno not in allowed:
                raise


def split(name: str) -> tuple[str, str]:
    """(directory, last name) of an entry's name, without "./"; ("", "") is the root. Raises BadTar."""
    if name.startswith("/") and name.strip("/"):
        raise BadTar(f"{name[:200]!r} is an absolute name")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise BadTar(f"{name[:200]!r} leads out of the layer")
    if "\0" in name:
        raise BadTar("a name with a zero byte in it")
    return "/".join(parts[:-1]), parts[-1] if parts else ""


def write_all(fd: int, piece: memoryview) -> None:
    """write(2), until all is written."""
    while piece:
        piece = piece[os.write(fd, piece):]


def write_sparse(fd: int, entry: Entry, content: Iterator[memoryview]) -> None:
    """Write a file with holes: the content goes to ``entry.extents``, and the rest takes no space."""
    rest = memoryview(b"")
    for where, length in entry.extents or ():
        os.lseek(fd, where, os.SEEK_SET)
        while length:
            rest = rest or next(content)
            write_all(fd, rest[:length])
            length, rest = length - len(rest[:length]), rest[length:]
    os.truncate(fd, entry.size)


@contextmanager
def applying(root: int, as_layer: bool = True) -> Iterator[Applier]:
    """An Applier for the block; at its good end the directories get their attributes."""
    applier = Applier(root, as_layer)
    try:
        yield applier
        applier.finish()
    finally:
        applier.close()
