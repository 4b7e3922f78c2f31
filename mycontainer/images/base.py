"""The base image: a small root file system from what this machine already has, no network needed.

``python -m mycontainer.images.base`` builds it. The image is a tar, the same to the last byte whoever
builds it, whenever and wherever: sorted names, owner 0:0, one fixed time, modes given here and not by a
umask. Only then can two people compare the digests of their images.

It holds one program: busybox, linked statically, which is sh, ls, ps and some 260 more, by the name under
which it is called. Without a static busybox we take the machine's own shell and tools, and with them the
libraries and the loader that they need: a dynamic program alone cannot be executed in an empty root.

Sources: elf(5), ld.so(8), hier(7), os-release(5), and https://reproducible-builds.org/specs/source-date-epoch/
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import struct
import subprocess
import sys
import tarfile
import tempfile
from typing import NamedTuple

from mycontainer import paths
from mycontainer.errors import ContainerError, explain

NAME = "busybox"
BIN_DIRECTORIES = ("/bin", "/usr/bin", "/sbin", "/usr/sbin")
# Alpine calls the static one busybox.static; Ubuntu's /bin/busybox may be the dynamic one of its initramfs.
BUSYBOX_NAMES = ("busybox", "busybox.static", "busybox-static")
HOST_TOOLS = [
    "cat", "chmod", "chown", "cp", "date", "dd", "df", "echo", "env", "false", "grep", "head", "hostname",
    "id", "kill", "ln", "ls", "mkdir", "mknod", "mount", "mv", "nproc", "ps", "pwd", "readlink", "rm",
    "rmdir", "seq", "sh", "sleep", "sort", "stat", "tail", "test", "touch", "tr", "true", "umount", "uname",
    "wc", "whoami",
]


class Entry(NamedTuple):
    """One file of the image; the kind of file is in ``mode``, as stat(2) has it."""

    mode: int
    content: bytes = b""  # of a symlink: where it points to


def directory(permissions: int = 0o755) -> Entry:
    """A directory."""
    return Entry(stat.S_IFDIR | permissions)


def file(content: str | bytes, permissions: int = 0o644) -> Entry:
    """A regular file."""
    return Entry(stat.S_IFREG | permissions, content.encode() if isinstance(content, str) else content)


def symlink(target: str) -> Entry:
    """A symbolic link."""
    return Entry(stat.S_IFLNK | 0o777, os.fsencode(target))


Tree = dict[str, Entry]  # path without a leading slash -> what is there

DIRECTORIES: Tree = {
    **dict.fromkeys(["bin", "dev", "etc", "home", "lib", "mnt", "opt", "proc", "run", "sbin", "srv", "sys",
                     "usr", "usr/bin", "usr/lib", "usr/sbin", "var", "var/cache", "var/lib", "var/log",
                     "var/spool"], directory()),
    "root": directory(0o700),
    "tmp": directory(0o1777),
    "var/tmp": directory(0o1777),
    "var/run": symlink("../run"),
}

CONFIGURATION: Tree = {
    "etc/group": file("root:x:0:\ndaemon:x:1:\ntty:x:5:\nnogroup:x:65534:\n"),
    # Without localhost in here, servers ask a name server for it, and wait for its answer for seconds.
    "etc/hosts": file("127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"),
    "etc/hostname": file("container\n"),
    "etc/nsswitch.conf": file("passwd: files\ngroup: files\nhosts: files dns\n"),
    "etc/os-release": file('NAME="mycontainer base image"\nID=mycontainer\nVERSION_ID=1\n'
                           'PRETTY_NAME="mycontainer base image 1"\n'),
    "etc/passwd": file("root:x:0:0:root:/root:/bin/sh\n"
                       "daemon:x:1:1:daemon:/:/bin/false\n"
                       "nobody:x:65534:65534:nobody:/:/bin/false\n"),
    "etc/profile": file("export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"
                        "export PS1='\\u@\\h:\\w\\$ '\numask 022\n"),
    # The host's own file would name a server that a container cannot reach.
    "etc/resolv.conf": file("# No network, hence no name server.\noptions timeout:1 attempts:1\n"),
    "etc/shells": file("/bin/sh\n"),
}


def loader_of(program: str) -> str:
    """The dynamic loader that an ELF file asks for (its PT_INTERP), or "" if it is linked statically.

    Raises ValueError for a file that is not ELF. See elf(5).
    """
    with open(program, "rb") as stream:
        elf = stream.read()
    if elf[:4] != b"\x7fELF" or elf[5] not in (1, 2):
        raise ValueError(f"{program} is not an ELF file")
    order, wide = "<>"[elf[5] - 1], elf[4] == 2
    table, size, count = (struct.unpack_from(order + "Q14xHH", elf, 32) if wide
                          else struct.unpack_from(order + "I10xHH", elf, 28))
    for number in range(count):
        if wide:
            kind, start, length = struct.unpack_from(order + "I4xQ16xQ", elf, table + number * size)
        else:
            kind, start, length = struct.unpack_from(order + "II8xI", elf, table + number * size)
        if kind == 3:  # PT_INTERP
            return os.fsdecode(elf[start:start + length].rstrip(b"\0"))
    return ""


def find_program(name: str) -> str | None:
    """The path of a program of this machine, whatever $PATH says (a user's often lacks sbin)."""
    candidates = (os.path.join(where, name) for where in BIN_DIRECTORIES)
    return next((path for path in candidates if os.access(path, os.X_OK)), None)


def find_static_busybox() -> str | None:
    """The path of this machine's busybox, if there is one that runs without any library."""
    for path in filter(None, map(find_program, BUSYBOX_NAMES)):
        try:
            if loader_of(path) == "":
                return path
        except (OSError, ValueError, struct.error, IndexError):
            continue  # unreadable, or a script
    return None


def busybox_tree(busybox: str) -> Tree:
    """busybox, and a symlink for each name by which it can be called."""
    tree = {"bin/busybox": file(_read(busybox), 0o755)}
    for path in _ask(busybox, "--list-full").split():
        above = os.path.dirname(path)
        if above in DIRECTORIES and path not in tree:  # not "linuxrc", which only an initramfs wants
            tree[path] = symlink(os.path.relpath("bin/busybox", above))
    return tree


def libraries_of(program: str) -> list[str]:
    """The libraries that a program needs, and its loader: paths of this machine.

    The loader itself is asked, as ldd(1) does: only it knows all its search rules (RUNPATH, its cache,
    hardware variants). It maps the program and does not run it. The environment is empty, for
    LD_LIBRARY_PATH would lead to another answer.
    """
    loader = loader_of(program)
    if not loader:
        return []
    listing = _ask(loader, "--list", program).splitlines()
    found = [line.split("=>")[-1].split("(")[0].strip() for line in listing]
    return [loader, *(path for path in found if path.startswith("/"))]  # without the vdso, which is no file


def host_tree() -> Tree:
    """This machine's own shell and tools, each in /bin, with libraries and loader at their own paths."""
    tree: Tree = {}
    for name in HOST_TOOLS:
        path = find_program(name)
        if path is None:
            continue
        try:
            libraries = libraries_of(path)
        except ValueError:
            continue  # a script: it would need its interpreter as well
        tree[f"bin/{name}"] = file(_read(path), 0o755)
        for library in libraries:
            tree[library.lstrip("/")] = file(_read(library), 0o755)
    if "bin/sh" not in tree:
        raise ContainerError("cannot build the base image", "this machine has no busybox and no /bin/sh",
                             "Install the package busybox-static (Debian, Ubuntu) or busybox.")
    return tree


def _ask(*argv: str) -> str:
    """What a program prints, in an empty environment. Raises ContainerError if it fails."""
    try:
        return subprocess.run(argv, env={}, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise ContainerError("cannot build the base image", f"{' '.join(argv)}: {error}") from error


def _read(path: str) -> bytes:
    with open(path, "rb") as stream:
        return stream.read()


def with_parents(tree: Tree) -> Tree:
    """The tree in the order of its names, and above each file the directories that it lacks."""
    parents: Tree = {}
    for path in tree:
        while path := os.path.dirname(path):
            parents[path] = directory()
    return dict(sorted({**parents, **tree}.items()))


def archive(tree: Tree, mtime: int) -> bytes:
    """The tree as an uncompressed ustar archive: no names of users, no host's inode order, no clock."""
    kinds = {stat.S_IFDIR: tarfile.DIRTYPE, stat.S_IFREG: tarfile.REGTYPE, stat.S_IFLNK: tarfile.SYMTYPE}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path, entry in with_parents(tree).items():
            header = tarfile.TarInfo(path)
            header.type, header.mode = kinds[stat.S_IFMT(entry.mode)], stat.S_IMODE(entry.mode)
            header.mtime = mtime
            if header.type == tarfile.SYMTYPE:
                header.linkname = os.fsdecode(entry.content)
            else:
                header.size = len(entry.content)
            tar.addfile(header, io.BytesIO(entry.content))
    return buffer.getvalue()


def contents() -> Tree:
    """All files of the base image."""
    busybox = find_static_busybox()
    programs = busybox_tree(busybox) if busybox else host_tree()
    return {**DIRECTORIES, **CONFIGURATION, **programs}


def build(destination: str | os.PathLike[str] | None = None) -> str:
    """Make the base image and return its path; a file that is already right is left alone.

    ``destination`` is the tar's path, by default images/busybox.tar in `paths.data_dir`. The file is
    written beside it and renamed, so that nobody ever reads half of it. $SOURCE_DATE_EPOCH (seconds
    since 1970) is the time of all files, by default 0. Raises ContainerError.
    """
    path = os.fspath(destination or os.path.join(paths.data_dir(), "images", f"{NAME}.tar"))
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "") or "0"
    if not epoch.isascii() or not epoch.isdecimal():
        raise ContainerError("cannot build the base image", f"SOURCE_DATE_EPOCH is {epoch!r}, not seconds")
    image = archive(contents(), int(epoch))
    try:
        if not _holds(path, image):
            _replace(path, image)
    except OSError as error:
        hint = "Set MYCONTAINER_HOME to a directory that you can write to." if destination is None else ""
        raise explain(f"cannot write the base image to {path}", error, hint) from error
    return path


def _holds(path: str, content: bytes) -> bool:
    try:
        return _read(path) == content
    except FileNotFoundError:
        return False


def _replace(path: str, content: bytes) -> None:
    above = os.path.dirname(os.path.abspath(path))
    _make_readable_directories(above)
    descriptor, beside = tempfile.mkstemp(prefix=f".{os.path.basename(path)}.", dir=above)
    try:
        with open(descriptor, "wb") as stream:
            stream.write(content)
            os.fchmod(descriptor, 0o644)  # whatever the umask: a lab reads it under another user id
            stream.flush()
            os.fsync(descriptor)
        os.rename(beside, path)
    except BaseException:
        os.unlink(beside)
        raise


def _make_readable_directories(path: str) -> None:
    if not os.path.isdir(path):
        _make_readable_directories(os.path.dirname(path))
        os.mkdir(path)
        os.chmod(path, 0o755)


def main() -> int:
    """Build into the data directory; print the image's name, digest, size and path."""
    try:
        path = build()
    except ContainerError as error:
        print(f"mycontainer: {error}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return error.exit_code
    image = _read(path)
    print(f"{NAME}:latest  sha256:{hashlib.sha256(image).hexdigest()}  {len(image)} bytes  {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
