"""What each chapter needs of this machine: tried, not looked up; and the cure for what fails.

A version number proves little: Ubuntu lets everybody make a user namespace and then refuses the mount in
it; Docker's filter refuses some calls and not others; /dev/kvm may be there and not work. So each need is
*done* once, in child processes that take all they made with them when they end: with the very functions
with which the chapters and the lab do it.

The trials fork, so they run in a fresh process without threads; `examine` starts it and reads what it found.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NamedTuple

from mycontainer.engine import idmap
from mycontainer.errors import ContainerError
from mycontainer.lab import trials
from mycontainer.lab.kernelspec import OWN_INTERPRETER
from mycontainer.lab.machine import Machine
from mycontainer.lab.trials import PATH, QEMU

CHAPTERS = (*range(7), 10)  # those that there are: a machine is good if all of them can be done
THESE = "Chapters 0 to 6 and 10"
PATIENCE = 1.0              # seconds for one trial
PATIENCE_IN_ALL = 10        # seconds until we give up on the process that tries


class Finding(NamedTuple):
    """One row. ``works`` is None if it was not tried, or fails and the chapter can do without it."""

    chapter: int
    need: str
    works: bool | None
    detail: str
    cure: str


class Need(NamedTuple):
    """What a chapter needs, how to try it (returns a detail, or raises), and its cure for this machine."""

    chapter: int
    what: str
    attempt: Callable[[], str]
    cure: Callable[[Machine], str]
    essential: bool = True
    stands_on: tuple[str, ...] = ()  # other needs: if one of them fails there is no point in trying this one


def good(findings: Iterable[Finding]) -> bool:
    """Can the chapters that there are be done?"""
    return not any(finding.works is False for finding in findings if finding.chapter in CHAPTERS)


def verdict(findings: Iterable[Finding]) -> list[str]:
    """What it all means, in a sentence or two."""
    sentences = [f"{THESE} can be done here." if good(findings) else
                 f"{THESE} cannot be done here yet: see the cures."]
    if any(finding.need == CGROUPS and not finding.works for finding in findings):
        sentences.append("Chapter 3 shows recorded results: there is no cgroup v2 here.")
    if any(finding.need == MACHINES and not finding.works for finding in findings):
        sentences.append("Chapter 10 shows recorded virtual machines only: there is no QEMU here.")
    if Machine().in_lab:
        sentences.append("This was tried inside the lab. The cures are for a terminal outside of it.")
    return sentences


def examine() -> list[Finding]:
    """Try everything; returns the findings in the order of the chapters. Takes about a second."""
    argv = [interpreter(), "-I", "-m", "mycontainer.lab.doctor"]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE_IN_ALL)
        return [Finding(*row) for row in json.loads(done.stdout)]
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ContainerError("cannot examine this machine", str(error)) from error
    except ValueError as error:
        raise ContainerError("cannot examine this machine", done.stderr.strip()[-300:]) from error


def interpreter() -> str:
    """The Python that containers are started with: on Ubuntu a copy that may make user namespaces."""
    permitted = os.path.join(os.path.dirname(sys.executable), OWN_INTERPRETER)
    return permitted if os.access(permitted, os.X_OK) else sys.executable


def examine_here(machine: Machine) -> list[Finding]:
    """`examine`, in this process, which must have no other thread."""
    findings: dict[str, Finding] = {}
    for need in NEEDS:
        missing = [what for what in need.stands_on if not findings[what].works]
        if missing:
            detail = f"not tried; it needs {missing[0]}"
            findings[need.what] = Finding(need.chapter, need.what, None, detail, "")
        else:
            findings[need.what] = try_out(need, machine)
    return list(findings.values())


def try_out(need: Need, machine: Machine) -> Finding:
    """Try one need, but not for longer than PATIENCE."""
    try:
        with deadline(PATIENCE):
            return Finding(need.chapter, need.what, True, need.attempt(), "")
    except (ContainerError, OSError, ValueError) as error:
        works = False if need.essential else None
        detail = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
        return Finding(need.chapter, need.what, works, " ".join(detail.split()), need.cure(machine))


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raise ContainerError in the block when it takes too long."""

    def too_long(_: int, __: FrameType | None) -> None:
        raise ContainerError("no answer", f"gave up after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# ---- cures

def allow_user_namespaces(machine: Machine) -> str:
    here = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    return machine.allow_user_namespaces(here if os.path.exists(f"{here}/tools/apparmor/install.sh") else "")


def allow_mounts(machine: Machine) -> str:
    if machine.in_container:
        return ("The container engine that this runs in hides parts of /proc and /sys, and then the kernel "
                "allows no fresh ones: start its container with --security-opt systempaths=unconfined")
    return allow_user_namespaces(machine)


def more_ids(machine: Machine) -> str:
    if not shutil.which("newuidmap") or not shutil.which("newgidmap"):
        return machine.install("newuidmap")
    with suppress(ContainerError):
        first = idmap.free_range()
        ids = f"{first}-{first + idmap.COUNT - 1}"
        return machine.as_root(f"usermod --add-subuids {ids} --add-subgids {ids} {_user_name()}")
    return "Give yourself a range in /etc/subuid and /etc/subgid, see man 5 subuid."


def _user_name() -> str:
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def allow_kvm(machine: Machine) -> str:
    if machine.in_lab:
        return "Ask in a terminal outside of the lab: mycontainer doctor"
    if machine.exists("dev/kvm") and not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return f"{machine.as_root(f'usermod -aG kvm {_user_name()}')}, then log in again"
    return ("Switch virtualisation on in the firmware, or nested virtualisation on the host of this machine. "
            "Without it QEMU emulates: slower, and good enough.")


def program(name: str, otherwise: str) -> Callable[[Machine], str]:
    """The cure where either a program is missing or the kernel lacks something."""
    return lambda machine: otherwise if shutil.which(name, path=PATH) else machine.install(name)


def always(text: str) -> Callable[[Machine], str]:
    """A cure that is the same everywhere."""
    return lambda _: text


NEWER = "boot a newer kernel"
USERNS = "a user namespace"
MOUNT = "mounting as root of a user namespace"
NET = "host name, processes, IPC, network of its own"
CGROUPS = "cgroup v2 with cpu, memory, pids"
OVERLAY = "overlay file systems"
MACHINES = "QEMU"

NEEDS = (
    Need(0, "Python 3.11 or newer", trials.python, always("")),
    Need(0, "the packages of the course", trials.packages, always("make course")),
    Need(0, "a static busybox for the base image", trials.static_busybox,
         lambda machine: machine.install("busybox"), essential=False),
    Need(0, USERNS, trials.user_namespace, allow_user_namespaces),
    Need(0, MOUNT, trials.mount, allow_user_namespaces, stands_on=(USERNS,)),
    Need(0, "more than one user id in the lab", trials.many_ids, more_ids,
         essential=False, stands_on=(MOUNT,)),
    Need(0, "limits for the lab", trials.limits, always("")),
    Need(1, "a root directory of its own", trials.new_root, allow_user_namespaces, stands_on=(MOUNT,)),
    Need(1, "a /dev of its own", trials.new_dev, allow_mounts, stands_on=(MOUNT,)),
    Need(1, "read-only volumes", trials.readonly_volume, always(f"They need Linux 5.12: {NEWER}."),
         essential=False, stands_on=(MOUNT,)),
    Need(2, NET, trials.every_kind, always("Boot the distribution's own kernel."), stands_on=(USERNS,)),
    Need(2, "a /proc of its own", trials.new_proc, allow_mounts, stands_on=(MOUNT, NET)),
    Need(2, "a /sys of its own", trials.new_sys, allow_mounts, stands_on=(MOUNT, NET)),
    Need(2, "clocks of its own", trials.clocks, always(f"They need Linux 5.6: {NEWER}."),
         essential=False, stands_on=(USERNS,)),
    Need(3, "a cgroup of our own", trials.own_cgroup,
         always("Be root, or log in through systemd, which delegates one to each user."), essential=False),
    Need(3, CGROUPS, trials.cgroup_v2, essential=False, cure=always(
         "Add systemd.unified_cgroup_hierarchy=1 to the kernel's command line, and boot again.")),
    Need(4, OVERLAY, trials.overlay,
         always(f"They need Linux 5.11 with overlayfs: modprobe overlay, or {NEWER}."), stands_on=(MOUNT,)),
    Need(4, "directories deleted in an overlay", trials.overlay_notes,
         always(f"On a tmpfs, as in the lab, they need Linux 6.6: {NEWER}. Chapter 4 leaves them out here."),
         essential=False, stands_on=(OVERLAY,)),
    Need(5, "network cables and bridges", trials.wires,
         program("ip", f"This kernel lacks them: modprobe veth bridge, or {NEWER}."), stands_on=(NET,)),
    Need(5, "address translation", trials.nat,
         program("nft", f"This kernel lacks it: modprobe nft_masq, or {NEWER}."), stands_on=(NET,)),
    Need(5, "a way out of a network", trials.way_out, lambda machine: machine.install("slirp4netns"),
         essential=False),
    Need(10, MACHINES, trials.qemu, lambda machine: machine.install(QEMU), essential=False),
    Need(10, "virtual machines in hardware (KVM)", trials.kvm, allow_kvm, essential=False),
)


def main() -> int:
    """Print the findings as JSON: what `examine` reads."""
    print(json.dumps(examine_here(Machine())))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
