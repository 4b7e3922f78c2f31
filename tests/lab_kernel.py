"""A real kernel of the lab for the tests: started as Jupyter starts it, from an installed kernelspec."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager
from jupyter_core.utils import ensure_event_loop

from mycontainer import paths
from mycontainer.lab import kernelspec
from mycontainer.lab.state import labs, sweep

ensure_event_loop()  # jupyter_client makes one at its first use and keeps it: before any test is watched

REPLY = 30  # seconds that a cell may take


class CellError(AssertionError):
    """A cell raised: the message is the notebook's traceback."""


class Kernel:
    """A kernel with its client: `run` a cell, `sh` a command line, `value` an expression."""

    def __init__(self, cwd: Path, prefix: Path, **how: Any) -> None:
        kernelspec.install(str(prefix))
        specs = KernelSpecManager(kernel_dirs=[str(prefix / "share/jupyter/kernels")])
        self.manager = KernelManager(kernel_name=kernelspec.NAME, kernel_spec_manager=specs, **how)
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 (closed by `close`)
        self.manager.start_kernel(cwd=str(cwd), stderr=self.log)
        self.client = self.manager.blocking_client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=REPLY)

    @property
    def launcher(self) -> int:
        pid: int = self.manager.provisioner.process.pid  # type: ignore[union-attr]
        return pid

    def lab(self) -> dict[str, Any]:
        """What the lab's state file says."""
        return next(lab for lab in labs() if lab["launcher"] == self.launcher)

    def run(self, code: str, timeout: float = REPLY) -> str:
        """Run a cell; returns what it printed. Raises CellError if it raised."""
        printed: list[str] = []
        problems: list[str] = []

        def hear(message: dict[str, Any]) -> None:
            content = message["content"]
            printed.append(content.get("text", ""))
            problems.extend(content.get("traceback", []))

        self.client.execute_interactive(code, timeout=timeout, output_hook=hear, store_history=False)
        if problems:
            raise CellError("\n".join(problems))
        return "".join(printed)

    def value(self, expression: str) -> Any:
        """The value of an expression of JSON's types, or of the last line of a cell."""
        before, _, last = expression.rpartition("\n")
        return json.loads(self.run(f"import json\n{before}\nprint(json.dumps({last}))"))

    def sh(self, command: str) -> tuple[int, str]:
        """Run a command line inside: (exit code, what it wrote)."""
        done = self.value("import subprocess\n"
                          f"_done = subprocess.run({command!r}, shell=True, capture_output=True, text=True)\n"
                          "[_done.returncode, _done.stdout + _done.stderr]")
        return done[0], done[1]

    def restart(self) -> None:
        self.manager.restart_kernel(now=True)
        self.client.wait_for_ready(timeout=REPLY)

    def close(self) -> None:
        self.client.stop_channels()
        if self.manager.has_kernel:
            self.manager.shutdown_kernel()
        self.manager.cleanup_resources()
        self.client.context.destroy(linger=0)
        self.log.close()
        sweep()  # after a SIGKILL the next start does it

    def written(self) -> str:
        """What the launcher and the kernel wrote to stderr."""
        self.log.seek(0)
        return self.log.read()


@contextmanager
def kernel(cwd: Path, prefix: Path, **how: Any) -> Iterator[Kernel]:
    """A kernel for the length of a block."""
    one = Kernel(cwd, prefix, **how)
    try:
        yield one
    finally:
        one.close()


def family(kernel: Kernel) -> dict[str, int]:
    """The lab's processes, by role: launcher, doorman, init, kernel. Their pids out here."""
    init = kernel.lab()["init"]
    return {"launcher": kernel.launcher, "doorman": parent_of(init), "init": init,
            "kernel": children_of(init)[0]}


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def everybody_in(pid: int) -> list[int]:
    """All processes in the PID namespace of ``pid``, as seen from here."""
    namespace = os.stat(f"/proc/{pid}/ns/pid").st_ino
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            if os.stat(f"/proc/{name}/ns/pid").st_ino == namespace:
                found.append(int(name))
        except OSError:
            pass  # ended meanwhile, or not ours to look at
    return found


def wait_until_gone(pids: list[int], seconds: float = 5) -> list[int]:
    """Wait until none of the processes lives (a zombie does not); returns those that still do."""
    deadline = time.monotonic() + seconds
    while (alive := [pid for pid in pids if lives(pid)]) and time.monotonic() < deadline:
        time.sleep(0.02)
    return alive


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def kill(pid: int, number: int = signal.SIGKILL) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def state_file(kernel: Kernel) -> Path:
    return next(Path(paths.runtime_dir()).glob(f"lab-{kernel.launcher}-*.json"))
