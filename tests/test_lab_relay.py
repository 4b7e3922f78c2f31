"""The relay: bytes pass both ways, whole, in order, and the ends are passed on."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mycontainer.lab import relay


@contextmanager
def relayed(inside: relay.Address, transport: str = "tcp", place: str = "127.0.0.1") -> Iterator[Any]:
    """The address that a relay, in a thread, listens at."""
    listener = relay.listen(transport, place, 0)
    carrier = relay.Relay()
    carrier.publish(listener, inside)
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
