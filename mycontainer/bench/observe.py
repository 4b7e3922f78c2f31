"""How one sees from outside that something works, what belongs to it, and that it is gone.

Nothing here trusts a subject's own word: a program has begun when its token came out.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Protocol


class NotReady(Exception):
    """It ended, or took too long, before it was seen to work. It counts as a failure, and is not timed."""


class Served(Protocol):
    """What `wait_for_page` must know of a task."""

    @property
    def token(self) -> str: ...

    @property
    def port(self) -> int: ...


def wait_for_line(fd: int, token: str, began: int, deadline: float) -> int | None:
    """Read from ``fd`` until a line that is ``token``: nanoseconds since ``began``. None when it ends before,
    or after ``deadline`` seconds. The moment is that of the read that brought the token's last byte."""
    seen, wanted = b"", token.encode()
    last = began + int(deadline * 1e9)
    ear = select.poll()  # select(2) knows descriptors up to 1023 only
    ear.register(fd)
    while (left := last - time.perf_counter_ns()) > 0:
        if not ear.poll(left / 1e6):
            return None
        data = os.read(fd, 65536)
        now = time.perf_counter_ns()
        if not data:
            return None
        seen += data
        if wanted in (line.strip() for line in seen.split(b"\n")[:-1]):
            return now - began
        seen = seen[seen.rfind(b"\n") + 1:]  # a machine's console says much before
    return None


def wait_for_page(task: Served, began: int, deadline: float,
                  check: Callable[[], object] | None = None) -> int:
    """Ask for the page until it has the token in it: nanoseconds since ``began``. Raises NotReady.

    Asked again 0.2 ms after each refusal, on a connection of its own each time: the answer to a first SYN
    that fell on deaf ears comes a second later. ``check`` is called in between, to raise if nobody is left
    who could answer. urllib would cost more than a plain process needs to start.
    """
    last = began + int(deadline * 1e9)
    why, strange = "nobody answered", ""
    while (left := (last - time.perf_counter_ns()) / 1e9) > 0:
        try:
            answer = _ask(task.port, min(left, 0.5))
            if task.token.encode() in answer.split():
                return time.perf_counter_ns() - began
            strange = "somebody else answered" if answer else "the answer was empty"
        except OSError as error:
            why = str(error)
        if check:
            check()
        time.sleep(0.0002)
    raise NotReady(f"no page with the token within {deadline:g} s: {strange or why}")


def _ask(port: int, patience: float) -> bytes:
    """What a web server at this port of 127.0.0.1 says to GET /; ``patience`` is in seconds."""
    with socket.create_connection(("127.0.0.1", port), patience) as connection:
        connection.sendall(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
        answer = b""
        while data := connection.recv(65536):
            answer += data
        return answer


def descendants(pid: int) -> set[int]:
    """A process and all its children's children that live."""
    found, todo = set(), [pid]
    while todo:
        one = todo.pop()
        found.add(one)
        with suppress(OSError):
            for thread in os.listdir(f"/proc/{one}/task"):
                with suppress(OSError), open(f"/proc/{one}/task/{thread}/children") as children:
                    todo += [int(child) for child in children.read().split()]
    return found


def mentioning(word: str) -> set[int]:
    """The processes in whose command line this word occurs: a monitor's has the container's id."""
    found = set()
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        with suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as words:
            if word.encode() in words.read() and int(pid) != os.getpid():
                found.add(int(pid))
    return found


def is_init(pid: int) -> bool:
    """Is it process 1 of a PID namespace below ours?"""
    with suppress(OSError), open(f"/proc/{pid}/status") as rows:
        for row in rows:
            if row.startswith("NSpid:"):
                return len(row.split()) > 2 and row.split()[-1] == "1"
    return False


def end(pids: Iterable[int], patience: float = 5.0) -> set[int]:
    """SIGKILL them, the youngest first, and wait until they have ended: those that have not are returned.

    They are held by pidfds, so that nobody is hit to whom a pid was given later. A child of ours still has
    to be waited for.
    """
    held: dict[int, int] = {}
    try:
        for pid in sorted(pids, reverse=True):
            with suppress(ProcessLookupError):
                held[os.pidfd_open(pid)] = pid
        for fd in held:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(fd, signal.SIGKILL)
        last = time.monotonic() + patience
        alive, ends = dict(held), select.poll()
        for fd in held:
            ends.register(fd, select.POLLIN)
        while alive and (left := last - time.monotonic()) > 0:
            for fd, _ in ends.poll(left * 1e3):
                ends.unregister(fd)
                del alive[fd]
        return set(alive.values())
    finally:
        for fd in held:
            os.close(fd)


def pss(pid: int) -> int:
    """The proportional set size of a process, in bytes. man 5 proc_pid_smaps."""
    with suppress(OSError), open(f"/proc/{pid}/smaps_rollup") as rows:
        for row in rows:
            if row.startswith("Pss:"):
                return int(row.split()[1]) << 10
    return 0
