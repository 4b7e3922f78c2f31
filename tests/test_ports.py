"""Which ports are meant, and listeners for them."""

from __future__ import annotations

import os
import re
import socket

import pytest

from mycontainer.engine import ports
from mycontainer.engine.ports import LOCAL, Port
from mycontainer.errors import ContainerError
from needs import needs_user


@pytest.mark.parametrize(("text", "meant"), [
    ("8080:80", [Port(LOCAL, 8080, 80, "tcp")]),
    ("80", [Port(LOCAL, 0, 80, "tcp")]),
    ("0:80", None),
    (":80", [Port(LOCAL, 0, 80, "tcp")]),
    ("53:53/udp", [Port(LOCAL, 53, 53, "udp")]),
    ("0.0.0.0:8080:80", [Port(("0.0.0.0",), 8080, 80, "tcp")]),
    ("127.0.0.1::80/tcp", [Port(("127.0.0.1",), 0, 80, "tcp")]),
    ("127.0.0.1:80", [Port(("127.0.0.1",), 0, 80, "tcp")]),
    ("[::1]:8080:80", [Port(("::1",), 8080, 80, "tcp")]),
    ("[::]:8080:80/udp", [Port(("::",), 8080, 80, "udp")]),
    ("8000-8002:80-82", [Port(LOCAL, 8000 + n, 80 + n, "tcp") for n in range(3)]),
    ("7000-7001", [Port(LOCAL, 0, 7000, "tcp"), Port(LOCAL, 0, 7001, "tcp")]),
    *((text, None) for text in (
        "", "http", "80:http", "80/sctp", "80/", "65536", "0", "80:0", "70000:80", "8000-8002:80-81", "82-80",
        "1-65535", "::1:80:80", "[::1]80:80", "[::g]:80:80", "1.2.3:80:80", "1.2.3.256:80:80", "a:80:80",
        "-80", "80-", "80:80:80:80", "80 :80", "８０:80", "80\n", "-1:80")),
])
def test_what_is_meant(text: str, meant: list[Port] | None) -> None:
    if meant is None:
        with pytest.raises(ContainerError, match="not a port to publish") as caught:
            ports.parse(text)
        assert "8080:80" in caught.value.hint
    else:
        assert ports.parse(text) == meant


def test_a_port_left_to_us_is_the_same_for_both_kinds_of_addresses() -> None:
    opened = ports.open_all(ports.parse("80"))
    try:
        assert {address for listener in opened for address in listener.port.addresses} <= set(LOCAL)
        assert len({listener.port.outside for listener in opened}) == 1
        assert opened[0].port.outside == opened[0].socket.getsockname()[1] > 1023
        assert all(listener.port.chosen for listener in opened)
        for listener in opened:
            socket.create_connection(listener.socket.getsockname()[:2], 5).close()
    finally:
        ports.close(opened)


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_who_has_a_port_that_is_taken_is_said(protocol: str) -> None:
    kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as other:
        other.bind(("127.0.0.1", 0))
        if protocol == "tcp":
            other.listen()
        number = other.getsockname()[1]
        with pytest.raises(ContainerError) as caught:
            ports.open_all(ports.parse(f"{number}:80/{protocol}"))
    with open("/proc/self/comm") as file:
        name = file.read().strip()
    assert caught.value.what == f"cannot publish port 80 on 127.0.0.1:{number}/{protocol}"
    assert caught.value.reason == f"{name} (pid {os.getpid()}) has it"
    assert "-p 80" in caught.value.hint


def test_all_or_none() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        with socket.create_server(("127.0.0.1", 0)) as place:
            free = place.getsockname()[1]
        with pytest.raises(ContainerError):
            ports.open_all([*ports.parse(f"{free}:80"), *ports.parse(f"{taken}:81")])
        with socket.create_server(("127.0.0.1", free)):
            pass  # it was closed again


@needs_user
def test_low_ports_are_root_s() -> None:
    with open("/proc/sys/net/ipv4/ip_unprivileged_port_start") as file:
        if int(file.read()) <= 81:
            pytest.skip("this machine gives low ports to everybody")
    with pytest.raises(ContainerError, match="low ports are root's") as caught:
        ports.open_all(ports.parse("81:80"))
    assert re.search(r"8081:80", caught.value.hint)


def test_an_address_that_is_not_here() -> None:
    with pytest.raises(ContainerError, match="no such address"):
        ports.open_all(ports.parse("192.0.2.7::80"))


def test_nobody_has_a_port_that_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as place:
        free = place.getsockname()[1]
        assert f"pid {os.getpid()}" in ports.owner(free)
    assert ports.owner(free) == ""
