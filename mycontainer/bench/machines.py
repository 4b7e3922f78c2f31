"""Virtual machines as subjects: the smallest, a Debian with systemd, and the same with nginx.

Each is ready when its token comes out, on the serial port or in a page. Whether the kernel of the guest, its
init or its service is what takes so long, `vm.Machine.marks` tells.
"""

from __future__ import annotations

from collections.abc import Mapping

from mycontainer.bench import accel, debian, guest, kernel, qemu
from mycontainer.bench.subject import MACHINE, Missing, NotReady, Subject, Task
from mycontainer.bench.vm import Machine

PREPARE = "mycontainer bench prepare"
FORWARDED = "forwarded"  # a port of 127.0.0.1 goes to the guest; it reaches nothing else


class VirtualMachine(Subject):
    """QEMU with the prepared kernel. ``label`` and ``differences`` name the accelerator once it is known."""

    kind = MACHINE
    network = FORWARDED
    megabytes = 128
    disk = ""        # the image that it needs, by the name of debian.IMAGES
    guest_port = 0   # of the disk's own web server
    accelerator: qemu.Accelerator

    def available(self) -> Missing | None:
        if missing := qemu.missing():
            return missing
        if (found := kernel.find()) is None or not guest.initramfs_path(found).is_file():
            return Missing("its kernel and its initramfs are not prepared", PREPARE)
        if self.disk and not debian.path(self.disk).is_file():
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
        return {**told, **(debian.versions(self.disk) if self.disk else {})}

    def start(self, task: Task) -> Machine:
        if not hasattr(self, "accelerator") and (missing := self.available()):
            raise NotReady(missing.reason)
        disk = str(debian.path(self.disk)) if self.disk else ""
        port = self.guest_port if task.port else 0
        return Machine(qemu.argv(self.kernel, task, self.accelerator, self.megabytes, disk, port), task)


class Micro(VirtualMachine):
    """The least that can be called a virtual machine: a kernel, busybox, no disk."""

    name, label = "vm-micro", "VM, minimal"
    differences = ("a kernel of its own", "its init is our script: no systemd, no disk")


class Debian(VirtualMachine):
    """What people call a virtual machine: Debian on a disk, with systemd."""

    name, label = "vm-debian", "VM, Debian"
    megabytes, disk = 256, "debian"
    differences: tuple[str, ...] = ("a kernel of its own", "a whole user space: systemd, udev, journal",
                                    "its address is set in the initramfs, not asked for with DHCP")


class Web(Debian):
    """The same with nginx, started by systemd, which serves the page."""

    name, label = "vm-web", "VM, Debian with nginx"
    disk, guest_port = "web", 80
    differences = (*Debian.differences, "the page comes from nginx, not from busybox")
