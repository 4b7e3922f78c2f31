"""Bundles for the tests of `mycontainer-oci`: a busybox root directory, and a config.json of somebody's."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from mycontainer.cli import oci as cli
from mycontainer.cli.oci_spec import example

PROJECT = Path(__file__).parents[1]
OCI = [sys.executable, "-m", "mycontainer.cli.oci"]
COMMANDS = ("sh", "ls", "cat", "id", "sleep", "true", "false", "echo", "ps", "mount", "env", "hostname",
            "kill", "grep", "touch", "stat", "tty", "stty", "cut", "head", "readlink", "dd", "rm", "mkdir")
FORKLESS = ("state", "start", "kill", "delete", "list", "pause", "resume", "features", "spec")
Done = subprocess.CompletedProcess[str]

needs_busybox = pytest.mark.skipif(
    not shutil.which("busybox"), reason="needs the program busybox (Debian package busybox-static)")


class Oci:
    """`mycontainer-oci` with a --root of its own, and a bundle."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.root, self.bundle = directory, directory / "state", directory / "bundle"
        self.id = f"test-{os.path.basename(directory)}-{os.urandom(3).hex()}"
        rootfs = self.bundle / "rootfs"
        for name in ("bin", "proc", "sys", "dev", "etc", "tmp", "root"):
            (rootfs / name).mkdir(parents=True)
        (rootfs / "etc" / "passwd").write_text("root:x:0:0::/root:/bin/sh\ndaemon:x:7:7::/tmp:/bin/sh\n")
        shutil.copy(shutil.which("busybox") or "", rootfs / "bin" / "busybox")
        for name in COMMANDS:
            (rootfs / "bin" / name).symlink_to("busybox")
        self.write(example(rootless=os.geteuid() != 0))
        self.change("process", "terminal", value=False)

    @property
    def config(self) -> dict[str, Any]:
        return json.loads((self.bundle / "config.json").read_text())

    def write(self, config: dict[str, Any]) -> None:
        if "cgroupsPath" not in config["linux"] and os.geteuid() == 0:
            config["linux"]["cgroupsPath"] = f"/mycontainer/{self.id}"
        (self.bundle / "config.json").write_text(json.dumps(config))

    def change(self, *way: str | int, value: object) -> None:
        """Another value in the configuration; None takes it out."""
        config: Any = self.config
        at = config
        for name in way[:-1]:
            at = at[name]
        if value is None:
            at.pop(way[-1], None)
        else:
            at[way[-1]] = value
        self.write(config)

    def command(self, *args: str) -> None:
        self.change("process", "args", value=list(args))

    def shell(self, script: str) -> None:
        self.command("sh", "-c", script)

    def __call__(self, *arguments: str, **how: Any) -> Done:
        """Run a verb to its end: in a process of its own, or right here where that is the same."""
        if arguments[0] in FORKLESS and not how:
            return here("--root", str(self.root), *arguments)
        how = {"text": True, "timeout": 30, "stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE,
               "stderr": subprocess.PIPE, "env": environment(), **how}
        return subprocess.run([*OCI, "--root", str(self.root), *arguments], **how)

    def create(self, *options: str) -> Done:
        """The same without pipes, which PID 1 would keep open."""
        with open(self.directory / "output", "w+") as output, open(self.directory / "errors", "w+") as errors:
            done = self("create", "--bundle", str(self.bundle), *options, self.id, stdout=output,
                        stderr=errors)
            done.stdout = (self.directory / "output").read_text()
            done.stderr = (self.directory / "errors").read_text()
        return done

    def run(self, *options: str, **how: Any) -> Done:
        return self("run", "--bundle", str(self.bundle), *options, self.id, **how)

    @property
    def output(self) -> str:
        return (self.directory / "output").read_text()

    def state(self) -> dict[str, Any]:
        done = self("state", self.id)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def status(self) -> str:
        return str(self.state()["status"])

    def clean(self) -> None:
        """What a test did not delete itself."""
        self("delete", "--force", self.id)
        shutil.rmtree(self.directory)


def environment() -> dict[str, str]:
    """For a process of its own: with compiled modules, as an installed one has them."""
    return {**os.environ, "PYTHONPATH": str(PROJECT), "PYTHONDONTWRITEBYTECODE": ""}


def here(*arguments: str) -> Done:
    """The command line, called as a function."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = cli.main(arguments)
    return Done(arguments, code, out.getvalue(), err.getvalue())


def eventually(true: Callable[[], object], seconds: float = 5) -> bool:
    """Whether it becomes true."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True
