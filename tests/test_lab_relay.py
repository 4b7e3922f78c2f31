"""The relay: bytes pass both ways, whole, in order, and the ends are passed on."""

from __future__ import annotations

import functools
import hashlib
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mycontainer.engine import relay as engine
from mycontainer.lab import relay


@contextmanager
def relayed(inside: relay.Address, transport: str = "tcp", place: str = "127.0.0.1") -> Iterator[Any]:
    """The address that a relay, in a thread, listens at."""
    listener = relay.listen(transport, place, 0)
    carrier = relay.Relay()
    carrier.lead(listener, inside)
    stop, stopper = os.pipe()
    carrier.watch(stop, lambda: carrier.end(7))
    results: list[int] = []
    thread = threading.Thread(target=lambda: results.append(carrier.run()))
    thread.start()
    try:
        yield listener.getsockname()
    finally:
        os.close(stopper)
        thread.join(10)
        for key in list(carrier.selector.get_map().values()):
            if isinstance(key.fileobj, socket.socket):
                key.fileobj.close()
        for caller in carrier.waiting:
            caller.connection.close()
        for door in carrier.resting:
            door.listener.close()
        carrier.selector.close()
        os.close(stop)
        assert results == [7]


def test_a_megabyte_each_way_and_both_ends() -> None:
    payload = os.urandom(4 << 20)
    with socket.create_server(("127.0.0.1", 0)) as server, relayed(server.getsockname()) as address:
        heard: list[bytes] = []

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                while data := connection.recv(65536):
                    heard.append(data)
                connection.sendall(payload)

        thread = threading.Thread(target=answer)
        thread.start()
        with socket.create_connection(address) as caller:
            caller.sendall(payload)
            caller.shutdown(socket.SHUT_WR)  # half closed: the answer must come all the same
            got = b"".join(iter(lambda: caller.recv(65536), b""))
        thread.join()
    assert hashlib.sha256(b"".join(heard)).digest() == hashlib.sha256(payload).digest()
    assert got == payload


def test_a_reader_that_is_slow_slows_the_writer() -> None:
    """Otherwise the relay would hold all that a kernel prints."""
    with socket.create_server(("127.0.0.1", 0)) as server, relayed(server.getsockname()) as address:
        caller = socket.create_connection(address)
        connection, _ = server.accept()
        connection.settimeout(1)
        sent = 0
        with caller, connection:
            try:
                while sent < 640 << 20:
                    sent += connection.send(b"x" * 65536)
            except TimeoutError:
                pass
        assert sent < 64 << 20


def test_who_comes_before_the_kernel_listens_waits() -> None:
    with socket.create_server(("127.0.0.1", 0)) as place:
        later = place.getsockname()
    with relayed(later) as address, socket.create_connection(address) as caller:
        caller.sendall(b"early")
        time.sleep(0.1)
        with socket.create_server(later) as server:
            connection, _ = server.accept()
            with connection:
                assert connection.recv(16) == b"early"


def test_a_reset_reaches_the_other_side() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, relayed(server.getsockname()) as address:
        caller = socket.create_connection(address)
        connection, _ = server.accept()
        with connection:
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            caller.close()
            connection.settimeout(5)
            assert connection.recv(16) == b""
        with socket.create_connection(address) as again:
            connection, _ = server.accept()
            with connection:
                again.sendall(b"x")
                assert connection.recv(1) == b"x"


def test_many_connections_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, relayed(server.getsockname()) as address:
        callers = [socket.create_connection(address) for _ in range(50)]
        served = [server.accept()[0] for _ in callers]
        for number, caller in enumerate(callers):
            caller.sendall(b"%02d" % number)
        assert sorted(one.recv(2) for one in served) == [b"%02d" % number for number in range(50)]
        for one in (*callers, *served):
            one.close()


def test_more_callers_than_it_takes_wait_for_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "MOST", 8)
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server, \
            relayed(server.getsockname()) as address:
        server.settimeout(0.3)
        callers = [socket.create_connection(address) for _ in range(20)]
        served = [server.accept()[0] for _ in range(8)]
        used = time.process_time()
        with pytest.raises(TimeoutError):
            server.accept()
        assert time.process_time() - used < 0.1  # it rests, it does not spin
        server.settimeout(5)
        for one in callers[:8]:
            one.close()
        for one in served:
            one.close()
        served = [server.accept()[0] for _ in range(8)]
        for one in (*callers[8:], *served):
            one.close()


