"""Connections from one network namespace into another.

A socket belongs for ever to the network namespace that it was made in. So a process may hold a listener
from out there and, after setns(2), connect in here, and pass the bytes between: who is inside has no
socket in the other network, and cannot reach what listens there. Published ports come in by this way, and
so do notebooks to their kernels in the lab. man 7 network_namespaces.
"""

from __future__ import annotations

import errno
import selectors
import socket
import struct
import time
from collections.abc import Callable
from typing import NamedTuple

CHUNK = 65536
MOST = 64        # callers of one listener at a time: any user of the machine may come to a port of the host's
PATIENCE = 1.0   # seconds that a caller waits for somebody to listen inside: it may still be starting
RETRY = 0.01     # seconds between two tries
REST = 0.1       # seconds that a listener rests, which has found no descriptor left
PULSE = 1.0      # seconds between two beats

Address = tuple[str, int]


class Door:
    """A listener, and where those who come to it are led; ``source`` is the address to come from, inside.

    At most ``most`` callers are led at a time; what they say ``beats``, see `Relay`, or it does not.
    """

    def __init__(self, listener: socket.socket, inside: Address, source: str = "",
                 patience: float = PATIENCE, most: int | None = None, beats: bool = True) -> None:
        self.listener, self.inside, self.source, self.patience = listener, inside, source, patience
        self.most, self.beats = most or MOST, beats
        self.callers = 0
        self.closed_until = 0.0


class Caller(NamedTuple):
    """Who has come and is not connected yet."""

    connection: socket.socket
    door: Door
    deadline: float


class Side:
    """One of the two connections of a pair: what it still has to be sent, and who is opposite."""

    def __init__(self, connection: socket.socket, door: Door, outside: bool) -> None:
        self.connection, self.door, self.outside = connection, door, outside
        self.unsent = b""        # bytes from the other side
        self.reading = True      # until end of file
        self.opposite: Side


class Relay:
    """Pass bytes until told to stop: `publish` listeners, `watch` descriptors, then `run`.

    ``beat`` is called whenever something has come from outside, before it is passed on, and each second.
    """

    def __init__(self, beat: Callable[[], None] | None = None) -> None:
        self.selector = selectors.DefaultSelector()
        self.waiting: list[Caller] = []  # nobody listened inside when they were last announced
        self.resting: list[Door] = []
        self.beat = beat or (lambda: None)
        self.pulse = PULSE if beat else None
        self.last_beat = time.monotonic()
        self.ended: int | None = None

    def publish(self, listener: socket.socket, inside: Address, source: str = "",
                patience: float = PATIENCE) -> None:
        """Connect whoever comes to ``listener`` with the address ``inside``."""
        self.open(Door(listener, inside, source, patience))

    def open(self, door: Door) -> None:
        """Connect whoever comes to this door."""
        door.listener.setblocking(False)
        self._open(door)

    def close(self, door: Door) -> None:
        """Nobody comes by this door any more; those who have come stay until they or their host leave."""
        if door in self.resting:
            self.resting.remove(door)
        else:
            self.selector.unregister(door.listener)
        door.listener.close()

    def watch(self, fd: int, then: Callable[[], None]) -> None:
        """Call ``then`` once, as soon as ``fd`` is readable: the end of a process stays readable for ever."""
        def once(_: int) -> None:
            self.selector.unregister(fd)
            then()

        self.selector.register(fd, selectors.EVENT_READ, once)

    def end(self, code: int) -> None:
        """Let `run` return ``code``."""
        self.ended = code

    def run(self) -> int:
        """Pass bytes until `end` is called."""
        while self.ended is None:
            pause = RETRY if self.waiting else REST if self.resting else self.pulse
            for key, mask in self.selector.select(pause):
                key.data(mask)
            self._try_again()
            if self.pulse and time.monotonic() >= self.last_beat + self.pulse:
                self._beat()
        return self.ended

    def _beat(self) -> None:
        self.last_beat = time.monotonic()
        self.beat()

    def _try_again(self) -> None:
        callers, self.waiting = self.waiting, []
        for caller in callers:
            self._connect(caller)
        doors, self.resting = self.resting, []
        for door in doors:
            if door.callers < door.most and time.monotonic() >= door.closed_until:
                self._open(door)
            else:
                self.resting.append(door)

    def _open(self, door: Door) -> None:
        self.selector.register(door.listener, selectors.EVENT_READ, lambda _: self._accept(door))

    def _rest(self, door: Door, seconds: float) -> None:
        """Accept nobody for a moment, or until somebody leaves: they wait in the listener's queue."""
        self.selector.unregister(door.listener)
        door.closed_until = time.monotonic() + seconds
        self.resting.append(door)

    def _accept(self, door: Door) -> None:
        if door.listener.fileno() < 0:
            return  # closed in this very round
        try:
            connection, _ = door.listener.accept()
        except (BlockingIOError, ConnectionError):
            return  # the caller has gone again
        except OSError:  # no descriptor left
            self._rest(door, REST)
            return
        connection.setblocking(False)
        door.callers += 1
        if door.callers == door.most:
            self._rest(door, 0)
        self._connect(Caller(connection, door, time.monotonic() + door.patience))

    def _connect(self, caller: Caller) -> None:
        """Knock inside, without waiting for the answer: other pairs go on meanwhile."""
        try:
            inner = socket.socket(family(caller.door.inside), socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError:  # no descriptor left
            self._later(caller)
            return
        if caller.door.source:
            inner.bind((caller.door.source, 0))
        if inner.connect_ex(caller.door.inside) in (0, errno.EINPROGRESS):
            self.selector.register(inner, selectors.EVENT_WRITE, lambda _: self._answered(caller, inner))
        else:
            inner.close()
            self._later(caller)

    def _answered(self, caller: Caller, inner: socket.socket) -> None:
        self.selector.unregister(inner)
        if inner.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            inner.close()
            self._later(caller)
        else:
            self._join(Side(caller.connection, caller.door, True), Side(inner, caller.door, False))

    def _later(self, caller: Caller) -> None:
        if time.monotonic() < caller.deadline:
            self.waiting.append(caller)
        else:
            reset(caller.connection)
            caller.door.callers -= 1

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
        if side.outside and side.door.beats:
            self._beat()
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
        side.door.callers -= 1


def family(address: Address) -> socket.AddressFamily:
    """Of IPv4 or of IPv6."""
    return socket.AF_INET6 if ":" in address[0] else socket.AF_INET


def reset(connection: socket.socket) -> None:
    """Close as a port does at which nobody listens, so that a caller does not take it for an empty answer."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
