"""Chapter 4: file systems in layers.

A hundred containers of one image do not need a hundred copies of it. overlayfs shows a stack of directories
as one: what is read comes from the topmost layer that has it, what is written goes to a directory above
them all, the *upper*. A file that is changed is copied up first; a file that is deleted leaves a mark there,
a *whiteout*, for the layers below are never touched. An image is such a stack, each layer sent as a tar.

Sources: docs.kernel.org/filesystems/overlayfs.html; OCI image-spec, layer.md and config.md ("ChainID").
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import tarfile
from collections.abc import Sequence
from contextlib import suppress

from mycontainer import namespaces, paths, syscalls
from mycontainer.errors import ContainerError

WHITEOUT, OPAQUE = ".wh.", ".wh..wh..opq"  # in a tar: "this name is deleted", "nothing shows from below"
NO_NAMES = (WHITEOUT, f"{WHITEOUT}.", f"{WHITEOUT}..")  # whiteouts of nothing, the directory, the one above


def stack(layers: Sequence[str], root: str, upper: str | None = None, work: str | None = None) -> None:
    """Mount ``layers``, directories with the lowest first, as one tree at ``root``.

    Changes go to ``upper``; ``work`` is for the kernel's own use (`make_upper` makes both). Without them the
    tree is read-only, and needs two layers. At most 500; more than a page of paths needs Linux 6.5.
    """
    options = {"upperdir": _escaped(upper), "workdir": _escaped(work or "")} if upper else {}
    # A directory that is renamed shall be copied: a mere note "was so-and-so" is no layer to send anybody.
    options |= {"redirect_dir": "nofollow"} if _is_host() else {"redirect_dir": "nofollow", "userxattr": ""}
    line = ",".join([f"lowerdir={':'.join(map(_escaped, reversed(layers)))}",
                     *(f"{key}={value}" if value else key for key, value in options.items())])
    if len(os.fsencode(line)) < 4096:  # all that mount(2) takes, the zero at the end included
        syscalls.mount("overlay", root, "overlay", 0, line)
    else:
        _stack_one_by_one([*(("lowerdir+", layer) for layer in reversed(layers)), *options.items()], root)


def _stack_one_by_one(options: Sequence[tuple[str, str]], root: str) -> None:
    """The same with the newer calls, which take the options one at a time, and so any number of them."""
    asked = syscalls.fsopen("overlay")
    try:
        for key, value in options:
            kind = syscalls.FSCONFIG_SET_STRING if value else syscalls.FSCONFIG_SET_FLAG
            syscalls.fsconfig(asked, kind, key, value or None)
        syscalls.fsconfig(asked, syscalls.FSCONFIG_CMD_CREATE)
        made = syscalls.fsmount(asked)
    finally:
        os.close(asked)
    syscalls.move_mount(made, "", syscalls.AT_FDCWD, root, syscalls.MOVE_MOUNT_F_EMPTY_PATH)
    os.close(made)


def _escaped(path: str) -> str:
    return "".join(f"\\{letter}" if letter in "\\:," else letter for letter in path)


def _is_host() -> bool:
    """Are we in the host's user namespace? Only there may notes be kept in trusted.* attributes."""
    return namespaces.own_ids() == [(0, 0, 4294967295)]


def make_upper(directory: str, size: str = "64m") -> tuple[str, str]:
    """Make an upper and its work directory in ``directory``, and return their paths.

    The kernel refuses an upper on an overlay, and inside of Docker or a Codespace everything is on one:
    there a tmpfs of at most ``size`` is mounted on ``directory`` first. What is written is gone with it.
    """
    if file_system(directory) == "overlay":
        syscalls.mount("tmpfs", directory, "tmpfs", syscalls.MS_NODEV, f"size={size},mode=755")
    upper, work = f"{directory}/upper", f"{directory}/work"
    os.mkdir(upper, 0o755)
    os.mkdir(work, 0o755)
    return upper, work


