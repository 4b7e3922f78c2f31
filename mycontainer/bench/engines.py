"""crun and runc: one configuration for both, and what it asks for is what our own container gets.

Source: the runtime-spec's config.md and config-linux.md.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mycontainer.bench import cgroup, rootfs, world
from mycontainer.bench.capabilities import NAMES
from mycontainer.bench.plain import tried, version
from mycontainer.bench.subject import NO_NETWORK, Attended, Instance, Missing, Subject, Task
from mycontainer.engine import idmap
from mycontainer.spawn import PATH

PIDS_LIMIT = 512


def configuration(task: Task, root: Path, cgroups_path: str | None) -> dict[str, Any]:
    """A config.json for this task, the equal of what mycontainer/container.py makes."""
    uid_map, gid_map = idmap.choose_maps()
    kinds = ["user", "mount", "pid", "ipc", "uts", "cgroup", *([] if task.port else ["network"])]
    capabilities = [f"CAP_{name}" for name in NAMES if name != "SYS_ADMIN"]  # as spawn.execute leaves them
    config: dict[str, Any] = {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0}, "args": list(task.argv), "cwd": "/",
            "env": [f"PATH={PATH}", "HOME=/root"],
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), capabilities)},
        "root": {"path": str(root), "readonly": False},
        "hostname": "bench",
        "mounts": mounts(own_net=not task.port, tty_group=sum(row[2] for row in gid_map) > 5),
        "linux": {
            "namespaces": [{"type": kind} for kind in kinds],
            "uidMappings": mappings(uid_map), "gidMappings": mappings(gid_map)}}
    if cgroups_path:
        config["linux"] |= {"cgroupsPath": cgroups_path, "resources": {"pids": {"limit": PIDS_LIMIT}}}
    return config


def mappings(rows: idmap.Map) -> list[dict[str, int]]:
    return [{"containerID": inside, "hostID": outside, "size": count} for inside, outside, count in rows]


def mounts(own_net: bool, tty_group: bool) -> list[dict[str, Any]]:
    """As chroot.furnish makes them; without a network namespace of its own there is no /sys."""
    careful = ["nosuid", "noexec", "nodev"]
    rows: list[tuple[str, str, list[str]]] = [
        ("/proc", "proc", careful),
        *([("/sys", "sysfs", [*careful, "ro"])] if own_net else []),
        ("/dev", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        ("/dev/pts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620",
                                *(["gid=5"] if tty_group else [])]),
        ("/dev/shm", "tmpfs", [*careful, "mode=1777", "size=65536k"]),
        ("/dev/mqueue", "mqueue", careful)]
    return [{"destination": where, "type": kind, "source": kind, "options": options}
            for where, kind, options in rows]


class Engine(Subject):
    """An OCI runtime, run in the foreground."""

    network = NO_NETWORK
    package: str

    def __init__(self) -> None:
        self.parent = cgroup.given()

    def available(self) -> Missing | None:
        if lack := rootfs.lack():
            return lack
        if not shutil.which(self.name):
            return Missing(f"no {self.name}", f"apt install {self.name}")
        if self.name == "crun" and os.path.ismount(world.UNIFIED):
            return Missing("it refuses a machine that mounts both versions of cgroups",
                           "as root the benchmark hides one of them: sudo mycontainer bench ...")
        return None

    def versions(self) -> Mapping[str, str]:
        return {self.name: version(self.name, "--version")}

    def prepare(self, scratch: Path) -> None:
        self.scratch, self.root = scratch, rootfs.unpacked(scratch)
        self.numbers = itertools.count()

    def start(self, task: Task) -> Instance:
        name = f"bench-{os.getpid()}-{next(self.numbers)}"  # several processes may start some at once
        bundle = self.scratch / name
        bundle.mkdir()
        path = f"{self.parent}/{name}" if self.parent else None
        (bundle / "config.json").write_text(json.dumps(configuration(task, self.root, path)))
        return Bundle([*self.command(), "run", "--bundle", str(bundle), name],
                      [*self.command(), "delete", "--force", name], bundle, task)

    def command(self) -> list[str]:
        return [self.name, "--root", str(self.scratch / "state")]


class Bundle(Attended):
    """A container of one of them."""

    def __init__(self, argv: list[str], delete: list[str], bundle: Path, task: Task) -> None:
        self.delete, self.bundle = delete, bundle
        super().__init__(argv, task)

    def stop(self) -> None:
        super().stop()
        if self.bundle.exists():
            if self.killed:  # then it could not clear up after itself
                tried(self.delete, "")
            shutil.rmtree(self.bundle, ignore_errors=True)


class Crun(Engine):
    """Podman's engine on Fedora and many others, in C."""

    name, label = "crun", "crun"

    def command(self) -> list[str]:
        manager = "cgroupfs" if self.parent else "disabled"
        return [*super().command(), f"--cgroup-manager={manager}"]


class Runc(Engine):
    """Docker's engine, in Go."""

    name, label = "runc", "runc"
