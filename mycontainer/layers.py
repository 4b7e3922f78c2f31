"""Chapter 4: file systems in layers.

A hundred containers of one image need no hundred copies of it. overlayfs shows a stack of directories as one:
what is read comes from the topmost layer that has it, changes go to a directory above, the *upper*. A changed
file is copied up first, a deleted one leaves a mark, a *whiteout*. An image is a stack, each layer a tar.

Sources: docs.kernel.org/filesystems/overlayfs.html; OCI image-spec, layer.md and config.md ("ChainID").
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from mycontainer import namespaces, paths, syscalls
from mycontainer.errors import ContainerError

WHITEOUT, OPAQUE = ".wh.", ".wh..wh..opq"  # in a tar: "this name is deleted", "nothing shows from below"
ESCAPED = str.maketrans({letter: f"\\{letter}" for letter in "\\:,"})  # they mean something in options
NO_NAMES = (WHITEOUT, f"{WHITEOUT}.", f"{WHITEOUT}..")  # whiteouts of nothing, the directory, the one above


def stack(layers: Sequence[str], root: str, upper: str | None = None, work: str | None = None) -> None:
    """Mount ``layers``, directories with the lowest first, as one tree at ``root``.

    Changes go to ``upper``; ``work`` is for the kernel's own use (`make_upper` makes both). Without them the
    tree is read-only, and needs two layers. 500 at most; over a page: Linux 6.8, and no path over 255 bytes.
    """
    options = {key: path.translate(ESCAPED) for key, path in (("upperdir", upper), ("workdir", work)) if path}
    # A directory that is renamed shall be copied: a mere note "was so-and-so" is no layer to send anybody.
    options |= {"redirect_dir": "nofollow"} if _is_host() else {"redirect_dir": "nofollow", "userxattr": ""}
    line = ",".join([f"lowerdir={':'.join(layer.translate(ESCAPED) for layer in reversed(layers))}",
                     *(f"{key}={value}" if value else key for key, value in options.items())])
    if len(os.fsencode(line)) < 4096:  # all that mount(2) takes, the zero at the end included
        syscalls.mount("overlay", root, "overlay", 0, line)
    else:
        _stack_one_by_one([*(("lowerdir+", layer) for layer in reversed(layers)), *options.items()], root)


def _stack_one_by_one(options: Sequence[tuple[str, str]], root: str) -> None:
    """The same with the newer calls, which take the options one at a time, and so any number of them."""
    with _held(syscalls.fsopen("overlay")) as asked:
        for key, value in options:
            kind = syscalls.FSCONFIG_SET_STRING if value else syscalls.FSCONFIG_SET_FLAG
            syscalls.fsconfig(asked, kind, key, value or None)
        syscalls.fsconfig(asked, syscalls.FSCONFIG_CMD_CREATE)
        with _held(syscalls.fsmount(asked)) as made:
            syscalls.move_mount(made, "", syscalls.AT_FDCWD, root, syscalls.MOVE_MOUNT_F_EMPTY_PATH)


def _is_host() -> bool:
    """Are we in the host's user namespace? Only there may notes be kept in trusted.* attributes."""
    return namespaces.own_ids() == [(0, 0, 4294967295)]


def make_upper(directory: str, size: str = "64m") -> tuple[str, str]:
    """Make an upper and its work directory in ``directory``, and return their paths.

    The kernel refuses an upper on an overlay, and inside of Docker or a Codespace everything is on one:
    there a tmpfs of ``size`` is mounted first, and what is written is gone with it (rootless: Linux 6.6).
    """
    if file_system(directory) == "overlay":
        syscalls.mount("tmpfs", directory, "tmpfs", syscalls.MS_NODEV, f"size={size},mode=755")
    for name in ("upper", "work"):
        os.mkdir(f"{directory}/{name}", 0o755)
    return f"{directory}/upper", f"{directory}/work"


def file_system(path: str) -> str:
    """What kind of file system ``path`` lies on: "ext4", "tmpfs", "overlay". man 5 proc_pid_mountinfo."""
    device = os.stat(path).st_dev
    with open("/proc/self/mountinfo") as mounts:
        kinds = {row.split()[2]: row.rpartition(" - ")[2].split()[0] for row in mounts}
    return kinds.get(f"{os.major(device)}:{os.minor(device)}", "unknown")


def is_whiteout(path: str) -> bool:
    """Does ``path``, in an upper, stand for a deleted file? overlayfs makes it a device 0:0."""
    return stat.S_ISCHR(os.lstat(path).st_mode) and os.lstat(path).st_rdev == 0


def is_opaque(path: str) -> bool:
    """Does the directory ``path``, in an upper, hide what is below? Yes, if it was deleted and made anew."""
    for kind in ("trusted", "user"):
        with suppress(OSError):  # there is no such note, or it is not for us to see
            return os.getxattr(path, f"{kind}.overlay.opaque", follow_symlinks=False) == b"y"
    return False


