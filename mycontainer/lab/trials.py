"""The doctor's trials: each does one thing that a chapter does, in child processes that take it with them.

Each returns a word on what it found, or raises ContainerError or OSError with the reason.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec

from mycontainer import chroot, namespaces, spawn, syscalls
from mycontainer.engine import idmap, uplink
from mycontainer.errors import ContainerError
from mycontainer.lab.limits import Limits
from mycontainer.lab.machine import Machine

PACKAGES = ("ipykernel", "jupyterlab", "ipywidgets", "matplotlib", "cloudpickle")
SPOT = "/tmp"         # where trials mount, in mount namespaces of their own: it is everywhere
KVM_GET_API_VERSION, KVM_CREATE_VM, KVM_CREATE_VCPU = 0xAE00, 0xAE01, 0xAE41  # linux/kvm.h
QEMU = f"qemu-system-{os.uname().machine}"
PATH = "/usr/sbin:/usr/bin:/sbin:/bin"  # a user's PATH often lacks sbin


# ---- how to try something in a container

def inside(work: Callable[[], None], *kinds: str, all_ids: bool = False) -> None:
    """Do ``work`` as root in new namespaces of these kinds; its failure is ours."""
    maps = idmap.choose_maps() if all_ids or os.geteuid() == 0 else one_id()
    code = spawn.spawn(work, kinds, *maps).wait()
    if code:
        raise ContainerError("it ended too early", f"exit code {code}")


def one_id() -> tuple[idmap.Map, idmap.Map]:
    """The maps for which nobody must be asked."""
    return [(0, os.geteuid(), 1)], [(0, os.getegid(), 1)]


def shell(script: str, *kinds: str) -> None:
    """Run a shell script in new namespaces; what it says is the reason if it fails."""
    output = os.memfd_create("output")

    def become() -> None:
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.execve("/bin/sh", ["sh", "-ec", script], {"PATH": PATH})

    try:
        inside(become, *kinds)
    except ContainerError as error:
        said = os.pread(output, 500, 0).decode(errors="replace").strip()
        raise ContainerError(said or str(error)) from error
    finally:
        os.close(output)


def on_tmpfs(work: Callable[[], None]) -> Callable[[], None]:
    """``work`` on a file system that only it sees, at SPOT."""

    def prepared() -> None:
        chroot.make_private()
        syscalls.mount("tmpfs", SPOT, "tmpfs")
        work()

    return prepared


def nothing() -> None:
    """To be there is all."""


# ---- chapter 0: the lab

def python() -> str:
    return f"{sys.version.split()[0]}, {sys.executable}"


def packages() -> str:
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ContainerError("not installed", ", ".join(missing))
    return ", ".join(PACKAGES)


def static_busybox() -> str:
    from mycontainer.images import base

    found = base.find_static_busybox()
    if not found:
        raise ContainerError("none here; the base image will hold this machine's own shell and tools")
    return found


def user_namespace() -> str:
    inside(nothing, "user")
    return "root inside"


def mount() -> str:
    inside(on_tmpfs(nothing), "user", "mnt")
    return "tmpfs"


def many_ids() -> str:
    uids, gids = idmap.choose_maps()
    count = min(sum(count for _, _, count in ids) for ids in (uids, gids))
    if count < 2:
        raise ContainerError("one id only: in there chown and su cannot work", _why_one_id())

    def give_away() -> None:
        os.mkdir(f"{SPOT}/file")
        os.chown(f"{SPOT}/file", 1, 1)

    inside(on_tmpfs(give_away), "user", "mnt", all_ids=True)
    return f"{count} ids"


def _why_one_id() -> str:
    helpers = [name for name in ("newuidmap", "newgidmap") if not shutil.which(name)]
    return f"no {helpers[0]}" if helpers else f"no line for user {os.geteuid()} in /etc/subuid or /etc/subgid"


def limits() -> str:
    trial = Limits(f"doctor-{os.getpid()}")
    try:
        trial.prepare()
        return ", ".join(f"{kind}: {how}" for kind, how in sorted(trial.in_force.items()))
    finally:
        trial.remove()


# ---- chapters 1 and 2

def new_root() -> str:
    inside(on_tmpfs(lambda: chroot.pivot(SPOT)), "user", "mnt")
    return "pivot_root"


def new_proc() -> str:
    inside(on_tmpfs(lambda: chroot.mount_proc(SPOT)), "user", "mnt", "pid")
    return "proc"


def new_sys() -> str:
    inside(on_tmpfs(lambda: chroot.mount_sys(SPOT)), "user", "mnt", "net")
    return "sysfs"


def new_dev() -> str:
    inside(on_tmpfs(lambda: chroot.make_dev(SPOT)), "user", "mnt")
    return "devices, devpts"


def readonly_volume() -> str:
    inside(on_tmpfs(lambda: chroot.bind("/etc", SPOT, "volume", readonly=True)), "user", "mnt")
    return "mount_setattr"


def every_kind() -> str:
    for kind in ("uts", "ipc", "pid", "net", "cgroup"):
        try:
            inside(namespaces.raise_loopback if kind == "net" else nothing, "user", kind)
        except ContainerError as error:
            raise ContainerError(f"{kind}: {error}") from error
    return "uts, ipc, pid, net, cgroup"


def clocks() -> str:
    inside(nothing, "user", "time")
    return "time"


# ---- chapters 3 to 5, and 10

def own_cgroup() -> str:
    trial = Limits(f"doctor-{os.getpid()}")
    try:
        trial.prepare()
        if trial.in_force.get("memory") == "cgroup":
            return trial.directories[0]
    finally:
        trial.remove()
    if os.geteuid() and shutil.which("systemd-run"):
        argv = ["systemd-run", "--user", "--scope", "--quiet", "-p", "Delegate=yes", "true"]
        if subprocess.run(argv, capture_output=True, stdin=subprocess.DEVNULL).returncode == 0:
            return "a scope that systemd delegates"
    raise ContainerError("nobody lets us make one")


def cgroup_v2() -> str:
    there = Machine().read("sys/fs/cgroup/cgroup.controllers").split()
    missing = [name for name in ("cpu", "memory", "pids") if name not in there]
    if not there:
        raise ContainerError("cgroup v1 is mounted here, which the chapter only mentions")
    if missing:
        raise ContainerError(f"without {', '.join(missing)}")
    return ", ".join(there)


def overlay() -> str:
    def stack() -> None:
        for name in ("lower", "upper", "work", "merged"):
            os.mkdir(f"{SPOT}/{name}")
        data = f"lowerdir={SPOT}/lower,upperdir={SPOT}/upper,workdir={SPOT}/work"
        syscalls.mount("overlay", f"{SPOT}/merged", "overlay", 0, data)
        os.mkdir(f"{SPOT}/merged/new")
        os.stat(f"{SPOT}/upper/new")

    inside(on_tmpfs(stack), "user", "mnt")
    return "overlay on tmpfs"


def overlay_notes() -> str:
    """Delete a directory of a lower layer, and make it anew: that takes a note in the upper."""
    def stack() -> None:
        for name in ("lower/directory", "upper", "work", "merged"):
            os.makedirs(f"{SPOT}/{name}")
        data = f"lowerdir={SPOT}/lower,upperdir={SPOT}/upper,workdir={SPOT}/work,userxattr"
        syscalls.mount("overlay", f"{SPOT}/merged", "overlay", 0, data)
        os.rmdir(f"{SPOT}/merged/directory")
        os.mkdir(f"{SPOT}/merged/directory")

    inside(on_tmpfs(stack), "user", "mnt")
    return "user.* attributes on tmpfs"


def wires() -> str:
    shell("ip link add name mc-br type bridge; ip link add name mc-a type veth peer name mc-b;"
          "ip link set mc-a master mc-br",
          "user", "net")
    return "veth, bridge"


def nat() -> str:
    shell("nft add table ip t; nft add chain ip t c '{ type nat hook postrouting priority 100 ; }';"
          "nft add rule ip t c masquerade", "user", "net")
    return "nftables, masquerade"


def way_out() -> str:
    found = uplink.find()
    if not found:
        raise ContainerError("containers of one network reach each other, and nobody else")
    return found


def qemu() -> str:
    found = shutil.which(QEMU)
    if not found:
        raise ContainerError(f"no {QEMU}")
    return found


def kvm() -> str:
    """Make a machine with one processor. Whether a kernel boots on it, only a boot shows."""
    if Machine().in_lab:
        raise ContainerError("not tried: the lab hides /dev/kvm")
    fds = [os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)]
    try:
        version = fcntl.ioctl(fds[0], KVM_GET_API_VERSION)
        fds.append(fcntl.ioctl(fds[0], KVM_CREATE_VM, 0))
        fds.append(fcntl.ioctl(fds[1], KVM_CREATE_VCPU, 0))
    finally:
        for fd in reversed(fds):
            os.close(fd)
    return f"answers (API {version}); whether a kernel boots on it, chapter 10 tries"
