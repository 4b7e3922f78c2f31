"""Chapter 5: a network of one's own.

Our solutions stand first, then what the checks look at, then the exercises and the predictions.
Sources: rtnetlink(7), veth(4), network_namespaces(7), packet(7), nft(8).
"""

from __future__ import annotations

import errno
import os
import random
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Sequence
from typing import Any

from mycontainer import namespaces, network
from mycontainer.engine.devices import devices
from mycontainer.lab import wires
from mycontainer.lab.exercise import Exercise, Prediction, Wrong
from mycontainer.lab.probe import Child, Probe, Process

# ── our solutions ────────────────────────────────────────────────────────────────────────────────────

def wire(name: str, pid: int) -> None:
    """Make a cable: one end, name, is here, the other, eth0, in the network namespace of pid."""
    nothing = network.LINK.pack(0, 0, 0, 0, 0)
    peer = nothing + network.attribute(network.IFLA_IFNAME, "eth0")
    peer += network.attribute(network.IFLA_NET_NS_PID, pid)
    data = network.attribute(network.VETH_INFO_PEER, peer)
    info = network.attribute(network.IFLA_INFO_KIND, "veth")
    info += network.attribute(network.IFLA_INFO_DATA, data)
    body = nothing + network.attribute(network.IFLA_IFNAME, name)
    body += network.attribute(network.IFLA_LINKINFO, info)
    network.ask(network.Request("make a cable", network.RTM_NEWLINK, network.NEW, body))


def bridge(pids: Sequence[int]) -> None:
    """Make the bridge br0, 10.88.0.1/16, and plug in each process: as 10.88.0.2, 10.88.0.3, …"""
    network.ask(network.bridge("br0"), network.up("br0"))
    network.ask(network.address("br0", "10.88.0.1/16"))
    for number, pid in enumerate(pids, start=2):
        network.ask(network.veth(f"port{number}", pid))
        network.ask(network.plug(f"port{number}", "br0"))
        with network.inside(pid):
            network.ask(network.up("eth0"))
            network.ask(network.address("eth0", f"10.88.0.{number}/16"))


def nat(ours: str) -> None:
    """Pass on what is for others; what leaves our network bears our address."""
    with open("/proc/sys/net/ipv4/ip_forward", "w") as switch:
        switch.write("1")
    network.nft("table ip mine { chain out { type nat hook postrouting priority srcnat; "
                f"ip saddr {ours} masquerade; }}; }}")


def publish(port: int, pid: int) -> None:
    """Lead each caller of our port 127.0.0.1:port to port 80 of localhost as pid has it."""
    listener = socket.create_server(("127.0.0.1", port))
    if os.fork() == 0:  # the relay, for ever
        with network.inside(pid):
            while True:
                caller, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", 80))
                wires.join(caller, server)


def diagnose(router: str, office: str, internet: str, leaves: bool) -> str:
    """Which wire is pulled, from what three calls came to, and whether a packet has left the router."""
    if router == "EHOSTUNREACH":
        return "cable"
    if router == "ENETUNREACH":
        return "address"
    if office == "EHOSTUNREACH":
        return "prefix"
    if internet == "ENETUNREACH":
        return "route"
    if internet == "timeout":
        return "masquerade" if leaves else "forwarding"
    return "none"


def sniff(device: str, ready: Callable[[], None], count: int) -> list[str]:
    """Watch a device; after ready(), say of the next count IPv4 packets who sends to whom."""
    seen: list[str] = []
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003)) as line:
        line.bind((device, 0))
        ready()
        while len(seen) < count:
            frame = line.recv(65535)
            if frame[12:14] == b"\x08\x00":
                packet = frame[14:]
                length = (packet[0] & 0x0F) * 4
                source, target = socket.inet_ntoa(packet[12:16]), socket.inet_ntoa(packet[16:20])
                sport, dport = struct.unpack_from("!HH", packet, length)
                seen.append(f"{source}:{sport} > {target}:{dport}")
    return seen


# ── what the checks look at ──────────────────────────────────────────────────────────────────────────

def alone() -> None:
    """Move to a new network namespace."""
    namespaces.create(["net"])


def alone_with(page: str, address: str = "") -> None:
    """Move to a new network namespace with a web server in it."""
    alone()
    network.ask(network.up("lo"))
    wires.serve(page, address=address)


def kinds() -> dict[str, str]:
    """The devices and what they are, without lo."""
    return {name: one.kind for name, one in devices().items() if name != "lo"}


def device(name: str) -> dict[str, Any]:
    """What there is to know of a device; empty if there is none by this name."""
    one = devices().get(name)
    return one._asdict() if one else {}


def switch_on(name: str) -> None:
    """Switch a device on."""
    network.ask(network.up(name))


def runs(name: str, seconds: float = 2.0) -> bool:
    """Whether a device finds something that is on at its other end; the kernel takes a moment to say so."""
    deadline = time.monotonic() + seconds
    while not devices()[name].running and time.monotonic() < deadline:
        time.sleep(0.02)
    return devices()[name].running


