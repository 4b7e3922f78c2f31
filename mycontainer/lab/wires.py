"""A small internet to play with: a container's network, wire by wire, and what is seen when one is pulled.

    web                      router                                      internet
    eth0 10.88.0.2/16 ═════ web ┤ br0 10.88.0.1/16   wan 203.0.113.1/24 ═════ eth0 203.0.113.80/24
                                                                                 and 10.99.0.80/16

Three network namespaces, each held by a process that does nothing else; no packet leaves them. In the
"internet" a server says to each caller which address it sees; it knows the way to its neighbours only, as the
real one knows none to a private address. It stands for two machines: one far away, and one in the office,
whose network 10.99 looks a lot like ours.

All of it forks, so it is for a function that `lab.run` calls; `try_out` does that itself. man 4 veth.
"""

from __future__ import annotations

import errno
import os
import pickle
import selectors
import signal
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from mycontainer import namespaces, network, syscalls
from mycontainer.engine.devices import Device, devices
from mycontainer.lab.child import run
from mycontainer.lab.style import columns

OURS = "10.88.0.0/16"
CONTAINER, GATEWAY, OUTSIDE = "10.88.0.2", "10.88.0.1", "203.0.113.1"
# 203.0.113.0/24 is set aside for examples (RFC 5737): nobody's machine has such an address.
DESTINATIONS = {"router": GATEWAY, "office": "10.99.0.80", "internet": "203.0.113.80"}
PORT = 80
PATIENCE = 5.0  # seconds until a call counts as unanswered; to look for a neighbour takes three
ANSWERS, TIMEOUT = "answers", "timeout"
# Where Docker runs, a new namespace would be a router already; rp_filter drops what comes by an odd way.
SETTINGS = {"ipv4/ip_forward": "0", "ipv4/conf/all/rp_filter": "0", "ipv4/conf/default/rp_filter": "0",
            "ipv6/conf/all/disable_ipv6": "1", "ipv6/conf/default/disable_ipv6": "1"}

# What can be missing, in the order in which it is put up, and what that is.
WIRES = {
    "cable": "the cable is plugged into the bridge",
    "address": "eth0 has an address",
    "prefix": "the address says 16 bits for the neighbourhood (without: 8)",
    "route": "what is for nobody in the neighbourhood goes to the router",
    "forwarding": "the router passes on what is for somebody else",
    "masquerade": "what leaves bears the router's address",
}


# ── namespaces to play with ──────────────────────────────────────────────────────────────────────────

def namespace() -> int:
    """Fork a process that sits in a new network namespace and ends with us; returns its pid.

    A new namespace takes some IPv4 settings over from the machine's first one; here they are set. IPv6 is
    off: its devices chatter, and would blur the counters.
    """
    ready, tell = os.pipe()
    us, pid = os.getpid(), os.fork()
    if pid == 0:  # it only holds the namespace
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        try:
            namespaces.create(["net"])
            for name, value in SETTINGS.items():
                with suppress(OSError), open(f"/proc/sys/net/{name}", "w") as file:
                    file.write(value)
            os.write(tell, b"r")
            while os.getppid() == us:
                signal.pause()
        finally:
            os._exit(0)
    os.close(tell)
    made = os.read(ready, 1)
    os.close(ready)
    if not made:
        raise ChildProcessError("cannot make a network namespace")
    return pid


class Errand:
    """A function at work in another network namespace, in a process of its own."""

    def __init__(self, pid: int, function: Callable[..., Any], *arguments: Any) -> None:
        self.reader, writer = os.pipe()
        self.child = os.fork()
        if self.child == 0:  # on the errand
            syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
            answer: tuple[bool, Any] = (False, "it was killed")
            try:
                namespaces.enter(pid, ["net"])
                answer = (True, function(*arguments))
            except BaseException as error:
                answer = (False, f"{type(error).__name__}: {error}")
            finally:
                with open(writer, "wb") as pipe:
                    pipe.write(pickle.dumps(answer))
                os._exit(0)
        os.close(writer)

    def wait(self) -> Any:
        """What the function returned. Raises ChildProcessError with what it raised."""
        with open(self.reader, "rb") as pipe:
            sent = pipe.read()
        os.waitpid(self.child, 0)
        good, value = pickle.loads(sent) if sent else (False, "it was killed")
        if not good:
            raise ChildProcessError(value)
        return value


