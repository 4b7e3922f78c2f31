"""Equal work: what each subject gives its program is looked up before a time is taken, and compared.

Nobody's word is taken for it. While a program runs, /proc tells out here which namespaces, mounts,
capabilities and filters it has, and in what it differs from our own container: that is named beside each
number. A virtual machine has a kernel of its own, into which one cannot look from here; it is not compared.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from mycontainer import chroot
from mycontainer.bench import capabilities
from mycontainer.bench.subject import MACHINE, Instance, NotReady, Subject, sleeper

KINDS = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
MEASURES = ("ours-cli", "ours-api", "crun", "runc", "bubblewrap")  # the first there is
SLEEPS = b"sleep\0" + b"100000\0"  # the end of sleeper()'s command line
DEVICES = {f"/dev/{name}" for name in (*chroot.DEVICES, "ptmx", "console")}  # bound or made: all the same
MANY = 4                           # mounts: so many are listed, more are counted


class Inside(NamedTuple):
    """What a program finds where it runs."""

    namespaces: frozenset[str]   # those that are not ours
    mounts: Mapping[str, str]    # where: the kind of file system; in a mount namespace of its own
    own_root: bool
    own_cgroup: bool
    capabilities: int            # those it may ever have, as a bit mask
    seccomp: bool
    no_new_privs: bool

    def facts(self) -> dict[str, Any]:
        """For a run's JSON."""
        return {**self._asdict(), "namespaces": sorted(self.namespaces), "mounts": dict(self.mounts),
                "capabilities": f"{self.capabilities:x}"}


def examine(subject: Subject, deadline: float) -> Inside:
    """Start it once, and look. Raises NotReady."""
    instance = subject.start(sleeper())
    try:
        instance.ready(deadline)
        return look(_program(instance))
    finally:
        instance.stop()


def compared(found: Mapping[str, Inside]) -> dict[str, list[str]]:
    """For each of them, in words, how it differs from our own container (or the nearest there is)."""
    measure = next((found[name] for name in MEASURES if name in found), None)
    return {name: differences(inside, measure) if measure else [] for name, inside in found.items()}


def look(pid: int) -> Inside:
    """What the process has. Raises NotReady if it has ended, or is not ours to look at."""
    try:
        status = _fields(f"/proc/{pid}/status")
        kinds = frozenset(kind for kind in KINDS if _link(pid, kind) != _link(os.getpid(), kind))
        ours, theirs = os.stat("/"), os.stat(f"/proc/{pid}/root/")
        with open(f"/proc/{pid}/cgroup") as mine, open("/proc/self/cgroup") as own:
            other_cgroup = mine.read() != own.read()
        return Inside(kinds, _mounts(pid) if "mnt" in kinds else {}, not os.path.samestat(ours, theirs),
                      other_cgroup, int(status["CapBnd"], 16), status["Seccomp"] != "0",
                      status["NoNewPrivs"] != "0")
    except OSError as error:
        raise NotReady(f"one cannot look inside: {error.strerror}") from error


def differences(inside: Inside, measure: Inside) -> list[str]:
    """What it has less, and more, than the measure."""
    words = []
    for sign, one, other in (("no", measure, inside), ("more:", inside, measure)):
        if kinds := one.namespaces - other.namespaces:
            words.append(f"{sign} {', '.join(sorted(kinds))} namespace{'s' * (len(kinds) > 1)}")
        if one.own_root and not other.own_root:
            words.append(f"{sign} root directory of its own")
        if one.own_cgroup and not other.own_cgroup:
            words.append(f"{sign} cgroup of its own")
        if inside.mounts and (places := set(one.mounts) - set(other.mounts)):
            words.append(f"{sign} {_listed(places, 'mounts')}")
    words += _about_the_root(inside, measure)
    if "user" in inside.namespaces or inside.own_root:  # else it is no container, and has what its caller has
        words += _about_capabilities(inside.capabilities, measure.capabilities)
    words += ["more: a seccomp filter"] * (inside.seccomp and not measure.seccomp)
    return words


def _about_capabilities(mine: int, theirs: int) -> list[str]:
    words = []
    for sign, mask in (("no", theirs & ~mine), ("more:", mine & ~theirs)):
        names = capabilities.names(mask)
        if len(names) > 2:
            words.append(f"{sign} {len(names)} of the capabilities")
        elif names:
            words.append(f"{sign} {', '.join(names)}")
    return words


def _about_the_root(inside: Inside, measure: Inside) -> list[str]:
    mine, theirs = inside.mounts.get("/"), measure.mounts.get("/")
    if not inside.own_root or mine == theirs or not mine or not theirs:
        return []
    return [{"overlay": "more: its root is an overlay of an image", "tmpfs": "more: its root is filled anew"}
            .get(mine, f"its root is on {mine}")]


def _listed(places: Iterable[str], what: str) -> str:
    names = sorted(places)
    return ", ".join(names) if len(names) <= MANY else f"{len(names)} {what}"


def _program(instance: Instance) -> int:
    """The pid of sleeper()'s program: it says its token a moment before it becomes sleep."""
    last = time.monotonic() + 2
    while time.monotonic() < last:
        for pid in instance.pids():
            with suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as words:
                if words.read().endswith(SLEEPS) and _is_innermost(pid):
                    return pid
        time.sleep(0.005)
    raise NotReady("its program is not among its processes")


def _is_innermost(pid: int) -> bool:
    """A monitor has its program's words in its command line, too: it has children."""
    with open(f"/proc/{pid}/task/{pid}/children") as children:
        return not children.read().split()


def _mounts(pid: int) -> dict[str, str]:
    with open(f"/proc/{pid}/mountinfo") as rows:
        split = [row.split(" - ") for row in rows]
    places = {left.split()[4]: right.split()[0] for left, right in split}
    return {place: kind for place, kind in places.items() if place not in DEVICES}


def _link(pid: int, kind: str) -> str:
    return os.readlink(f"/proc/{pid}/ns/{kind}")


def _fields(path: str) -> dict[str, str]:
    with open(path) as rows:
        return {name: value.strip() for name, _, value in (row.partition(":") for row in rows)}


def comparable(subjects: Sequence[Subject]) -> list[Subject]:
    """Those that share our kernel, and start anything at all."""
    return [subject for subject in subjects if subject.kind != MACHINE and subject.can]