def plugged(into: str) -> int:
    """How many devices are plugged into a bridge, and on."""
    return sum(one.bridge == into and one.up for one in devices().values())


def listening(port: int) -> list[str]:
    """The addresses at which somebody listens on a port, here."""
    with open("/proc/self/net/tcp") as table:  # man 5 proc_pid_net
        rows = [line.split() for line in table][1:]
    found = [row[1].split(":") for row in rows if row[3] == "0A"]
    return [socket.inet_ntoa(bytes.fromhex(ip)[::-1]) for ip, number in found if int(number, 16) == port]


def first_page(host: str, port: int = 80) -> str:
    """The page of a web server; the errno's name if that does not answer."""
    try:
        return wires.fetch(host, port, patience=1)
    except TimeoutError:
        return "timeout"
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))


VETH = "man 4 veth; man 7 rtnetlink"
OUT_OF_PLACE = ("The kernel reads the other end's description as a message of its own: a struct first, then "
                "its attributes. And each attribute must be inside the right one.")


# ── wire ─────────────────────────────────────────────────────────────────────────────────────────────

def probe_wire(p: Probe) -> None:
    name = f"w-{p.token()}"
    with p.child(run=alone) as other, p.child(name, other.pid, may_raise=True) as process:
        if process.error:
            p.fail("how your request went", f"it raised {process.error}", "a cable", _why_no_wire(process),
                   VETH)
        here, there = process.inside(kinds), other.inside(kinds)
        cause = "No device was made: has anybody asked the kernel?"
        if name in there:
            cause = "The wrong end has moved: the one with your name is over there."
        elif "eth0" in here:
            cause = "Both ends are here. Whose description has to say where it lives?"
        elif here:
            cause = OUT_OF_PLACE
        p.expect("the devices of the other namespace", there, {"eth0": "veth"}, cause, VETH)
        p.expect("the devices of yours", here, {name: "veth"}, "The end here has another name.", VETH)
        process.inside(switch_on, name)
        other.inside(switch_on, "eth0")
        p.expect("whether the two are joined, once they are on", process.inside(runs, name), True,
                 "Each is an end of something, but not of the same cable.", VETH)


def _why_no_wire(process: Child) -> str:
    """What the kernel's refusal most likely means here."""
    assert process.error
    if process.error.errno in (errno.EINVAL, errno.ERANGE, errno.ENODEV, errno.EPERM, errno.ESRCH):
        return OUT_OF_PLACE
    if process.error.errno == errno.EOPNOTSUPP:
        return "It does not hear which kind of device you want. The kind is an attribute inside LINKINFO."
    return " ".join(process.error.notes)


WIRE = Exercise(
    id="network.wire", title="A cable, byte by byte", difficulty=3, minutes=9, lines=7,
    syscalls=("socket", "sendto", "recvfrom"),
    reference="mycontainer.lab.exercises.network.wire", forbid=("mycontainer.network.veth",),
    probe=probe_wire,
    stub='''
        def my_wire(name, pid):
            """Make a cable: one end, name, is here, the other, eth0, in the network namespace of pid."""
            ...
        ''',
    hints=(
        ("Begin with the innermost: the other end is network.LINK.pack(0, 0, 0, 0, 0), then the attribute "
         "IFLA_IFNAME, then IFLA_NET_NS_PID."),
        ("Wrap it: that is the value of VETH_INFO_PEER, which is the value of INFO_DATA. Beside INFO_DATA "
         "stands INFO_KIND, and both together are the value of LINKINFO."),
        ("The message: a LINK struct again, IFLA_IFNAME with your name, LINKINFO. Its kind is RTM_NEWLINK, "
         "its flags are network.NEW. Ask with network.ask(network.Request(words, kind, flags, body))."),
    ),
    fast_track="Copy the table from the inside out, and let the check say which part is in the wrong place.",
    wrong=(
        Wrong("""
            def my_wire(name, pid):
                a, link = network.attribute, network.LINK.pack(0, 0, 0, 0, 0)
                peer = link + a(network.IFLA_IFNAME, "eth0")
                info = a(network.IFLA_INFO_KIND, "veth")
                info += a(network.IFLA_INFO_DATA, a(network.VETH_INFO_PEER, peer))
                body = link + a(network.IFLA_IFNAME, name) + a(network.IFLA_LINKINFO, info)
                network.ask(network.Request("a cable", network.RTM_NEWLINK, network.NEW, body))
            """, says="Both ends are here"),
        Wrong("""
            def my_wire(name, pid):
                a, link = network.attribute, network.LINK.pack(0, 0, 0, 0, 0)
                peer = link + a(network.IFLA_IFNAME, "eth0")
                info = a(network.IFLA_INFO_KIND, "veth")
                info += a(network.IFLA_INFO_DATA, a(network.VETH_INFO_PEER, peer))
                body = link + a(network.IFLA_IFNAME, name) + a(network.IFLA_LINKINFO, info)
                body += a(network.IFLA_NET_NS_PID, pid)
                network.ask(network.Request("a cable", network.RTM_NEWLINK, network.NEW, body))
            """, says="The wrong end has moved"),
        Wrong("""
            def my_wire(name, pid):
                a, link = network.attribute, network.LINK.pack(0, 0, 0, 0, 0)
                peer = a(network.IFLA_IFNAME, "eth0") + a(network.IFLA_NET_NS_PID, pid)
                info = a(network.IFLA_INFO_KIND, "veth")
                info += a(network.IFLA_INFO_DATA, a(network.VETH_INFO_PEER, peer))
                body = link + a(network.IFLA_IFNAME, name) + a(network.IFLA_LINKINFO, info)
                network.ask(network.Request("a cable", network.RTM_NEWLINK, network.NEW, body))
            """, says="a struct first, then its attributes"),
        Wrong("""
            def my_wire(name, pid):
                a, link = network.attribute, network.LINK.pack(0, 0, 0, 0, 0)
                body = link + a(network.IFLA_IFNAME, name) + a(network.IFLA_INFO_KIND, "veth")
                network.ask(network.Request("a cable", network.RTM_NEWLINK, network.NEW, body))
            """, says="does not hear which kind"),
    ),
)


