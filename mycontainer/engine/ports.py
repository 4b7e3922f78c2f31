"""Published ports: which are meant, and listeners for them.

A listener belongs to the network namespace that it is made in, so these are made before we enter a router.
"""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Iterable
from typing import NamedTuple

from mycontainer.errors import ContainerError, explain

# Only for this machine, unless an address is given. Docker opens a port for everybody who can reach the
# machine, past its firewall: a published port is not private there.
LOCAL = ("127.0.0.1", "::1")
EVERYBODY = ("0.0.0.0", "::")
SOME = 64          # ports that one range may have: each is a listener
TRIES = 20         # to find a port that is free for both kinds of addresses
LISTENING = "0A"   # include/net/tcp_states.h: TCP_LISTEN, as /proc/net/tcp shows it
HOW = "Write [ADDRESS:][HOST_PORT:]PORT[/udp]: 8080:80, or 0.0.0.0:8080:80 for everybody, or [::1]:8080:80."


class Port(NamedTuple):
    """``inside`` is the container's port; ``outside`` ours, 0: any that is free (``chosen``, once it is)."""

    addresses: tuple[str, ...]
    outside: int
    inside: int
    protocol: str
    chosen: bool = False


class Listener(NamedTuple):
    """An open port: TCP listens already, so that who comes early waits."""

    socket: socket.socket
    port: Port


def parse(text: str) -> list[Port]:
    """What ``-p`` means: ``8080:80``, ``80``, ``127.0.0.1::80``, ``[::1]:8000-8002:80-82/udp``."""
    address = r"(?:(\[[\da-fA-F:.]+\]|\d+\.[\d.]+):)?"
    found = re.fullmatch(address + r"(?:(\d*|\d+-\d+):)?(\d+|\d+-\d+)(?:/(tcp|udp))?", text, re.ASCII)
    if not found:
        raise _wrong(text)
    ip, outside, inside, protocol = found.groups()
    inner = _range(text, inside)
    outer: Iterable[int] = _range(text, outside) if outside else [0] * len(inner)
    if len(list(outer)) != len(inner):
        raise _wrong(text, "as many ports outside as inside")
    addresses = (_address(text, ip.strip("[]")),) if ip else LOCAL
    return [Port(addresses, here, there, protocol or "tcp") for here, there in zip(outer, inner, strict=True)]


def _range(text: str, words: str) -> range:
    first, _, last = words.partition("-")
    ports = range(int(first), int(last or first) + 1)
    if not ports or ports[0] < 1 or ports[-1] > 65535:
        raise _wrong(text, "ports are 1 to 65535, the smaller first")
    if len(ports) > SOME:
        raise _wrong(text, f"at most {SOME} ports")
    return ports


def _address(text: str, address: str) -> str:
    try:
        socket.inet_pton(_family(address), address)
    except OSError:
        raise _wrong(text, f"{address} is no address") from None
    return address


def _wrong(text: str, reason: str = "") -> ContainerError:
    return ContainerError(f"not a port to publish: {text}", reason, HOW)


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def open_all(ports: Iterable[Port]) -> list[Listener]:
    """Open all ports, or none. Raises ContainerError, which says who has a port that is taken."""
    opened: list[Listener] = []
    try:
        for port in ports:
            opened += _open(port)
    except BaseException:
        close(opened)
        raise
    return opened


def close(listeners: Iterable[Listener]) -> None:
    """Close them here; a process that was forked meanwhile keeps its own."""
    for listener in listeners:
        listener.socket.close()


def _open(port: Port) -> list[Listener]:
    """A listener for each address of the port, all with the same number."""
    for attempt in range(TRIES):
        opened: list[Listener] = []
        number = port.outside
        try:
            for address in port.addresses:
                if one := _listen(address, number, port.protocol, needed=address != "::1" or not opened):
                    number = number or one.getsockname()[1]
                    found = Port((address,), number, port.inside, port.protocol, chosen=not port.outside)
                    opened.append(Listener(one, found))
            return opened
        except OSError as error:
            close(opened)
            if port.outside or attempt == TRIES - 1:
                raise _refused(port, address, number, error) from error
    raise AssertionError("unreachable")


def _listen(address: str, number: int, protocol: str, needed: bool) -> socket.socket | None:
    """None: this machine has no IPv6, and nobody insists on it."""
    kind = socket.SOCK_DGRAM if protocol == "udp" else socket.SOCK_STREAM
    try:
        one = socket.socket(_family(address), kind)
    except OSError:
        if needed:
            raise
        return None
    try:
        if one.family == socket.AF_INET6:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if kind == socket.SOCK_STREAM:  # for UDP it would let two have the same port
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind((address, number))
        if kind == socket.SOCK_STREAM:
            one.listen(128)
    except OSError as error:
        one.close()
        if error.errno == errno.EADDRNOTAVAIL and not needed:
            return None
        raise
    return one


def _refused(port: Port, address: str, number: int, error: OSError) -> ContainerError:
    shown = f"[{address}]:{number}" if ":" in address else f"{address}:{number}"
    what = f"cannot publish port {port.inside} on {shown}/{port.protocol}"
    if error.errno == errno.EADDRINUSE:
        who = owner(number, port.protocol)
        return ContainerError(what, f"{who or 'another process'} has it", f"Take another one, or let us "
                              f"choose one that is free: -p {port.inside}")
    if error.errno == errno.EACCES:
        return ContainerError(what, "the low ports are root's", f"Take a higher one: {number + 8000}:"
                              f"{port.inside}. (They end at the sysctl net.ipv4.ip_unprivileged_port_start.)")
    if error.errno == errno.EADDRNOTAVAIL:
        return ContainerError(what, "this machine has no such address", "To see those it has: ip address")
    return explain(what, error)


def owner(number: int, protocol: str = "tcp") -> str:
    """Who listens at a port of this network namespace: "httpd (pid 4711)"; empty if we may not know."""
    inodes = {f"socket:[{row[9]}]" for table in (protocol, f"{protocol}6") for row in _rows(table)
              if int(row[1].rpartition(":")[2], 16) == number and (protocol == "udp" or row[3] == LISTENING)}
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            if any(os.readlink(f"/proc/{pid}/fd/{fd}") in inodes for fd in os.listdir(f"/proc/{pid}/fd")):
                with open(f"/proc/{pid}/comm") as file:
                    return f"{file.read().strip()} (pid {pid})"
        except OSError:  # not ours to look at, or gone meanwhile
            continue
    return ""


def _rows(table: str) -> list[list[str]]:
    try:
        with open(f"/proc/self/net/{table}") as file:  # man 5 proc_pid_net
            return [line.split() for line in file][1:]
    except OSError:
        return []
