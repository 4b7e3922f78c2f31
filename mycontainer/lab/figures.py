"""Drawings of what the kernel reports now: who shares which namespace, what is mounted, which numbers a
process has.

Everything comes from /proc (proc(5)): ``/proc/PID/ns``, ``/proc/PID/mountinfo``, ``NSpid`` in
``/proc/PID/status``, ``/proc/PID/uid_map``. So a drawing may differ from machine to machine; the words that
come with it name no pid and no inode.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from mycontainer import namespaces
from mycontainer.errors import explain
from mycontainer.lab.style import (
    CHANGES,
    FAINT,
    TWIG,
    Figure,
    box,
    columns,
    cut,
    figure,
    letter,
    swatch,
    text,
)

MEANING = {"user": "user and group ids", "mnt": "mounts", "pid": "process ids", "net": "network",
           "uts": "host name", "ipc": "shared memory, queues", "cgroup": "root of the cgroup tree",
           "time": "clock since boot"}


# ── who shares which namespace ───────────────────────────────────────────────────────────────────────

Process = int | str | Mapping[str, int]  # a pid, "self", or what namespaces.identify returned earlier


def inodes(process: Process) -> dict[str, int]:
    """Kind to inode number; a process that we may not look at raises ContainerError."""
    if isinstance(process, Mapping):
        return dict(process)
    try:
        return namespaces.identify(process)
    except OSError as error:
        raise explain(f"cannot look at the namespaces of process {process}", error,
                      "It has ended, or belongs to somebody else.") from error


def number_namespaces(processes: Mapping[str, Process]) -> dict[str, list[int]]:
    """For each kind one number per process: equal numbers are the same namespace, the first process has 0."""
    seen = [inodes(process) for process in processes.values()]
    numbers = {}
    for kind in MEANING:
        order = list(dict.fromkeys(ids[kind] for ids in seen))
        numbers[kind] = [order.index(ids[kind]) for ids in seen]
    return numbers


def namespace_figure(processes: Mapping[str, Process], title: str = "Who shares which namespace?") -> Figure:
    """Processes as columns, kinds of namespaces as rows; one block is one namespace.

    ``processes`` maps a name to a pid, to "self", or to what `namespaces.identify` said earlier (of a process
    that may have ended). Raises ContainerError for a process that is gone or not ours to look at.
    """
    names, numbers = list(processes), number_namespaces(processes)
    seen = [inodes(process) for process in processes.values()]
    left, wide, high = 270, 196, 46
    body = []
    for column, (name, process) in enumerate(processes.items()):
        middle = left + column * wide + (wide - 10) / 2
        body.append(text(middle, 4, cut(name, 19), weight=700, anchor="middle"))
        if not isinstance(process, Mapping):
            body.append(text(middle, 25, f"pid {os.getpid() if process == 'self' else process}", size=15,
                             ink=FAINT, anchor="middle"))
    for row, kind in enumerate(MEANING):
        y = 38 + row * high
        body.append(text(0, y + 18, kind, weight=700, mono=True))
        body.append(text(0, y + 36, MEANING[kind], size=14, ink=FAINT))
        for start, end in _runs(numbers[kind]):
            number = numbers[kind][start]
            fill, pattern = swatch(number)
            x, width = left + start * wide, (end - start) * wide - 10
            body.append(box(x, y, width, high - 8, fill, "#00000055", pattern=pattern))
            body.append(text(x + 18, y + 26, letter(number), size=21, weight=700, halo=fill))
            body.append(text(x + width - 12, y + 25, str(seen[start][kind]), size=13, anchor="end", mono=True,
                             halo=fill))
    table = [["", *names]] + [[kind, *map(letter, row)] for kind, row in numbers.items()]
    caption = "The same letter in a row: the same namespace."
    words = f"{columns(table)}\n\n{caption}"
    y = 38 + len(MEANING) * high + 18
    body.append(text(0, y, f"{caption} The number is the kernel's name for it.", size=14, ink=FAINT))
    return figure("".join(body), max(left + len(names) * wide, 620), y + 2, title, words)


def _runs(numbers: list[int]) -> list[tuple[int, int]]:
    """Neighbours with the same number, as (start, end)."""
    starts = [i for i, number in enumerate(numbers) if i == 0 or number != numbers[i - 1]]
    return list(zip(starts, [*starts[1:], len(numbers)], strict=True))


# ── what is mounted ──────────────────────────────────────────────────────────────────────────────────

@dataclass(frozen=True)
class Mount:
    """A line of /proc/PID/mountinfo (proc_pid_mountinfo(5))."""

    id: int
    parent: int
    device: str       # which file system, as major:minor
    root: str         # which directory of the file system is shown
    point: str        # where
    readonly: bool
    propagation: str  # shared, slave (it receives), both, unbindable, or private
    fstype: str

    @property
    def label(self) -> str:
        return f"{self.fstype}{', read-only' if self.readonly else ''}, {self.propagation}"


def mountinfo(pid: int | str = "self") -> str:
    """What is mounted for a process, as the kernel writes it down: to be kept and drawn later."""
    try:
        with open(f"/proc/{pid}/mountinfo") as file:
            return file.read()
    except OSError as error:
        raise explain(f"cannot read the mounts of process {pid}", error) from error


def mounts(lines: str) -> list[Mount]:
    """Parse the text of a mountinfo file."""
    found = []
    for line in lines.splitlines():
        ours, _, theirs = line.partition(" - ")
        number, parent, device, root, point, options, *tags = map(_plain, ours.split())
        found.append(Mount(int(number), int(parent), device, root, point, "ro" in options.split(","),
                           _propagation(tags), theirs.split()[0]))
    return found


def _plain(word: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), word)  # \040 is a space


def _propagation(tags: list[str]) -> str:
    names = {tag.partition(":")[0] for tag in tags}
    if {"shared", "master"} <= names:
        return "shared and slave"
    return "shared" if "shared" in names else "slave" if "master" in names else \
        "unbindable" if "unbindable" in names else "private"


def compare(before: list[Mount], after: list[Mount]) -> tuple[dict[int, str], dict[int, str]]:
    """What became of each mount of ``before``, what is new in ``after``: mount id to a word of CHANGES.

    A new mount namespace numbers its copies anew, so a mount is known by what it shows and where. One that
    hung on a mount that is gone is gone with it, even if the same is mounted there again.
    """
    old, new = _keyed(before), _keyed(after)
    was, now = {}, {}
    for key, mount in old.items():
        twin = new.get(key)
        was[mount.id] = "gone" if twin is None else "same" if twin.label == mount.label else "changed"
    for key, mount in new.items():
        now[mount.id] = was[old[key].id] if key in old else "appeared"
    return was, now


Key = tuple[object, ...]  # what makes a mount "the same" before and after


def _keyed(found: list[Mount]) -> dict[Key, Mount]:
    by_id, keys = {mount.id: mount for mount in found}, {}
    times: Counter[Key] = Counter()  # the same may be mounted twice on one spot

    def key(mount: Mount) -> Key:
        if mount.id not in keys:
            above = by_id.get(mount.parent)
            path = (mount.point, mount.device, mount.root, *(key(above) if above and above != mount else ()))
            keys[mount.id] = (*path, times[path])
            times[path] += 1
        return keys[mount.id]

    return {key(mount): mount for mount in found}


Row = tuple[int, str, str, str]  # depth, name, what it is, a word of CHANGES


class Tree:
    """Mounts by what they hang on, each with a word of CHANGES."""

    def __init__(self, found: list[Mount], state: Mapping[int, str] | None = None) -> None:
        self.state = state
        self.below: dict[int, list[Mount]] = {}
        known = {mount.id for mount in found}
        for mount in sorted(found, key=lambda mount: mount.point):
            parent = mount.parent if mount.parent in known and mount.parent != mount.id else 0
            self.below.setdefault(parent, []).append(mount)

    def of(self, mount: Mount) -> str:
        return self.state[mount.id] if self.state else "same"

    def everything(self, mount: Mount) -> list[Mount]:
        """The mount and all that hangs on it."""
        return [mount] + [one for child in self.below.get(mount.id, []) for one in self.everything(child)]

    def rows(self, parent: int = 0, point: str = "", depth: int = 0, most: int = 9) -> list[Row]:
        """The rows of a drawing. Of a comparison, a branch that is the same or gone all through is one row.
        Where more than ``most`` hang on one mount, the rest is only counted, the unchanged ones first."""
        children = self.below.get(parent, [])
        chosen = children
        if len(children) > most:
            chosen = sorted(children, key=lambda child: self._all(child) == "same")[:most - 1]
        result: list[Row] = []
        for child in (child for child in children if child in chosen):
            name = child.point.removeprefix(point.rstrip("/")) or f"{child.point}, on top of it"
            inner = len(self.everything(child)) - 1
            if inner and depth and self._all(child) in ("same", "gone"):
                result.append((depth, f"{name}  and {inner} on it", child.label, self.of(child)))
            else:
                result.append((depth, name, child.label, self.of(child)))
                result += self.rows(child.id, child.point, depth + 1, most)
        if rest := [one for child in children if child not in chosen for one in self.everything(child)]:
            states = {self.of(one) for one in rest}
            result.append((depth, f"… {len(rest)} more", "", states.pop() if len(states) == 1 else "same"))
        return result

    def _all(self, mount: Mount) -> str:
        """The one state of a whole branch of a comparison, or nothing."""
        states = {self.of(one) for one in self.everything(mount)} if self.state else set()
        return states.pop() if len(states) == 1 else ""


def mount_tree(before: str, after: str | None = None, title: str = "") -> Figure:
    """The mounts of a process as a tree, or side by side the trees before and after something was done.

    ``before`` and ``after`` are texts of `mountinfo`. "+" has appeared, "−" is gone, "~" has another
    propagation (shared, private, slave: mount_namespaces(7)) or is read-only now.
    """
    old = mounts(before)
    if after is None:
        sides = [("now", Tree(old).rows())]
        title, words = title or "What is mounted", "\n".join(f"{m.point}  {m.label}" for m in old)
    else:
        new = mounts(after)
        was, now = compare(old, new)
        sides = [("before", Tree(old, was).rows()), ("after", Tree(new, now).rows())]
        title, words = title or "What is mounted, before and after", _changes(old, new, was, now)
    wide, high = 480, 34
    body = []
    for column, (name, rows) in enumerate(sides):
        x = column * (wide + 24)
        body.append(text(x, 8, name, weight=700, ink=FAINT))
        body += _mount_rows(rows, x, 22, wide, high)
    height = 22 + high * max(len(rows) for _, rows in sides)
    return figure("".join(body), len(sides) * (wide + 24) - 24, height, title, words)


def _mount_rows(rows: list[Row], x: float, top: float, wide: float, high: float) -> list[str]:
    grounds, twigs, words = [], [], []  # in the order in which they are painted
    branch: dict[int, float] = {}  # for each depth, how far down its line is drawn
    for number, (depth, name, what, state) in enumerate(rows):
        y, start = top + number * high, x + 30 + 26 * depth
        mark, ink, ground = CHANGES[state]
        if ground:
            grounds.append(box(x, y + 2, wide, high - 4, ground, radius=6))
        if depth:
            twigs.append(f'<path d="M{start - 19:g},{branch[depth]:g} V{y + 17:g} H{start - 5:g}"/>')
        branch[depth], branch[depth + 1] = y + 17, y + 28
        room = int((wide - 46 - 26 * depth - 7 * len(what)) / 10.3)
        words += [text(x + 10, y + 23, mark, size=20, weight=700, ink=ink, mono=True),
                  text(start, y + 23, cut(name, max(room, 8)), mono=True, weight=600, ink=ink,
                       struck=state == "gone"),
                  text(x + wide - 10, y + 22, what, size=14, ink=ink if ground else FAINT, anchor="end")]
    return [*grounds, f'<g fill="none" stroke="{TWIG}" stroke-width="1.5">', *twigs, "</g>", *words]


def _changes(old: list[Mount], new: list[Mount], was: Mapping[int, str], now: Mapping[int, str]) -> str:
    """The same in words: only what is not as before."""
    labels = {key: mount.label for key, mount in _keyed(new).items()}
    lines = []
    for key, mount in _keyed(old).items():
        if was[mount.id] == "gone":
            lines.append(f"- {mount.point}  {mount.label}")
        elif was[mount.id] == "changed":
            lines.append(f"~ {mount.point}  {mount.label} -> {labels[key]}")
    lines += [f"+ {mount.point}  {mount.label}" for mount in new if now[mount.id] == "appeared"]
    if "same" in was.values():
        lines.append("All else is as it was." if lines else "Nothing has changed.")
    return "\n".join(lines)


# ── the numbers of one process ───────────────────────────────────────────────────────────────────────

@dataclass(frozen=True)
class Numbers:
    """What one process is called, at each level from the outermost to its own: (place, user id, pid)."""

    command: str
    levels: list[tuple[str, int | None, int | None]]


def status(pid: int | str) -> dict[str, str]:
    """The fields of /proc/PID/status (proc_pid_status(5))."""
    with open(f"/proc/{pid}/status") as file:
        return dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)


def id_map(pid: int | str, name: str = "uid_map") -> list[tuple[int, int, int]]:
    """The rows of /proc/PID/uid_map: (first id inside, first id as we see it, how many)."""
    with open(f"/proc/{pid}/{name}") as rows:
        return [(int(a), int(b), int(c)) for a, b, c in map(str.split, rows)]


def inwards(rows: list[tuple[int, int, int]], number: int) -> int | None:
    """An id of our side as the inside sees it; None if it does not exist there."""
    return next((a + number - b for a, b, count in rows if b <= number < b + count), None)


def outwards(rows: list[tuple[int, int, int]], number: int) -> int | None:
    """An id of the inside as the outside sees it; None if it does not exist there."""
    return inwards([(b, a, count) for a, b, count in rows], number)


def numbers(pid: int | str) -> Numbers:
    """What a process is called here, inside its own namespaces and, from a lab, on the host.

    A PID namespace does not know the pids of the one around it, so from a lab the host's pid stays None.
    Raises ContainerError if there is no such process.
    """
    try:
        fields, theirs, ours = status(pid), id_map(pid), id_map("self")
    except OSError as error:
        raise explain(f"cannot look at process {pid}", error) from error
    user, pids = int(fields["Uid"].split()[1]), [int(number) for number in fields["NSpid"].split()]
    inside = user if namespaces.shared(pid)["user"] else inwards(theirs, user)
    in_a_lab = ours != [(0, 0, 0xFFFFFFFF)]
    levels: list[tuple[str, int | None, int | None]] = []
    if in_a_lab:
        levels.append(("on the host", on_the_host(user), None))
    levels.append(("in the lab" if in_a_lab else "on this machine", user, pids[0]))
    return Numbers(fields["Name"], [*levels, ("in the container", inside, pids[-1])])


def on_the_host(user: int) -> int | None:
    """The host's id for a user id of ours; None if that is not to be known.

    The kernel translates to the user namespace just above, and a lab has two above each other. So its
    launcher says in the environment which ids it gave to the lab, as a row of uid_map would.
    """
    told = os.environ.get("MYCONTAINER_LAB_UID_MAP", "")
    if "MYCONTAINER_LAB" not in os.environ:
        return outwards(id_map("self"), user)
    words = list(map(int, told.split()))
    return outwards(list(zip(words[::3], words[1::3], words[2::3], strict=True)), user)


def three_numbers(pid: int | str, title: str = "") -> Figure:
    """One process, and what it is called from each side: user id and pid on the host, in the lab, inside."""
    found = numbers(pid)
    count = len(found.levels)
    title = title or f"{'Three' if count == 3 else 'Two'} numbers, one process"
    head, step, wide = 58, 26, 700
    height = head * count + step * count + 62
    body, lines = [], [["", "user id", "pid"]]
    for depth, (place, user, number) in enumerate(found.levels):
        x, y = step * depth, head * depth
        fill, _ = swatch(depth)
        body.append(box(x, y, wide - 2 * x, height - y - step * depth, fill, "#00000066", radius=14))
        body.append(text(x + 20, y + 36, place, size=20, weight=700))
        for right, words in ((190, f"user {_or_unknown(user)}"), (24, f"pid {_or_unknown(number)}")):
            body.append(text(wide - x - right, y + 36, words, size=20, weight=700, mono=True, anchor="end"))
        lines.append([place, _or_unknown(user), _or_unknown(number)])
    middle, y = wide / 2, head * count + 26
    body.append(box(middle - 110, y - 6, 220, 44, "#ffffff", "#1b1f24", radius=22))
    body.append(text(middle, y + 22, cut(found.command, 20), weight=700, mono=True, anchor="middle"))
    unknown = any(number is None for _, _, number in found.levels)
    if unknown:
        body.append(text(0, height + 26, "?  a PID namespace does not know the pids of the one around it",
                         size=14, ink=FAINT))
    return figure("".join(body), wide, height + (28 if unknown else 0), title, columns(lines))


def _or_unknown(number: int | None) -> str:
    return "?" if number is None else str(number)


# ── all processes ────────────────────────────────────────────────────────────────────────────────────

@dataclass(frozen=True)
class Seen:
    """A process in /proc."""

    pid: int
    parent: int
    command: str
    pids: tuple[int, ...]      # NSpid: here first, in its own PID namespace last
    spaces: dict[str, int]     # empty if it is not ours to look at


def processes() -> list[Seen]:
    """All processes of this PID namespace that are there now, by pid; kernel threads left out."""
    found = []
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()):
        with suppress(OSError, KeyError):  # it ended while we looked
            fields = status(pid)
            if "VmSize" not in fields:
                continue  # a kernel thread, or a zombie: no memory of its own
            try:
                spaces = namespaces.identify(pid)
            except PermissionError:
                spaces = {}
            pids = tuple(map(int, fields["NSpid"].split()))
            found.append(Seen(pid, int(fields["PPid"]), command_line(pid) or fields["Name"], pids, spaces))
    return found


def command_line(pid: int | str) -> str:
    """The command of a process and its arguments, in one line."""
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        words = file.read().rstrip(b"\0").decode(errors="replace").split("\0")
    if words and "/" in words[0]:
        words[0] = words[0].rpartition("/")[2]
    return " ".join(" ".join(words).split())


def process_tree(top: int | None = None, title: str = "Every process that is seen from here",
                 most: int = 24) -> Figure:
    """The processes as a tree, each with its pid here and inside, and a letter for its PID namespace.

    ``top``: only that one and those below it. At most ``most`` are drawn.
    """
    found = processes()
    rows = _descend(found, top)
    ours = namespaces.identify()["pid"]  # A, also where we are not among those drawn
    order = list(dict.fromkeys([ours, *(one.spaces.get("pid", 0) for _, one in rows)]))
    wide, high = 760, 34
    body = [text(0, 8, "pid here", weight=700, ink=FAINT), text(112, 8, "inside", weight=700, ink=FAINT),
            text(200, 8, "command", weight=700, ink=FAINT)]
    for line, (depth, one) in enumerate(rows[:most]):
        y = 20 + line * high
        number = order.index(one.spaces.get("pid", 0))
        fill, pattern = swatch(number)
        body.append(box(0, y + 2, 184, high - 4, fill, "#00000044", radius=6, pattern=pattern))
        body.append(text(14, y + 24, letter(number), weight=700, halo=fill))
        body.append(text(84, y + 24, str(one.pid), mono=True, anchor="end", weight=600, halo=fill))
        inside = str(one.pids[-1]) if len(one.pids) > 1 else "·"
        body.append(text(160, y + 24, inside, mono=True, anchor="end", weight=600, halo=fill))
        start = 200 + 22 * min(depth, 10)
        if depth:
            twig = f"M{start - 15:g},{y:g} V{y + 18:g} H{start - 4:g}"
            body.append(f'<path d="{twig}" fill="none" stroke="{TWIG}"/>')
        body.append(text(start, y + 24, cut(one.command, int((wide - start) / 10.3)), mono=True))
    y = 20 + high * min(len(rows), most) + 22
    more = f" {len(rows) - most} more are not drawn." if len(rows) > most else ""
    body.append(text(0, y, f"The same letter: the same PID namespace.{more}", size=14, ink=FAINT))
    words = "\n".join("  " * depth + one.command.split(" ")[0] for depth, one in rows[:most])
    return figure("".join(body), wide, y + 2, title, words)


def ours_first(found: list[Seen]) -> list[Seen]:
    """The processes with this one in front: the first to be given letters."""
    return sorted(found, key=lambda one: one.pid != os.getpid())


def _descend(found: list[Seen], top: int | None) -> list[tuple[int, Seen]]:
    """The processes in the order of a tree, with their depths."""
    known = {one.pid for one in found}
    rows: list[tuple[int, Seen]] = []

    def add(one: Seen, depth: int) -> None:
        rows.append((depth, one))
        for child in found:
            if child.parent == one.pid:
                add(child, depth + 1)

    for one in found:
        if one.pid == top if top else one.parent not in known:
            add(one, 0)
    return rows
