"""QEMU's own command line for a guest of ours, on each architecture.

Sources: qemu(1) / https://www.qemu.org/docs/master/system/invocation.html, setpriv(1).
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from typing import TYPE_CHECKING, NamedTuple

from mycontainer.bench import guest
from mycontainer.bench.kernel import ARCHITECTURES, Kernel
from mycontainer.bench.subject import Missing

if TYPE_CHECKING:
    from mycontainer.bench.subject import Task

KVM, TCG = "KVM", "TCG (emulated)"
MICROVM = "microvm"  # QEMU's machine without PCI and firmware tables; x86 only


class Architecture(NamedTuple):
    """What differs between processors."""

    program: str
    package: str
    machine: str
    console: str


X86 = Architecture("qemu-system-x86_64", "qemu-system-x86", "q35", "ttyS0")
ARM = Architecture("qemu-system-aarch64", "qemu-system-arm", "virt", "ttyAMA0")


class Accelerator(NamedTuple):
    """How the guest's processor comes about, and the machine type that works with it."""

    name: str  # KVM or TCG
    machine: str
    why: str = ""  # why it is not KVM


def here() -> Architecture:
    """Of this machine."""
    return ARM if os.uname().machine == "aarch64" else X86


def missing() -> Missing | None:
    """What lacks before any guest could boot."""
    if os.uname().machine not in ARCHITECTURES:
        cure = f"a machine with {' or '.join(ARCHITECTURES)}"
        return Missing(f"there is no guest for {os.uname().machine}", cure)
    for program, package in ((here().program, here().package), ("setpriv", "util-linux")):
        if not shutil.which(program):
            return Missing(f"{program} is not installed", f"apt install {package}")
    return None


@functools.cache
def version() -> str:
    """QEMU's."""
    shown = subprocess.run([here().program, "--version"], capture_output=True, text=True, check=True).stdout
    return shown.splitlines()[0].removeprefix("QEMU emulator version ")


def argv(kernel: Kernel, task: Task, accelerator: Accelerator, megabytes: int, disk: str = "",
         guest_port: int = 0, translated: int = 32) -> list[str]:
    """The command that boots a guest with a task. ``disk``: of a Debian, whose changes are thrown away;
    ``guest_port``: of a server of the disk's own; ``translated``: megabytes for translated code.

    setpriv makes the kernel kill QEMU when the thread that started it ends, so also by kill -9 (man 2 prctl,
    PR_SET_PDEATHSIG). A port is forwarded from 127.0.0.1 alone; ``restrict`` lets the guest reach nothing.
    """
    computer = here()
    line = guest.command_line(task, computer.console, "/dev/vda" if disk else "", bool(guest_port))
    words = ["setpriv", "--pdeathsig", "KILL", computer.program,
             "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio",
             "-M", accelerator.machine, "-m", f"{megabytes}M", *_processor(accelerator, translated),
             "-kernel", kernel.image, "-initrd", str(guest.initramfs_path(kernel)), "-append", line]
    bus = "device" if accelerator.machine == MICROVM else "pci"
    if disk:
        words += ["-drive", f"file={disk},format=raw,if=none,id=disk,snapshot=on",
                  "-device", f"virtio-blk-{bus},drive=disk"]
    if task.port:
        forward = f"hostfwd=tcp:127.0.0.1:{task.port}-{guest.ADDRESS}:{guest_port or task.port}"
        words += ["-netdev", f"user,id=net,restrict=on,ipv6=off,{forward}",
                  "-device", f"virtio-net-{bus},netdev=net{',romfile=' if bus == 'pci' else ''}"]
    return words


def _processor(accelerator: Accelerator, translated: int) -> list[str]:
    if accelerator.name == KVM:
        return ["-accel", "kvm", "-cpu", "host"]
    # Left to itself it takes a quarter of a gigabyte for translated code, whatever the guest's size.
    return ["-accel", f"tcg,tb-size={translated}", *(["-cpu", "max"] if here() is ARM else [])]