def diff(upper: str, archive: str, latest: int | None = None) -> str:
    """Write what ``upper`` holds, deletions too, to the tar ``archive``; returns its digest, the DiffID.

    Same changes, same bytes: names in order, owners as numbers, times in whole seconds and none later than
    ``latest`` (seconds since 1970). https://reproducible-builds.org/docs/archives/
    """
    with tarfile.open(archive, "w") as tar:
        _add(tar, upper, "", latest)
    return digest(archive)


def _add(tar: tarfile.TarFile, upper: str, above: str, latest: int | None) -> None:
    for name in sorted(os.listdir(os.path.join(upper, above))):  # os.walk would pass over what it cannot read
        path = os.path.join(upper, above, name)
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            continue  # a tar has no kind for it
        entry = tarfile.TarInfo(os.path.join(above, WHITEOUT + name)) if is_whiteout(path) \
            else tar.gettarinfo(path, os.path.join(above, name))
        entry.uname = entry.gname = ""
        entry.mtime = int(entry.mtime) if latest is None else min(int(entry.mtime), latest)
        with open(path if entry.size else os.devnull, "rb") as content:
            tar.addfile(entry, content)
        if entry.isdir():
            if is_opaque(path):
                tar.addfile(tarfile.TarInfo(f"{entry.name}/{OPAQUE}"))
            _add(tar, upper, entry.name, latest)


def apply(archive: str, directory: str, as_layer: bool = False) -> None:
    """Unpack a layer over what ``directory`` holds: add, replace, and delete what is marked as deleted.

    With ``as_layer`` the marks stay, as overlayfs has them: an empty ``directory`` is one to `stack`. The
    tar is a stranger's: a name like ``../x`` is a ContainerError, ``x/y`` after a symlink ``x -> /etc`` stays
    inside. Owners are kept as far as we may; images/apply.py keeps the times of directories, too.
    """
    top = os.path.realpath(directory)
    with tarfile.open(archive) as tar, _held(os.open(top, os.O_PATH | os.O_DIRECTORY)) as root:
        tar.extraction_filter = lambda entry, _: entry  # names are our business, see below
        # Marks first, wherever they stand: they mean the layers below, and where those have a directory.
        for entry in sorted(tar, key=lambda entry: not os.path.basename(entry.name).startswith(WHITEOUT)):
            above, name = os.path.split(os.path.normpath(f"/{entry.name}"))
            if ".." in entry.name.split("/") or name in NO_NAMES or not (name or entry.isdir()):
                raise ContainerError(f"cannot unpack {entry.name}", "this name leads out of the layer")
            is_mark, entry.name, place = name.startswith(WHITEOUT), name, os.path.normpath(f"{top}/{above}")
            if not is_mark or as_layer or (os.path.isdir(place) and place == os.path.realpath(place)):
                with _held(paths.make_directories(root, above)) as parent:
                    held = f"/proc/self/fd/{parent}"  # nobody can swap that
                    _hide(held, name, as_layer) if is_mark else _unpack(tar, entry, root, held)


def _hide(above: str, mark: str, as_layer: bool) -> None:
    """Delete what ``mark`` names in the directory ``above``, or mark it as overlayfs does."""
    path = os.path.join(above, mark.removeprefix(WHITEOUT))
    for old in [os.path.join(above, name) for name in os.listdir(above)] if mark == OPAQUE else [path]:
        _remove(old)
    if as_layer and mark == OPAQUE:
        os.setxattr(above, f"{'trusted' if _is_host() else 'user'}.overlay.opaque", b"y")
    elif as_layer:
        os.mknod(path, stat.S_IFCHR)  # device 0:0


def _unpack(tar: tarfile.TarFile, entry: tarfile.TarInfo, root: int, above: str) -> None:
    path = os.path.join(above, entry.name)
    if entry.islnk():
        with _held(paths.open_in_root(root, entry.linkname, os.O_PATH | os.O_NOFOLLOW)) as first:
            _remove(path)
            os.link(f"/proc/self/fd/{first}", path, src_dir_fd=root)  # any dir_fd makes it follow this link
        return
    anew = entry.isdir() and os.path.lexists(path) and is_whiteout(path)
    if not (entry.isdir() and os.path.isdir(path) and not os.path.islink(path)):
        _remove(path)  # only two directories become one
    tar.extract(entry, above, numeric_owner=True)
    if not entry.issym():
        os.chmod(path, entry.mode)  # again, for without a right to the owner extract leaves out the rest
    os.utime(path, (entry.mtime, entry.mtime), follow_symlinks=False)
    if anew:
        _hide(path, OPAQUE, as_layer=True)


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)


@contextmanager
def _held(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def digest(path: str) -> str:
    """A file's name by its content: "sha256:" and 64 hexadecimal digits. OCI image-spec, descriptor.md."""
    with open(path, "rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


def chain_id(diff_ids: Sequence[str]) -> str:
    """The name of a stack, from the DiffIDs of its layers, the lowest first: each counts, and the order."""
    chain = diff_ids[0]
    for diff_id in diff_ids[1:]:
        chain = f"sha256:{hashlib.sha256(f'{chain} {diff_id}'.encode()).hexdigest()}"
    return chain