def at(pid: int, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call the function in the network namespace of ``pid``, and wait for what it returns."""
    return Errand(pid, function, *arguments).wait()


# ── who calls, and who answers ───────────────────────────────────────────────────────────────────────

def knock(host: str, port: int = PORT, patience: float = PATIENCE) -> str:
    """Call a port, and say in a word what came of it: "answers", "timeout", or the errno's name."""
    try:
        with socket.create_connection((host, port), timeout=patience):
            return ANSWERS
    except TimeoutError:
        return TIMEOUT
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))


def fetch(host: str, port: int = PORT, path: str = "/", patience: float = PATIENCE) -> str:
    """The page that a web server has at ``path``; one that is only just starting is given time.

    Raises the OSError of the last try.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            with socket.create_connection((host, port), timeout=patience) as server:
                server.sendall(f"GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n".encode())
                with server.makefile("rb") as answer:
                    return answer.read().partition(b"\r\n\r\n")[2].decode().strip()
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def serve(page: str, port: int = PORT, address: str = "") -> int:
    """Fork a web server in this network namespace; {caller} in the page is the address that it sees.

    Returns its pid; when we return, it listens. It ends with us.
    """
    listener = socket.create_server((address, port))
    us, pid = os.getpid(), os.fork()
    if pid == 0:  # the server
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        try:
            while os.getppid() == us:
                with suppress(OSError):
                    _answer(listener, page)
        finally:
            os._exit(0)
    listener.close()
    return pid


def _answer(listener: socket.socket, page: str) -> None:
    caller, (ip, _) = listener.accept()
    with caller:
        caller.settimeout(1)
        caller.recv(65536)
        caller.sendall(f"HTTP/1.0 200 OK\r\n\r\n{page.replace('{caller}', ip)}\n".encode())


def join(one: socket.socket, other: socket.socket) -> None:
    """Pass bytes between two connections, both ways, until both have said all; then close them."""
    with one, other, selectors.DefaultSelector() as selector:
        selector.register(one, selectors.EVENT_READ, other)
        selector.register(other, selectors.EVENT_READ, one)
        while selector.get_map():
            for key, _ in selector.select():
                with suppress(OSError):
                    if data := key.fileobj.recv(65536):  # type: ignore[union-attr]
                        key.data.sendall(data)
                        continue
                    key.data.shutdown(socket.SHUT_WR)
                selector.unregister(key.fileobj)


# ── who listens ──────────────────────────────────────────────────────────────────────────────────────

ETH_P_ALL, ARP, IPV4 = 3, b"\x08\x06", b"\x08\x00"  # linux/if_ether.h; the last two as they stand in a frame
FLAGS = ("FIN", "SYN", "RST", "PSH", "ACK")


class Tap:
    """Hears what passes a device of this network namespace from now on, both ways. man 7 packet."""

    def __init__(self, device: str) -> None:
        self.line = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self.line.bind((device, 0))

    def heard(self, quiet: float = 0.2) -> list[str]:
        """What has passed, one line a frame, until nothing comes for so many seconds."""
        self.line.settimeout(quiet)
        lines = []
        with suppress(TimeoutError):
            while True:
                lines.append(in_words(self.line.recv(65535)))
        return [line for line in lines if line]


def in_words(frame: bytes) -> str:
    """What a frame is about, if it is ARP or TCP over IPv4. RFC 826, RFC 791, RFC 9293."""
    kind, packet = frame[12:14], frame[14:]
    if kind == ARP:
        sender, target = socket.inet_ntoa(packet[14:18]), socket.inet_ntoa(packet[24:28])
        return f"who has {target}? tell {sender}" if packet[7] == 1 else f"{sender} is here"
    if kind != IPV4 or packet[9] != socket.IPPROTO_TCP:
        return ""
    source, target = socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20])
    header = packet[(packet[0] & 0x0F) * 4:]
    from_port, to_port = (int.from_bytes(header[at:at + 2]) for at in (0, 2))
    flags = [name for bit, name in enumerate(FLAGS) if header[13] >> bit & 1]
    return f"{_end(source, from_port)} > {_end(target, to_port)}  {' '.join(flags)}"


def _end(ip: str, port: int) -> str:
    """An address, with its port if that was somebody's choice and not chance."""
    return f"{ip}:{port}" if port < 32768 else ip


# ── the network with six wires ───────────────────────────────────────────────────────────────────────

class Net(NamedTuple):
    """The three namespaces, by the process that holds each."""

    web: int
    router: int
    internet: int


