"""From an image's tar to the files of a root file system.

Every start of a container unpacks its base image afresh, so this is on the way of every start, and a small
reader of our own pays: 4 ms for busybox, where tarfile takes 33 (its import alone 10) and a tar(1) in a
process of its own 9. It reads what `mycontainer.images.base` writes, directories, files and symlinks in the
ustar format, and refuses all else, loudly.

A tar is a list of names with contents, and nothing keeps the names inside of the directory that we unpack
into: ``../../etc/passwd``, ``/etc/passwd``, or ``x/passwd`` after a symlink ``x -> /etc``. So each name must
lie in a directory that this very tar has made before: then no symlink, and nothing outside, is ever walked.

Sources: tar(5), "POSIX ustar Archives"; CVE-2007-4559 and "zip slip" for what happens otherwise.
"""

from __future__ import annotations

import os

from mycontainer.errors import ContainerError

BLOCK = 512
FILE, OLD_FILE, SYMLINK, DIRECTORY = b"0", b"\0", b"2", b"5"


def unpack(archive: str | os.PathLike[str] | bytes, directory: str | os.PathLike[str]) -> None:
    """Unpack a tar (its path, or its bytes) into the empty ``directory``: names, modes, contents, symlinks.

    All files belong to whoever unpacks (a container's root unpacks its own image, whatever its id map),
    and are new. Raises ContainerError for a tar that is damaged, names a file outside of ``directory``,
    or holds something else than files, directories and symlinks; and OSError as the kernel reports it.
    """
    tar = memoryview(archive if isinstance(archive, bytes) else _read(archive))
    root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _unpack(tar, root)
    except (ValueError, IndexError) as error:
        name = "the image" if isinstance(archive, bytes) else os.fspath(archive)
        raise ContainerError(f"cannot unpack {name}", str(error),
                             "Build it again: python -m mycontainer.images.base") from error
    finally:
        os.close(root)


def _read(path: str | os.PathLike[str]) -> bytes:
    with open(path, "rb") as stream:
        return stream.read()


def _unpack(tar: memoryview, root: int) -> None:
    made = {b""}  # the directories that we have made; b"" is the root
    position = 0
    while any(header := bytes(tar[position:position + BLOCK])):
        name, mode, size, kind, link = _parse(header)
        position += BLOCK
        if os.path.dirname(name) not in made or os.path.basename(name) in (b"", b".", b".."):
            raise ValueError(f"{os.fsdecode(name)!r} is not in a directory of this image")
        if kind == DIRECTORY:
            os.mkdir(name, dir_fd=root)
            os.chmod(name, mode, dir_fd=root)  # mkdir(2) would take the umask off
            made.add(name)
        elif kind == SYMLINK:
            os.symlink(link, name, dir_fd=root)
        elif kind in (FILE, OLD_FILE):
            content = tar[position:position + size]
            if len(content) < size:
                raise ValueError("the file ends in the middle of an entry")
            _write(root, name, mode, content)
            position += -(-size // BLOCK) * BLOCK
        else:
            raise ValueError(f"{os.fsdecode(name)!r} is of kind {kind!r}, which base images do not have")


def _parse(header: bytes) -> tuple[bytes, int, int, bytes, bytes]:
    """Name, mode, size, kind and link target of an entry."""
    if len(header) < BLOCK or header[257:262] != b"ustar":
        raise ValueError("not a tar file in the ustar format, or one cut short")
    if sum(header) - sum(header[148:156]) + 8 * ord(" ") != _octal(header[148:156]):
        raise ValueError("an entry is damaged (its checksum does not fit)")
    name, prefix = _text(header[:100]), _text(header[345:500])
    name = (prefix + b"/" + name if prefix else name).removesuffix(b"/")
    mode, size = _octal(header[100:108]) & 0o7777, _octal(header[124:136])
    return name, mode, size, header[156:157], _text(header[157:257])


def _text(field: bytes) -> bytes:
    return field.split(b"\0", 1)[0]


def _octal(field: bytes) -> int:
    digits = field.strip(b" \0")
    if digits.strip(b"01234567"):  # int() would take "-1", "1_0" and "0o17"
        raise ValueError(f"an entry is damaged ({digits!r} is no octal number)")
    return int(digits, 8)


def _write(root: int, name: bytes, mode: int, content: memoryview) -> None:
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, dir_fd=root)
    try:
        while content:
            content = content[os.write(descriptor, content):]
        os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)
