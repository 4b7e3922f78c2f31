"""containerd runs containers through `mycontainer-oci`: its shim calls it, and waits for PID 1."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bundle import PROJECT, Done, Oci, eventually, needs_busybox
from needs import needs_root, needs_tool, needs_v1

pytestmark = [needs_root, needs_v1, needs_busybox, needs_tool("containerd", "containerd"),
              needs_tool("ctr", "containerd")]

OTHERS = ("grpc.v1.cri", "snapshotter.v1.btrfs", "snapshotter.v1.zfs", "snapshotter.v1.aufs",
          "snapshotter.v1.devmapper")


class Containerd:
    """A containerd of its own, with an image with busybox."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.socket = directory, directory / "c.sock"
        self.runtime = directory / "mycontainer-oci"
        settings = f"PYTHONPATH={PROJECT} PYTHONDONTWRITEBYTECODE="
        self.runtime.write_text(f'#!/bin/sh\n{settings} exec {sys.executable} -m mycontainer.cli.oci "$@"\n')
        self.runtime.chmod(0o755)
        disabled = json.dumps([f"io.containerd.{name}" for name in OTHERS])
        (directory / "config.toml").write_text(
            f'version = 2\nroot = "{directory}/root"\nstate = "{directory}/state"\n'
            f'disabled_plugins = {disabled}\n'
            f'[grpc]\naddress = "{self.socket}"\n[ttrpc]\naddress = "{self.socket}.ttrpc"\n')
        with open(directory / "log", "w") as log:
            self.daemon = subprocess.Popen(["containerd", "--config", directory / "config.toml"], stdout=log,
                                           stderr=log)
        assert eventually(lambda: self("version").returncode == 0, 20), (directory / "log").read_text()
        assert self("images", "import", str(self.image())).returncode == 0

    def image(self) -> Path:
        """An archive as `docker save` writes it, of one layer."""
        layer = self.directory / "layer.tar"
        rootfs = Oci(self.directory / "oci").bundle / "rootfs"
        subprocess.run(["tar", "-C", rootfs, "-cf", layer, "."], check=True)
        digest = hashlib.sha256(layer.read_bytes()).hexdigest()
        machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
        config = {"architecture": machine, "os": "linux", "config": {"Env": ["PATH=/bin"]},
                  "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]}}
        (self.directory / "config.json").write_text(json.dumps(config))
        (self.directory / "manifest.json").write_text(json.dumps(
            [{"Config": "config.json", "RepoTags": ["localhost/bb:latest"], "Layers": ["layer.tar"]}]))
        with tarfile.open(self.directory / "image.tar", "w") as archive:
            for name in ("manifest.json", "config.json", "layer.tar"):
                archive.add(self.directory / name, name)
        return self.directory / "image.tar"

    def __call__(self, *arguments: str) -> Done:
        return subprocess.run(["ctr", "--address", str(self.socket), *arguments], capture_output=True,
                              text=True, timeout=60, stdin=subprocess.DEVNULL)

    def run(self, name: str, options: list[str], *command: str) -> Done:
        cgroup = f"/mycontainer/ctr-{name}"
        return self("run", *options, "--runc-binary", str(self.runtime), "--cgroup", cgroup,
                    "localhost/bb:latest", name, *command)

    def end(self) -> None:
        self.daemon.terminate()
        self.daemon.wait()
        mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        for mount in reversed([mount for mount in mounts if mount.startswith(str(self.directory))]):
            subprocess.run(["umount", mount], check=True)
        shutil.rmtree(self.directory)


@pytest.fixture(scope="module")
def containerd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containerd]:
    one = Containerd(tmp_path_factory.mktemp("containerd"))
    yield one
    one.end()


def test_ctr_runs_a_container_to_its_end(containerd: Containerd) -> None:
    name = f"run-{os.getpid()}"
    done = containerd.run(name, ["--rm"], "sh", "-c", "id -u; cat /proc/self/cgroup; exit 4")
    assert done.returncode == 4, done.stderr
    user, *rows = done.stdout.split()
    assert user == "0"
    places = {row.rpartition(":")[2] for row in rows if not row.startswith("0::")}
    assert places == {f"/mycontainer/ctr-{name}"}


def test_a_day_of_a_task(containerd: Containerd) -> None:
    name = f"day-{os.getpid()}"

    def status() -> str:
        rows = [row.split() for row in containerd("tasks", "ls").stdout.splitlines()]
        return next((row[2] for row in rows if row[0] == name), "")

    assert containerd.run(name, ["-d"], "sleep", "1000").returncode == 0
    try:
        assert status() == "RUNNING"
        done = containerd("tasks", "exec", "--exec-id", "e1", name, "sh", "-c", "echo in there; exit 6")
        assert (done.stdout, done.returncode) == ("in there\n", 6)
        assert len(containerd("tasks", "ps", name).stdout.splitlines()) == 2
        assert containerd("tasks", "pause", name).returncode == 0
        assert status() == "PAUSED"
        assert containerd("tasks", "resume", name).returncode == 0
        assert "checkpoint is not built yet" in containerd("tasks", "checkpoint", name).stderr
    finally:
        containerd("tasks", "kill", "--all", "--signal", "SIGKILL", name)
        assert eventually(lambda: status() == "STOPPED")
        assert "exit code 137" in containerd("tasks", "rm", name).stderr
        assert containerd("containers", "rm", name).returncode == 0


def test_what_cannot_run_is_told_by_ctr(containerd: Containerd) -> None:
    """It reads our log: --log FILE --log-format json."""
    done = containerd.run(f"no-{os.getpid()}", ["--rm"], "no-such-command")
    assert done.returncode == 1
    assert "executable file not found in $PATH" in done.stderr
