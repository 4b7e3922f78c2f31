"""Datagrams are led there and back, to each his own; who is silent is forgotten."""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Iterator

import pytest

from mycontainer.engine import datagrams
from mycontainer.engine.datagrams import Desk


class Relayed:
    """A desk between callers and a server, in one process: `turn` lets it work."""

    def __init__(self, outside: str, inside: str) -> None:
        family = socket.AF_INET6 if ":" in outside else socket.AF_INET
        inner = socket.AF_INET6 if ":" in inside else socket.AF_INET
        self.server = socket.socket(inner, socket.SOCK_DGRAM)
        self.server.bind((inside, 0))
        self.server.settimeout(5)
        self.listener = socket.socket(family, socket.SOCK_DGRAM)
        self.listener.bind((outside, 0))
        self.port = self.listener.getsockname()[1]
        self.selector = selectors.DefaultSelector()
        self.desk = Desk(self.selector, self.listener, self.server.getsockname()[:2])

    def turn(self) -> None:
        for key, mask in self.selector.select(5):
            key.data(mask)

    def caller(self, address: str) -> socket.socket:
        one = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        one.settimeout(5)
        one.connect((address, self.port))  # so that it hears only answers that come from there
        return one

    def close(self) -> None:
        for guest in self.desk.guests.values():
            guest.inner.close()
        for one in (self.server, self.listener, self.selector):
            one.close()


@pytest.fixture(params=[("127.0.0.1", "127.0.0.1"), ("::1", "127.0.0.1"), ("127.0.0.1", "::1")],
                ids=["4-4", "6-4", "4-6"])
def relayed(request: pytest.FixtureRequest) -> Iterator[Relayed]:
    one = Relayed(*request.param)
    yield one
    one.close()


def test_there_and_back_to_each_his_own(relayed: Relayed) -> None:
    address = relayed.listener.getsockname()[0]
    with relayed.caller(address) as one, relayed.caller(address) as two:
        for caller, words in ((one, b"one"), (two, b"two"), (one, b"again")):
            caller.send(words)
            relayed.turn()
            heard, sender = relayed.server.recvfrom(100)
            assert heard == words
            relayed.server.sendto(heard.upper(), sender)
            relayed.turn()
            assert caller.recv(100) == words.upper()
        assert len(relayed.desk.guests) == 2


@pytest.fixture
def everywhere() -> Iterator[Relayed]:
    one = Relayed("0.0.0.0", "127.0.0.1")
    yield one
    one.close()


def test_an_answer_comes_from_the_address_that_was_asked(everywhere: Relayed) -> None:
    """127.0.0.9 is one of this machine's, and not the one that the kernel would choose."""
    with everywhere.caller("127.0.0.9") as caller:
        caller.send(b"x")
        everywhere.turn()
        _, sender = everywhere.server.recvfrom(100)
        everywhere.server.sendto(b"y", sender)
        everywhere.turn()
        assert caller.recv(100) == b"y"


def test_who_is_silent_is_forgotten(everywhere: Relayed, monkeypatch: pytest.MonkeyPatch) -> None:
    with everywhere.caller("127.0.0.1") as caller:
        caller.send(b"x")
        everywhere.turn()
        everywhere.desk.expire()
        assert len(everywhere.desk.guests) == 1
        later = time.monotonic() + datagrams.SILENCE + 1
        monkeypatch.setattr(time, "monotonic", lambda: later)
        everywhere.desk.expire()
        assert not everywhere.desk.guests
        assert len(everywhere.selector.get_map()) == 1


def test_no_more_guests_than_there_is_room_for(everywhere: Relayed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datagrams, "GUESTS", 3)
    callers = [everywhere.caller("127.0.0.1") for _ in range(5)]
    for caller in callers:
        caller.send(b"x")
        everywhere.turn()
    kept = {guest.sender[1] for guest in everywhere.desk.guests.values()}
    assert kept == {caller.getsockname()[1] for caller in callers[2:]}
    for caller in callers:
        caller.close()


def test_nobody_inside_is_no_end(everywhere: Relayed) -> None:
    inside = everywhere.server.getsockname()
    everywhere.server.close()
    with everywhere.caller("127.0.0.1") as caller:
        caller.send(b"lost")
        everywhere.turn()
        everywhere.turn()  # ECONNREFUSED comes back
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
            server.bind(inside)
            server.settimeout(5)
            caller.send(b"found")
            everywhere.turn()
            assert server.recv(100) == b"found"
