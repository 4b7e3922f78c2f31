"""Chapter 5: a network of one's own.

A new network namespace has a loopback device, which is down, and nothing else: no address, no route. To reach
anybody it takes a cable with two ends (a *veth* pair: what goes in here comes out there, and each end may be
in a namespace of its own), a switch to plug cables into (a *bridge*), addresses, and a way to the rest.

The kernel is asked for it in messages on a socket, as `ip` does it. A message is a header, a struct that says
what it is about, and attributes, each with its length and kind in front; an attribute may be made of others.
man 7 netlink, man 7 rtnetlink; the numbers are in linux/netlink.h, rtnetlink.h, if_link.h, if_addr.h, veth.h.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from mycontainer import namespaces, syscalls
from mycontainer.errors import ContainerError, likely_cause

NLM_F_REQUEST, NLM_F_ACK, NLM_F_EXCL, NLM_F_CREATE = 0x1, 0x4, 0x200, 0x400
NEW = NLM_F_CREATE | NLM_F_EXCL  # make it; and fail if it is there already
SOL_NETLINK, NETLINK_CAP_ACK, NETLINK_EXT_ACK, NLMSGERR_ATTR_MSG = 270, 10, 11, 1
RTM_NEWLINK, RTM_NEWADDR, RTM_NEWROUTE = 16, 20, 24
RTA_GATEWAY, RT_TABLE_MAIN, RTPROT_STATIC, RTN_UNICAST = 5, 254, 4, 1
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_MASTER, IFLA_LINKINFO, IFLA_NET_NS_PID = 1, 3, 4, 10, 18, 19
IFLA_INFO_KIND, IFLA_INFO_DATA, VETH_INFO_PEER, IFF_UP = 1, 2, 1, 0x1
IFA_ADDRESS, IFA_LOCAL, IFA_F_NODAD = 1, 2, 0x2

HEADER = struct.Struct("=IHHII")     # nlmsghdr: length, kind, flags, number, port
ATTRIBUTE = struct.Struct("=HH")     # rtattr: length, kind
LINK = struct.Struct("=BxHiII")      # ifinfomsg: family, type, index, flags, and which of them count
ADDRESS = struct.Struct("=BBBBi")    # ifaddrmsg: family, prefix, flags, scope, index of the device
ROUTE = struct.Struct("=BBBBBBBBI")  # rtmsg: family, two prefixes, tos, table, protocol, scope, type, flags


class Request(NamedTuple):
    """One message to the kernel, not sent yet: what it is for, in words, and what it is made of."""

    what: str
    kind: int
    flags: int
    body: bytes


def attribute(kind: int, value: bytes | str | int) -> bytes:
    """One attribute; its value: a number of 32 bits, a string, or bytes, such as other attributes."""
    if isinstance(value, int):
        value = struct.pack("=I", value)
    elif isinstance(value, str):
        value = value.encode() + b"\0"
    return ATTRIBUTE.pack(ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def attributes(data: bytes) -> dict[int, bytes]:
    """The attributes that ``data`` is made of: kind to value."""
    found = {}
    while len(data) >= ATTRIBUTE.size:
        length, kind = ATTRIBUTE.unpack_from(data)
        found[kind & 0x3FFF] = data[ATTRIBUTE.size:length]  # the two upper bits are flags (NLA_F_NESTED)
        data = data[-(-length // 4) * 4:]  # each begins at a multiple of four
    return found


def encode(request: Request, number: int = 1, flags: int = 0) -> bytes:
    """The bytes of a message; ``number`` comes back in the answer to it."""
    _, kind, needed, body = request
    return HEADER.pack(HEADER.size + len(body), kind, NLM_F_REQUEST | needed | flags, number, 0) + body


def talk(*messages: bytes) -> socket.socket:
    """Send messages, in one go, to the kernel as it is in this network namespace; its answers come here."""
    kernel = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)  # 0: NETLINK_ROUTE
    kernel.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)  # an answer repeats the header of the question only,
    kernel.setsockopt(SOL_NETLINK, NETLINK_EXT_ACK, 1)  # and may say in words what is wrong with it
    kernel.send(b"".join(messages))
    return kernel


def ask(*requests: Request) -> None:
    """Have the requests done, in order. Raises OSError for the first that fails: ``filename`` says which, a
    note what the kernel says to it and a likely cause. What comes behind it is tried all the same.
    """
    last, answered = len(requests) - 1, -1
    with talk(*(encode(one, number, NLM_F_ACK if number == last else 0)
                for number, one in enumerate(requests))) as kernel:
        while answered < last:  # only the last asks for an answer; what fails gets one unasked
            answer = kernel.recv(65536)
            answered = HEADER.unpack_from(answer)[3]
            check(answer, requests[answered].what)


def check(answer: bytes, what: str) -> None:
    """Raise what an answer says (nlmsgerr: a negative errno, 0 for "done"), if it was to ``what``."""
    if error := -struct.unpack_from("=i", answer, HEADER.size)[0]:
        failure = OSError(error, os.strerror(error), what)
        words = attributes(answer[2 * HEADER.size + 4:]).get(NLMSGERR_ATTR_MSG, b"").rstrip(b"\0").decode()
        failure.add_note(" ".join(filter(None, [words and f"{words}.", likely_cause("netlink", error)])))
        raise failure


def up(name: str) -> Request:
    """Switch a device on."""
    return Request(f"switch on {name}", RTM_NEWLINK, 0, _link(name, flags=IFF_UP))


def bridge(name: str, mac: str = "", mtu: int = 1500) -> Request:
    """Make a bridge, a switch in software; an address that it gets is ours, on this side. Without a ``mac``
    it takes that of something plugged in, and changes with it. ``mtu``: the largest packet, in bytes.
    """
    body = _link(name, mac=mac, mtu=mtu) + attribute(IFLA_LINKINFO, attribute(IFLA_INFO_KIND, "bridge"))
    return Request(f"make the bridge {name}", RTM_NEWLINK, NEW, body)


def veth(name: str, pid: int, inner: str = "eth0", mac: str = "", mtu: int = 1500) -> Request:
    """Make a cable: one end, ``name``, is here, ``inner`` in the network namespace of process ``pid``. If one
    goes, by itself or with its namespace, so does the other. ``mac`` is that of ``inner``. man 4 veth.
    """
    peer = _link(inner, mac=mac, mtu=mtu) + attribute(IFLA_NET_NS_PID, pid)
    kind = attribute(IFLA_INFO_KIND, "veth") + attribute(IFLA_INFO_DATA, attribute(VETH_INFO_PEER, peer))
    body = _link(name, mtu=mtu) + attribute(IFLA_LINKINFO, kind)
    return Request(f"make the cable from {name} to {inner}", RTM_NEWLINK, NEW, body)


def plug(name: str, into: str) -> Request:
    """Plug a device into a bridge, which must be there, and switch it on."""
    body = _link(name, flags=IFF_UP) + attribute(IFLA_MASTER, socket.if_nametoindex(into))
    return Request(f"plug {name} into {into}", RTM_NEWLINK, 0, body)


def address(name: str, where: str) -> Request:
    """Give a device, which must be there, an address: ``"10.88.0.2/16"`` or ``"fd00::2/64"``. Whose first 16
    (64) bits are the same is a neighbour, spoken to directly.
    """
    ip, _, prefix = where.partition("/")
    family, packed = _packed(ip)
    # NODAD: use it now. Without, an IPv6 address asks around for a second whether somebody has it already.
    body = ADDRESS.pack(family, int(prefix), IFA_F_NODAD, 0, socket.if_nametoindex(name))
    body += attribute(IFA_LOCAL, packed) + attribute(IFA_ADDRESS, packed)
    return Request(f"give {name} the address {where}", RTM_NEWADDR, NEW, body)


def default_route(gateway: str) -> Request:
    """Let ``gateway``, a neighbour, pass on what is for nobody in the neighbourhood."""
    family, packed = _packed(gateway)
    body = ROUTE.pack(family, 0, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, 0, RTN_UNICAST, 0)
    body += attribute(RTA_GATEWAY, packed)
    return Request(f"send the rest to {gateway}", RTM_NEWROUTE, NEW, body)


def _link(name: str, flags: int = 0, mac: str = "", mtu: int = 0) -> bytes:
    body = LINK.pack(0, 0, 0, flags, flags) + attribute(IFLA_IFNAME, name)
    body += attribute(IFLA_ADDRESS, bytes.fromhex(mac.replace(":", ""))) if mac else b""
    return body + (attribute(IFLA_MTU, mtu) if mtu else b"")


def _packed(ip: str) -> tuple[int, bytes]:
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    return family, socket.inet_pton(family, ip)


@contextmanager
def inside(pid: int) -> Iterator[None]:
    """Be in the network namespace of process ``pid`` for a while; a socket stays in the one it is made in."""
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    try:
        namespaces.enter(pid, ["net"])
        yield
    finally:
        syscalls.setns(home, syscalls.CLONE_NEWNET)
        os.close(home)


def forward() -> None:
    """Let this network namespace be a router: pass on what is for somebody else. kernel: ip-sysctl.rst"""
    for switch in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):
        with open(f"/proc/sys/net/{switch}", "w") as file:
            file.write("1")


def masquerade(network: str) -> None:
    """Let what leaves ``network`` ("10.88.0.0/16") bear our address, to which others know the way."""
    ip = "ip6" if ":" in network else "ip"
    nft(f"table {ip} mycontainer {{ chain out {{ type nat hook postrouting priority srcnat; "
        f"{ip} saddr {network} {ip} daddr != {network} masquerade; }}; }}")


def nft(rules: str) -> None:
    """Give the kernel rules for packets: all of them, or none. man 8 nft. Raises ContainerError."""
    import subprocess  # slow to load
    env = {"PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin"}  # an ordinary user's often ends before
    try:
        subprocess.run(["nft", "-f", "-"], input=rules, text=True, capture_output=True, check=True, env=env)
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        why = getattr(error, "stderr", "nft is not installed").partition("\n")[0]
        hint = "It is in the package nftables. It needs CAP_NET_ADMIN, and the kernel's module nf_tables."
        raise ContainerError("cannot write rules for packets", why, hint) from error
