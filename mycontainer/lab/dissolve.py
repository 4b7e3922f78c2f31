"""The dissolving container: a real container with any of its walls left out, and what it sees then.

`look` starts a container with exactly the walls that were asked for, lets a shell in it look around, looks
at it from outside as well, and ends it. It forks, so `dissolve` runs it in a process of its own. The widget
(`mycontainer.lab.widgets`) stands on that.

What leaks must be seen, and a notebook has no shared memory. So `look` makes some on the notebook's side,
which vanishes with the process that made it.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from mycontainer import container, images, namespaces, spawn
from mycontainer.engine import idmap
from mycontainer.errors import ContainerError
from mycontainer.lab.child import run
from mycontainer.lab.style import columns

# The walls, and what a container says of itself that has not got one of them.
WALLS = {
    "root": "Its files are the notebook's files.",
    "pid": "It sees the notebook's processes.",
    "uts": "Its host name is the notebook's.",
    "ipc": "The notebook's shared memory is open to it.",
    "net": "Its network is the notebook's: same ports, same localhost.",
    "user": "Its root is the notebook's root.",
    "cgroup": "Its cgroup paths start where the notebook's do.",
}
PLAIN = "A plain process is left, like any other that the notebook starts."
HOSTNAME = "container"
PLACE = "/tmp"  # where the container mounts its root: any directory does, nobody else sees that mount

# What the shell inside is asked, by the wall that it tells about: title, and the words for a shell. Where a
# program is missing (the root may be a host without it) busybox has it, or /proc tells.
LISTENERS = ("{ netstat -ltn || ss -ltn; } | while read -r a b c d e f; do "
             "case $a$f in *LISTEN*) echo \"listens: $d\";; esac; done")
VIEWS = {
    "pid": ("ps", "ps -e -o pid,user,comm || busybox ps -o pid,user,comm"),
    "root": ("ls /", "ls /"),
    "user": ("id; cat uid_map", "id; tr -s ' ' </proc/self/uid_map"),
    "uts": ("hostname", "hostname || uname -n"),
    "net": ("ip a; netstat", f"ip a || busybox ip a || cat /proc/net/dev; {LISTENERS}"),
    "ipc": ("shared memory", 'while read -r _ id _ size _; do echo "$id $size"; done </proc/sysvipc/shm'),
    "cgroup": ("control groups", "readlink /proc/self/ns/cgroup; cut -d: -f3- /proc/self/cgroup | sort -u"),
}
END = "\x1e"


@dataclass(frozen=True)
class Dissolved:
    """What was seen of one such container. Printed, it is a table that is the same on every machine.

    ``own``: per wall, whether the kernel says that the container had its own. ``views``: per wall, the
    lines that the shell inside saw. ``outside``: pid and user of its PID 1 as the notebook sees them.
    ``error``: why there was no such container, else empty.
    """

    without: tuple[str, ...]
    own: dict[str, bool] = field(default_factory=dict)
    views: dict[str, list[str]] = field(default_factory=dict)
    outside: dict[str, int] = field(default_factory=dict)
    error: str = ""

    @property
    def title(self) -> str:
        """In a word, what is left."""
        if len(self.without) == len(WALLS):
            return "A plain process"
        return f"A container without: {', '.join(self.without)}" if self.without else "A container, whole"

    @property
    def leaks(self) -> list[str]:
        """One sentence for each wall that is not there."""
        return [WALLS[wall] for wall, own in self.own.items() if not own]

    def __str__(self) -> str:
        if self.error:
            return f"{self.title}\n\n{self.error}"
        rows = [[wall, *(["its own", ""] if own else ["SHARED", WALLS[wall]])]
                for wall, own in self.own.items()]
        end = f"\n\n{PLAIN}" if len(self.without) == len(WALLS) else ""
        return f"{self.title}\n\n{columns(rows)}{end}"

    __repr__ = __str__


def dissolve(without: str | Iterable[str] = ()) -> Dissolved:
    """Start a container that lacks the walls ``without`` (names from WALLS), and tell what it shares.

    "all" leaves a plain process. What the machine refuses is told in the ``error`` of the answer, in a
    sentence. Raises ValueError for a name that is not a wall.
    """
    names = [without] if isinstance(without, str) else list(without)
    if names == ["all"]:
        names = list(WALLS)
    if unknown := [name for name in names if name not in WALLS]:
        raise ValueError(f"not a wall of a container: {', '.join(unknown)} (there are: {', '.join(WALLS)})")
    left_out = tuple(wall for wall in WALLS if wall in names)
    result = run(look, tuple(wall for wall in WALLS if wall not in names), timeout=10)
    if result.error or not result.value:
        return Dissolved(left_out, error=f"It could not be started: {result.error or 'it was killed'}")
    return Dissolved(left_out, **result.value)


# ── in the process of its own ────────────────────────────────────────────────────────────────────────

def look(walls: tuple[str, ...]) -> dict[str, Any]:
    """Start the container with these ``walls``, look, end it; returns the fields of `Dissolved`."""
    try:
        _share_memory()
        with _shell(walls) as (process, ask):
            views = {wall: ask(words) for wall, (_, words) in VIEWS.items()}
            return {"own": compare(process.pid), "views": views, "outside": from_outside(process.pid)}
    except ContainerError as error:
        return {"error": " ".join(filter(None, [f"It could not be started: {error}.", error.hint]))}


def kinds_of(walls: Iterable[str]) -> tuple[str, ...]:
    """The namespaces of these walls. A root or a /proc of one's own needs a mount namespace, too."""
    kinds = [kind for kind in container.KINDS if kind in walls]
    return (*kinds, "mnt") if {"root", "pid"} & set(walls) else tuple(kinds)