# ── bridge ───────────────────────────────────────────────────────────────────────────────────────────

BRIDGE_LOOK = "man 8 bridge; man 8 ip-link, \"TYPES\""


def probe_bridge(p: Probe) -> None:
    pages = [p.token() for _ in range(3)]
    with p.child(pages[0], run=alone_with) as one, p.child(pages[1], run=alone_with) as two, \
            p.child(pages[2], run=alone_with) as three:
        them = [one, two, three]
        with p.child([each.pid for each in them]) as process:
            see_the_bridge(p, process)
            for number, each in enumerate(them, start=2):
                see_the_cable(p, each, f"10.88.0.{number}")
            for number, page in enumerate(pages, start=2):
                p.expect(f"who answers at 10.88.0.{number}, port 80, when you call", process.inside(
                    first_page, f"10.88.0.{number}"), page, "All parts look right, and they do not meet: "
                    "is each in the right namespace?", "man 7 network_namespaces")
            p.expect("who answers the first one at 10.88.0.4", one.inside(first_page, "10.88.0.4"),
                     pages[2], "They do not reach each other.", BRIDGE_LOOK)


def see_the_bridge(p: Probe, process: Child) -> None:
    """Whether br0 is there, on, and has three plugs and an address."""
    found = process.inside(device, "br0")
    p.expect("what br0 is", found.get("kind", "nothing"), "bridge", "There is no bridge by this name here.",
             BRIDGE_LOOK)
    p.expect("whether br0 is on", found["up"], True, "A new device is off, a bridge too.", BRIDGE_LOOK)
    p.expect("the addresses of br0", [one for one in found["addresses"] if ":" not in one],
             ["10.88.0.1/16"], "This side has no address, or another, in the bridge's network.",
             "man 8 ip-address")
    p.expect("how many devices are plugged into br0, and on", process.inside(plugged, "br0"), 3,
             "A cable ends in your namespace and is not plugged in: then nothing passes on what it brings.",
             BRIDGE_LOOK)


def see_the_cable(p: Probe, there: Process, ip: str) -> None:
    """Whether a process has its eth0, on, with this address."""
    found = there.inside(device, "eth0")
    p.expect(f"eth0 of the process that shall be {ip}", found.get("kind", "nothing"), "veth",
             "It has got no cable.", VETH)
    p.expect(f"whether eth0 of {ip} is on", found["up"], True,
             "Each end of a cable is switched on by itself, in its own namespace.", VETH)
    mine = [one for one in found["addresses"] if ":" not in one]
    cause = "It has none, or not this one."
    if mine and mine[0].partition("/")[0] == ip:
        cause = "The number after the slash says who is a neighbour: here, nobody or too few."
    elif mine:
        cause = "Two machines with one address: whom should a packet reach?"
    p.expect(f"the addresses of the process that shall be {ip}", mine, [f"{ip}/16"], cause,
             "man 8 ip-address")


