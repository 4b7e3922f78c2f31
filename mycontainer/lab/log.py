"""What the launcher says, and what it passes on of the kernel's own words: to a stderr that nobody may read.

The server may have closed our stderr, or not empty it. Neither may end the launcher or hold it up, since it
looks after the lab. Whoever is root in there may write anything at all to the log, as fast as they like.
man 7 pipe, man 2 write.
"""

from __future__ import annotations

import codecs
import os
import re
import select
import socket
import stat
import time

PER_SECOND, BURST = 64 << 10, 256 << 10  # bytes of the kernel's words: a traceback is some 10 kB
CHUNK = 64 << 10

# What makes a terminal do things, or text look like other text: C0 but tab and newline, DEL, C1, direction.
CONTROLS = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u200e\\u200f\\u202a-\\u202e\\u2066-\\u2069]")


class Bucket:
    """So much a second, and ``burst`` at once after a quiet time."""

    def __init__(self, per_second: float, burst: float) -> None:
        self.per_second, self.burst = per_second, burst
        self.credit, self.since = burst, time.monotonic()

    def level(self) -> float:
        """What may be taken now."""
        now = time.monotonic()
        self.credit = min(self.burst, self.credit + (now - self.since) * self.per_second)
        self.since = now
        return self.credit

    def take(self, amount: float) -> None:
        """Take it; the level may fall below zero."""
        self.credit -= amount


def say(text: str, hint: str = "") -> None:
    """One line of ours on stderr, and one with the ``hint``. What nobody takes at once is lost."""
    put(f"mycontainer: {text}\n{f'hint: {hint}' + chr(10) if hint else ''}".encode(errors="replace"))


def put(data: bytes, fd: int = 2) -> None:
    """Write without waiting and without a word of failure."""
    try:
        kind = stat.S_IFMT(os.fstat(fd).st_mode)
        if kind == stat.S_IFSOCK:
            with socket.socket(fileno=os.dup(fd)) as connection:
                connection.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        elif kind == stat.S_IFREG:
            os.write(fd, data)
        else:
            _put_into_pipe(fd, data)
    except OSError:
        pass


def _put_into_pipe(fd: int, data: bytes) -> None:
    """Through a description of our own: O_NONBLOCK on ``fd`` would be everybody's who shares it."""
    try:
        own = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:  # a terminal that belongs to another user, after su(1)
        if select.select([], [fd], [], 0)[1]:
            os.write(fd, data[:select.PIPE_BUF])
        return
    try:
        os.write(own, data)
    finally:
        os.close(own)


class Log:
    """Copies a pipe from inside to our stderr, made harmless and not too much of it.

    The kernel never gets the server's terminal itself: root inside could type into it (ioctl TIOCSTI), and
    its control characters could do things to the screen.
    """

    def __init__(self, pipe: int) -> None:
        os.set_blocking(pipe, False)
        self.pipe = pipe
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.bucket = Bucket(PER_SECOND, BURST)
        self.dropped = 0

    def copy(self) -> bool:
        """Copy what there is; False at the end of the pipe."""
        try:
            data = os.read(self.pipe, CHUNK)
        except BlockingIOError:
            return True
        if len(data) > self.bucket.level():
            self.dropped += len(data)
        elif data:
            self.bucket.take(len(data))
            self.tell()
            put(CONTROLS.sub("?", self.decoder.decode(data)).encode())
        return bool(data)

    def tell(self) -> None:
        """Say how much was left out since the last time."""
        if self.dropped:
            say(f"{self.dropped} bytes of the kernel's log were too much at once, and are dropped")
        self.dropped = 0
