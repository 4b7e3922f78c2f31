"""engine/config.py: the OCI configuration, read, checked and refused with its place."""

from __future__ import annotations

import copy
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mycontainer.engine import config
from mycontainer.engine.config import Config
from mycontainer.engine.config_mounts import FLAGS, PROPAGATION, RECURSIVE
from mycontainer.engine.reader import Invalid, Unsupported
from mycontainer.errors import ContainerError
from needs import needs_module

SCHEMA = Path("/usr/share/gocode/src/github.com/opencontainers/runtime-spec/schema")  # as Debian has it
needs_schema = pytest.mark.skipif(
    not SCHEMA.is_dir(), reason="needs the official schema (package golang-github-opencontainers-specs-dev)")

# One that says something in every place that we know.
FULL: dict[str, Any] = {
    "ociVersion": "1.2.0",
    "root": {"path": "rootfs", "readonly": True},
    "hostname": "web", "domainname": "example.test",
    "annotations": {"org.example.key": "value"},
    "process": {
        "terminal": True, "consoleSize": {"height": 24, "width": 80}, "cwd": "/srv", "args": ["nginx", "-g"],
        "env": ["PATH=/bin", "A=1=2"], "noNewPrivileges": True, "oomScoreAdj": 500,
        "user": {"uid": 33, "gid": 33, "umask": 18, "additionalGids": [4, 5]},
        "capabilities": {"bounding": ["CAP_KILL", "CAP_CHOWN"], "effective": ["CAP_KILL"],
                         "permitted": ["CAP_KILL"], "inheritable": [], "ambient": []},
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 512, "hard": 1024}],
        "scheduler": {"policy": "SCHED_BATCH", "nice": 5},
    },
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "data", "source": "volume", "options": ["rbind", "rro", "nosuid", "rslave"]},
        {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs",
         "options": ["nosuid", "strictatime", "mode=755", "size=64k", "ro", "rw"]},
        {"destination": "/mine", "source": "/srv", "options": ["bind", "idmap"],
         "uidMappings": [{"containerID": 0, "hostID": 1000, "size": 1}],
         "gidMappings": [{"containerID": 0, "hostID": 1000, "size": 1}]},
    ],
    "hooks": {"prestart": [{"path": "/bin/true", "args": ["true"], "env": ["A=b"], "timeout": 5}],
              "poststop": [{"path": "/bin/false"}]},
    "linux": {
        "namespaces": [{"type": "mount"}, {"type": "pid"}, {"type": "network", "path": "/run/netns/x"},
                       {"type": "user"}, {"type": "uts"}, {"type": "ipc"}, {"type": "time"}],
        "uidMappings": [{"containerID": 0, "hostID": 100000, "size": 65536}],
        "gidMappings": [{"containerID": 0, "hostID": 100000, "size": 65536}],
        "devices": [{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 438,
                     "uid": 0, "gid": 0}, {"path": "/pipe", "type": "p"}],
        "cgroupsPath": "/mycontainer/web",
        "resources": {
            "devices": [{"allow": False, "access": "rwm"},
                        {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"}],
            "memory": {"limit": 67108864, "swap": 67108864, "reservation": 33554432, "swappiness": 10},
            "cpu": {"shares": 512, "quota": 50000, "period": 100000, "cpus": "0-1", "mems": "0"},
            "pids": {"limit": 32}, "unified": {"memory.high": "60000000"}},
        "sysctl": {"net.ipv4.ip_forward": "1", "kernel.shmmax": "1"},
        "maskedPaths": ["/proc/kcore"], "readonlyPaths": ["/proc/sys"], "rootfsPropagation": "rslave",
        "seccomp": {
            "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 38,
            "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86"], "flags": ["SECCOMP_FILTER_FLAG_LOG"],
            "syscalls": [{"names": ["read", "write"], "action": "SCMP_ACT_ALLOW"},
                         {"names": ["clone"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "args": [
                             {"index": 0, "value": 1, "valueTwo": 2, "op": "SCMP_CMP_MASKED_EQ"}]}]},
        "timeOffsets": {"monotonic": {"secs": 60, "nanosecs": 1}}, "personality": {"domain": "LINUX"},
    },
}


def changed(place: str, value: object) -> dict[str, Any]:
    """FULL with another value at ``process.args.0``; ``...`` takes it out."""
    document = copy.deepcopy(FULL)
    *way, last = [int(name) if name.isdecimal() else name for name in place.split("/")]
    at: Any = document
    for name in way:
        at = at[name]
    if value is ...:
        del at[last]
    else:
        at[last] = value
    return document


def read(document: object, bundle: str = "/bundle") -> Config:
    return config.read(json.dumps(document), bundle)


# ---- what is read


def test_every_property_arrives() -> None:
    found = read(FULL)
    process, linux = found.process, found.linux
    assert process is not None
    assert (found.root, found.hostname, found.domainname) == (("/bundle/rootfs", True), "web", "example.test")
    assert (process.args, process.cwd, process.console_size) == (("nginx", "-g"), "/srv", (24, 80))
    assert process.environment == {"PATH": "/bin", "A": "1=2"}
    assert process.user == (33, 33, (4, 5), 0o22)
    assert process.capabilities[:5] == (0b100001, 0b100000, 0, 0b100000, 0)
    assert [(limit.name, *limit[1:]) for limit in process.rlimits] == [("RLIMIT_NOFILE", 512, 1024)]
    assert (process.oom_score_adj, process.scheduler) == (500, (3, 0, 5))
    assert linux.joined == {"net": "/run/netns/x"}
    assert linux.made == ("mnt", "pid", "user", "uts", "ipc", "time")
    assert linux.uid_map == [(0, 100000, 65536)]
    assert linux.seccomp == (0x50000 | 38, ("x86_64", "x86"), 2, (
        (("read", "write"), 0x7FFF0000, ()), (("clone",), 0x50001, ((0, 7, 1, 2),))))
    assert linux.clocks == (("monotonic", 60, 1),)
    assert [str(rule) for rule in linux.resources.devices] == ["a *:* rwm", "c 10:229 rw"]
    assert linux.resources.limited == ("memory", "reservation", "swap", "swappiness", "shares", "quota",
                                       "period", "cpus", "mems", "processes", "unified")
    assert found.hooks["prestart"] == (("/bin/true", ("true",), ("A=b",), 5),)
    assert found.hooks["poststop"][0].args == ("/bin/false",)


def test_mount_options_become_flags_attributes_and_data() -> None:
    _, data, tmp, mine = read(FULL).mounts
    assert (data.destination, data.source, data.is_bind) == ("/data", "/bundle/volume", True)
    assert (data.attributes, data.recursive, data.propagation) == ((0x2, 0), (0x1, 0), (0x84000,))
    assert (tmp.data, tmp.flags) == ("mode=755,size=64k", 0x1000002), "the last of ro and rw counts"
    assert (mine.idmap, mine.uid_map) == ("idmap", [(0, 1000, 1)])


def test_every_option_of_the_specification_is_known() -> None:
    """Those that it says runtimes MUST or SHOULD implement; what is unknown would go to the file system."""
    words = [
        "async", "atime", "bind", "defaults", "dev", "diratime", "dirsync", "exec", "iversion",
        "lazytime", "loud", "noatime", "nodev", "nodiratime", "noexec", "noiversion", "nolazytime",
        "norelatime", "nostrictatime", "nosuid", "nosymfollow", "private", "ratime", "rbind",
        "rdev", "rdiratime", "relatime", "remount", "rexec", "rnoatime", "rnodiratime", "rnoexec",
        "rnorelatime", "rnostrictatime", "rnosuid", "rnosymfollow", "ro", "rprivate", "rrelatime",
        "rro", "rrw", "rshared", "rslave", "rstrictatime", "rsuid", "rsymfollow", "runbindable",
        "rw", "shared", "silent", "slave", "strictatime", "suid", "symfollow", "sync", "unbindable",
    ]
    assert set(words) <= {*FLAGS, *RECURSIVE, *PROPAGATION}


@pytest.mark.parametrize("words", [["noatime", "relatime"], ["ro", "rw"], ["rw", "ro"], ["strictatime"]])
def test_of_two_options_the_later_counts_and_the_kernel_takes_them(words: list[str]) -> None:
    """mount_setattr(2): the field of access times is cleared whole whenever one is set."""
    mount = {"destination": "/x", "source": "/", "options": ["bind", *words]}
    set_, clear = read(changed("mounts/0", mount)).mounts[0].attributes
    assert set_ & clear & ~0x70 == 0
    assert not set_ & 0x70 or clear & 0x70 == 0x70
    assert (set_, clear) == {"relatime": (0, 0x70), "rw": (0, 1), "ro": (1, 0),
                             "strictatime": (0x20, 0x70)}[words[-1]]


@pytest.mark.parametrize(("tool", "arguments"), [
    ("runc", []), ("runc", ["--rootless"]), ("crun", []), ("crun", ["--rootless"])])
def test_what_other_runtimes_write_is_read(tool: str, arguments: list[str], tmp_path: Path) -> None:
    try:
        done = subprocess.run([tool, "spec", *arguments], cwd=tmp_path, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip(f"needs the program {tool} (Debian package {tool})")
    assert done.returncode == 0, done.stderr
    found, text = config.load(str(tmp_path))
    document = json.loads(text)
    assert found.process is not None
    assert list(found.process.args) == document["process"]["args"]
    assert [mount.destination for mount in found.mounts] == [one["destination"] for one in document["mounts"]]
    assert ("user" in found.linux.made) == bool(arguments)


# ---- what is refused, with its place


WRONG: list[tuple[str, object, str]] = [
    ("process/args/0", 3, "process.args[0]: expected a string, got 3"),
    ("process/args", [], "process.args: is empty: the first is the command"),
    ("process/args", ..., "process.args: is missing"),
    ("process/args/1", "a\0b", "process.args[1]: a zero byte in a string"),
    ("process/args/1", "\ud800", "process.args[1]: half of a surrogate pair in a string"),
    ("process/cwd", "srv", 'process.cwd: not an absolute path: "srv"'),
    ("process/env/0", "PATH", 'process.env[0]: not NAME=VALUE: "PATH"'),
    ("process/user/uid", -1, "process.user.uid: -1 is not between 0 and 4294967295"),
    ("process/user/uid", True, "process.user.uid: expected a whole number, got true"),
    ("process/user/uid", 1.0, "process.user.uid: expected a whole number, got 1.0"),
    ("process/rlimits/0/type", "RLIMIT_X", 'process.rlimits[0].type: "RLIMIT_X" is none of RLIMIT_CPU'),
    ("process/rlimits/0/soft", 4096, "process.rlimits[0].soft: 4096 is more than the hard limit 1024"),
    ("process/rlimits", FULL["process"]["rlimits"] * 2, "process.rlimits: the limit RLIMIT_NOFILE is"),
    ("process/terminal", "yes", 'process.terminal: expected true or false, got "yes"'),
    ("root", ..., "root: is missing"),
    ("root/path", "", "root.path: is empty"),
    ("ociVersion", "2.0.0", "ociVersion: not supported: version 2.0.0 of the specification: 1.x is"),
    ("ociVersion", "1.0", 'ociVersion: not a version such as 1.2.0: "1.0"'),
    ("linux", ..., "linux: is missing"),
    ("linux/namespaces/0/type", "disk", 'linux.namespaces[0].type: "disk" is none of pid, network'),
    ("linux/namespaces/1/type", "mount", "linux.namespaces: the namespace mount is there twice"),
    ("linux/namespaces/2/path", "netns", 'linux.namespaces[2].path: not an absolute path: "netns"'),
    ("linux/uidMappings", ..., "linux.uidMappings: uidMappings and gidMappings go together"),
    ("linux/uidMappings/0/size", 0, "linux.uidMappings[0].size: 0 ids are none"),
    ("linux/uidMappings/0/hostID", 4294967295, "linux.uidMappings[0].size: there are no ids beyond "),
    ("linux/cgroupsPath", "/a/../../b", 'linux.cgroupsPath: must not go up: "/a/../../b"'),
    ("linux/sysctl/kernel.panic", "1", 'linux.sysctl["kernel.panic"]: not a parameter that'),
    ("linux/sysctl/net.ipv4.x", 1, 'linux.sysctl["net.ipv4.x"]: expected a string, got 1'),
    ("linux/resources/memory/swap", 1, "linux.resources.memory.swap: 1 is less than the memory"),
    ("linux/resources/cpu/cpus", "all", "linux.resources.cpu.cpus: not a list of numbers"),
    ("linux/resources/pids/limit", ..., "linux.resources.pids.limit: is missing"),
    ("linux/resources/unified", {"../x.y": "1"}, 'linux.resources.unified["../x.y"]: not the name of a file'),
    ("linux/maskedPaths/0", "proc", 'linux.maskedPaths[0]: not an absolute path: "proc"'),
    ("linux/timeOffsets", {"wall": {}}, 'linux.timeOffsets["wall"]: expected one of the clocks'),
    ("linux/rootfsPropagation", "none", 'linux.rootfsPropagation: "none" is none of private'),
    ("linux/seccomp/defaultAction", "SCMP_ACT_X", 'linux.seccomp.defaultAction: "SCMP_ACT_X" is none of'),
    ("linux/seccomp/syscalls/0/names", [], "linux.seccomp.syscalls[0].names: is empty"),
    ("linux/seccomp/syscalls/0/errnoRet", 1, "linux.seccomp.syscalls[0].errnoRet: SCMP_ACT_ALLOW takes none"),
    ("linux/seccomp/syscalls/1/args/0/index", 6, "linux.seccomp.syscalls[1].args[0].index: 6 is not between"),
    ("linux/seccomp/flags/0", "X", 'linux.seccomp.flags[0]: "X" is none of SECCOMP_FILTER_FLAG_TSYNC'),
    ("mounts/0/destination", ..., "mounts[0].destination: is missing"),
    ("mounts/0/type", ..., "mounts[0].type: is missing, and no option is bind or rbind"),
    ("mounts/0/options", "ro", 'mounts[0].options: expected an array, got "ro"'),
    ("mounts/0/options", ["idmap"], "mounts[0].options: only a bind mount can translate ids"),
    ("mounts/3/gidMappings", ..., "mounts[3].uidMappings: uidMappings and gidMappings go together"),
    ("mounts/1", 7, "mounts[1]: expected an object, got 7"),
    ("hooks/prestart/0/timeout", 0, "hooks.prestart[0].timeout: 0 s is no time"),
    ("hooks/poststop/0/path", "false", 'hooks.poststop[0].path: not an absolute path: "false"'),
    ("hostname", "x" * 65, "hostname: longer than 64 bytes"),
    ("annotations/", "x", "annotations: one of them has no name"),
]


def test_what_is_wrong_is_told_with_its_place() -> None:
    """In one test, for the leak check takes longer than all of them."""
    for place, value, says in WRONG:
        with pytest.raises(Invalid) as refused:
            read(changed(place, value))
        assert str(refused.value).startswith(says)
        assert "\n" not in str(refused.value)


UNSUPPORTED: list[tuple[str, object]] = [
    ("linux/seccomp/defaultAction", "SCMP_ACT_NOTIFY"), ("linux/seccomp/listenerPath", "/s"),
    ("linux/seccomp/syscalls/0/action", "SCMP_ACT_NOTIFY"), ("linux/intelRdt", {"closID": "x"}),
    ("linux/mountLabel", "x"), ("linux/netDevices", {"eth0": {}}), ("linux/memoryPolicy", {"mode": "x"}),
    ("linux/cgroupsPath", "system.slice:runc:x"), ("linux/resources/rdma", {"mlx5_1": {"hcaHandles": 3}}),
    ("linux/resources/hugepageLimits", [{"pageSize": "2MB", "limit": 1}]),
    ("linux/resources/blockIO", {"weight": 10}), ("linux/resources/network", {"classID": 1}),
    ("linux/resources/memory/kernel", 1 << 20), ("linux/resources/cpu/realtimeRuntime", 1),
    ("process/apparmorProfile", "x"), ("process/selinuxLabel", "x"),
    ("process/ioPriority", {"class": "IOPRIO_CLASS_BE", "priority": 4}),
    ("process/execCPUAffinity", {"initial": "0"}), ("process/scheduler", {"policy": "SCHED_DEADLINE"}),
    ("linux/namespaces/0", {"type": "mount", "path": "/proc/1/ns/mnt"}),
    ("linux/namespaces", [{"type": "pid"}]),
]


def test_what_we_cannot_do_is_refused_by_name() -> None:
    for place, value in UNSUPPORTED:
        document = changed(place, value)
        if place == "linux/namespaces":
            for name in ("uidMappings", "gidMappings", "timeOffsets", "sysctl"):
                del document["linux"][name]
            del document["hostname"], document["domainname"]
        with pytest.raises(Unsupported, match="not supported") as refused:
            read(document)
        named = re.sub(r"\.(\d+)", r"[\1]", place.replace("/", "."))
        assert str(refused.value).startswith(named.partition(".scheduler")[0].removesuffix("[0]"))


@pytest.mark.parametrize("kind", ["uts", "ipc", "net", "time", "user"])
def test_nothing_of_the_machine_itself_is_changed(kind: str) -> None:
    """Without that namespace of its own, what would belong to it is the machine's."""
    word = {"net": "network"}.get(kind, kind)
    document = copy.deepcopy(FULL)
    document["linux"]["namespaces"] = [each for each in FULL["linux"]["namespaces"] if each["type"] != word]
    with pytest.raises(Invalid, match=f"{kind} namespace"):
        read(document)


def test_what_nobody_knows_is_ignored() -> None:
    """runtime-spec, config.md, "Extensibility"; and null is what Go writes for what is not set."""
    document = copy.deepcopy(FULL)
    for place in (document, document["process"], document["linux"], document["mounts"][0], document["root"]):
        place["org.example.unknown"] = {"anything": [1, None]}
    document["linux"] |= {"intelRdt": None, "mountLabel": ""}
    document["process"] |= {"selinuxLabel": "", "apparmorProfile": None}
    document["linux"]["resources"] |= {"blockIO": {}, "hugepageLimits": None, "network": {"classID": 0}}
    document["solaris"] = document["windows"] = {}
    assert read(document) == read(FULL)


@pytest.mark.parametrize(("text", "says"), [
    (b"", "not JSON"), (b"{", "not JSON"), (b"\xff{}", "not JSON"), (b"[]", "expected an object"),
    (b'{"ociVersion": NaN}', "NaN is not a number"), (b"[" * 100_000, "nested too deeply"),
    (b'{"ociVersion": ' + b"9" * 10_000 + b"}", "not JSON"), (b"null", "the document: expected an object")])
def test_what_is_no_configuration_at_all(text: bytes, says: str) -> None:
    with pytest.raises(Invalid, match=says):
        config.read(text)


def test_a_bundle_without_one_says_what_a_bundle_is(tmp_path: Path) -> None:
    with pytest.raises(ContainerError, match="cannot read the configuration") as refused:
        config.load(str(tmp_path))
    assert "spec makes one" in refused.value.hint


# ---- against the world


def places(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value of a document."""
    if way:
        yield way
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, each in inner:
        yield from places(each, (*way, name))


WAYS = list(places(FULL))
EDGES = st.sampled_from([-1, 0, 1 << 31, 1 << 32, 1 << 63, 1 << 64, "", "/", "..", "\0", "\ud800"])
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5),
                    EDGES)
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
    st.sampled_from(["type", "path", "size", "x", ""]), inner, max_size=3), max_leaves=4)


def mutated(changes: Changes, base: dict[str, Any] = FULL) -> dict[str, Any]:
    document = copy.deepcopy(base)
    for way, value in changes:
        at: Any = document
        try:
            for name in way[:-1]:
                at = at[name]
            if value is ...:
                del at[way[-1]]
            else:
                at[way[-1]] = value
        except (KeyError, IndexError, TypeError):
            pass  # an earlier change took the place away
    return document


Changes = list[tuple[tuple[Any, ...], Any]]
CHANGES = st.lists(st.tuples(st.sampled_from(WAYS), VALUES | st.just(...)), min_size=1, max_size=3)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(CHANGES)
def test_whatever_it_says_it_is_read_or_refused_with_a_place(changes: Changes) -> None:
    refusal = None
    try:
        found = read(mutated(changes))
    except Invalid as refused:
        refusal = refused
    else:
        assert found.linux.namespaces["mnt"] == ""
    if refusal:
        assert refusal.what
        assert refusal.reason
        assert "\n" not in str(refusal)


def as_debian_knows_it() -> dict[str, Any]:
    """FULL without what came after that edition of the schema."""
    document = copy.deepcopy(FULL)
    del document["linux"]["timeOffsets"], document["linux"]["namespaces"][-1]
    document["linux"]["rootfsPropagation"] = "slave"
    return document


@needs_schema
@needs_module("jsonschema")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(CHANGES)
def test_what_the_official_schema_refuses_is_refused(changes: Changes) -> None:
    """But for null, which Go writes for what is not set, and for what came after that edition."""
    document = mutated(changes, as_debian_knows_it())
    if list(schema().iter_errors(without_null(document))):
        with pytest.raises(Invalid):
            read(document)


def without_null(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_null(each) for name, each in value.items() if each is not None}
    return [without_null(each) for each in value] if isinstance(value, list) else value


def schema() -> Any:
    import jsonschema
    from jsonschema import RefResolver

    if not _SCHEMA:
        document = json.loads((SCHEMA / "config-schema.json").read_text())
        store = {f"{SCHEMA.as_uri()}/{file.name}": json.loads(file.read_text())
                 for file in SCHEMA.glob("*.json")}
        resolver = RefResolver(f"{SCHEMA.as_uri()}/config-schema.json", document, store=store)
        _SCHEMA.append(jsonschema.Draft4Validator(document, resolver=resolver))
    return _SCHEMA[0]


_SCHEMA: list[Any] = []


@needs_schema
@needs_module("jsonschema")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_our_full_example_is_one_in_the_eyes_of_the_official_schema() -> None:
    assert [error.message for error in schema().iter_errors(as_debian_knows_it())] == []
    assert list(schema().iter_errors(changed("process/args/0", 3))), "a control: it can say no"