BRIDGE = Exercise(
    id="network.bridge", title="A switch for all", difficulty=2, minutes=8, lines=8,
    syscalls=("socket", "sendto", "recvfrom", "setns"),
    reference="mycontainer.lab.exercises.network.bridge", forbid=(), probe=probe_bridge,
    stub='''
        def my_bridge(pids):
            """Make the bridge br0, 10.88.0.1/16, and plug in each process: as 10.88.0.2, 10.88.0.3, …"""
            ...
        ''',
    hints=(
        "First the bridge by itself: network.bridge, network.up, then network.address in an ask of its own.",
        ("For each process a cable. Its outer end needs a name of its own (f\"port{number}\"), and "
         "network.plug. network.veth calls the inner end eth0."),
        "The inner end is switched on and gets its address in there: with network.inside(pid): …",
    ),
    fast_track="Do the bridge and the first process only; the check tells what the others miss.",
    wrong=(
        Wrong("""
            def my_bridge(pids):
                network.ask(network.bridge("br0"))
                network.ask(network.address("br0", "10.88.0.1/16"))
                for number, pid in enumerate(pids, 2):
                    network.ask(network.veth(f"p{number}", pid), network.plug(f"p{number}", "br0"))
                    with network.inside(pid):
                        network.ask(network.up("eth0"), network.address("eth0", f"10.88.0.{number}/16"))
            """, says="A new device is off, a bridge too"),
        Wrong("""
            def my_bridge(pids):
                network.ask(network.bridge("br0"), network.up("br0"))
                network.ask(network.address("br0", "10.88.0.1/16"))
                for number, pid in enumerate(pids, 2):
                    network.ask(network.veth(f"p{number}", pid), network.up(f"p{number}"))
                    with network.inside(pid):
                        network.ask(network.up("eth0"), network.address("eth0", f"10.88.0.{number}/16"))
            """, says="is not plugged in"),
        Wrong("""
            def my_bridge(pids):
                network.ask(network.bridge("br0"), network.up("br0"))
                network.ask(network.address("br0", "10.88.0.1/16"))
                for number, pid in enumerate(pids, 2):
                    network.ask(network.veth(f"p{number}", pid), network.plug(f"p{number}", "br0"))
                    with network.inside(pid):
                        network.ask(network.up("eth0"), network.address("eth0", f"10.88.0.{number}/32"))
            """, says="says who is a neighbour"),
        Wrong("""
            def my_bridge(pids):
                network.ask(network.bridge("br0"), network.up("br0"))
                network.ask(network.address("br0", "10.88.0.1/16"))
                for number, pid in enumerate(pids, 2):
                    network.ask(network.veth(f"p{number}", pid), network.plug(f"p{number}", "br0"))
                    with network.inside(pid):
                        network.ask(network.up("eth0"), network.address("eth0", "10.88.0.2/16"))
            """, says="Two machines with one address"),
        Wrong("""
            def my_bridge(pids):
                network.ask(network.bridge("br0"), network.up("br0"))
                network.ask(network.address("br0", "10.88.0.1/16"))
                for number, pid in enumerate(pids, 2):
                    network.ask(network.veth(f"p{number}", pid), network.plug(f"p{number}", "br0"))
                    network.ask(network.up("eth0"), network.address("eth0", f"10.88.0.{number}/16"))
            """, says="no interface with this name"),
    ),
)


# ── nat ──────────────────────────────────────────────────────────────────────────────────────────────

def prepare_nat() -> tuple[int, int]:
    """The whole network but for what the router has to do; the pids of web and router."""
    net = wires.build("forwarding", "masquerade")
    return net.web, net.router


def forwards() -> bool:
    """Whether this network namespace passes on what is for others."""
    with open("/proc/sys/net/ipv4/ip_forward") as switch:
        return switch.read().strip() == "1"


def has_nat_rule() -> bool:
    """Whether some rule here changes addresses."""
    rules = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True).stdout
    return "type nat hook" in rules


def probe_nat(p: Probe) -> None:
    with p.child(run=prepare_nat) as net:
        web, router = map(Process, net.value)
        with p.child(wires.OURS, before=lambda: namespaces.enter(router.pid, ["net"])) as process:
            p.expect("whether the router passes on what is for others", process.inside(forwards), True,
                     "The router is still a mere member of its networks: it drops what is for somebody else.",
                     "kernel: ip-sysctl.rst, \"ip_forward\"")
            cause = ("It goes out with its own address, 10.88.0.2, and out there nobody knows the way to "
                     "that.")
            if process.inside(has_nat_rule):
                cause = ("There is a rule that changes addresses, and no answer comes: whose packets does "
                         "it catch, and which address do they get?")
            p.expect("what the internet says to a call from 10.88.0.2",
                     web.inside(first_page, wires.DESTINATIONS["internet"]), f"you are {wires.OUTSIDE}",
                     cause, "man 8 nft, \"NAT STATEMENTS\"")


NAT = Exercise(
    id="network.nat", title="The way out", difficulty=3, minutes=6, lines=4,
    syscalls=("openat", "write", "clone", "execve"),
    reference="mycontainer.lab.exercises.network.nat",
    forbid=("mycontainer.network.forward", "mycontainer.network.masquerade"), probe=probe_nat,
    stub='''
        def my_nat(ours):
            """You are the router: pass on what is for others; what leaves `ours` bears your address."""
            ...
        ''',
    hints=(
        "Two things. The first is a file: /proc/sys/net/ipv4/ip_forward holds 0. Write 1.",
        ("The second is a rule, a text for network.nft(…): a table, in it a chain that says where it hooks "
         "in, in it the rule: table ip mine { chain out { WHERE; RULE; }; }"),
        ("WHERE is: type nat hook postrouting priority srcnat. The RULE first says whose packets "
         "(ip saddr …), then what becomes of them, in one word. In an f-string a brace is written twice."),
    ),
    fast_track="Write the 1, run the check; the rule is in hint 3, but for two words.",
    wrong=(
        Wrong("""
            def my_nat(ours):
                with open("/proc/sys/net/ipv4/ip_forward", "w") as switch:
                    switch.write("1")
            """, says="nobody knows the way to that"),
        Wrong("""
            def my_nat(ours):
                network.nft(f"table ip mine {{ chain out {{ type nat hook postrouting priority srcnat; "
                            f"ip saddr {ours} masquerade; }}; }}")
            """, says="a mere member of its networks"),
        Wrong("""
            def my_nat(ours):
                with open("/proc/sys/net/ipv4/ip_forward", "w") as switch:
                    switch.write("1")
                network.nft(f"table ip mine {{ chain out {{ type nat hook postrouting priority srcnat; "
                            f"ip daddr {ours} masquerade; }}; }}")
            """, says="whose packets does it catch"),
        Wrong("""
            def my_nat(ours):
                with open("/proc/sys/net/ipv4/ip_forward", "w") as switch:
                    switch.write("1")
                network.nft(f"table ip mine {{ chain out {{ type nat hook prerouting priority srcnat; "
                            f"ip saddr {ours} masquerade; }}; }}")
            """, says="cannot write rules for packets"),
    ),
)


