"""What there is in this network namespace: devices, their addresses and counters, as the kernel tells them.

A question with NLM_F_DUMP is answered by as many messages as there are things, and a last one that says so.
man 7 rtnetlink; linux/if_link.h.
"""

from __future__ import annotations

import socket
import struct
import sys
from collections.abc import Iterator
from typing import NamedTuple

from mycontainer import network

NLM_F_DUMP, NLMSG_ERROR, NLMSG_DONE = 0x300, 2, 3
RTM_GETLINK, RTM_GETADDR, RTM_GETROUTE = 18, 22, 26
IFLA_STATS64, IFF_RUNNING = 23, 0x40
RTA_DST, RTA_OIF = 1, 4

Answer = tuple[tuple[int, ...], dict[int, bytes]]  # the struct's fields, the attributes


class Device(NamedTuple):
    """A network device: ``kind`` is "veth", "bridge", or empty for lo and real ones. ``up`` is switched on,
    ``running`` also joined to something that is; ``bridge`` is the one that it is plugged into; ``addresses``
    are as `network.address` takes them; ``received`` and ``sent`` count packets."""

    number: int
    name: str
    kind: str
    up: bool
    running: bool
    mac: str
    mtu: int
    bridge: str
    addresses: tuple[str, ...]
    received: int
    sent: int


def devices() -> dict[str, Device]:
    """The devices of this network namespace, by name."""
    found = {}
    rows = list(_dump(RTM_GETLINK, network.LINK))
    names = {fields[2]: _text(has[network.IFLA_IFNAME]) for fields, has in rows}
    owned = addresses()
    for (_, _, index, flags, _), has in rows:
        kind = network.attributes(has.get(network.IFLA_LINKINFO, b"")).get(network.IFLA_INFO_KIND, b"")
        received, sent = struct.unpack_from("=QQ", has[IFLA_STATS64])
        found[names[index]] = Device(
            index, names[index], _text(kind), bool(flags & network.IFF_UP), bool(flags & IFF_RUNNING),
            has.get(network.IFLA_ADDRESS, b"").hex(":"), _number(has[network.IFLA_MTU]),
            names.get(_number(has.get(network.IFLA_MASTER, b"")), ""), tuple(owned.get(index, ())),
            received, sent)
    return found


def addresses() -> dict[int, list[str]]:
    """The addresses with their prefixes, by the index of the device."""
    found: dict[int, list[str]] = {}
    for (family, prefix, _, _, index), has in _dump(RTM_GETADDR, network.ADDRESS):
        ip = has.get(network.IFA_LOCAL, has.get(network.IFA_ADDRESS, b""))
        found.setdefault(index, []).append(f"{socket.inet_ntop(family, ip)}/{prefix}")
    return found


def gateways() -> list[str]:
    """To whom what is for nobody in the neighbourhood is sent: the default routes."""
    return [socket.inet_ntop(fields[0], has[network.RTA_GATEWAY])
            for fields, has in _dump(RTM_GETROUTE, network.ROUTE)
            if fields[1] == 0 and fields[4] == network.RT_TABLE_MAIN and network.RTA_GATEWAY in has]


def _dump(kind: int, header: struct.Struct) -> Iterator[Answer]:
    question = network.Request("list what there is", kind, NLM_F_DUMP, bytes(header.size))
    with network.talk(network.encode(question)) as kernel:
        while data := kernel.recv(1 << 17):
            while data:
                size, answer, *_ = network.HEADER.unpack_from(data)
                if answer == NLMSG_DONE:
                    return
                if answer == NLMSG_ERROR:
                    network.check(data, question.what)
                body, data = data[network.HEADER.size:size], data[-(-size // 4) * 4:]
                yield header.unpack_from(body), network.attributes(body[header.size:])


def _number(value: bytes) -> int:
    return int.from_bytes(value, sys.byteorder)


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")