def file_system(path: str) -> str:
    """What kind of file system ``path`` lies on: "ext4", "tmpfs", "overlay". man 5 proc_pid_mountinfo."""
    device = os.stat(path).st_dev
    with open("/proc/self/mountinfo") as mounts:
        kinds = {row.split()[2]: row.rpartition(" - ")[2].split()[0] for row in mounts}
    return kinds.get(f"{os.major(device)}:{os.minor(device)}", "unknown")


def is_whiteout(path: str) -> bool:
    """Does ``path``, in an upper, stand for a deleted file? overlayfs makes it a device 0:0."""
    found = os.lstat(path)
    return stat.S_ISCHR(found.st_mode) and found.st_rdev == 0


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
        for above, directories, files in os.walk(upper):
            directories.sort()
            for name in sorted(directories + files):
                _add(tar, os.path.relpath(above, upper), os.path.join(above, name), latest)
    return digest(archive)


def _add(tar: tarfile.TarFile, above: str, path: str, latest: int | None) -> None:
    name = os.path.basename(path)
    if is_whiteout(path):
        tar.addfile(tarfile.TarInfo(os.path.normpath(f"{above}/{WHITEOUT}{name}")))
        return
    entry = tar.gettarinfo(path, os.path.normpath(f"{above}/{name}"))
    entry.uname = entry.gname = ""
    entry.mtime = int(entry.mtime) if latest is None else min(int(entry.mtime), latest)
    with open(path if entry.isreg() else os.devnull, "rb") as content:
        tar.addfile(entry, content)
    if entry.isdir() and is_opaque(path):
        tar.addfile(tarfile.TarInfo(f"{entry.name}/{OPAQUE}"))


def apply(archive: str, directory: str, as_layer: bool = False) -> None:
    """Unpack a layer over what ``directory`` holds: add, replace, and delete what is marked as deleted.

    With ``as_layer`` the marks stay, as overlayfs has them, for a directory to `stack` on others. The tar is
    a stranger's: a name like ``../x`` is a ContainerError, and ``x/y`` after a symlink ``x -> /etc`` stays
    inside. Owners are kept as far as we may.
    """
    root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with tarfile.open(archive) as tar:
            tar.extraction_filter = lambda entry, _: entry  # names are our business, see below
            for entry in tar:
                above, name = os.path.split(os.path.normpath(f"/{entry.name}"))
                if ".." in entry.name.split("/") or name in NO_NAMES or not (name or entry.isdir()):
                    raise ContainerError(f"cannot unpack {entry.name}", "this name leads out of the layer")
                entry.name = name
                parent = paths.make_directories(root, above)
                try:
                    _unpack(tar, entry, root, f"/proc/self/fd/{parent}", as_layer)  # nobody can swap that
                finally:
                    os.close(parent)
    finally:
        os.close(root)


def _unpack(tar: tarfile.TarFile, entry: tarfile.TarInfo, root: int, above: str, as_layer: bool) -> None:
    """Make or delete what ``entry`` says in the directory ``above``."""
    path = os.path.join(above, entry.name.removeprefix(WHITEOUT))
    if entry.name == OPAQUE:
        for name in os.listdir(above):
            _remove(os.path.join(above, name))
        if as_layer:
            os.setxattr(above, f"{'trusted' if _is_host() else 'user'}.overlay.opaque", b"y")
        return
    if not (entry.isdir() and os.path.isdir(path) and not os.path.islink(path)):
        _remove(path)  # only two directories become one
    if entry.name.startswith(WHITEOUT):
        if as_layer:
            os.mknod(path, stat.S_IFCHR)  # device 0:0
    elif entry.islnk():
        first = paths.open_in_root(root, entry.linkname, os.O_PATH | os.O_NOFOLLOW)
        os.link(f"/proc/self/fd/{first}", path, src_dir_fd=root)  # any dir_fd makes it follow this link
        os.close(first)
    else:
        tar.extract(entry, above, numeric_owner=True)


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)


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
