"""The leak check: whatever a test made, the test takes away.

What we compare is what a container is made of: mounts, processes, cgroups, network devices, named network
namespaces, descriptors, files in the runtime directory, and the namespaces, directory and umask of the test
process itself. A namespace has no list of its own: it lives as long as a process, a mount or a descriptor
holds it, and all three are here.

The check is a hook and not a fixture, because fixtures do not reach the cells that nbval collects. What a
wider fixture makes may live as long as that fixture; what a notebook makes, as long as the notebook.
"""

from __future__ import annotations

import gc
import json
import os
import re
import secrets
import socket
import tempfile
import time
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mycontainer import cgroups
from mycontainer.lab.state import sweep

MARKER = "MYCONTAINER_TEST_RUN"  # environment variable that every descendant inherits
# Seconds: namespaces, and so mounts and veth pairs, are taken down asynchronously. Longer on a slow machine.
PATIENCE = float(os.environ.get("MYCONTAINER_PATIENCE", "1"))
OWN_NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")


class Thing(NamedTuple):
    """One thing that a test can leave behind: `kind`, an identity, and words for a person."""

    kind: str
    identity: str
    words: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.words or self.identity}"


class Process(NamedTuple):
    """From /proc/PID/stat (proc_pid_stat(5)); `start`, in clock ticks, tells a reused pid from the old."""

    pid: int
    parent: int
    state: str
    start: int


def processes() -> dict[int, Process]:
    """Every process that this one can see."""
    found = {}
    for entry in os.listdir("/proc"):
        if not entry.isdecimal():
            continue
        try:
            text = Path("/proc", entry, "stat").read_text(errors="replace")
        except OSError:  # it ended while we looked
            continue
        fields = text.rpartition(")")[2].split()  # the name may hold spaces and parentheses
        found[int(entry)] = Process(int(entry), int(fields[1]), fields[0], int(fields[19]))
    return found


def is_ours(process: Process, everyone: dict[int, Process]) -> bool:
    """Whether this test run started the process.

    A descendant is, and so is whoever carries our marker. A container's environment is its own, and one whose
    parent died is given to an ancestor of ours (init, or a subreaper): such an orphan, in namespaces that are
    not ours, is taken for ours as well.
    """
    if os.getpid() in _ancestors(process.pid, everyone):
        return True
    if process.state == "Z":  # it is init that has still to wait for it, and init takes its time
        return False
    if _carries_marker(process.pid):
        return True
    return process.parent in _ancestors(os.getpid(), everyone) and _in_other_namespaces(process.pid)


def _ancestors(pid: int, everyone: dict[int, Process]) -> list[int]:
    """The parent, its parent, and so on up to the topmost that we can see."""
    line: list[int] = []
    while pid in everyone and everyone[pid].parent not in (0, *line):
        pid = everyone[pid].parent
        line.append(pid)
    return line


def _carries_marker(pid: int) -> bool:
    wanted = f"{MARKER}={os.environ.get(MARKER)}".encode()
    try:
        return wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False


def _in_other_namespaces(pid: int) -> bool:
    # Not the mount namespace: many a system service has one of its own.
    theirs = {kind: _link(f"/proc/{pid}/ns/{kind}") for kind in ("pid", "user")}
    return any(theirs[kind] not in ("", _link(f"/proc/self/ns/{kind}")) for kind in theirs)


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _process_things() -> Iterable[Thing]:
    for process in processes().values():
        if process.pid != os.getpid():
            yield Thing("process", f"{process.pid}@{process.start}")


def _mount_things() -> Iterable[Thing]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():  # proc_pid_mountinfo(5)
        fields, _, rest = line.partition(" - ")
        number, _, _, _, where = fields.split()[:5]
        yield Thing("mount", number, f"{rest.split()[0]} on {where}")


def _cgroup_roots() -> Iterable[Path]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        if rest.startswith("cgroup"):
            where = Path(fields.split()[4])
            yield where / "mycontainer"
            yield from where.glob(f"user.slice/user-{os.getuid()}.slice/*/*/mycontainer*")
            if rest.startswith("cgroup2") and os.geteuid() and (own := _own_cgroup()) != "/":
                yield Path(f"{where}{own}")  # if it was delegated, ours are made below it


def _own_cgroup() -> str:
    rows = Path("/proc/self/cgroup").read_text().splitlines()  # man 7 cgroups
    own = next((row[3:] for row in rows if row.startswith("0::")), "/")
    return own.removesuffix(f"/{cgroups.LEAF}") or "/"