def start(walls: Iterable[str], argv: list[str]) -> spawn.Process:
    """Start a command in a container with these walls, from the base image if it has a root of its own."""
    walls = set(walls)
    uid_map, gid_map = choose_maps()
    how: dict[str, Any] = {"kinds": kinds_of(walls), "hostname": HOSTNAME,
                           "uid_map": uid_map, "gid_map": gid_map}
    if "root" not in walls:
        return container.start(argv, **how)
    with open(images.find("busybox"), "rb") as file:  # now and by us: root inside is a stranger to our files
        tar = file.read()
    return container.start(argv, PLACE, unpack=lambda root: images.unpack(tar, root), **how)


SOMEBODY = 1000


def choose_maps() -> tuple[idmap.Map, idmap.Map]:
    """The id maps of a container: in a lab its root is our user 1000, so that one sees that they differ."""
    uid_map, gid_map = idmap.choose_maps()
    if os.geteuid() == 0 and namespaces.own_ids() != idmap.EVERYTHING:
        return _shifted(uid_map), _shifted(gid_map)
    return uid_map, gid_map


def _shifted(rows: idmap.Map) -> idmap.Map:
    """A map that starts at SOMEBODY on our side; the same one if there is no such id."""
    for _, first, count in rows:
        if first <= SOMEBODY < first + count:
            return [(0, SOMEBODY, first + count - SOMEBODY)]
    return rows


def compare(pid: int) -> dict[str, bool]:
    """For each wall: has the process its own? By the inodes of namespaces and of the root directory."""
    shared = namespaces.shared(pid)
    theirs, ours = os.stat(f"/proc/{pid}/root"), os.stat("/")
    shared["root"] = (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino)
    return {wall: not shared[wall] for wall in WALLS}


def from_outside(pid: int) -> dict[str, int]:
    """Who the container's PID 1 is for us."""
    return {"pid": pid, "user": os.stat(f"/proc/{pid}").st_uid}


@contextmanager
def _shell(walls: tuple[str, ...]) -> Iterator[tuple[spawn.Process, Callable[[str], list[str]]]]:
    """A shell in such a container, and a function that asks it: words for the shell to lines of output."""
    script, our_end = os.pipe()
    output, their_end = os.pipe()
    kept = [os.dup(number) for number in (0, 1, 2)]
    for number, end in enumerate((script, their_end, their_end)):
        os.dup2(end, number)
    try:
        process = start(walls, ["sh"])
    finally:
        for number, end in enumerate(kept):
            os.dup2(end, number)
        for end in (script, their_end, *kept):
            os.close(end)
    try:
        with open(our_end, "w") as questions, open(output, errors="replace") as answers:
            def ask(words: str) -> list[str]:
                # Its input is the script, so that PID 1 is "sh" and lives until we have looked at it.
                questions.write(f"{{ {words}; }} </dev/null 2>/dev/null; echo '{END}'\n")
                questions.flush()
                lines = []
                for line in answers:
                    if END in line:
                        break
                    lines.append(line.rstrip("\n"))
                return lines

            yield process, ask
    finally:
        process.kill()
        process.wait()


def _share_memory() -> None:
    """Make some shared memory in our own IPC namespace, for the container not to see. man 2 shmget."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.shmat.restype = ctypes.c_void_p
    memory = libc.shmget(0, ctypes.c_size_t(4096), 0o600)  # sys/shm.h: 0 is IPC_PRIVATE and IPC_RMID
    if memory >= 0:
        libc.shmat(memory, None, 0)
        libc.shmctl(memory, 0, None)  # to be removed when nobody uses it any more: when we end


# ── a container to look at ───────────────────────────────────────────────────────────────────────────

class Specimen:
    """A container that sleeps beside the notebook until it is closed: something to look at.

    ``pid`` is its PID 1 as seen from here. As a context manager it closes itself, and it ends with the
    process that made it, however that ends. ``without`` is as in `dissolve`. Raises ContainerError.
    """

    def __init__(self, without: Iterable[str] = ()) -> None:
        walls = [wall for wall in WALLS if wall not in set(without)]
        # -I: a json.py beside the notebook must not run in there
        command = [sys.executable, "-I", "-m", "mycontainer.lab.dissolve", *walls]
        pipe = subprocess.PIPE
        self._keeper = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        assert self._keeper.stdout
        answer = self._keeper.stdout.readline().strip()
        if not answer.isdigit():
            self.close()
            raise ContainerError("cannot start a container", answer or "its keeper was killed")
        self.pid = int(answer)

    def close(self) -> None:
        """End it."""
        self._keeper.communicate()  # closes its input, which it waits for

    def __enter__(self) -> Specimen:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "runs" if self._keeper.poll() is None else "has ended"
        return f"<a container that {state}>"


def keep(walls: list[str]) -> None:
    """The life of a specimen's keeper: start it, say its pid, end it when nobody listens any more."""
    with open(os.devnull) as nothing:
        talk = os.dup(0), os.dup(1)
        os.dup2(nothing.fileno(), 0)
        os.dup2(2, 1)
    with open(talk[0]) as orders, open(talk[1], "w") as news:
        try:
            process = start(walls, ["sleep", "infinity"])
        except ContainerError as error:
            print(f"{error}. {error.hint}".replace("\n", " "), file=news)
            return
        print(process.pid, file=news, flush=True)
        orders.read()
        process.kill()
        process.wait()


if __name__ == "__main__":
    keep(sys.argv[1:])