# ── publish ──────────────────────────────────────────────────────────────────────────────────────────

def serve_here(page: str) -> None:
    """A web server at our own localhost."""
    wires.serve(page, address="127.0.0.1")


def probe_publish(p: Probe) -> None:
    theirs, ours, port = p.token(), p.token(), random.randrange(20000, 30000)
    with p.child(theirs, "127.0.0.1", run=alone_with) as web, p.child(ours, run=serve_here), \
            p.child(port, web.pid, seconds=4) as process:
        inner = web.inside(listening, port)
        p.expect(f"who listens at port {port}, out here", process.inside(listening, port) or ["nobody"],
                 ["127.0.0.1"],
                 "Your listener is inside, where out here nobody can reach it. A socket belongs to the "
                 "network namespace that it is made in." if inner else
                 "It is open to all who can reach this machine, if its address is 0.0.0.0. If nobody "
                 "listens: has the relay ended?", "man 7 network_namespaces; man 7 ip")
        got = process.inside(first_page, "127.0.0.1", port)
        p.expect("the page that comes from there", got, theirs,
                 "That is the page of *your* port 80: each network namespace has a localhost of its own."
                 if got == ours else "Nobody leads the caller on. See what it printed.",
                 "man 7 network_namespaces")
        p.expect("the page for a second caller", process.inside(first_page, "127.0.0.1", port), theirs,
                 "After the first caller your relay is not there any more.", "man 2 accept")


PUBLISH = Exercise(
    id="network.publish", title="A port out here", difficulty=3, minutes=8, lines=7,
    syscalls=("socket", "bind", "listen", "clone", "setns", "accept4", "connect"),
    reference="mycontainer.lab.exercises.network.publish", probe=probe_publish,
    stub='''
        def my_publish(port, pid):
            """Lead each caller of our port 127.0.0.1:port to port 80 of localhost as pid has it.

            Returns at once; a child does the work, for ever.
            """
            ...
        ''',
    hints=(
        "socket.create_server((\"127.0.0.1\", port)) makes the listener. On which side do you call it?",
        ("Then fork. In the child: with network.inside(pid): a loop. What has been made before stays where "
         "it was made; what is made now is made in there."),
        ("In the loop: caller, _ = listener.accept(), then socket.create_connection((\"127.0.0.1\", 80)), "
         "and wires.join(…) of the two."),
    ),
    fast_track="The listener and one caller, without a loop: the check says what is missing.",
    wrong=(
        Wrong("""
            def my_publish(port, pid):
                if os.fork() == 0:
                    with network.inside(pid):
                        listener = socket.create_server(("127.0.0.1", port))
                        while True:
                            caller, _ = listener.accept()
                            wires.join(caller, socket.create_connection(("127.0.0.1", 80)))
                while lab.sh(f"nsenter -t {pid} -n true") and not wires.at(pid, len, "x"):
                    pass
                import time; time.sleep(0.5)
            """, says="Your listener is inside"),
        Wrong("""
            def my_publish(port, pid):
                listener = socket.create_server(("127.0.0.1", port))
                if os.fork() == 0:
                    while True:
                        caller, _ = listener.accept()
                        wires.join(caller, socket.create_connection(("127.0.0.1", 80)))
            """, says="each network namespace has a localhost of its own"),
        Wrong("""
            def my_publish(port, pid):
                listener = socket.create_server(("127.0.0.1", port))
                if os.fork() == 0:
                    with network.inside(pid):
                        caller, _ = listener.accept()
                        wires.join(caller, socket.create_connection(("127.0.0.1", 80)))
                    os._exit(0)
            """, says="After the first caller"),
        Wrong("""
            def my_publish(port, pid):
                listener = socket.create_server(("", port))
                if os.fork() == 0:
                    with network.inside(pid):
                        while True:
                            caller, _ = listener.accept()
                            wires.join(caller, socket.create_connection(("127.0.0.1", 80)))
            """, says="open to all who can reach this machine"),
        Wrong("""
            def my_publish(port, pid):
                listener = socket.create_server(("127.0.0.1", port))
                with network.inside(pid):
                    while True:
                        caller, _ = listener.accept()
                        wires.join(caller, socket.create_connection(("127.0.0.1", 80)))
            """, says="still running after"),
    ),
)