def _cgroup_things() -> Iterable[Thing]:
    for root in _cgroup_roots():
        for directory, _, _ in os.walk(root):
            # Not the standing place, in which every cgroup of ours is made, nor where we were put ourselves.
            if directory != str(root) and os.path.basename(directory) != cgroups.LEAF and _is_own(directory):
                yield Thing("cgroup", directory)


def _is_own(path: str | Path) -> bool:
    """Whether this user made it, or could have."""
    try:
        return os.lstat(path).st_uid == os.geteuid()
    except OSError:  # removed while we looked
        return False


def _file_things() -> Iterable[Thing]:
    temporary = Path(tempfile.gettempdir()).glob("mycontainer-*")
    roots = [path for path in temporary if _is_own(path)]
    try:
        from mycontainer import paths

        roots.append(Path(paths.runtime_dir()))
    except (ImportError, AttributeError):  # the module comes later than this check
        pass
    for root in roots:
        if root.is_file():
            yield Thing("file", str(root))
        for directory, directories, files in os.walk(root):
            # A directory at the top is a standing place, such as the one that every new root is mounted on.
            names = files if directory == str(root) else directories + files
            yield from (Thing("file", os.path.join(directory, name)) for name in names)


def _descriptor_things() -> Iterable[Thing]:
    for number in os.listdir("/proc/self/fd"):
        target = _link(f"/proc/self/fd/{number}")
        if target and not target.endswith(f"/proc/{os.getpid()}/fd"):  # listdir's own
            yield Thing("descriptor", f"{number} -> {target}")


def _network_things() -> Iterable[Thing]:
    for index, name in socket.if_nameindex():
        yield Thing("network device", f"{index} {name}")
    named = Path("/run/netns")
    if named.is_dir():
        yield from (Thing("network namespace", str(path)) for path in named.iterdir())


def _self_things() -> Iterable[Thing]:
    for kind in OWN_NAMESPACES:
        yield Thing("test process", f"its {kind} namespace is now {_link(f'/proc/self/ns/{kind}')}")
    yield Thing("test process", f"its root is now {_link('/proc/self/root')}")
    yield Thing("test process", f"its directory is now {_link('/proc/self/cwd')}")
    status = Path("/proc/self/status").read_text()
    yield Thing("test process", "its umask is now " + status.partition("Umask:")[2].split()[0])


LOOKS = (
    _process_things,
    _mount_things,
    _cgroup_things,
    _file_things,
    _descriptor_things,
    _network_things,
    _self_things,
)


def snapshot() -> frozenset[Thing]:
    """Everything there is now; a few milliseconds."""
    return frozenset(thing for look in LOOKS for thing in look())


def left_over(before: frozenset[Thing], tidy: Callable[[], object] = lambda: None) -> list[Thing]:
    """What is here now, was not here `before`, and is ours; waits up to PATIENCE seconds for it to go.

    ``tidy`` is called before each look.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        tidy()
        new = _only_ours(snapshot() - before)
        if not new or time.monotonic() > deadline:
            return sorted(new)
        gc.collect()  # a file object in a reference cycle is untidy, and not a leak
        time.sleep(0.02)


def _only_ours(things: Iterable[Thing]) -> list[Thing]:
    everyone = processes()
    ours = []
    for thing in things:
        if thing.kind == "process":
            process = everyone.get(int(thing.identity.partition("@")[0]))
            if process and is_ours(process, everyone):
                ours.append(thing._replace(words=_describe(process)))
        elif not (
            (thing.kind == "cgroup" and _somebody_else_is_in(thing.identity, everyone))
            or (thing.kind == "file" and _is_somebody_elses(thing.identity, everyone))
        ):
            ours.append(thing)
    return ours


def _describe(process: Process) -> str:
    try:
        words = Path(f"/proc/{process.pid}/cmdline").read_bytes().split(b"\0")
        command = b" ".join(words).decode(errors="replace")
    except OSError:
        command = ""
    name = "a zombie, never waited for" if process.state == "Z" else command.strip()[:120]
    return f"pid {process.pid} (parent {process.parent}): {name}"


def _somebody_else_is_in(cgroup: str, everyone: dict[int, Process]) -> bool:
    """Another run on this machine may use /mycontainer at the same time; of a benchmark's the whole tree."""
    benchmark = re.match(r".*/mycontainer/bench-\w+", cgroup)
    cgroup = benchmark[0] if benchmark else cgroup
    files = [Path(directory, "cgroup.procs") for directory, _, _ in os.walk(cgroup)]  # may vanish
    pids = [int(pid) for file in files for pid in _words(file)]
    return any(pid in everyone and not is_ours(everyone[pid], everyone) for pid in pids)


