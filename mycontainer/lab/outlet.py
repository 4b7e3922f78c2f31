"""Ports of the lab that are led out to the machine around it; engine/outlet.py tells how one is asked for.

    launcher   in the machine's network: listens at the port, and hands the listener to
    doorman    in the lab's network: hears who asks, and leads callers in

Whoever is root in there may ask for anything, as fast as they like. What they get: a listener for callers of
this machine, on an address that nobody else uses, not below 1024, `MOST` at a time.

Why an address of its own, and not 127.0.0.1? Because a browser keeps cookies by host, and does not look at
the port: RFC 6265, 8.5. JupyterLab is at 127.0.0.1, or localhost, and knows the learner by a cookie. A cell
could open 127.0.0.1:8080 and display ``<img src="http://127.0.0.1:8080">``: the browser would hand it that
cookie at once, and the one that protects from forged requests; SameSite is no help, for sites have no ports
either. No name helps, as long as it leads to JupyterLab's address: the other port is at that name too.
127.0.0.2 is another host, and another site. All of 127/8 is this machine (RFC 1122, 3.2.1.3), with nothing to
set up. And no port of JupyterLab's, of a kernel's, or of anybody's at 127.0.0.1 can be taken or be mistaken.

What remains: a page from a cell is a page of a stranger's, as any on the internet, and shown without a click
if the cell displays it in a frame. It can knock at what listens on this machine, as they can.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import selectors
import socket
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, NamedTuple

from mycontainer.engine.outlet import LARGEST, PLACE
from mycontainer.engine.relay import Door
from mycontainer.errors import ContainerError, explain
from mycontainer.lab import channel, relay
from mycontainer.lab.channel import Channel
from mycontainer.lab.log import Bucket

MOST = 16                  # ports of one lab
SPARE = 8                  # more connections that we have, to say no
CALLERS = 16               # of one of them at a time. With MOST: descriptors are left for the kernel's ports
BURST, PER_SECOND = 32, 8  # questions that are heard at once, and then each second
LOWEST = 1024              # what is below is the machine's own, whoever has started the lab
# The first that is free: so a second lab can have the same port, and its learner need not know of the first.
ADDRESSES = [f"127.0.0.{number}" for number in range(2, 255)]


class Wish(NamedTuple):
    """What somebody asks for."""

    port: int      # outside
    host: str      # an IP address, inside
    inside: int    # a port of it


# ---- the launcher: outside -------------------------------------------------------------------------------


def grant(doorman: Channel, number: int, port: int) -> None:
    """Open a port and hand it to the doorman, or tell why not. The answer has the question's ``number``."""
    try:
        listener, address = open_port(port)
    except ContainerError as error:
        doorman.send(channel.REFUSED, number=number, what=error.what, reason=error.reason, hint=error.hint)
        return
    with listener:
        doorman.send(channel.OPENED, [listener.fileno()], number=number, address=address)


def open_port(port: int) -> tuple[socket.socket, str]:
    """Listen at ``port`` of the first address where it is free; returns that too. Raises ContainerError."""
    port = _port(port)  # the doorman has looked at it too
    what = f"cannot publish port {port} outside the lab"
    if port < LOWEST:
        raise ContainerError(what, f"those below {LOWEST} are the machine's own", f"Take {port + 8000}, say.")
    for address in addresses():
        try:
            return relay.listen("tcp", address, port), address
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise explain(what, error) from error
    raise ContainerError(what, f"port {port} of the machine is taken", "Take another one.")


def addresses() -> Iterable[str]:
    """Where to listen: $MYCONTAINER_PUBLISH_ADDRESS as the learner has set it, outside, or our own choice.

    127.0.0.1 is for a browser that is on another machine, with a tunnel that knows no other address. Then
    do not open JupyterLab by the same name, see above.
    """
    chosen = os.environ.get("MYCONTAINER_PUBLISH_ADDRESS")
    return [chosen] if chosen else ADDRESSES


# ---- the doorman: in the lab's network -------------------------------------------------------------------


