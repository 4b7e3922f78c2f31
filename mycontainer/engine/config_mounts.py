"""The mounts of an OCI configuration, and what their options say.

A word among the options is a flag of mount(2), a change for a bind mount that is there already, how mounts
spread from here to others, or else an option of the file system itself. man 8 mount, man 2 mount_setattr;
runtime-spec, config.md, "Linux mount options".
"""

from __future__ import annotations

from typing import NamedTuple

from mycontainer.engine.reader import UINT32, Reader, Unsupported
from mycontainer.namespaces import IdMap
from mycontainer.syscalls import MS_BIND, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_PRIVATE, MS_RDONLY, MS_REC

# sys/mount.h, beyond those of the core
MS_SYNCHRONOUS, MS_REMOUNT, MS_MANDLOCK, MS_DIRSYNC, MS_NOSYMFOLLOW = 0x10, 0x20, 0x40, 0x80, 0x100
MS_NOATIME, MS_NODIRATIME, MS_SILENT = 0x400, 0x800, 0x8000
MS_UNBINDABLE, MS_SLAVE, MS_SHARED = 0x20000, 0x80000, 0x100000
MS_RELATIME, MS_I_VERSION, MS_STRICTATIME, MS_LAZYTIME = 0x200000, 0x800000, 0x1000000, 0x2000000
# linux/mount.h: the same for mount_setattr. The times of access are one field, 0 is relatime.
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV, MOUNT_ATTR_NOEXEC = 0x1, 0x2, 0x4, 0x8
MOUNT_ATTR__ATIME, MOUNT_ATTR_NOATIME, MOUNT_ATTR_STRICTATIME = 0x70, 0x10, 0x20
MOUNT_ATTR_NODIRATIME, MOUNT_ATTR_NOSYMFOLLOW = 0x80, 0x200000

# A word: the flags of mount(2) that it sets, and those that it takes back.
FLAGS: dict[str, tuple[int, int]] = {
    "defaults": (0, 0), "loud": (0, MS_SILENT), "silent": (MS_SILENT, 0), "remount": (MS_REMOUNT, 0),
    "bind": (MS_BIND, 0), "rbind": (MS_BIND | MS_REC, 0),
    "ro": (MS_RDONLY, 0), "rw": (0, MS_RDONLY), "async": (0, MS_SYNCHRONOUS), "sync": (MS_SYNCHRONOUS, 0),
    "dirsync": (MS_DIRSYNC, 0), "mand": (MS_MANDLOCK, 0), "nomand": (0, MS_MANDLOCK),
    "suid": (0, MS_NOSUID), "nosuid": (MS_NOSUID, 0), "dev": (0, MS_NODEV), "nodev": (MS_NODEV, 0),
    "exec": (0, MS_NOEXEC), "noexec": (MS_NOEXEC, 0),
    "symfollow": (0, MS_NOSYMFOLLOW), "nosymfollow": (MS_NOSYMFOLLOW, 0),
    "atime": (0, MS_NOATIME), "noatime": (MS_NOATIME, 0),
    "diratime": (0, MS_NODIRATIME), "nodiratime": (MS_NODIRATIME, 0),
    "relatime": (MS_RELATIME, 0), "norelatime": (0, MS_RELATIME),
    "strictatime": (MS_STRICTATIME, 0), "nostrictatime": (0, MS_STRICTATIME),
    "lazytime": (MS_LAZYTIME, 0), "nolazytime": (0, MS_LAZYTIME),
    "iversion": (MS_I_VERSION, 0), "noiversion": (0, MS_I_VERSION),
}
# The same for a bind mount, which has flags of its own: a word to the attributes that it sets and clears.
ATTRIBUTES: dict[str, tuple[int, int]] = {
    "ro": (MOUNT_ATTR_RDONLY, 0), "rw": (0, MOUNT_ATTR_RDONLY),
    "nosuid": (MOUNT_ATTR_NOSUID, 0), "suid": (0, MOUNT_ATTR_NOSUID),
    "nodev": (MOUNT_ATTR_NODEV, 0), "dev": (0, MOUNT_ATTR_NODEV),
    "noexec": (MOUNT_ATTR_NOEXEC, 0), "exec": (0, MOUNT_ATTR_NOEXEC),
    "nodiratime": (MOUNT_ATTR_NODIRATIME, 0), "diratime": (0, MOUNT_ATTR_NODIRATIME),
    "nosymfollow": (MOUNT_ATTR_NOSYMFOLLOW, 0), "symfollow": (0, MOUNT_ATTR_NOSYMFOLLOW),
    "relatime": (0, MOUNT_ATTR__ATIME), "atime": (0, MOUNT_ATTR__ATIME),
    "noatime": (MOUNT_ATTR_NOATIME, MOUNT_ATTR__ATIME), "norelatime": (0, MOUNT_ATTR__ATIME),
    "strictatime": (MOUNT_ATTR_STRICTATIME, MOUNT_ATTR__ATIME), "nostrictatime": (0, MOUNT_ATTR__ATIME),
}
# With an r before it, for everything mounted below, too.
RECURSIVE = {f"r{word}": change for word, change in ATTRIBUTES.items()}
PROPAGATION = {
    f"{r}{word}": flag | (MS_REC if r else 0) for r in ("", "r")
    for word, flag in (("private", MS_PRIVATE), ("shared", MS_SHARED), ("slave", MS_SLAVE),
                       ("unbindable", MS_UNBINDABLE))}