def _is_somebody_elses(file: str, everyone: dict[int, Process]) -> bool:
    """Whose owner lives and is not ours keeps them by right: a lab's files carry its pid in their names."""
    container = re.search(r"/(containers|names)/[^/]+", file)
    pids = _keepers(container[0], file) if container else map(int, re.findall(r"\d+", os.path.basename(file)))
    return any(pid in everyone and not is_ours(everyone[pid], everyone) for pid in pids)


def _keepers(container: str, file: str) -> list[int]:
    """The process that looks after a container (see engine/state.py), given a file of it, or its name."""
    base = file[: file.index(container)]
    identity = os.path.basename(_link(base + container) or container)
    try:
        return [json.loads(Path(base, "containers", identity, "state.json").read_text())["keeper"]]
    except (OSError, ValueError, KeyError):
        return []


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:  # removed while we looked
        return []


class LeakCheck:
    """The pytest plugin: compares before set-up and after tear-down, and raises in the tear-down."""

    def __init__(self) -> None:
        self.before: frozenset[Thing] = frozenset()
        self.owned: dict[Any, frozenset[Thing]] = {}  # by a wider fixture that still stands
        self.maker: dict[Thing, str] = {}  # who made what is owned, for the message
        self.notebook: Any = None  # the notebook that is open, if any
        self.first_seen: dict[Thing, str] = {}  # the cell after which it was there

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, object, object]:
        if not (is_cell(item) and self.notebook is item.parent):
            self.before = snapshot() - frozenset().union(*self.owned.values())
            self.first_seen = {}
            self.notebook = item.parent if is_cell(item) else None
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Generator[None, object, object]:
        if fixturedef.scope == "function":
            return (yield)
        before = snapshot()
        result = yield
        self.owned[fixturedef] = snapshot() - before
        for thing in self.owned[fixturedef]:
            self.maker[thing] = f"the {fixturedef.scope} fixture {fixturedef.argname}"
        return result

    def pytest_fixture_post_finalizer(self, fixturedef: Any) -> None:
        self.owned.pop(fixturedef, None)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(
        self, item: pytest.Item, nextitem: pytest.Item | None
    ) -> Generator[None, object, object]:
        try:
            result = yield
        except BaseException as broken:  # the tear-down failed by itself: tell both
            broken.add_note(self.accusation(item, nextitem))
            raise
        if accusation := self.accusation(item, nextitem):
            pytest.fail(accusation, pytrace=False)
        return result

    def accusation(self, item: pytest.Item, nextitem: pytest.Item | None) -> str:
        """What `item`, or the notebook that ends with it, left behind; empty when that is nothing."""
        if is_cell(item) and nextitem is not None and nextitem.parent is item.parent:
            for thing in snapshot() - self.before:
                self.first_seen.setdefault(thing, item.name)
            return ""
        before = self.before.union(*self.owned.values())
        # As the next lab would: nbval ends a kernel, which is our launcher, by SIGKILL.
        leaked = left_over(before, sweep) if is_cell(item) else left_over(before)
        if is_cell(item):  # cells run in the kernel: the descriptors here are those of nbval's own event loop
            leaked = [thing for thing in leaked if thing.kind != "descriptor"]
        name = item.parent.name if is_cell(item) and item.parent else item.nodeid
        lines = [f"  {thing}{self.origin(thing)}" for thing in leaked]
        return "\n".join([f"LEAK: {name} leaves behind", *lines]) if lines else ""

    def origin(self, thing: Thing) -> str:
        """Who made it, where that is known: a wider fixture, or a cell of the notebook."""
        plain = next((known for known in self.maker if known[:2] == thing[:2]), None)
        if plain:
            return f" (made by {self.maker[plain]})"
        cell = next((name for known, name in self.first_seen.items() if known[:2] == thing[:2]), None)
        return f" (first seen after {cell})" if cell else ""


def is_cell(item: pytest.Item) -> bool:
    """Whether nbval collected the item: a cell, whose kernel lives as long as its notebook."""
    return type(item).__module__.startswith("nbval")


def install(config: pytest.Config) -> None:
    """Wrap every test of the run; asking twice is once."""
    if not config.pluginmanager.has_plugin("leak-check"):
        os.environ.setdefault(MARKER, secrets.token_hex(8))
        config.pluginmanager.register(LeakCheck(), "leak-check")
