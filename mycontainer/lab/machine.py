"""What kind of machine this is, as far as a cure depends on it: its distribution, its restrictions.

Everything is read below ``root``, so that a test can show a machine that it does not have.
"""

from __future__ import annotations

import os
import re

# Who brings what: our name for it, then the package in each family of distributions.
PACKAGES = {
    "busybox": {"debian": "busybox-static"},
    "newuidmap": {"debian": "uidmap", "fedora": "shadow-utils", "arch": "shadow", "alpine": "shadow-uidmap",
                  "suse": "shadow"},
    "ip": {"debian": "iproute2", "fedora": "iproute", "arch": "iproute2", "alpine": "iproute2",
           "suse": "iproute2"},
    "nft": dict.fromkeys(("debian", "fedora", "arch", "alpine", "suse"), "nftables"),
    "slirp4netns": dict.fromkeys(("debian", "fedora", "arch", "alpine", "suse"), "slirp4netns"),
    "qemu-system-x86_64": {"debian": "qemu-system-x86", "fedora": "qemu-system-x86-core",
                           "arch": "qemu-system-x86", "suse": "qemu-x86"},
    "qemu-system-aarch64": {"debian": "qemu-system-arm", "fedora": "qemu-system-aarch64-core",
                            "suse": "qemu-arm"},
}
INSTALL = {"debian": "apt install", "fedora": "dnf install", "arch": "pacman -S", "alpine": "apk add",
           "suse": "zypper install"}
FAMILIES = {"debian": "debian", "ubuntu": "debian", "fedora": "fedora", "rhel": "fedora", "centos": "fedora",
            "arch": "arch", "alpine": "alpine", "suse": "suse", "opensuse": "suse"}
SECCOMP_FILTER = "2"  # the value of Seccomp in /proc/PID/status, proc(5)


class Machine:
    """The machine whose files are below ``root``, seen by the user ``uid``."""

    def __init__(self, root: str = "/", uid: int | None = None) -> None:
        self.root, self.uid = root, os.geteuid() if uid is None else uid
        self.in_lab = os.environ.get("MYCONTAINER_LAB") == "1"  # root of a lab is not root of the machine

    def exists(self, path: str) -> bool:
        """Is there such a file?"""
        return os.path.lexists(os.path.join(self.root, path))

    def read(self, path: str) -> str:
        """A file's text without the white space around it; empty if we cannot read it."""
        try:
            with open(os.path.join(self.root, path), errors="replace") as stream:
                return stream.read().strip()
        except OSError:
            return ""

    @property
    def family(self) -> str:
        """debian, fedora, arch, alpine, suse, or "" for a distribution that we do not know. os-release(5)."""
        fields = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', self.read("etc/os-release"), re.MULTILINE))
        names = [fields.get("ID", ""), *fields.get("ID_LIKE", "").split()]
        return next((FAMILIES[name] for name in names if name in FAMILIES), "")

    def as_root(self, command: str) -> str:
        """The command as this user has to type it."""
        return command if self.uid == 0 and not self.in_lab else f"sudo {command}"

    def install(self, program: str) -> str:
        """How to get a program (a key of PACKAGES) here."""
        package = PACKAGES[program].get(self.family, program)
        if self.family not in INSTALL:
            return f"Install the package that brings {program}."
        return self.as_root(f"{INSTALL[self.family]} {package}")

    def set_sysctl(self, name: str, value: int) -> str:
        """How to change a setting of the kernel, until the next boot and for ever."""
        keep = f"echo {name}={value} | {self.as_root('tee /etc/sysctl.d/90-mycontainer.conf')}"
        return f"{self.as_root(f'sysctl -w {name}={value}')}   (to keep it: {keep})"

    def sysctl(self, name: str) -> str:
        """A setting of the kernel, empty if it does not have it."""
        return self.read(f"proc/sys/{name.replace('.', '/')}")

    @property
    def in_container(self) -> bool:
        """Are we in somebody's container? (Docker's and Podman's marks; systemd's container interface.)"""
        return any(map(self.exists, (".dockerenv", "run/.containerenv", "run/systemd/container")))

    @property
    def in_chroot(self) -> bool:
        """Is our root directory less than a whole mount? Then ``/`` is no mount point. man 5 proc."""
        mounts = [row.split() for row in self.read("proc/self/mountinfo").splitlines()]
        return bool(mounts) and not any(row[4] == "/" for row in mounts)

    @property
    def filters_calls(self) -> bool:
        """Does a seccomp filter look at our system calls?"""
        return f"Seccomp:\t{SECCOMP_FILTER}" in self.read("proc/self/status")

    def allow_user_namespaces(self, project: str = "") -> str:
        """What keeps us from user namespaces, and its cure; the first that we find.

        ``project`` is the directory of our checkout, if there is one: it can install an AppArmor profile.
        """
        release = self.read("proc/sys/kernel/osrelease")
        if "Microsoft" in release and "WSL2" not in release:
            return "This is WSL 1, which has no Linux kernel. In PowerShell: wsl --set-version DISTRIBUTION 2"
        if not self.exists("proc/self/ns/user"):
            return "This kernel was built without user namespaces (CONFIG_USER_NS): boot another one."
        if self.in_container and self.filters_calls:
            return ("The container engine that this runs in forbids it. Start its container with: "
                    "--security-opt seccomp=unconfined --security-opt apparmor=unconfined "
                    "--security-opt systempaths=unconfined")
        if self.sysctl("user.max_user_namespaces") == "0":
            return self.set_sysctl("user.max_user_namespaces", 15000)
        if self.uid and self.sysctl("kernel.unprivileged_userns_clone") == "0":
            return self.set_sysctl("kernel.unprivileged_userns_clone", 1)
        if self.uid and self.sysctl("kernel.apparmor_restrict_unprivileged_userns") == "1":
            if project:
                return f"{project}/tools/apparmor/install.sh {project}/.venv   (a profile for our launcher)"
            return self.set_sysctl("kernel.apparmor_restrict_unprivileged_userns", 0)
        if self.in_chroot:
            return "We are in a chroot, where the kernel refuses it: leave it, or enter it by pivot_root."
        if self.filters_calls:
            return "A seccomp filter is in force here (Seccomp: 2 in /proc/self/status): start outside of it."
        return "The limit on namespaces is reached (/proc/sys/user), or a security module forbids it (dmesg)."
