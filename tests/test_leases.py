"""Addresses and names: who has which, also after a crash, also when many come at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mycontainer import paths
from mycontainer.engine import leases, state
from mycontainer.engine.leases import Lease, Network, Place
from mycontainer.errors import ContainerError


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Network]:
    """A network in a runtime directory of the test's own."""
    monkeypatch.setattr(paths, "_pinned", {"runtime": str(tmp_path), "data": str(tmp_path)})
    network = Network("test")
    yield network
    for lock in network.held.values():
        os.close(lock)


def take(network: Network, *names: str) -> Place:
    with network.locked():
        return network.take(names)


def give_back(network: Network, place: Place) -> None:
    with network.locked():
        network.give_back(place)


@contextmanager
def another_process(work: Callable[[], object]) -> Iterator[int]:
    """A process that does ``work`` and then waits to be killed, which the end of the block does."""
    ready, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os.write(tell, b"r")
            signal.pause()
        finally:
            os._exit(1)
    os.close(tell)
    os.read(ready, 1)
    os.close(ready)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_a_place_is_two_addresses_and_a_mac() -> None:
    place = Place(258)
    assert (place.ip, place.ip6, place.mac) == ("10.88.1.2", "fd6d:7963:6f6e::102", "02:00:0a:58:01:02")


def test_each_gets_another_one(network: Network) -> None:
    assert [take(network).number for _ in range(3)] == [2, 3, 4]


def test_what_was_given_back_comes_last(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its old namespace dies when the kernel finds the time: until then it may still have the address."""
    monkeypatch.setattr(leases, "LAST", 5)
    first = take(network)
    take(network)
    give_back(network, first)
    assert [take(network).number for _ in range(3)] == [4, 5, 2]


def test_when_all_are_taken(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "LAST", 4)
    taken = [take(network) for _ in range(3)]
    with pytest.raises(ContainerError, match="cannot join the network test: no address is left") as caught:
        take(network)
    assert "3 containers" in caught.value.hint
    give_back(network, taken[1])
    assert take(network) == taken[1]


def test_the_address_of_one_who_was_killed_is_free(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "LAST", 2)
    with another_process(lambda: take(network, "web")) as pid:
        with network.locked():
            assert network.leases() == [Lease(Place(2), pid, state.started(pid), ("web",))]
        with pytest.raises(ContainerError, match="no address is left"):
            take(network)
    with network.locked():
        assert network.leases() == []
    assert take(network) == Place(2)


def test_who_is_killed_while_it_has_the_lock_does_not_keep_it(network: Network) -> None:
    def hold() -> None:
        network._lock()

    with another_process(hold):
        pass
    assert take(network) == Place(2)


def test_everybody_s_names_are_in_one_file_which_stays_the_same(network: Network) -> None:
    web = take(network, "web", "0123456789ab")
    before = os.stat(network.hosts).st_ino
    client = take(network, "client", "client")
    with open(network.hosts) as hosts:
        assert hosts.read() == (
            "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
            "10.88.0.2\tweb 0123456789ab\nfd6d:7963:6f6e::2\tweb 0123456789ab\n"
            "10.88.0.3\tclient\nfd6d:7963:6f6e::3\tclient\n")
        give_back(network, web)
        hosts.seek(0)
        assert "web" not in hosts.read()  # what is mounted somewhere is this very file
    assert os.stat(network.hosts).st_ino == before
    assert os.stat(network.hosts).st_mode & 0o777 == 0o644
    give_back(network, client)


def test_the_last_one_takes_the_directory_along(network: Network) -> None:
    one, two = take(network), take(network)
    give_back(network, one)
    assert os.path.exists(network.path)
    give_back(network, two)
    assert not os.path.exists(network.path)


def test_what_a_crash_left_behind_is_swept(network: Network) -> None:
    with another_process(lambda: take(network)):
        leases.sweep()
        assert os.path.exists(network.path)  # it lives
    leases.sweep()
    assert not os.path.exists(network.path)


def test_many_at_once_get_different_ones_while_the_directory_comes_and_goes(network: Network) -> None:
    """Eight processes take and give back, 25 times each; a file made with O_EXCL tells who has a place."""
    claims = Path(network.path).parents[1] / "claims"
    claims.mkdir()

    def work() -> None:
        for _ in range(25):
            place = take(network, "x")
            claim = claims / str(place.number)
            os.close(os.open(claim, os.O_CREAT | os.O_EXCL))
            claim.unlink()
            give_back(network, place)

    children = []
    for _ in range(8):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                work()
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 8
    assert not os.path.exists(network.path)


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", "-x", "a b", "a\n", "x" * 64, "ä"])
def test_a_name_that_is_none(name: str) -> None:
    with pytest.raises(ContainerError, match="not a network's name"):
        Network(name)
