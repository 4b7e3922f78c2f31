"""Podman runs containers through `mycontainer-oci`, and does not notice."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from bundle import PROJECT, Done, Oci, eventually, needs_busybox
from mycontainer.engine import bundle_cgroup, config
from needs import needs_root, needs_tool, needs_v1

pytestmark = [needs_root, needs_v1, needs_busybox, needs_tool("podman", "podman"),
              needs_tool("conmon", "conmon")]

# Its settings: no limits that this machine might refuse, cgroups as directories, no journal.
CONF = """\
[containers]
default_ulimits = []
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
"""
UNIFIED = "/sys/fs/cgroup/unified"  # on a hybrid machine
LOOP = 'trap "exit 4" TERM; echo up; while :; do sleep 0.05; done'


class Podman:
    """Podman with a storage of its own, our runtime, and an image with busybox."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.parent = directory, f"/mycontainer/podman-{os.urandom(4).hex()}"
        (directory / "containers.conf").write_text(CONF)
        self.runtime = directory / "mycontainer-oci"
        settings = f"PYTHONPATH={PROJECT} PYTHONDONTWRITEBYTECODE="
        self.runtime.write_text(f'#!/bin/sh\n{settings} exec {sys.executable} -m mycontainer.cli.oci "$@"\n')
        self.runtime.chmod(0o755)
        rootfs = Oci(directory / "oci").bundle / "rootfs"
        subprocess.run(["tar", "-C", rootfs, "-cf", directory / "image.tar", "."], check=True)
        assert self("import", str(directory / "image.tar"), "localhost/bb:latest").returncode == 0
        for place in self.cgroups():  # conmon's own cgroup lies below, and stays
            place.mkdir(parents=True, exist_ok=True)
        self.run("--rm", "localhost/bb", "true")

    def cgroups(self) -> list[Path]:
        """Where podman and conmon make theirs, in every tree."""
        return [Path(f"{point}{self.parent}") for point in {*bundle_cgroup.trees().values(), UNIFIED}
                if os.path.isdir(point)]

    def __call__(self, *arguments: str, runtime: str = "", **how: object) -> Done:
        argv = ["podman", "--root", f"{self.directory}/root", "--runroot", f"{self.directory}/run",
                "--storage-driver", "vfs", "--runtime", runtime or str(self.runtime), *arguments]
        env = {**os.environ, "CONTAINERS_CONF": f"{self.directory}/containers.conf"}
        return subprocess.run(argv, **{  # type: ignore[call-overload, no-any-return]
            "capture_output": True, "text": True, "timeout": 60, "env": env, "stdin": subprocess.DEVNULL,
            **how})

    def run(self, *arguments: str, **how: object) -> Done:
        return self("run", "--network", "none", "--cgroup-parent", self.parent,
                    *arguments, **how)  # type: ignore[arg-type]

    def clean(self) -> None:
        self("rm", "--all", "--force", "--time", "0")
        mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        for mount in reversed([mount for mount in mounts if mount.startswith(str(self.directory))]):
            subprocess.run(["umount", mount], check=True)
        for directory in self.cgroups():
            for each in (*directory.glob("*"), directory):
                if each.is_dir():
                    eventually(lambda each=each: removed(each), 2)  # type: ignore[misc]
        shutil.rmtree(self.directory)


def removed(directory: Path) -> bool:
    with suppress(OSError):
        directory.rmdir()
    return not directory.exists()


@pytest.fixture(scope="module")
def podman() -> Iterator[Podman]:
    one = Podman(Path(tempfile.mkdtemp(prefix="pod-", dir="/tmp")))  # it wants a path of less than 50 letters
    yield one
    one.clean()


@pytest.mark.parametrize(("command", "code"), [
    (["sh", "-c", "exit 3"], 3), (["no-such"], 127), (["/etc"], 126)])
def test_exit_codes_are_those_that_podman_promises(podman: Podman, command: list[str], code: int) -> None:
    assert podman.run("--rm", "localhost/bb", *command).returncode == code


def test_inside_it_is_as_with_runc(podman: Podman) -> None:
    if not shutil.which("runc"):
        pytest.skip("needs the program runc (Debian package runc)")
    look = """cut -d' ' -f5,6 /proc/self/mountinfo; id; env
        grep -E 'Cap|NoNew|Umask|Groups|Seccomp' /proc/self/status"""
    words = ["--rm", "--hostname", "x", "--name", "x", "localhost/bb", "sh", "-c", look]
    both = [sorted(line for line in podman.run(*words, runtime=runtime).stdout.splitlines()
                   if "cgroup " not in line) for runtime in ("", shutil.which("runc") or "")]
    assert len(both[0]) > 30
    assert both[0] == both[1]
    assert "Seccomp:\t2" in both[0]