def test_running_out_of_descriptors_does_not_end_it() -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=100) as server:
        listener = relay.listen("tcp", "127.0.0.1", 0)
        child = os.fork()
        if child == 0:
            used = max(map(int, os.listdir("/proc/self/fd")))
            resource.setrlimit(resource.RLIMIT_NOFILE, (used + 12, used + 12))
            carrier = relay.Relay()
            carrier.lead(listener, server.getsockname())
            try:
                carrier.run()
            finally:
                os._exit(1)
        address = listener.getsockname()
        listener.close()
        try:
            callers = [socket.create_connection(address) for _ in range(60)]
            time.sleep(0.3)
            for one in callers:
                one.close()
            with socket.create_connection(address) as late:
                late.sendall(b"late")
                late.shutdown(socket.SHUT_WR)
                server.settimeout(5)
                heard = b""
                while not heard:
                    connection, _ = server.accept()
                    with connection:
                        heard = connection.recv(16)
                assert heard == b"late"
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def test_somebody_who_does_not_answer_inside_holds_up_nobody() -> None:
    with socket.socket() as server, socket.socket() as listener:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        with socket.create_connection(server.getsockname()):  # the queue is full: who comes now hears nothing
            carrier = relay.Relay()
            door = engine.Door(listener, server.getsockname())
            callers = [socket.socketpair() for _ in range(3)]
            start = time.monotonic()
            for caller, _ in callers:
                carrier._connect(engine.Caller(caller, door, start + 60))
            assert time.monotonic() - start < 0.5
            for key in list(carrier.selector.get_map().values()):
                assert isinstance(key.fileobj, socket.socket)
                key.fileobj.close()
            carrier.selector.close()
            for one, other in callers:
                one.close()
                other.close()


def test_knocking_takes_no_port_from_those_who_will_listen() -> None:
    """Ports of notebook kernels lie where Linux takes the ports of callers from."""
    with socket.socket() as listener:
        carrier = relay.Relay()
        caller, other = socket.socketpair()
        door = engine.Door(listener, ("127.0.0.1", 9), relay.KNOCKING_FROM)
        carrier._connect(engine.Caller(caller, door, time.monotonic() + 60))
        [key] = carrier.selector.get_map().values()
        assert isinstance(key.fileobj, socket.socket)
        assert key.fileobj.getsockname()[0] == "127.0.0.2"
        for one in (key.fileobj, caller, other):
            one.close()
        carrier.selector.close()


def test_the_beat_comes_before_the_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    beats: list[int] = []
    monkeypatch.setattr(engine, "PULSE", 60)
    monkeypatch.setattr(relay, "Relay", functools.partial(relay.Relay, lambda: beats.append(1)))
    with socket.create_server(("127.0.0.1", 0)) as server, relayed(server.getsockname()) as address, \
            socket.create_connection(address) as caller:
        connection, _ = server.accept()
        with connection:
            assert beats == []
            caller.sendall(b"x")
            assert connection.recv(1) == b"x"
            assert beats == [1]
            connection.sendall(b"y")
            assert caller.recv(1) == b"y"
            assert beats == [1]


def test_a_caller_who_waits_does_not_speed_up_the_beat(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the kernel starts, each beat would make it look up its modules anew."""
    beats: list[int] = []
    monkeypatch.setattr(relay.Relay, "_connect", relay.Relay._later)  # nobody listens inside
    monkeypatch.setattr(relay, "Relay", functools.partial(relay.Relay, lambda: beats.append(1)))
    with relayed(("127.0.0.1", 1)) as address, socket.create_connection(address):
        time.sleep(0.3)
        assert beats == []


def test_a_unix_socket_in_front(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, \
            relayed(server.getsockname(), "ipc", str(tmp_path / "k")) as address, \
            socket.socket(socket.AF_UNIX) as caller:
        caller.connect(address)
        connection, _ = server.accept()
        with connection:
            caller.sendall(b"x")
            assert connection.recv(1) == b"x"
    assert os.path.exists(tmp_path / "k-0")


def test_a_door_that_is_full_can_be_closed() -> None:
    """Who has come by it stays, and who was about to is refused."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        carrier = relay.Relay()
        door = engine.Door(relay.listen("tcp", "127.0.0.1", 0), server.getsockname(), most=1)
        address = door.listener.getsockname()
        carrier.open(door)
        with socket.create_connection(address) as caller:
            carrier._accept(door)
            assert carrier.resting == [door]
            carrier.close(door)
            assert carrier.resting == []
            carrier._accept(door)  # the last round of events still had it
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(address)
            for key in list(carrier.selector.get_map().values()):  # of the caller, on the way in
                key.data(key.events)
            caller.sendall(b"x")
            connection, _ = server.accept()
            for key in list(carrier.selector.get_map().values()):
                key.data(key.events)
            with connection:
                assert connection.recv(1) == b"x"
        for key in list(carrier.selector.get_map().values()):
            assert isinstance(key.fileobj, socket.socket)
            key.fileobj.close()
        carrier.selector.close()


def test_what_does_not_beat_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what a published page is asked, the notebook's view of its files need not hear."""
    beats: list[int] = []
    carrier = relay.Relay(lambda: beats.append(1))
    one, other = socket.socketpair()
    for beating, count in ((False, 0), (True, 1)):
        with socket.socket() as listener:
            door = engine.Door(listener, ("127.0.0.1", 9), beats=beating)
            outer, inner = engine.Side(one, door, True), engine.Side(other, door, False)
            outer.opposite, inner.opposite = inner, outer
            other.send(b"x")
            carrier._read(outer)
            assert len(beats) == count
            one.recv(1)
    one.close()
    other.close()
    carrier.selector.close()