class Mount(NamedTuple):
    """One mount. ``attributes`` and ``recursive`` are what mount_setattr(2) sets and clears: of a bind mount,
    and of all that is mounted in it. ``data`` are the options of the file system.
    """

    destination: str
    kind: str
    source: str
    flags: int = 0
    data: str = ""
    attributes: tuple[int, int] = (0, 0)
    recursive: tuple[int, int] = (0, 0)
    propagation: tuple[int, ...] = ()
    uid_map: IdMap = ()
    gid_map: IdMap = ()
    idmap: str = ""        # "idmap" or "ridmap": the latter for what is mounted in it, too
    copy_up: bool = False  # tmpfs: begins with what the image has there

    @property
    def is_bind(self) -> bool:
        return bool(self.flags & MS_BIND)


def read_mount(mount: Reader) -> Mount:
    """One object of ``mounts``. A relative destination counts from the root (config.md, "Mounts")."""
    destination = mount["destination"].required().string()
    words = [option.required().string() for option in mount["options"].items()]
    flags, data = 0, []
    for word in words:
        if word in FLAGS:
            flags = flags & ~FLAGS[word][1] | FLAGS[word][0]
        elif word not in (*RECURSIVE, *PROPAGATION, "idmap", "ridmap", "tmpcopyup"):
            data.append(word)
    kind, source = mount["type"].string("bind" if flags & MS_BIND else ""), mount["source"].string()
    maps = read_map(mount["uidMappings"]), read_map(mount["gidMappings"])
    found = Mount("/" + destination.strip("/"), kind, source, flags, ",".join(data),
                  _combined(words, ATTRIBUTES), _combined(words, RECURSIVE),
                  tuple(PROPAGATION[word] for word in words if word in PROPAGATION), *maps,
                  next((word for word in words if word in ("ridmap", "idmap")), "idmap" if maps[0] else ""),
                  "tmpcopyup" in words)
    if kind == "bind" and not found.is_bind:  # as the other runtimes read it
        found = found._replace(flags=flags | MS_BIND | MS_REC)
    _check(mount, found)
    return found


def _combined(words: list[str], table: dict[str, tuple[int, int]]) -> tuple[int, int]:
    """What all of the words set and clear; a later one counts more than an earlier."""
    set_ = clear = 0
    for word in words:
        if word in table:
            more, less = table[word]
            set_, clear = set_ & ~less | more, (clear | less) & ~(more & ~MOUNT_ATTR__ATIME)
    return set_, clear


def _check(mount: Reader, found: Mount) -> None:
    if found.destination == "/":
        mount["destination"].fail("the root itself: it is the property root")
    if not found.kind:
        mount["type"].fail("is missing, and no option is bind or rbind")
    if found.is_bind and not found.source:
        mount["source"].fail("is missing: a bind mount shows something")
    if bool(found.uid_map) != bool(found.gid_map):
        mount["uidMappings"].fail("uidMappings and gidMappings go together")
    if found.idmap and not found.is_bind:
        mount["options"].fail("only a bind mount can translate ids")
    if found.flags & MS_REMOUNT and not found.is_bind:
        raise Unsupported(mount["options"].place, "not supported: remount of what is no bind mount")
    if found.copy_up and found.kind != "tmpfs":
        mount["options"].fail("tmpcopyup is for a tmpfs")


def read_map(mappings: Reader) -> IdMap:
    """An array of id mappings: (first id inside, first id outside, how many). man 7 user_namespaces."""
    rows = []
    for row in mappings.items():
        inside, outside, count = (row.required()[name].required().integer(UINT32)
                                  for name in ("containerID", "hostID", "size"))
        if not count:
            row["size"].fail("0 ids are none")
        if max(inside, outside) + count > UINT32[1] + 1:
            row["size"].fail("there are no ids beyond 4294967295")
        rows.append((inside, outside, count))
    return rows
