"""LXC and systemd-nspawn: made for containers that hold a whole system, and here with a single program.

Both make their cgroups where process 1, or they themselves, are: in the benchmark's own (world.py). Without
that they would lie in somebody else's, so without it they are not tried.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

from mycontainer.bench import cgroup, rootfs, world
from mycontainer.bench.managers import ROOT_NEEDED
from mycontainer.bench.plain import version
from mycontainer.bench.subject import NO_NETWORK, Attended, Instance, Missing, Subject, Task
from mycontainer.engine import idmap


class System(Subject):
    """A container from a directory, in the foreground."""

    network = NO_NETWORK
    program: str
    package: str

    def available(self) -> Missing | None:
        if not shutil.which(self.program):
            return Missing(f"no {self.program}", f"apt install {self.package}")
        if not (world.isolated() and cgroup.given()):
            return Missing("needs root, and a cgroup of the benchmark's own", ROOT_NEEDED)
        return rootfs.lack()

    def versions(self) -> Mapping[str, str]:
        return {self.name: version(self.program, "--version")}

    def prepare(self, scratch: Path) -> None:
        self.scratch, self.root = scratch, rootfs.unpacked(scratch)


class Nspawn(System):
    """systemd-nspawn, not registered with systemd."""

    name, label = "nspawn", "systemd-nspawn"
    program, package = "systemd-nspawn", "systemd-container"

    def start(self, task: Task) -> Instance:
        _, first, count = idmap.choose_maps()[0][0]
        network = [] if task.port else ["--private-network"]
        return Attended(["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--console=pipe",
                         f"--private-users={first}:{count}", "--private-users-ownership=off",
                         f"--machine=bench-{secrets.token_hex(4)}", f"--directory={self.root}", *network,
                         f"/bin/{task.argv[0]}", *task.argv[1:]], task,
                        {**os.environ, "SYSTEMD_NSPAWN_LOCK": "0"})  # many may share the directory


class Lxc(System):
    """lxc-start."""

    name, label = "lxc", "lxc-start"
    program, package = "lxc-start", "lxc"

    def start(self, task: Task) -> Instance:
        name = f"bench-{secrets.token_hex(4)}"
        settings = self.scratch / f"{name}.conf"
        settings.write_text("".join(f"{key} = {value}\n" for key, value in self.settings(name, task)))
        return Attended(["lxc-start", "--foreground", f"--name={name}", f"--lxcpath={self.scratch}",
                         f"--rcfile={settings}", "--", f"/bin/{task.argv[0]}", *task.argv[1:]], task)

    def settings(self, name: str, task: Task) -> list[tuple[str, str]]:
        """As our own container has it. man 5 lxc.container.conf.

        Its ids are mapped by newuidmap(1), which asks /etc/subuid also when root calls: without a range for
        root there is no user namespace.
        """
        granted = all(idmap.subordinate_ids("root", f"/etc/sub{kind}", 0) for kind in ("uid", "gid"))
        maps = [(letter, *row) for letter, rows in zip("ug", idmap.choose_maps(), strict=True)
                for row in rows if granted]
        return [
            ("lxc.rootfs.path", f"dir:{self.root}"), ("lxc.uts.name", "bench"),
            ("lxc.net.0.type", "none" if task.port else "empty"),
            *[("lxc.idmap", " ".join(map(str, row))) for row in maps],
            ("lxc.mount.auto", "proc:rw" if task.port else "proc:rw sys:ro"),
            ("lxc.autodev", "1"), ("lxc.tty.max", "0"), ("lxc.console.path", "none"), ("lxc.pty.max", "16"),
            ("lxc.apparmor.profile", "unconfined"), ("lxc.cap.drop", "sys_admin"),
            ("lxc.cgroup.dir.container", f"lxc/{name}"), ("lxc.cgroup.dir.monitor", f"lxc/{name}-monitor"),
        ]
