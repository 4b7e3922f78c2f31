"""`mycontainer demo`, `make demo`: one container, seen from inside and from outside, side by side."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from mycontainer import api, namespaces
from mycontainer.errors import ContainerError

# The inside view, in words that every shell knows; then it waits, so that we can look at it from here.
LOOK_AROUND = r"""
echo "process id=$$"
echo "user id=$(id -u)"
echo "host name=$(hostname)"
set -- /proc/[0-9]*; echo "processes in sight=$#"
cd /sys/class/net; echo "network devices=$(echo *)"
cd /; echo "files in /=$(echo *)"
echo "kernel=$(uname -r)"
echo "boot id=$(cat /proc/sys/kernel/random/boot_id)"
echo end
read wait
"""
WIDTH = 34


@contextmanager
def standard_streams(stdin: int, stdout: int) -> Iterator[None]:
    """Let descriptors 0 and 1 be these, for whoever is started meanwhile."""
    saved = os.dup(0), os.dup(1)
    os.dup2(stdin, 0)
    os.dup2(stdout, 1)
    try:
        yield
    finally:
        for number, original in enumerate(saved):
            os.dup2(original, number)
            os.close(original)


def view_from_inside(stream: Iterator[str]) -> dict[str, str]:
    """What the container says about itself. Raises ContainerError if it ends before it has said all."""
    facts: dict[str, str] = {}
    for line in stream:
        if line == "end\n":
            return facts
        name, _, value = line.rstrip("\n").partition("=")
        facts[name] = value
    raise ContainerError("cannot look inside", "the container ended too early")


def view_from_outside(pid: int) -> dict[str, str]:
    """The same facts as they are out here, about the very process that is PID 1 inside."""
    return {
        "process id": str(pid),
        "user id": str(os.stat(f"/proc/{pid}").st_uid),
        "host name": os.uname().nodename,
        "processes in sight": str(sum(name.isdecimal() for name in os.listdir("/proc"))),
        "network devices": " ".join(name for _, name in socket.if_nameindex()),
        "files in /": " ".join(sorted(name for name in os.listdir("/") if not name.startswith("."))),
        "kernel": os.uname().release,
        "boot id": Path("/proc/sys/kernel/random/boot_id").read_text().strip(),
    }


def table(inside: dict[str, str], outside: dict[str, str]) -> str:
    """Both views, line by line; what does not fit is cut, and said to be."""
    lines = [f"{'':20} {'from inside':{WIDTH}} from outside"]
    for name, value in inside.items():
        same = "the same" if value == outside[name] else ""
        lines.append(f"{name:20} {_fit(value):{WIDTH}} {_fit(outside[name]):{WIDTH}} {same}".rstrip())
    return "\n".join(lines)


def _fit(text: str) -> str:
    return text if len(text) <= WIDTH else text[: WIDTH - 2] + " …"


def our_command() -> str:
    """The command line as one can type it here: in a checkout its place in .venv."""
    if shutil.which("mycontainer"):
        return "mycontainer"
    return os.path.relpath(os.path.join(sys.prefix, "bin", "mycontainer"))


def show() -> None:
    """Start a container from the base image, look at it from both sides, let it end, and print all that."""
    to_container, from_container = os.pipe(), os.pipe()
    began = time.monotonic()
    with standard_streams(to_container[0], from_container[1]):
        process = api.start("busybox", ["sh", "-c", LOOK_AROUND])
    started = time.monotonic() - began
    os.close(to_container[0])
    os.close(from_container[1])
    try:
        with open(from_container[0]) as stream:
            inside = view_from_inside(stream)
        outside = view_from_outside(process.pid)
        shared = namespaces.shared(process.pid, os.getpid())
    finally:
        with suppress(BrokenPipeError):  # it has ended already
            os.write(to_container[1], b"\n")
        os.close(to_container[1])
        code = process.wait()
    own = [kind for kind, same in shared.items() if not same]
    print(f"One process in a container made from the image busybox, started in {started * 1000:.0f} ms:\n")
    print(table(inside, outside))
    print(f"\nNamespaces of its own: {', '.join(own)}.")
    print("An ordinary process, wrapped: another view of the machine, and the same kernel.")
    gone = "gone" if not os.path.exists(f"/proc/{process.pid}") else "still there"
    print(f"It has ended (exit code {code}), and process {process.pid} is {gone}.")
    print(f"\nTry:  {our_command()} run busybox sh -c 'hostname; ps; id'     or:  make course")


def main(arguments: Sequence[str] = ()) -> int:
    """Exit code 0, or 125 with one line on what failed."""
    if arguments:
        print("Usage: mycontainer demo")
        return 0 if arguments[0] in ("-h", "--help") else 125
    try:
        show()
    except ContainerError as error:
        print(f"mycontainer: {error}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
