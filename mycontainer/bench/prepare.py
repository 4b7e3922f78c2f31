"""What the virtual machines need, made once: a kernel, an initramfs, and disks with a Debian on them.

Nothing is installed on this machine. What is there already is left alone; what was begun and not ended, by
kill -9 or a power cut, is swept by the next call: a thing has its name only when it is whole.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mycontainer.bench import debian, guest, kernel, qemu
from mycontainer.errors import ContainerError, explain

KINDS = ("micro", "debian", "web")


def prepare(report: Callable[[str], None], kinds: Sequence[str] = KINDS) -> None:
    """Fetch and build what is not there yet; ``report`` gets a line for each step, before it begins.

    Raises ContainerError with what is missing on this machine, or the network.
    """
    for kind in kinds:
        if kind not in KINDS:
            raise ContainerError(f"cannot prepare {kind}", hint=f"There are: {', '.join(KINDS)}")
    if missing := qemu.missing():  # asked first: the rest would be fetched for nothing
        raise ContainerError("cannot prepare virtual machines", missing.reason, f"Cure: {missing.cure}")
    try:
        with workplace(report) as part:
            found = kernel.fetch(report, part)
            report(f"initramfs: {guest.initramfs(found).stat().st_size >> 10} kB")
            if {"debian", "web"} & set(kinds):  # the same disk
                debian.build(report, part)
    except OSError as error:
        raise explain("cannot prepare virtual machines", error, "MYCONTAINER_HOME names another place for "
                      "what we keep.") from error


@contextmanager
def workplace(report: Callable[[str], None]) -> Iterator[Path]:
    """An empty directory beside the results, for one at a time; what an earlier one left there goes."""
    home = kernel.machines_dir()
    kernel.readable(home)
    with open(home / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("another is preparing them already: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        part = home / ".part"
        shutil.rmtree(part, ignore_errors=True)
        for left in home.glob(".part-*"):
            left.unlink()
        part.mkdir(mode=0o755)
        try:
            yield part
        finally:
            shutil.rmtree(part, ignore_errors=True)


def beside() -> str:
    """Prepare all of it in the background, for `make course`; returns what to tell a person, or "".

    It waits for nobody and nobody waits for it; what it says goes into a file. `python -m
    mycontainer.bench.prepare` calls this.
    """
    missing = qemu.missing() or debian.missing()
    if missing:
        return f"Chapter 10 goes without virtual machines: {missing.reason} ({missing.cure})"
    try:
        if (found := kernel.find()) and debian.path().is_file():
            guest.initramfs(found)  # another version of ours may have made what is there
            return ""
        kernel.readable(kernel.machines_dir())
        with open(kernel.machines_dir() / "prepare.log", "w") as log:
            subprocess.Popen([sys.executable, "-I", "-m", "mycontainer.cli.main", "bench", "prepare"],
                             stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
    except OSError as error:
        return f"Chapter 10 goes without virtual machines: {error}"
    return f"Chapter 10's virtual machines are made meanwhile (90 MB to fetch; log: {log.name})"


if __name__ == "__main__":
    os.nice(10)
    print(beside() or "Chapter 10's virtual machines are ready")
