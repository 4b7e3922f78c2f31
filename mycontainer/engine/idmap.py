"""Which ids a user namespace gets, and trees of files that it sees with its own ids.

Root of a user namespace is harmless because its ids are somebody else's out here. So never map 0 to 0 on
the host: sysctls, devices and cgroups belong to uid 0, and it is all the same to them in which namespace
that uid 0 lives. Sources: man 7 user_namespaces; man 5 subuid; systemd's UIDS-GIDS.md for the range of
ids that containers may take.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable

from mycontainer import namespaces, paths, syscalls
from mycontainer.errors import ContainerError

MOUNT_ATTR_NODEV = 0x4  # linux/mount.h
MOVE_MOUNT_T_SYMLINKS = 0x10
READ_ONLY = syscalls.MOUNT_ATTR_RDONLY | syscalls.MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV

COUNT = 65536                             # as many as 16 bits hold: from root to nobody
CONTAINER_IDS = range(524288, 1879048192)  # where systemd-nspawn, too, looks for a free range
EVERYTHING = [(0, 0, 4294967295)]         # the map of the host's own user namespace

Ranges = list[tuple[int, int]]  # (first id, how many)
Map = list[tuple[int, int, int]]  # (first id inside, first id outside, how many)


def subordinate_ids(user: str, path: str = "/etc/subuid", uid: int | None = None) -> Ranges:
    """The ids that an administrator gave to ``user`` (a name; ``uid`` as the file may say that instead).

    Returns (first, count) pairs, an empty list without such a line or file. man 5 subuid.
    """
    names = {user, str(uid)}
    return [(first, count) for name, first, count in _lines(path) if name in names]


def _lines(path: str) -> list[tuple[str, int, int]]:
    try:
        with open(path) as file:
            rows = [line.strip().split(":") for line in file]
    except OSError:
        return []
    return [(row[0], int(row[1]), int(row[2])) for row in rows
            if len(row) == 3 and row[1].isdecimal() and row[2].isdecimal()]


def choose_maps() -> tuple[Map, Map]:
    """The (uid_map, gid_map) for a user namespace that a stranger's code shall be root of.

    - root of the host: a range that is nobody's, so that root inside is a plain nobody outside;
    - root of a user namespace: all ids there are, since root is a nobody already;
    - anybody else: themselves as root, and their subordinate ids as the others;
    - without those: themselves alone.
    """
    if os.geteuid() != 0:
        return _with_subordinates()
    if not real_root():
        return _as_we_have("uid_map"), _as_we_have("gid_map")
    uids, gids = _granted_to_root("/etc/subuid"), _granted_to_root("/etc/subgid")
    if uids is None or gids is None:
        uids = gids = free_range()
    return [(0, uids, COUNT)], [(0, gids, COUNT)]


def real_root() -> bool:
    """Are we root of the host, and not only of a user namespace, with what is left of its rights?"""
    return os.geteuid() == 0 and namespaces.own_ids() == EVERYTHING


def _as_we_have(name: str) -> Map:
    return [(inside, inside, count) for inside, _, count in namespaces.own_ids(name)]


def _granted_to_root(path: str) -> int | None:
    for user, uid in (("mycontainer", None), ("root", 0)):
        for first, count in subordinate_ids(user, path, uid):
            if count >= COUNT and first > 0:
                return first
    return None


def free_range(files: Iterable[str] = ("/etc/passwd", "/etc/group", "/etc/subuid", "/etc/subgid")) -> int:
    """The first id of 65536 that belong to no account and were granted to nobody. man 5 subuid.

    Raises ContainerError if there is none (the machine would need 28,000 grants for that).
    """
    taken: Ranges = []
    for path in files:
        taken += [(first, count) for _, first, count in _lines(path)] or _accounts(path)
    for first in range(CONTAINER_IDS.start, CONTAINER_IDS.stop - COUNT + 1, COUNT):
        if not any(start < first + COUNT and first < start + count for start, count in taken):
            return first
    raise ContainerError("cannot map ids", "every range of 65536 is taken",
                         "Give root a range: a line root:FIRST:65536 in /etc/subuid and /etc/subgid.")


def _accounts(path: str) -> Ranges:
    try:
        with open(path, errors="surrogateescape") as file:
            ids = [line.split(":")[2] for line in file if line.count(":") >= 3]
    except OSError:
        return []
    return [(int(one), 1) for one in ids if one.isdecimal()]


def _with_subordinates() -> tuple[Map, Map]:
    import pwd  # neither is needed by root; this one may ask a directory service
    import shutil

    uid, gid = os.geteuid(), os.getegid()
    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:
        user = str(uid)
    uids, gids = (subordinate_ids(user, f"/etc/sub{kind}", uid) for kind in ("uid", "gid"))
    if not uids or not gids or not shutil.which("newuidmap") or not shutil.which("newgidmap"):
        return [(0, uid, 1)], [(0, gid, 1)]
    return [(0, uid, 1), *_behind_root(uids)], [(0, gid, 1), *_behind_root(gids)]


def _behind_root(ranges: Ranges) -> Map:
    rows, inside = [], 1
    for first, count in ranges:
        count = min(count, COUNT - inside)
        if count > 0:
            rows.append((inside, first, count))
            inside += count
    return rows


def readonly_tree(path: str) -> int:
    """A read-only copy of the mounts at and below ``path``, in hand (a descriptor) and mounted nowhere yet.

    No device node in it works, and no set-user-id bit. Needs CAP_SYS_ADMIN over this mount namespace.
    man 2 open_tree, man 2 mount_setattr.
    """
    return _tree(path, READ_ONLY, 0)


def idmapped_tree(path: str, userns_fd: int) -> int:
    """Like `readonly_tree`, and the files' owners are translated by a user namespace's id map.

    What uid 0 owns out here, uid 0 of that namespace owns in there. Only for trees whose secrets the
    namespace may know. Needs the real root, and a file system that can do it (not NFS: then the owners
    stay as they are, and what only they may read stays closed). man 2 mount_setattr, "ID-mapped mounts".
    """
    try:
        return _tree(path, READ_ONLY | syscalls.MOUNT_ATTR_IDMAP, userns_fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EPERM):
            raise
        return readonly_tree(path)


def _tree(path: str, attributes: int, userns_fd: int) -> int:
    flags = syscalls.OPEN_TREE_CLONE | syscalls.OPEN_TREE_CLOEXEC | syscalls.AT_RECURSIVE
    fd = syscalls.open_tree(syscalls.AT_FDCWD, path, flags)
    try:
        syscalls.mount_setattr(fd, "", syscalls.AT_EMPTY_PATH | syscalls.AT_RECURSIVE, attributes,
                               userns_fd=userns_fd)
    except OSError:
        os.close(fd)
        raise
    return fd


def place(tree: int, root: str, path: str, directory: bool = True) -> None:
    """Mount a tree that we have in hand at ``path`` inside ``root``; the descriptor is closed."""
    with paths.target(root, path, directory) as target:
        syscalls.move_mount(tree, "", syscalls.AT_FDCWD, target,
                            syscalls.MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_SYMLINKS)
    os.close(tree)