def build(*without: str) -> Net:
    """Put up the whole network, but for these of WIRES."""
    if unknown := set(without) - set(WIRES):
        raise ValueError(f"not a wire: {', '.join(sorted(unknown))} (there are: {', '.join(WIRES)})")
    net = Net(namespace(), namespace(), namespace())
    with network.inside(net.router):
        network.ask(network.up("lo"), network.bridge("br0"), network.up("br0"),
                    network.veth("web", net.web), network.veth("wan", net.internet), network.up("wan"))
        network.ask(network.address("br0", f"{GATEWAY}/16"), network.address("wan", f"{OUTSIDE}/24"),
                    network.address("wan", "10.99.0.1/16"))
        if "cable" not in without:
            network.ask(network.plug("web", "br0"))
    with network.inside(net.internet):
        network.ask(network.up("lo"), network.up("eth0"), network.address("eth0", "203.0.113.80/24"),
                    network.address("eth0", "10.99.0.80/16"))
        serve("you are {caller}")
    with network.inside(net.web):
        network.ask(network.up("lo"), network.up("eth0"))
        if "address" not in without:
            network.ask(network.address("eth0", f"{CONTAINER}/{8 if 'prefix' in without else 16}"))
            if "route" not in without:
                network.ask(network.default_route(GATEWAY))
    with network.inside(net.router):
        if "forwarding" not in without:
            network.forward()
        if "masquerade" not in without:
            network.masquerade(OURS)
    return net


# Where a packet passes, on its way out: station, device, and who of the three that is in.
PATH = (("web", "eth0"), ("router", "web"), ("router", "wan"), ("internet", "eth0"))
Counters = dict[str, tuple[int, int]]  # "router wan": packets received, sent


def counters(net: Net) -> Counters:
    """The packet counters of the devices on the path, as the kernel has them now."""
    seen: Counters = {}
    for place, pid in net._asdict().items():
        with network.inside(pid):
            seen |= {f"{place} {name}": (one.received, one.sent) for name, one in devices().items()}
    return {f"{place} {name}": seen[f"{place} {name}"] for place, name in PATH}


class Seen(NamedTuple):
    """What was seen of one network: ``calls`` from web, by destination; ``passed``, packets received and
    sent meanwhile by each device on the path; ``without``, the wire that was pulled."""

    without: str
    calls: dict[str, str]
    passed: Counters

    @property
    def leaves(self) -> bool:
        """Whether a packet has left the router towards the internet."""
        return self.passed["router wan"][1] > 0


def try_wires(without: str = "", destinations: Mapping[str, str] = DESTINATIONS,
              patience: float = PATIENCE) -> Seen:
    """Build the network without one wire, call all the destinations from web at once, and count."""
    net = build(*filter(None, [without]))
    before = counters(net)
    errands = {name: Errand(net.web, knock, host, PORT, patience) for name, host in destinations.items()}
    calls = {name: errand.wait() for name, errand in errands.items()}
    after = counters(net)
    passed = {name: (after[name][0] - before[name][0], after[name][1] - before[name][1]) for name in before}
    return Seen(without, calls, passed)


def try_all(wires: list[str]) -> list[Seen]:
    """The same for several wires, each in a network of its own, all at once."""
    us = os.getpid()
    errands = [Errand(us, try_wires, wire) for wire in wires]
    return [errand.wait() for errand in errands]


ORDER = ("route", "masquerade", "cable", "prefix", "forwarding", "address")  # one that says nothing


def try_six() -> list[Seen]:
    """Each of the six wires pulled, in an order that does not tell which is which."""
    return try_all(list(ORDER))


def try_out(without: str = "", destination: str = "internet") -> Seen:
    """`try_wires` with one destination, from where nobody may fork: a notebook's kernel."""
    result = run(try_wires, without, {destination: DESTINATIONS[destination]})
    if not isinstance(result.value, Seen):
        raise ChildProcessError(str(result.error or result.stderr))
    return result.value


def table(rows: list[Seen], names: str = "ABCDEFGH") -> str:
    """What was seen, one network a line."""
    head = ["", *DESTINATIONS, "leaves the router"]
    lines = [[name, *(seen.calls.get(to, "") for to in DESTINATIONS), "yes" if seen.leaves else "no"]
             for name, seen in zip(names, rows, strict=False)]
    return columns([head, *lines], gap=3)


def describe(device: Device) -> str:
    """A device in a line, without what differs each time."""
    addresses = [one for one in device.addresses if ":" not in one]  # an IPv6 one may be made by chance
    return " ".join(filter(None, [f"{device.name}:", device.kind, "on" if device.up else "off", *addresses,
                                  device.bridge and f"in {device.bridge}"]))
