"""What the lab may use up: memory and processes, where the machine lets us say so.

In this order, the first that works:

- a cgroup: root makes one at ``/mycontainer/lab-…``, for others systemd makes a scope and delegates it
  (not tried by the authors: their machine has no systemd; a refusal leads to the next line);
- rlimits: the number of processes holds for the whole lab, since the limit that a process has when it makes
  a user namespace becomes that namespace's. The one on memory holds only for each process: many processes,
  or files in a tmpfs, can take more than that. man 2 getrlimit.

The lab's own tmpfs are bounded (sandbox.room() for the root, 64 MiB for /dev/shm), but root inside can mount
another: only a cgroup bounds that, since the pages of a tmpfs are charged to whoever wrote them.

Sources: the kernel's admin-guide/cgroup-v2.rst and cgroup-v1/; systemd's CGROUP_DELEGATION.md.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterator, Mapping

from mycontainer.cgroups import LEAF, Cgroup, home
from mycontainer.errors import ContainerError

CGROUPS = "/sys/fs/cgroup"
OURS = "mycontainer"
PROCESSES = 1024
# What takes the place of a missing cgroup, as `Limits.in_force` calls it.
RLIMITS = {"memory": "rlimit, each process", "processes": "rlimit"}

# cgroup v1: one hierarchy for each kind of resource. (hierarchy, file with the limit, what it limits)
V1 = (("memory", "memory.limit_in_bytes", "memory"), ("pids", "pids.max", "processes"))
V2 = (("memory.max", "memory"), ("pids.max", "processes"))


def memory() -> int:
    """The lab's share of this machine's memory in bytes: a half."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


class Limits:
    """The limits of one lab. ``in_force`` tells which hold, and how: {"memory": "cgroup", …}."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.directories: list[str] = []
        self.delegated = ""  # the cgroup that the lab may do with as it likes; it cannot see the one above
        self.in_force: dict[str, str] = {}

    def prepare(self, owner: int = 0, announce: Callable[[], None] = lambda: None) -> None:
        """Make the cgroups, outside and before the lab's first process. ``owner``: who root of the lab is.

        ``announce`` is called before the first is made: ``directories`` then holds all that may be made.
        """
        amount = {"memory": memory(), "processes": PROCESSES}
        places = list(self._places())
        self.directories = sorted({directory for directory, _, _ in places})
        announce()
        for directory, file, kind in places:
            try:
                _make(directory)
                _write(f"{directory}/{file}", str(amount[kind]))
                self.in_force[kind] = "cgroup"
            except OSError:
                pass  # not ours to do on this machine: the next best limit takes its place
        self.directories = [directory for directory in self.directories if os.path.isdir(directory)]
        self.in_force = {**RLIMITS, **self.in_force}
        if self.directories and os.path.exists(f"{self.directories[0]}/cgroup.controllers"):
            try:
                self.delegated = _delegate(Cgroup(self.directories[0]), owner)
            except OSError:
                pass  # then the lab has none to play with

    def _places(self) -> Iterator[tuple[str, str, str]]:
        """Where limits can be set: (directory to make, file, kind)."""
        if os.path.exists(f"{CGROUPS}/cgroup.controllers"):
            yield from self._places_v2()
        elif os.geteuid() == 0:
            for hierarchy, file, kind in V1:
                if os.path.isdir(f"{CGROUPS}/{hierarchy}") and os.path.ismount(f"{CGROUPS}/{hierarchy}"):
                    yield f"{CGROUPS}/{hierarchy}/{OURS}/{self.name}", file, kind

    def _places_v2(self) -> Iterator[tuple[str, str, str]]:
        parent = None if os.geteuid() == 0 else enter_scope(f"{OURS}-{self.name}.scope")
        try:
            parent = parent or home().path
            Cgroup(parent).enable()
        except (OSError, ContainerError):
            return
        for file, kind in V2:
            yield f"{parent}/{self.name}", file, kind

    def join(self, pid: int) -> None:
        """Put the single-threaded process ``pid`` under the limits; its children follow."""
        for directory in [self.delegated] if self.delegated else self.directories:
            join(directory, pid)

    def take_out(self, pid: int) -> None:
        """Take a process that is not the lab's own out of the lab's cgroup, yet not from under the limits."""
        if self.delegated:
            join(f"{self.directories[0]}/{LEAF}", pid)

    def for_guests(self) -> list[str]:
        """The cgroups that a terminal joins. In its own the lab makes room: `Cgroup.enable`."""
        return [f"{self.delegated}/{LEAF}"] if self.delegated else self.directories

    def set_own(self) -> None:
        """Set the rlimits that make up for missing cgroups; called by the lab's first process."""
        set_rlimits(self.in_force)

    def remove(self, patience: float = 1.0) -> bool:
        """Remove the cgroups as soon as nobody is left in them; False if that takes too long."""
        deadline = time.monotonic() + patience
        while not (gone := remove(self.directories)) and time.monotonic() < deadline:
            time.sleep(0.01)
        return gone