# ── broken_net ───────────────────────────────────────────────────────────────────────────────────────

def symptoms() -> list[tuple[str, str, str, str, bool]]:
    """What is seen of six networks, each without another wire: (wire, three calls, whether a packet left)."""
    order = random.sample(list(wires.WIRES), len(wires.WIRES))
    return [(seen.without, seen.calls["router"], seen.calls["office"], seen.calls["internet"], seen.leaves)
            for seen in wires.try_all(order)]


def probe_broken(p: Probe) -> None:
    p.expect("your word for a network in which the router refuses, and both others answer",
             p.call("ECONNREFUSED", "answers", "answers", True), "none",
             "Nothing is broken there. Refused is an answer: the router is there, and it has no web server.",
             "man 2 connect, \"ECONNREFUSED\"")
    with p.child(run=symptoms, seconds=40) as trial:
        for wire, *calls, leaves in trial.value:
            got = p.call(*calls, leaves)
            shown = ", ".join([*calls, "a packet left the router" if leaves else "no packet left the router"])
            p.expect(f"your word for a network with {shown}", got, wire, _why_not_that(wire, got),
                     "man 2 connect, \"ERRORS\"; man 7 ip, \"ERRORS\"")


def _why_not_that(wire: str, got: Any) -> str:
    if {wire, got} == {"forwarding", "masquerade"}:
        return ("Two wires keep silent in the same way. The router's counter tells them apart: has the "
                "packet gone on, or has it stopped there?")
    if wire in ("cable", "address"):
        return ("Who says no, and when? ENETUNREACH is your own kernel, at once: it does not know where to "
                "send it. EHOSTUNREACH comes after three seconds of asking who has that address.")
    if wire == "prefix":
        return ("The internet answers, so cable, address, route, forwarding and masquerade are there. Only "
                "somebody whose address looks like a neighbour's is not found.")
    if wire == "route":
        return "The neighbourhood is fine, and for all others your own kernel knows no way."
    return "Follow the packet: how far does it come?"


BROKEN = Exercise(
    id="network.broken_net", title="Six broken networks", difficulty=3, minutes=9, lines=9, syscalls=(),
    reference="mycontainer.lab.exercises.network.diagnose", probe=probe_broken,
    stub='''
        def my_diagnose(router, office, internet, leaves):
            """Which wire is pulled? One of the six names, or "none".

            The first three say what a call came to: "answers", "timeout" or the errno's name. `leaves` is
            True if a packet has left the router towards the internet.
            """
            ...
        ''',
    hints=(
        ("Begin with the nearest: what can be wrong if even the router is not reached? Two wires, two "
         "different words."),
        ("The router is reached, so cable and address are there. Which destination looks like a neighbour, "
         "if the prefix is 8 instead of 16?"),
        "Silence has two reasons. They differ by whether the packet has come past the router.",
    ),
    fast_track="Find the two wires that even the call to the router shows; read our solution for the others.",
    wrong=(
        Wrong("""
            def my_diagnose(router, office, internet, leaves):
                if router == "EHOSTUNREACH": return "cable"
                if router == "ENETUNREACH": return "address"
                if office == "EHOSTUNREACH": return "prefix"
                if internet == "ENETUNREACH": return "route"
                return "masquerade" if internet == "timeout" else "none"
            """, says="Two wires keep silent in the same way"),
        Wrong("""
            def my_diagnose(router, office, internet, leaves):
                if router == "EHOSTUNREACH": return "address"
                if router == "ENETUNREACH": return "cable"
                if office == "EHOSTUNREACH": return "prefix"
                if internet == "ENETUNREACH": return "route"
                if internet == "timeout": return "masquerade" if leaves else "forwarding"
                return "none"
            """, says="Who says no, and when?"),
        Wrong("""
            def my_diagnose(router, office, internet, leaves):
                if router != "answers": return "cable"
                if internet == "ENETUNREACH": return "route"
                if internet == "timeout": return "masquerade" if leaves else "forwarding"
                return "none"
            """, says="Refused is an answer"),
        Wrong("""
            def my_diagnose(router, office, internet, leaves):
                if router == "EHOSTUNREACH": return "cable"
                if router == "ENETUNREACH": return "address"
                if internet == "ENETUNREACH": return "route"
                if internet == "timeout": return "masquerade" if leaves else "forwarding"
                return "none"
            """, says="looks like a neighbour's"),
    ),
)


# ── sniff ────────────────────────────────────────────────────────────────────────────────────────────

NEAR, FAR = "10.77.0.1", "10.77.0.2"  # the two ends of the cable that is watched
OPTIONS = b"\x01" * 4                 # four times "no operation": it makes an IPv4 header longer
kept: list[socket.socket] = []        # whoever gets a datagram must be there, or a refusal comes back


