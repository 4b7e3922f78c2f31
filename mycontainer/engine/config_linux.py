"""The part of an OCI configuration that only Linux has. Runtime-spec, config-linux.md."""

from __future__ import annotations

from typing import NamedTuple

from mycontainer.engine.config_mounts import PROPAGATION, read_map
from mycontainer.engine.config_resources import MAJOR, MINOR, Resources, read_resources
from mycontainer.engine.config_seccomp import Seccomp, read_seccomp
from mycontainer.engine.reader import INT64, UINT32, Reader, Unsupported
from mycontainer.namespaces import IdMap

# The specification's words for the kinds of namespaces that the kernel has others for.
KINDS = {"pid": "pid", "network": "net", "mount": "mnt", "ipc": "ipc", "uts": "uts", "user": "user",
         "cgroup": "cgroup", "time": "time"}
# The kernel's parameters that belong to a namespace. All others are the machine's, and nobody's to change.
SYSCTLS = {
    "kernel.msgmax": "ipc", "kernel.msgmnb": "ipc", "kernel.msgmni": "ipc", "kernel.sem": "ipc",
    "kernel.shmall": "ipc", "kernel.shmmax": "ipc", "kernel.shmmni": "ipc",
    "kernel.shm_rmid_forced": "ipc", "kernel.domainname": "uts",
}
SYSCTL_TREES = {"fs.mqueue.": "ipc", "net.": "net"}
DOMAINS = {"LINUX": 0x0, "LINUX32": 0x8}  # sys/personality.h
CLOCKS = ("monotonic", "boottime")


class Device(NamedTuple):
    """A device node inside. ``mode`` are its permissions."""

    path: str
    kind: str  # c, b, or p for a pipe
    major: int = 0
    minor: int = 0
    mode: int = 0o666
    uid: int = 0
    gid: int = 0


class Linux(NamedTuple):
    """``namespaces`` has a path for each kind (the kernel's word) that is to be joined, and an empty one for
    each that is made. ``clocks`` are offsets, (name, seconds, nanoseconds).
    """

    namespaces: dict[str, str]
    uid_map: IdMap = ()
    gid_map: IdMap = ()
    devices: tuple[Device, ...] = ()
    cgroups_path: str = ""
    resources: Resources = Resources()
    sysctl: tuple[tuple[str, str], ...] = ()
    masked: tuple[str, ...] = ()
    readonly: tuple[str, ...] = ()
    propagation: int = 0
    clocks: tuple[tuple[str, int, int], ...] = ()
    personality: int | None = None
    seccomp: Seccomp | None = None

    @property
    def made(self) -> tuple[str, ...]:
        """The kinds that are made."""
        return tuple(kind for kind, path in self.namespaces.items() if not path)

    @property
    def joined(self) -> dict[str, str]:
        """The kinds that are joined, with their paths."""
        return {kind: path for kind, path in self.namespaces.items() if path}


def read_linux(linux: Reader) -> Linux:
    """The object ``linux``."""
    linux["mountLabel"].refuse("SELinux")
    linux["intelRdt"].refuse("Intel RDT")
    linux["memoryPolicy"].refuse("a memory policy")
    linux["netDevices"].refuse("moving network devices")
    namespaces = _namespaces(linux["namespaces"])
    uid_map, gid_map = read_map(linux["uidMappings"]), read_map(linux["gidMappings"])
    _check_maps(linux, namespaces, uid_map, gid_map)
    return Linux(
        namespaces, uid_map, gid_map, linux["devices"].each(_device), _cgroups_path(linux["cgroupsPath"]),
        read_resources(linux["resources"]), _sysctl(linux["sysctl"], namespaces),
        linux["maskedPaths"].each(Reader.absolute), linux["readonlyPaths"].each(Reader.absolute),
        PROPAGATION.get(linux["rootfsPropagation"].choice(PROPAGATION), 0),
        _clocks(linux["timeOffsets"], namespaces), _personality(linux["personality"]),
        read_seccomp(linux["seccomp"]))


def _namespaces(array: Reader) -> dict[str, str]:
    found = {}
    for item in array.items():
        kind = item.required()["type"].required().choice(KINDS)
        if KINDS[kind] in found:
            array.fail(f"the namespace {kind} is there twice")
        found[KINDS[kind]] = item["path"].absolute() if item["path"].string() else ""
    if "mnt" not in found:
        raise Unsupported(array.place, "not supported: a container without a mount namespace of its own")
    if found["mnt"]:
        raise Unsupported(array.place, "not supported: to join a mount namespace")
    return found


def _check_maps(linux: Reader, namespaces: dict[str, str], uid_map: IdMap, gid_map: IdMap) -> None:
    """A new user namespace without any has those that we choose (idmap.py): so crun(1) writes it."""
    if bool(uid_map) != bool(gid_map):
        linux["uidMappings"].fail("uidMappings and gidMappings go together")
    if uid_map and namespaces.get("user") != "":
        linux["uidMappings"].fail("the container has no new user namespace for it")


def _device(device: Reader) -> Device:
    kind = device["type"].required().choice(("c", "b", "u", "p"))
    numbers = (0, 0)
    if kind != "p":
        numbers = (device["major"].required().integer((0, MAJOR[1])),
                   device["minor"].required().integer((0, MINOR[1])))
    mode = device["fileMode"].optional_integer(UINT32)
    return Device(device["path"].absolute(), "c" if kind == "u" else kind, *numbers,
                  0o666 if mode is None else mode & 0o7777,
                  device["uid"].integer(UINT32), device["gid"].integer(UINT32))


def _cgroups_path(path: Reader) -> str:
    text = path.string()
    if ".." in text.split("/"):
        path.fail(f"must not go up: {path.shown()}")
    if text.count(":") == 2 and not text.startswith("/"):
        path.refuse("cgroups made by systemd", "Tell the engine to use cgroupfs: its own directories.")
    return text


def _sysctl(sysctl: Reader, namespaces: dict[str, str]) -> tuple[tuple[str, str], ...]:
    for name, value in sysctl.entries():
        plain = name.replace("/", ".")
        kind = SYSCTLS.get(plain) or next((kind for tree, kind in SYSCTL_TREES.items()
                                           if plain.startswith(tree)), None)
        if kind is None or ".." in plain or not plain.isprintable():
            value.fail("not a parameter that belongs to a namespace")
        if kind not in namespaces:
            value.fail(f"it would be changed out here: the container has no {kind} namespace of its own")
    return tuple(sysctl.texts().items())


def _clocks(offsets: Reader, namespaces: dict[str, str]) -> tuple[tuple[str, int, int], ...]:
    if offsets.value and namespaces.get("time") != "":
        offsets.fail("there is no new time namespace for it")
    found = []
    for name, offset in offsets.entries():
        if name not in CLOCKS:
            offset.fail(f"expected one of the clocks {', '.join(CLOCKS)}")
        found.append((name, offset["secs"].integer(INT64), offset["nanosecs"].integer((0, 999_999_999))))
    return tuple(found)


def _personality(personality: Reader) -> int | None:
    if not personality:
        return None
    personality["flags"].refuse("flags of a personality")
    return DOMAINS[personality["domain"].required().choice(DOMAINS)]