def listen() -> socket.socket:
    """Be there for those who ask; to be called in the lab's network namespace."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    listener.bind(PLACE)
    listener.listen(MOST)
    return listener


class Lease:
    """Somebody who asks, and what they have got; a port is theirs while their connection is open."""

    def __init__(self, number: int, connection: socket.socket) -> None:
        self.number, self.connection = number, connection
        self.wish: Wish | None = None
        self.answered = self.gone = False
        self.door: Door | None = None


class Outlets:
    """Hears who asks, has the launcher open ports, and leads callers in: a part of the doorman's `Relay`."""

    def __init__(self, listener: socket.socket, carrier: relay.Relay, launcher: Channel) -> None:
        self.listener, self.carrier, self.launcher = listener, carrier, launcher
        self.leases: dict[int, Lease] = {}
        self.numbers = itertools.count(1)
        self.bucket = Bucket(PER_SECOND, BURST)
        self.resting = True
        self.wake()

    def wake(self) -> None:
        """Hear who asks again, if we had enough of it; called each second."""
        if self.resting and self.bucket.level() >= 1 and len(self.leases) < MOST + SPARE:
            self.resting = False
            self.carrier.selector.register(self.listener, selectors.EVENT_READ, lambda _: self._accept())

    def _rest(self) -> None:
        self.resting = True
        self.carrier.selector.unregister(self.listener)

    def _accept(self) -> None:
        self.bucket.take(1)
        if self.bucket.level() < 1 or len(self.leases) + 1 >= MOST + SPARE:
            self._rest()
        try:
            connection, _ = self.listener.accept()
        except OSError:  # gone again, or no descriptor left
            return
        connection.setblocking(False)
        lease = Lease(next(self.numbers), connection)
        self.leases[lease.number] = lease
        self.carrier.selector.register(connection, selectors.EVENT_READ, lambda _: self._hear(lease))

    def _hear(self, lease: Lease) -> None:
        """A question, or the end of the connection."""
        if lease.gone:
            return  # in this very round
        try:
            data = lease.connection.recv(LARGEST + 1)
        except OSError:
            data = b""
        if not data or lease.wish:
            self._end(lease)
            return
        try:
            lease.wish = understand(data)
            if sum(one.wish is not None for one in self.leases.values()) > MOST:
                raise ContainerError("cannot publish one more port outside the lab", f"{MOST} are in use",
                                     "Close one of them first.")
            self.launcher.send(channel.OPEN, number=lease.number, port=lease.wish.port)
        except ContainerError as error:
            self._refuse(lease, error)
        except OSError:  # the launcher is gone, and so are we in a moment
            self._end(lease)

    def answered(self, facts: dict[str, Any], fds: list[int]) -> None:
        """The launcher's answer. Who asked may be gone meanwhile."""
        listeners = [socket.socket(fileno=fd) for fd in fds]
        lease = self.leases[facts["number"]]
        lease.answered = True
        if lease.gone or not lease.wish:
            for listener in listeners:
                listener.close()
            del self.leases[lease.number]
        elif facts["word"] == channel.REFUSED:
            self._refuse(lease, ContainerError(facts["what"], facts["reason"], facts["hint"]))
        else:
            _, host, inside = lease.wish
            source = relay.KNOCKING_FROM if host.startswith("127.") else ""
            lease.door = Door(listeners[0], (host, inside), source, most=CALLERS, beats=False)
            self.carrier.open(lease.door)
            _tell(lease, address=facts["address"])

    def _refuse(self, lease: Lease, error: ContainerError) -> None:
        _tell(lease, what=error.what, reason=error.reason, hint=error.hint)
        lease.answered = True
        self._end(lease)

    def _end(self, lease: Lease) -> None:
        """Close all that a lease has. It keeps its place until the launcher has answered."""
        self.carrier.selector.unregister(lease.connection)
        lease.connection.close()
        lease.gone = True
        if lease.door:
            self.carrier.close(lease.door)
        if lease.answered or not lease.wish:
            self.leases.pop(lease.number, None)


def _tell(lease: Lease, **facts: str) -> None:
    with suppress(OSError):  # gone, or does not read: then the end of the connection says it
        lease.connection.send(json.dumps(facts).encode())


def understand(data: bytes) -> Wish:
    """The question in a message from inside. Raises ContainerError."""
    try:
        told = json.loads(data) if len(data) <= LARGEST else None
    except (ValueError, RecursionError):
        told = None
    if not isinstance(told, dict):
        raise ContainerError("cannot publish a port outside the lab", "that is not how one asks")
    host = told.get("host")
    if not isinstance(host, str) or not _is_address(host):
        raise ContainerError(f"not an IP address: {str(host)[:50]}")
    return Wish(_port(told.get("port")), host, _port(told.get("inside")))


def _port(number: object) -> int:
    if type(number) is not int or not 0 < number <= 65535:
        raise ContainerError(f"not a port: {str(number)[:20]}", hint="1 to 65535.")
    return number


def _is_address(text: str) -> bool:
    try:
        socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
    except (OSError, ValueError):
        return False
    return True