def test_a_day_of_a_container(podman: Podman) -> None:
    """Detached, listed, looked at, entered, paused, stopped by its own exit code, restarted, killed."""
    started = podman.run("-d", "--name", "day", "--memory", "64m", "--pids-limit", "20", "--user", "7:7",
                         "-v", f"{podman.directory}:/here:ro", "-e", "A=b", "localhost/bb", "sh", "-c", LOOP)
    assert started.returncode == 0, started.stderr
    assert "Up" in podman("ps", "--format", "{{.Status}}").stdout
    limit = "/sys/fs/cgroup/memory/memory.limit_in_bytes"
    entered = podman("exec", "day", "sh", "-c", f"id -u; echo $A; cat {limit}; touch /here/x || exit 5")
    assert (entered.stdout.split(), entered.returncode) == (["7", "b", str(64 << 20)], 5)
    assert podman("exec", "-d", "day", "sleep", "77").returncode == 0
    assert "sleep 77" in podman("top", "day").stdout
    assert podman("pause", "day").returncode == 0
    assert podman("inspect", "day", "--format", "{{.State.Status}}").stdout == "paused\n"
    assert podman("unpause", "day").returncode == 0
    assert podman("logs", "day").stdout == "up\n"
    begin = time.monotonic()
    assert podman("stop", "--time", "20", "day").returncode == 0
    assert time.monotonic() - begin < 15, "SIGTERM was enough"
    ended = podman("inspect", "day", "--format", "{{.State.ExitCode}} {{.State.Status}}")
    assert ended.stdout == "4 exited\n"
    assert podman("start", "day").returncode == 0
    assert podman("kill", "day").returncode == 0
    assert podman("wait", "day").stdout == "137\n"
    assert podman("rm", "day").returncode == 0


@needs_tool("script", "bsdutils")
def test_terminals(podman: Podman) -> None:
    options = f"--root {podman.directory}/root --runroot {podman.directory}/run --storage-driver vfs"
    wishes = f"--network none --cgroup-parent {podman.parent}"
    run = f"podman {options} --runtime {podman.runtime} run --rm -it {wishes}"
    line = f"{run} localhost/bb sh -c 'tty; exit 6'"
    env = {**os.environ, "CONTAINERS_CONF": f"{podman.directory}/containers.conf"}
    done = subprocess.run(["script", "-qec", line, "/dev/null"], env=env, capture_output=True, text=True,
                          stdin=subprocess.DEVNULL, timeout=60)
    assert done.returncode == 6, done.stdout
    assert "/dev/pts/0" in done.stdout


def test_files_of_the_image_in_a_tmpfs(podman: Podman) -> None:
    """--read-only has a tmpfs on /tmp and others, which begins with what the image has there (tmpcopyup)."""
    script = "touch /x || touch /tmp/x && ls /tmp"
    assert podman.run("--rm", "--read-only", "localhost/bb", "sh", "-c", script).stdout == "x\n"
    shown = podman.run("--rm", "--tmpfs", "/root", "localhost/bb", "grep", " /root ", "/proc/self/mountinfo")
    assert "tmpfs" in shown.stdout


@needs_tool("buildah", "buildah")
def test_buildah_runs_its_steps_through_it(podman: Podman) -> None:
    """It leaves cgroupsPath empty: that is never the cgroup that we are in ourselves."""
    argv = ["buildah", "--root", f"{podman.directory}/root", "--runroot", f"{podman.directory}/run",
            "--storage-driver", "vfs"]

    def buildah(*arguments: str) -> Done:
        return subprocess.run([*argv, *arguments], capture_output=True, text=True, timeout=60)

    name = buildah("from", "--pull-never", "localhost/bb:latest").stdout.strip()
    assert name
    try:
        done = buildah("run", "--runtime", str(podman.runtime), "--network", "none", name, "sh", "-c",
                       "cat /proc/self/cgroup; exit 5")
        assert "exit status 5" in done.stderr
        rows = [row for row in done.stdout.splitlines() if not row.startswith("0::")]
        assert all(":/mycontainer/buildah-" in row for row in rows), rows
        assert rows
    finally:
        buildah("rm", name)


def test_its_configuration_is_read(podman: Podman) -> None:
    """The config.json of a container that was only created there."""
    wishes = ["--network", "none", "--cgroup-parent", podman.parent]
    assert podman("create", "--name", "made", *wishes, "localhost/bb", "true").returncode == 0
    assert podman("init", "made").returncode == 0
    bundle = json.loads(podman("inspect", "made").stdout)[0]["OCIConfigPath"]
    found, _ = config.load(os.path.dirname(bundle))
    assert found.process is not None
    assert found.process.args == ("true",)
    assert found.linux.seccomp is not None
    assert podman("rm", "-f", "made").returncode == 0