def cable_to(name: str, pid: int, port: int) -> None:
    """A cable to another namespace, with addresses, and on both sides a listener for datagrams."""
    network.ask(network.veth(name, pid), network.up(name))
    network.ask(network.address(name, f"{NEAR}/24"))
    kept.append(receiver(port))
    with network.inside(pid):
        network.ask(network.up("eth0"))
        network.ask(network.address("eth0", f"{FAR}/24"))
        kept.append(receiver(port))


def receiver(port: int) -> socket.socket:
    """Who takes datagrams at a port."""
    one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    one.bind(("", port))
    return one


def send(target: str, port: int, sport: int, options: bytes = b"") -> None:
    """Send a datagram."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.bind(("", sport))
        if options:
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, options)
        sender.sendto(b"hello", (target, port))


def probe_sniff(p: Probe) -> None:
    name, here = f"w-{p.token()}", p.checkpoint()
    port, *sports = random.sample(range(20000, 30000), 7)
    with p.child(run=alone) as other, p.child(name, other.pid, port, run=cable_to), \
            p.child(name, here, 3, seconds=3) as process:
        here.arrived("It waits for packets before it says that it is ready, or it never says so.",
                     "man 7 packet")
        p.world.inside(send, "127.0.0.1", port, sports[0])
        other.inside(send, NEAR, port, sports[1])
        p.world.inside(send, FAR, port, sports[2])
        other.inside(send, NEAR, port, sports[3], OPTIONS)
        for sport in sports[4:]:
            other.inside(send, NEAR, port, sport)
        here.release()
        value = process.finish()
        expected = [f"{FAR}:{sports[1]} > {NEAR}:{port}", f"{NEAR}:{sports[2]} > {FAR}:{port}",
                    f"{FAR}:{sports[3]} > {NEAR}:{port}"]
        p.expect("what your function returned", value, expected, _why_not_seen(value, expected, sports),
                 "man 7 packet; RFC 791, section 3.1")


def _why_not_seen(value: Any, expected: list[str], sports: list[int]) -> str:
    seen = value if isinstance(value, list) else []
    if any("127.0.0.1" in str(one) for one in seen):
        return "Packets of lo are among them: your socket listens to every device."
    if seen[:1] == expected[:1] and len(seen) == 3 and seen[1] != expected[1]:
        return "You see only what comes in. What goes out is shown to those who ask for every protocol."
    if seen[:2] == expected[:2]:
        return ("The third packet's header is longer, for it has options. The header says how long it is, in "
                "the lower half of its first byte, in units of four bytes.")
    if any(str(one).startswith("8.0.") for one in seen):  # 08 00: the frame's word for IPv4
        return ("In front of the packet stands a header of Ethernet: twice six bytes, and two for what is in "
                "it.")
    return ("Is something read as an IPv4 packet that is none? Two bytes of each frame say what is in it, "
            "and ARP goes over the same cable.")


SNIFF = Exercise(
    id="network.sniff", title="A twenty-line tcpdump", difficulty=4, minutes=11, lines=12,
    syscalls=("socket", "bind", "recvfrom"),
    reference="mycontainer.lab.exercises.network.sniff", probe=probe_sniff,
    stub='''
        def my_sniff(device, ready, count):
            """Watch a device; after ready(), return who sends the next count IPv4 packets to whom.

            ["10.77.0.2:40000 > 10.77.0.1:80", …]. Call ready() when your socket is bound.
            """
            ...
        ''',
    hints=(
        ("socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) sees all frames: 3 is ETH_P_ALL. "
         "bind((device, 0)) keeps it to one device; recv(65535) gives one frame."),
        ("Bytes 12 and 13 of a frame are 08 00 if IPv4 is in it. The packet begins at byte 14. The packet's "
         "bytes 12 to 15 are the source, 16 to 19 the target: socket.inet_ntoa."),
        ("The ports are the first four bytes behind the packet's header, struct.unpack(\"!HH\", …). The "
         "header's length is (packet[0] & 15) * 4."),
    ),
    fast_track="Return the two addresses without ports; the check still tells you what you see.",
    wrong=(
        Wrong("""
            def my_sniff(device, ready, count):
                seen = []
                line = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
                ready()
                while len(seen) < count:
                    frame = line.recv(65535)
                    if frame[12:14] == b"\\x08\\x00":
                        p = frame[14:]
                        a, b = struct.unpack_from("!HH", p, (p[0] & 15) * 4)
                        seen.append(f"{socket.inet_ntoa(p[12:16])}:{a} > {socket.inet_ntoa(p[16:20])}:{b}")
                return seen
            """, says="Packets of lo are among them"),
        Wrong("""
            def my_sniff(device, ready, count):
                seen = []
                line = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x800))
                line.bind((device, 0))
                ready()
                while len(seen) < count:
                    p = line.recv(65535)[14:]
                    a, b = struct.unpack_from("!HH", p, (p[0] & 15) * 4)
                    seen.append(f"{socket.inet_ntoa(p[12:16])}:{a} > {socket.inet_ntoa(p[16:20])}:{b}")
                return seen
            """, says="You see only what comes in"),
        Wrong("""
            def my_sniff(device, ready, count):
                seen = []
                line = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
                line.bind((device, 0))
                ready()
                while len(seen) < count:
                    frame = line.recv(65535)
                    if frame[12:14] == b"\\x08\\x00":
                        p = frame[14:]
                        a, b = struct.unpack_from("!HH", p, 20)
                        seen.append(f"{socket.inet_ntoa(p[12:16])}:{a} > {socket.inet_ntoa(p[16:20])}:{b}")
                return seen
            """, says="for it has options"),
        Wrong("""
            def my_sniff(device, ready, count):
                seen = []
                line = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
                line.bind((device, 0))
                ready()
                while len(seen) < count:
                    p = line.recv(65535)[14:]
                    a, b = struct.unpack_from("!HH", p, 20)
                    seen.append(f"{socket.inet_ntoa(p[12:16])}:{a} > {socket.inet_ntoa(p[16:20])}:{b}")
                return seen
            """, says="ARP goes over the same cable"),
        Wrong("""
            def my_sniff(device, ready, count):
                seen = []
                line = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
                line.bind((device, 0))
                ready()
                while len(seen) < count:
                    frame = line.recv(65535)
                    if frame[12:14] == b"\\x08\\x00":
                        a, b = struct.unpack_from("!HH", frame, 20)
                        seen.append(f"{socket.inet_ntoa(frame[12:16])}:{a} > "
                                    f"{socket.inet_ntoa(frame[16:20])}:{b}")
                return seen
            """, says="stands a header of Ethernet"),
    ),
)

EXERCISES = [WIRE, BRIDGE, NAT, PUBLISH, BROKEN, SNIFF]

PREDICTIONS = [
    Prediction(
        id="network.empty",
        question="A process moves to a new network namespace. What does it find there?",
        choices={"a": "the machine's devices and addresses, but its own ports",
                 "b": "nothing at all", "c": "one device, lo, and that is off"},
        answer="c",
        why="A network namespace has its own devices, addresses, routes, rules and ports. A new one has only "
            "the loopback device, and nobody has switched it on.",
        misconceptions={
            "a": "A real device is in one namespace at a time, and it stays where it is.",
            "b": "Almost: every network namespace has a loopback device, from its first moment on."}),
    Prediction(
        id="network.refused",
        question="A program reports: connection refused. What do you know?",
        choices={"a": "the network is broken somewhere on the way",
                 "b": "the machine was reached, and nobody listens at that port",
                 "c": "the way there does not exist"},
        answer="b",
        why="Somebody at that address took the trouble to say no. All that lies between is in order.",
        misconceptions={
            "a": "A broken network cannot answer. It is silent, or your own kernel says that it knows no "
                 "way.",
            "c": "Then the word is another one: network is unreachable."}),
    Prediction(
        id="network.localhost",
        question="A web server of the host listens at 127.0.0.1, port 80. A process in a container calls "
                 "127.0.0.1, port 80. Who answers?",
        choices={"a": "the host's server: localhost is this machine",
                 "b": "nobody: the call is refused", "c": "nobody: the call gets no answer at all"},
        answer="b",
        why="127.0.0.1 belongs to lo, and each network namespace has a lo of its own. The call arrives, in "
            "the container, where nobody listens.",
        misconceptions={
            "a": "The machine is the same; the loopback device is not. Hence the many questions of the kind "
                 "\"my container cannot reach the database on localhost\".",
            "c": "Nothing is lost on the way: there is none. The container's own kernel says at once that "
                 "nobody listens."}),
    Prediction(
        id="network.who",
        question="A container, 10.88.0.2, calls a server in the internet, through a router that masquerades. "
                 "Which address does the server see?",
        choices={"a": "10.88.0.2", "b": "the router's, on the side of the internet",
                 "c": "the router's, on the side of the container"},
        answer="b",
        why="The router puts its own address into the packet, notes which connection it was, and turns the "
            "answers back. Hence all containers of a host look like one caller.",
        misconceptions={
            "a": "Then the answer would be sent to 10.88.0.2, and out there nobody knows the way to that: "
                 "there are millions of machines with that address.",
            "c": "Nobody out there knows the way to 10.88.0.1 either."}),
    Prediction(
        id="network.private",
        question="On a server with a firewall that closes port 8080, somebody runs: docker run -p 8080:80. "
                 "Who can reach the container?",
        choices={"a": "only programs of that server", "b": "everybody who can reach the server",
                 "c": "nobody: the firewall closes the port", "d": "nobody, unless the image says EXPOSE 80"},
        answer="b",
        why="Without an address in front, -p means 0.0.0.0: all addresses of the machine. And the usual "
            "rules for a machine's own ports do not see packets that are led on to another one.",
        misconceptions={
            "a": "That would be -p 127.0.0.1:8080:80, and it is what you should write as a rule.",
            "c": "A firewall for what comes *in* does not look at what passes *through*. The packet has its "
                 "new address before the rules are asked.",
            "d": "EXPOSE is a note for the reader. It opens nothing, and its absence closes nothing."}),
]
