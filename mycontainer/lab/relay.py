"""Connections from the host's network namespace into the lab's.

A socket belongs for ever to the network namespace that it was made in. So a process may hold a listener
from out there and, after setns(2), connect in here, and pass the bytes between: the lab itself has no
socket in the host's network and cannot reach what listens on the host's loopback. Notebook kernels come
in by this way, and so do the ports that a learner publishes. man 7 network_namespaces.
"""

from __future__ import annotations

import os
import selectors
import socket
import time
from collections.abc import Callable

CHUNK = 65536
PATIENCE = 60.0  # seconds that a caller waits for somebody to listen inside: the kernel may still be starting
RETRY = 0.01     # seconds between two tries

Address = tuple[str, int]


class Side:
    """One of the two connections of a pair: what it still has to be sent, and who is opposite."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.unsent = b""        # bytes from the other side
        self.reading = True      # until end of file
        self.opposite: Side


class Relay:
    """Pass bytes until told to stop: `publish` listeners, `watch` descriptors, then `run`."""

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self.waiting: list[tuple[socket.socket, Address, float]] = []
        self.ended: int | None = None

    def publish(self, listener: socket.socket, inside: Address) -> None:
        """Connect whoever comes to ``listener`` with the address ``inside``."""
        listener.setblocking(False)
        self.selector.register(listener, selectors.EVENT_READ, lambda _: self._accept(listener, inside))

    def watch(self, fd: int, then: Callable[[], None]) -> None:
        """Call ``then`` whenever ``fd`` is readable."""
        self.selector.register(fd, selectors.EVENT_READ, lambda _: then())

    def end(self, code: int) -> None:
        """Let `run` return ``code``."""
        self.ended = code

    def run(self) -> int:
        """Pass bytes until `end` is called."""
        while self.ended is None:
            for key, mask in self.selector.select(RETRY if self.waiting else None):
                key.data(mask)
            self._try_again()
        return self.ended

    def _accept(self, listener: socket.socket, inside: Address) -> None:
        try:
            outer, _ = listener.accept()
        except OSError:
            return  # the caller has gone again, or we have no descriptor left: the next one may be luckier
        outer.setblocking(False)
        self._connect(outer, inside, time.monotonic() + PATIENCE)

    def _try_again(self) -> None:
        callers, self.waiting = self.waiting, []
        for outer, inside, deadline in callers:
            self._connect(outer, inside, deadline)

    def _connect(self, outer: socket.socket, inside: Address, deadline: float) -> None:
        inner = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        inner.settimeout(1)  # loopback answers at once, unless the queue there is full
        try:
            inner.connect(inside)
        except OSError:
            inner.close()
            if time.monotonic() < deadline:
                self.waiting.append((outer, inside, deadline))
            else:
                outer.close()
            return
        inner.setblocking(False)
        self._join(Side(outer), Side(inner))

    def _join(self, outer: Side, inner: Side) -> None:
        outer.opposite, inner.opposite = inner, outer
        for side in (outer, inner):
            if side.connection.family != socket.AF_UNIX:
                side.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.selector.register(side.connection, selectors.EVENT_READ, self._handler(side))

    def _handler(self, side: Side) -> Callable[[int], None]:
        return lambda mask: self._move(side, mask)

    def _move(self, side: Side, mask: int) -> None:
        """Something can be read from this side, or sent to it."""
        if side.connection.fileno() < 0:
            return  # closed by its opposite in this very round
        try:
            if mask & selectors.EVENT_READ:
                self._read(side)
            if mask & selectors.EVENT_WRITE:
                self._send(side)
        except OSError:  # a connection was reset: the other end hears of it by the closing
            self._close(side)
            return
        if side.reading or side.opposite.reading or side.unsent or side.opposite.unsent:
            for one in (side, side.opposite):
                self._want(one)
        else:
            self._close(side)

    def _read(self, side: Side) -> None:
        try:
            data = side.connection.recv(CHUNK)
        except BlockingIOError:
            return
        if not data:
            side.reading = False
        side.opposite.unsent += data
        self._send(side.opposite)

    def _send(self, side: Side) -> None:
        """Send what we can; after the last byte pass on the end of file as well."""
        if side.unsent:
            try:
                side.unsent = side.unsent[side.connection.send(side.unsent):]
            except BlockingIOError:
                return
        if not side.unsent and not side.opposite.reading:
            side.connection.shutdown(socket.SHUT_WR)

    def _want(self, side: Side) -> None:
        """Read only what the opposite has taken, so that a slow reader slows the writer."""
        mask = (selectors.EVENT_READ if side.reading and not side.opposite.unsent else 0) | (
            selectors.EVENT_WRITE if side.unsent else 0)
        registered = side.connection in self.selector.get_map()
        if mask and registered:
            if self.selector.get_key(side.connection).events != mask:
                self.selector.modify(side.connection, mask, self._handler(side))
        elif mask:
            self.selector.register(side.connection, mask, self._handler(side))
        elif registered:
            self.selector.unregister(side.connection)

    def _close(self, side: Side) -> None:
        for one in (side, side.opposite):
            if one.connection in self.selector.get_map():
                self.selector.unregister(one.connection)
            one.connection.close()


def listen(transport: str, ip: str, port: int) -> socket.socket:
    """A listener at the place where a kernel would bind: ``tcp``, or ``ipc`` (the socket file IP-PORT)."""
    if transport == "ipc":
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        path = f"{ip}-{port}"
        if os.path.exists(path):
            os.remove(path)  # of the kernel that was killed before us
        listener.bind(path)
    else:
        family = socket.AF_INET6 if ":" in ip else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("" if ip == "*" else ip, port))
    listener.listen(64)
    return listener
