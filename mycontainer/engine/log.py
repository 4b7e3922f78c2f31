"""What a detached container has written: kept in two files of bounded size, and read again.

A row a line, as Kubernetes' container runtimes write it (the CRI's log format):

    2026-11-24T11:15:04.123456789Z stdout F the line       F: a full line, P: a part, the rest follows

The writer is the supervisor, which reads the container's pipes. It must not stop reading whatever happens
to the disk: a container whose pipe is full waits for ever. So what cannot be written is dropped, and said
to be. At `LIMIT` bytes the file ``log`` becomes ``log.1``, in place of the one before: the last 2 MiB are
always there, and never more than about twice as much.
"""

from __future__ import annotations

import os
import select
import time
from contextlib import suppress

LIMIT = 2 << 20     # bytes
CHUNK = 32 << 10    # bytes that are read at once
LAST_LOOKS = 64     # reads after the end; more than a pipe holds would be from somebody who lives elsewhere
STDOUT, STDERR = b"stdout", b"stderr"


class Writer:
    """The log of the container whose directory this is."""

    def __init__(self, directory: str) -> None:
        self.path = f"{directory}/log"
        self.fd = self._open()
        self.size = self.lost = 0  # bytes

    def _open(self) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def collect(self, sources: dict[int, bytes], until: int) -> None:
        """Write down what comes out of the descriptors ``sources`` (fd to `STDOUT` or `STDERR`), until the
        process behind the pidfd ``until`` has ended and nothing more is to come.
        """
        poll = select.poll()
        for fd in (*sources, until):
            poll.register(fd, select.POLLIN)
        last_looks = 0
        while last_looks < LAST_LOOKS:
            ready = [fd for fd, _ in poll.poll()]
            last_looks += until in ready
            if ready == [until]:
                return
            for fd in ready:
                if fd == until:
                    continue
                if data := os.read(fd, CHUNK):
                    self.write(sources[fd], data)
                else:
                    poll.unregister(fd)

    def write(self, stream: bytes, data: bytes) -> None:
        """Write down some bytes of a stream; without fail, or not at all."""
        head = _now() + b" " + stream
        *lines, part = data.split(b"\n")
        text = b"".join([b"%s F %s\n" % (head, line) for line in lines])
        if part:
            text += b"%s P %s\n" % (head, part)
        if self.lost:
            gap = b"%s stderr F [%d bytes are missing here: the disk was full]\n" % (_now(), self.lost)
            text = gap + text
        try:
            if os.write(self.fd, text) < len(text):
                raise OSError("only a part of it")
        except OSError:
            self.lost += len(data)
            with suppress(OSError):
                os.ftruncate(self.fd, self.size)
            return
        self.lost = 0
        self.size += len(text)
        if self.size > LIMIT:
            self._rotate()

    def _rotate(self) -> None:
        with suppress(OSError):  # no room for a directory entry, or the directory is gone: go on in this file
            os.rename(self.path, f"{self.path}.1")
            new = self._open()
            os.close(self.fd)
            self.fd, self.size = new, 0


def _now() -> bytes:
    seconds, nanoseconds = divmod(time.time_ns(), 10**9)
    return b"%s.%09dZ" % (time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)).encode(), nanoseconds)


class Row:
    """A line, or a part of one: ``text`` with its newline if that has come."""

    __slots__ = ("stream", "text", "time")

    def __init__(self, row: bytes) -> None:
        self.time, self.stream, tag, text = row.split(b" ", 3)
        self.text = text if tag == b"P" else text + b"\n"


class Reader:
    """Reads a log while it is written. Raises FileNotFoundError if there is none."""

    def __init__(self, directory: str) -> None:
        self.path = f"{directory}/log"
        self.rest = b""
        try:
            self.file = open(f"{self.path}.1", "rb")  # noqa: SIM115 (closed with the reader)
        except FileNotFoundError:
            self.file = open(self.path, "rb")  # noqa: SIM115

    def rows(self) -> list[Row]:
        """What is new since the last call."""
        found: list[Row] = []
        while True:
            newer = self._newer()  # looked up first: then nothing is added to the one that we have any more
            *rows, self.rest = (self.rest + self.file.read()).split(b"\n")
            found += map(Row, rows)
            if newer is None:
                return found
            self.file.close()
            self.file, self.rest = open(newer, "rb"), b""  # noqa: SIM115

    def _newer(self) -> str | None:
        """The file to go on with, if ours is no longer written to."""
        ours = os.fstat(self.file.fileno())
        for path, next_one in ((self.path, None), (f"{self.path}.1", self.path)):
            try:
                if os.path.samestat(ours, os.stat(path)):
                    return next_one
            except FileNotFoundError:
                if path == self.path:  # the container was removed; or it is being replaced this moment
                    return None
        return f"{self.path}.1"  # it was replaced twice: what we missed is gone
