"""Virtual machines as subjects: the smallest, a Debian with systemd, and the same with nginx.

Each is ready when its token comes out, on the serial port or in a page. Whether the kernel of the guest, its
init or its service is what takes so long, `vm.Machine.marks` tells.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from mycontainer.bench import accel, debian, guest, kernel, qemu
from mycontainer.bench.subject import MACHINE, Missing, NotReady, Subject, Task
from mycontainer.bench.vm import Machine
from mycontainer.errors import ContainerError

PREPARE = "mycontainer bench prepare"
FORWARDED = "forwarded"  # a port of 127.0.0.1 goes to the guest; it reaches nothing else


class VirtualMachine(Subject):
    """QEMU with the prepared kernel. ``label`` and ``differences`` name the accelerator once it is known."""

    kind = MACHINE
    network = FORWARDED
    megabytes = 128
    translated = 32  # megabytes for translated code, under emulation
    has_disk = False
    guest_port = 0   # of the disk's own web server
    accelerator: qemu.Accelerator
    scratch: Path | None = None

    def available(self) -> Missing | None:
        if missing := qemu.missing():
            return missing
        if (found := kernel.find()) is None:
            return Missing("its kernel is not prepared", PREPARE)
        try:
            guest.initramfs(found)
        except (OSError, ContainerError) as error:
            return Missing(f"its initramfs is not prepared ({error})", PREPARE)
        if self.has_disk and not debian.path().is_file():
            return Missing("its disk is not prepared", PREPARE)
        self.kernel, self.accelerator = found, accel.find(found)
        cls = type(self)
        self.label = f"{cls.label}, {self.accelerator.name}"
        self.differences = (*cls.differences, *accel.differences(self.accelerator))
        return None

    def versions(self) -> Mapping[str, str]:
        told = {"qemu": qemu.version(), "kernel": self.kernel.release, "accelerator": self.accelerator.name,
                "machine": self.accelerator.machine}
        if self.accelerator.why:
            told["why no KVM"] = self.accelerator.why
        return {**told, **(debian.versions() if self.has_disk else {})}

    def prepare(self, scratch: Path) -> None:
        self.scratch = scratch

    def start(self, task: Task) -> Machine:
        if not hasattr(self, "accelerator") and (missing := self.available()):
            raise NotReady(missing.reason)
        disk = str(debian.path()) if self.has_disk else ""
        port = self.guest_port if task.port else 0
        try:
            argv = qemu.argv(self.kernel, task, self.accelerator, self.megabytes, disk, port, self.translated)
        except ValueError as error:
            raise NotReady(str(error)) from error
        # QEMU takes the name of the file for a disk's changes away at once; in between it may be killed.
        return Machine(argv, task, {**os.environ, "TMPDIR": str(self.scratch)} if self.scratch else None)


class Micro(VirtualMachine):
    """The least that can be called a virtual machine: a kernel, busybox, no disk."""

    name, label = "vm-micro", "VM, minimal"
    differences = ("a kernel of its own", "its init is our script: no systemd, no disk")


class Debian(VirtualMachine):
    """What people call a virtual machine: Debian on a disk, with systemd."""

    name, label = "vm-debian", "VM, Debian"
    megabytes, translated, has_disk = 256, 64, True  # with 32 it translates a third of it twice
    differences: tuple[str, ...] = ("a kernel of its own", "a whole user space: systemd, udev, journal",
                                    "its address is set in the initramfs, not asked for with DHCP")


class Web(Debian):
    """The same with nginx, started by systemd, which serves the page."""

    name, label = "vm-web", "VM, Debian with nginx"
    guest_port = 80
    differences = (*Debian.differences, "the page comes from nginx, not from busybox")


class Elsewhere(VirtualMachine):
    """A monitor that is not QEMU: named, so that a reader knows of it, and not measured.

    Both need KVM, so nobody could try here what we would write. Firecracker also boots no kernel as Debian
    packs it (x86: an uncompressed vmlinux), and has no forwarded port without a network device of the host's.
    """

    def available(self) -> Missing | None:
        return Missing("not built yet: it needs KVM", "a machine with KVM to try it on")

    def versions(self) -> Mapping[str, str]:
        return {}


class Firecracker(Elsewhere):
    """https://github.com/firecracker-microvm/firecracker"""

    name, label = "firecracker", "Firecracker"


class CloudHypervisor(Elsewhere):
    """https://github.com/cloud-hypervisor/cloud-hypervisor"""

    name, label = "cloud-hypervisor", "Cloud Hypervisor"
