"""Datagrams from one network namespace into another: what relay.py is for connections.

UDP has no connections, so an answer can only be led back by whom it is for: each address that sends to us
gets a socket of its own inside, and what comes back to that socket goes to that address. Nobody says when
it is over: who has been silent for a while is forgotten. man 7 udp.
"""

from __future__ import annotations

import selectors
import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from mycontainer.engine.relay import Address, family

LARGEST = 65535  # bytes: what a datagram can hold
GUESTS = 512     # at a time for one listener; one more, and who has been silent longest is forgotten
SILENCE = 60.0   # seconds
IP_PKTINFO = 8   # linux/in.h: which of our addresses was it sent to?


class Guest:
    """Somebody outside: their address, the one of ours that they sent to, and their socket inside."""

    def __init__(self, sender: Any, to: list[tuple[int, int, bytes]], inner: socket.socket) -> None:
        self.sender, self.to, self.inner = sender, to, inner
        self.heard = time.monotonic()


class Desk:
    """A listener for datagrams, and the guests who come to it, the longest silent first."""

    def __init__(self, selector: selectors.BaseSelector, listener: socket.socket, inside: Address) -> None:
        self.selector, self.listener, self.inside = selector, listener, inside
        self.guests: dict[Any, Guest] = {}
        listener.setblocking(False)
        # An answer must come from the address that was asked, of which 0.0.0.0 has many.
        if listener.family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        else:
            listener.setsockopt(socket.IPPROTO_IP, IP_PKTINFO, 1)
        selector.register(listener, selectors.EVENT_READ, lambda _: self._receive())

    def _receive(self) -> None:
        with suppress(OSError):  # nothing there after all, or no descriptor left: datagrams do get lost
            data, ancillary, _, sender = self.listener.recvmsg(LARGEST, 256)
            to = [answer_from(*one) for one in ancillary]
            guest = self.guests.pop((sender, *to), None) or self._welcome(sender, to)
            self.guests[(sender, *to)] = guest  # to the end of the row
            guest.heard = time.monotonic()
            guest.inner.send(data)

    def _welcome(self, sender: Any, to: list[tuple[int, int, bytes]]) -> Guest:
        if len(self.guests) >= GUESTS:
            self._forget(next(iter(self.guests)))
        inner = socket.socket(family(self.inside), socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            inner.connect(self.inside)
        except OSError:
            inner.close()
            raise
        guest = Guest(sender, to, inner)
        self.selector.register(inner, selectors.EVENT_READ, self._answer(guest))
        return guest

    def _answer(self, guest: Guest) -> Callable[[int], None]:
        def answer(_: int) -> None:
            with suppress(OSError):  # ECONNREFUSED: nobody listens inside
                data = guest.inner.recv(LARGEST)
                guest.heard = time.monotonic()
                self.listener.sendmsg([data], guest.to, 0, guest.sender)
        return answer

    def expire(self) -> None:
        """Forget who has been silent for too long."""
        for key, guest in list(self.guests.items()):
            if guest.heard + SILENCE < time.monotonic():
                self._forget(key)

    def _forget(self, key: Any) -> None:
        guest = self.guests.pop(key)
        self.selector.unregister(guest.inner)
        guest.inner.close()


def answer_from(level: int, kind: int, data: bytes) -> tuple[int, int, bytes]:
    """Turn "it was sent to this address of yours" into "send this from that one". man 7 ip, man 7 ipv6."""
    if level == socket.IPPROTO_IP:  # struct in_pktinfo: interface, ours to answer from, whom it was to
        return level, kind, struct.pack("=i4s4s", 0, data[4:8], bytes(4))
    return level, kind, data