def _delegate(limited: Cgroup, owner: int) -> str:
    """Make a cgroup below the one with the limits, and give it away; returns its directory.

    What is given is the right to make cgroups in it and to move processes about, not its own limits.
    Kernel: admin-guide/cgroup-v2.rst, "Model of Delegation".
    """
    limited.enable()
    given = f"{limited.path}/lab"
    os.mkdir(given)
    os.mkdir(f"{limited.path}/{LEAF}")
    if os.geteuid() == 0:
        for name in ("", "cgroup.procs", "cgroup.subtree_control", "cgroup.threads"):
            os.chown(f"{given}/{name}", owner, -1)
    return given


def enter_scope(unit: str) -> str | None:
    """Ask the user's systemd for a cgroup of our own, move there, and return its directory.

    The limits are the scope's: root of the lab is us, and may change those of the cgroups below, but does
    not see the scope itself. It vanishes with its last process. None where there is no systemd to ask.
    Source: org.freedesktop.systemd1(5), StartTransientUnit(); systemd.resource-control(5), Delegate=.
    """
    import shutil  # slow to load, and root needs neither
    import subprocess

    busctl = shutil.which("busctl")
    if not busctl or not os.path.isdir("/run/systemd/system"):
        return None
    request = [busctl, "--user", "call", "org.freedesktop.systemd1", "/org/freedesktop/systemd1",
               "org.freedesktop.systemd1.Manager", "StartTransientUnit", "ssa(sv)a(sa(sv))",
               unit, "fail", "4", "PIDs", "au", "1", str(os.getpid()), "Delegate", "b", "true",
               "MemoryMax", "t", str(memory()), "TasksMax", "t", str(PROCESSES), "0"]
    try:
        subprocess.run(request, check=True, timeout=5, capture_output=True)
        scope = _wait_for_scope(unit)
        # "No internal processes": a cgroup that passes controllers on to its children holds none itself.
        os.mkdir(f"{scope}/outside")
        _write(f"{scope}/outside/cgroup.procs", str(os.getpid()))
    except (OSError, subprocess.SubprocessError):
        return None
    return scope


def _wait_for_scope(unit: str, patience: float = 2.0) -> str:
    """The directory of the scope, once systemd has put us there; OSError if it does not."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        with open("/proc/self/cgroup") as rows:
            own = next((row.rstrip("\n")[3:] for row in rows if row.startswith("0::")), "")
        if own.endswith(f"/{unit}"):
            return CGROUPS + own
        time.sleep(0.01)
    raise TimeoutError(unit)


def join(directory: str, pid: int) -> None:
    """Put a single-threaded process into a cgroup.

    v1's ``tasks`` moves it at once, where ``cgroup.procs`` waits for a grace period of the kernel.
    """
    tasks = f"{directory}/tasks"
    _write(tasks if os.path.exists(tasks) else f"{directory}/cgroup.procs", str(pid))


def join_as_guest(directories: list[str], in_force: Mapping[str, str]) -> None:
    """Put this process under a running lab's limits. From another login session systemd's cgroups may be
    out of our reach; then rlimits must do.
    """
    try:
        for directory in directories:
            join(directory, os.getpid())
    except OSError:
        in_force = RLIMITS
    set_rlimits(in_force)


def remove(directories: list[str]) -> bool:
    """Remove cgroups, what was made below them, and our parent of them all; False if some are in use."""
    for top in directories:
        below = [directory for directory, _, _ in os.walk(top, topdown=False)]
        for directory in [*below, os.path.dirname(top)]:
            try:
                if directory in below or os.path.basename(directory) == OURS:
                    os.rmdir(directory)
            except OSError:
                pass
    return not any(map(os.path.exists, directories))


def _make(directory: str) -> None:
    for _ in range(3):  # the parent may go between two steps, with another lab that ends right now
        try:
            os.makedirs(directory, exist_ok=True)
            return
        except FileNotFoundError:
            continue


def set_rlimits(in_force: Mapping[str, str]) -> None:
    """Lower this process's own limits where no cgroup does it."""
    if in_force.get("processes") == RLIMITS["processes"]:
        _lower(resource.RLIMIT_NPROC, _processes_of(os.getuid()) + PROCESSES)
    if in_force.get("memory") == RLIMITS["memory"]:
        _lower(resource.RLIMIT_DATA, memory())


def _lower(kind: int, limit: int) -> None:
    soft, hard = resource.getrlimit(kind)
    ceilings = [one for one in (limit, soft, hard) if one != resource.RLIM_INFINITY]
    resource.setrlimit(kind, (min(ceilings), min(ceilings)))


def _processes_of(uid: int) -> int:
    """How many tasks a user has: what RLIMIT_NPROC is compared with."""
    count = 0
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            if os.stat(f"/proc/{name}").st_uid == uid:
                count += len(os.listdir(f"/proc/{name}/task"))
        except OSError:
            pass  # it has ended meanwhile
    return count


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)
