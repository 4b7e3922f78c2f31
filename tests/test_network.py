"""The network of chapter 5: what we send, what comes of it, what is said when it fails.

Everything happens in network namespaces of the test's own. Oracles: `ip -j` and pyroute2.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from mycontainer import namespaces, network, syscalls
from mycontainer.engine.devices import devices, gateways
from mycontainer.errors import ContainerError
from needs import needs_module, needs_tool, needs_userns
from sandbox import inside

needs_ip = needs_tool("ip", "iproute2")
needs_nft = needs_tool("nft", "nftables")


@contextmanager
def neighbour() -> Iterator[int]:
    """The pid of a process in a network namespace of its own."""
    ready, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        namespaces.create(["net"])
        os.write(tell, b"r")
        signal.pause()
    os.read(ready, 1)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(ready)
        os.close(tell)


def ip(*words: str) -> Any:
    done = subprocess.run(["ip", "-j", "-d", *words], capture_output=True, text=True, check=True)
    return json.loads(done.stdout or "[]")


def alone(function: Any, *arguments: Any) -> Any:
    """Call in a new network namespace, as its root."""
    return inside(function, *arguments, kinds=("user", "net"))


def switch_and_cable(pid: int) -> None:
    """A bridge, and a cable from it to the eth0 of ``pid``."""
    network.ask(network.bridge("br0", mac="02:00:0a:58:00:01"))
    network.ask(network.address("br0", "10.88.0.1/16"), network.address("br0", "fd00:88::1/64"),
                network.up("br0"))
    network.ask(network.veth("web", pid, mac="02:00:0a:58:00:02", mtu=1400), network.plug("web", "br0"))
    with network.inside(pid):
        furnish()


def furnish(number: int = 2) -> None:
    network.ask(network.up("lo"), network.up("eth0"), network.address("eth0", f"10.88.0.{number}/16"),
                network.address("eth0", f"fd00:88::{number:x}/64"), network.default_route("10.88.0.1"),
                network.default_route("fd00:88::1"))


# ---- the encoder -----------------------------------------------------------------------------------------

# By hand, from the structs in linux/netlink.h, rtnetlink.h and if_link.h.
UP = ("28000000 1000 0100 07000000 00000000"            # header: 40 bytes, RTM_NEWLINK, REQUEST, number 7
      "00 00 0000 00000000 01000000 01000000"           # ifinfomsg: flags UP, of which only UP counts
      "0700 0300 6c6f00 00")                            # IFLA_IFNAME "lo", padded to four


@pytest.mark.skipif(sys.byteorder != "little", reason="these are a little-endian machine's bytes")
def test_a_message_byte_by_byte() -> None:
    assert network.encode(network.up("lo"), 7) == bytes.fromhex(UP)


@pytest.mark.parametrize(("value", "encoded"), [
    ("br0", "08000300 62723000"),           # four with the zero at its end: no padding
    ("eth0", "09000300 65746830 00000000"),  # its length does not count the padding
    (1500, "08000300 dc050000"),
    (b"", "04000300"),
    (b"\x02\x00\x0a\x58\x00\x01", "0a000300 02000a58 00010000"),
])
@pytest.mark.skipif(sys.byteorder != "little", reason="these are a little-endian machine's bytes")
def test_an_attribute_byte_by_byte(value: bytes | str | int, encoded: str) -> None:
    assert network.attribute(3, value) == bytes.fromhex(encoded)


def test_attributes_are_read_as_they_were_written() -> None:
    nested = network.attribute(1, "veth") + network.attribute(0x8002, b"12345")
    data = network.attribute(18, nested) + network.attribute(4, 1500)
    found = network.attributes(data)
    assert network.attributes(found[18]) == {1: b"veth\0", 2: b"12345"}
    assert int.from_bytes(found[4], sys.byteorder) == 1500
    assert network.attributes(b"") == {}


@needs_module("pyroute2")
def test_pyroute2_reads_our_messages_as_we_mean_them() -> None:
    from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
    from pyroute2.netlink.rtnl.rtmsg import rtmsg

    def read(kind: Any, request: network.Request) -> Any:
        message = kind(network.encode(request, 9, network.NLM_F_ACK))
        message.decode()
        assert message["header"]["sequence_number"] == 9
        assert message["header"]["flags"] == 1 | 4 | request.flags
        assert message["header"]["type"] == request.kind
        return message

    veth = read(ifinfmsg, network.veth("web", 4711, mac="02:00:0a:58:00:02", mtu=1400))
    assert (veth.get_attr("IFLA_IFNAME"), veth.get_attr("IFLA_MTU")) == ("web", 1400)
    assert veth.get_attr("IFLA_ADDRESS") is None, "the hardware address is the inner end's"
    info = veth.get_attr("IFLA_LINKINFO")
    assert info.get_attr("IFLA_INFO_KIND") == "veth"
    peer = info.get_attr("IFLA_INFO_DATA").get_attr("VETH_INFO_PEER")
    shown = {name: peer.get_attr(f"IFLA_{name}") for name in ("IFNAME", "NET_NS_PID", "ADDRESS", "MTU")}
    assert shown == {"IFNAME": "eth0", "NET_NS_PID": 4711, "ADDRESS": "02:00:0a:58:00:02", "MTU": 1400}

    bridge = read(ifinfmsg, network.bridge("br0"))
    assert bridge.get_attr("IFLA_LINKINFO").get_attr("IFLA_INFO_KIND") == "bridge"
    plug = read(ifinfmsg, network.plug("web", "lo"))
    assert plug.get_attr("IFLA_MASTER") == socket.if_nametoindex("lo")
    assert (plug["flags"] & 1, plug["change"]) == (1, 1)

    address = read(ifaddrmsg, network.address("lo", "10.88.0.2/16"))
    assert (address["prefixlen"], address["index"]) == (16, socket.if_nametoindex("lo"))
    assert address.get_attr("IFA_LOCAL") == address.get_attr("IFA_ADDRESS") == "10.88.0.2"
    assert read(ifaddrmsg, network.address("lo", "fd00::2/64")).get_attr("IFA_LOCAL") == "fd00::2"
    route = read(rtmsg, network.default_route("10.88.0.1"))
    assert (route.get_attr("RTA_GATEWAY"), route["dst_len"], route["table"]) == ("10.88.0.1", 0, 254)


# ---- what comes of it ------------------------------------------------------------------------------------


@needs_userns
@needs_ip
def test_ip_shows_what_we_have_made() -> None:
    def make() -> tuple[Any, ...]:
        with neighbour() as pid:
            switch_and_cable(pid)
            here, ours = ip("link"), ip("addr", "show", "br0")
            with network.inside(pid):
                return here, ours, ip("addr"), ip("route"), ip("-6", "route", "show", "default")

    here, ours, there, routes, routes6 = alone(make)
    links = {link["ifname"]: link for link in here}
    assert set(links) == {"lo", "br0", "web"}
    assert links["br0"]["linkinfo"]["info_kind"] == "bridge"
    assert links["br0"]["address"] == "02:00:0a:58:00:01"
    assert links["web"]["linkinfo"]["info_kind"] == "veth"
    assert (links["web"]["master"], links["web"]["mtu"]) == ("br0", 1400)
    assert {"UP", "LOWER_UP"} <= set(links["web"]["flags"])
    assert {"10.88.0.1", "fd00:88::1"} <= {one["local"] for one in ours[0]["addr_info"]}
    eth0 = next(link for link in there if link["ifname"] == "eth0")
    assert (eth0["address"], eth0["mtu"]) == ("02:00:0a:58:00:02", 1400)
    found = {(one["local"], one["prefixlen"]): one for one in eth0["addr_info"]}
    assert {("10.88.0.2", 16), ("fd00:88::2", 64)} <= set(found)
    assert not found["fd00:88::2", 64].get("tentative"), "it would be of no use for a second"
    assert {route["dst"]: route.get("gateway") for route in routes} == {
        "default": "10.88.0.1", "10.88.0.0/16": None}
    assert routes6[0]["gateway"] == "fd00:88::1"


@needs_userns
@needs_ip
def test_we_list_what_ip_lists() -> None:
    def make() -> tuple[Any, ...]:
        with neighbour() as pid:
            switch_and_cable(pid)
            with network.inside(pid):
                inner = devices(), ip("addr"), gateways()
            return devices(), ip("addr"), inner

    ours, theirs, (ours_inside, theirs_inside, routers) = alone(make)
    for found, expected in ((ours, theirs), (ours_inside, theirs_inside)):
        assert set(found) == {link["ifname"] for link in expected}
        for link in expected:
            device = found[link["ifname"]]
            assert (device.number, device.mac, device.mtu) == (link["ifindex"], link["address"], link["mtu"])
            assert device.bridge == link.get("master", "")
            assert device.kind == link.get("linkinfo", {}).get("info_kind", "")
            assert device.up == ("UP" in link["flags"])
            assert set(device.addresses) == {f"{a['local']}/{a['prefixlen']}" for a in link["addr_info"]}
    assert set(routers) == {"10.88.0.1", "fd00:88::1"}
    assert ours["web"].running
    assert ours["web"].bridge == "br0"


@needs_userns
@needs_module("pyroute2")
def test_pyroute2_finds_the_same_devices() -> None:
    def make() -> Any:
        from pyroute2 import IPRoute

        with neighbour() as pid:
            switch_and_cable(pid)
            with IPRoute() as kernel:
                links = {one.get_attr("IFLA_IFNAME"): (one["index"], one.get_attr("IFLA_ADDRESS"))
                         for one in kernel.get_links()}
            return links, {name: (one.number, one.mac) for name, one in devices().items()}

    theirs, ours = alone(make)
    assert ours == theirs


@needs_userns
@pytest.mark.parametrize("host", ["10.88.0.2", "fd00:88::2"])
def test_bytes_go_through_and_are_counted(host: str) -> None:
    def make() -> Any:
        with neighbour() as pid:
            switch_and_cable(pid)
            with network.inside(pid):
                server = socket.create_server((host, 80), family=_family(host))
            before = devices()["web"]
            with server, socket.create_connection((host, 80), 5) as client:
                connection, _ = server.accept()
                with connection:
                    connection.sendall(b"two servers on port 80")
                    heard = client.recv(100)
            after = devices()["web"]
            return heard, after.sent - before.sent, after.received - before.received

    heard, sent, received = alone(make)
    assert heard == b"two servers on port 80"
    assert sent >= 2  # a connection's first and third packet, at least
    assert received >= 2


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


@needs_userns
def test_a_cable_goes_with_its_namespace() -> None:
    def make() -> bool:
        with neighbour() as pid:
            switch_and_cable(pid)
            assert "web" in devices()
        for _ in range(500):  # the kernel takes a dead namespace down when it finds the time
            if "web" not in devices():
                return True
            time.sleep(0.01)
        return False

    assert alone(make)


@needs_userns
def test_inside_comes_back_also_after_a_failure() -> None:
    def make() -> tuple[bool, bool, bool]:
        home = namespaces.identify()["net"]
        with neighbour() as pid:
            there = namespaces.identify(pid)["net"]
            been = False
            try:
                with network.inside(pid):
                    been = namespaces.identify()["net"] == there
                    raise KeyError
            except KeyError:
                pass
            back = namespaces.identify()["net"] == home
            with pytest.raises(FileNotFoundError), network.inside(2 ** 22 + 1):
                pass
        return been, back, namespaces.identify()["net"] == home

    assert alone(make) == (True, True, True)


@needs_userns
def test_a_wire_is_put_in_fast_enough() -> None:
    """Of 20, the fastest quarter: this machine has other things to do as well."""
    def make() -> list[float]:
        network.ask(network.bridge("br0"))
        network.ask(network.address("br0", "10.88.0.1/16"), network.address("br0", "fd00:88::1/64"),
                    network.up("br0"))
        times = []
        for number in range(2, 22):
            with neighbour() as pid:
                began = time.perf_counter()
                network.ask(network.veth(f"v{number}", pid), network.plug(f"v{number}", "br0"))
                with network.inside(pid):
                    furnish(number)
                times.append((time.perf_counter() - began) * 1000)
        return times

    times = sorted(alone(make))
    assert statistics.median(times[:5]) < 5, times  # ms; 1.5 on a quiet machine


# ---- out into the world, which is a namespace of ours ----------------------------------------------------


@needs_userns
@needs_nft
@pytest.mark.parametrize(("missing", "arrives"), [("", True), ("forward", False), ("masquerade", False)])
def test_what_leaves_needs_a_router_and_its_address(missing: str, arrives: bool) -> None:
    """container -- br0 (here) -- internet, which knows the way to us, and to nobody behind us."""
    def make() -> tuple[bool, str]:
        with neighbour() as internet, neighbour() as pid:
            switch_and_cable(pid)
            network.ask(network.veth("out", internet))
            network.ask(network.address("out", "192.0.2.1/24"), network.up("out"))
            with network.inside(internet):
                network.ask(network.up("eth0"), network.address("eth0", "192.0.2.80/24"))
                server = socket.create_server(("192.0.2.80", 80))
            if missing != "forward":
                network.forward()
            if missing != "masquerade":
                network.masquerade("10.88.0.0/16")
                network.masquerade("fd00:88::/64")
            with network.inside(pid):
                client = socket.socket()
            server.settimeout(5)
            client.settimeout(0.5)
            with server, client:
                try:
                    client.connect(("192.0.2.80", 80))
                except TimeoutError:
                    return False, ""
                connection, (seen, _) = server.accept()
                connection.close()
                return True, seen

    assert alone(make) == (arrives, "192.0.2.1" if arrives else "")


@needs_userns
@needs_nft
def test_one_rule_a_network() -> None:
    def make() -> str:
        network.masquerade("10.88.0.0/16")
        return subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout

    rules = alone(make)
    assert rules.count("masquerade") == 1
    assert "ip saddr 10.88.0.0/16 ip daddr != 10.88.0.0/16 masquerade" in rules


# ---- what is said when it fails --------------------------------------------------------------------------


def failing(ask: Any) -> tuple[str, str, str]:
    with pytest.raises(OSError) as caught:  # noqa: PT011 - what it says is what the caller looks at
        ask()
    return type(caught.value).__name__, str(caught.value.filename), " ".join(caught.value.__notes__)


@needs_userns
@pytest.mark.parametrize(("requests", "kind", "what", "note"), [
    (lambda: [network.up("eth7")], "OSError", "switch on eth7", "no such device in this network namespace"),
    (lambda: [network.bridge("lo")], "FileExistsError", "make the bridge lo", "by this name"),
    (lambda: [network.bridge("a-name-of-16-chr")], "OSError", "make the bridge a-name-of-16-chr",
     "15 letters"),
    (lambda: [network.veth("web", 2 ** 22 + 1)], "ProcessLookupError", "make the cable from web to eth0",
     "no such process"),
    (lambda: [network.address("lo", "127.0.0.1/8"), network.address("lo", "127.0.0.1/8")], "FileExistsError",
     "give lo the address 127.0.0.1/8", "already"),
    (lambda: [network.default_route("10.88.0.1")], "OSError", "send the rest to 10.88.0.1",
     "The gateway is no neighbour"),
], ids=["no-device", "taken", "long", "no-process", "twice", "far-gateway"])
def test_each_failure_says_which_request_and_why(requests: Any, kind: str, what: str, note: str) -> None:
    seen = alone(failing, lambda: network.ask(*requests()))
    assert (seen[0], seen[1]) == (kind, what)
    assert note in seen[2]


@needs_userns
def test_the_first_failure_is_told_and_the_rest_is_tried_all_the_same() -> None:
    def make() -> tuple[Any, bool]:
        failed = failing(lambda: network.ask(network.up("one"), network.up("lo"), network.up("two")))
        return failed, devices()["lo"].up

    (_, what, _), up = alone(make)
    assert what == "switch on one"
    assert up


@needs_userns
def test_without_rights_it_is_refused_with_a_reason() -> None:
    """Root of a user namespace asks the kernel for something in a network namespace that is not its own."""
    kind, _, note = inside(failing, lambda: network.ask(network.bridge("br0")), kinds=("user",))
    assert kind == "PermissionError"
    assert "CAP_NET_ADMIN" in note


@needs_userns
@needs_nft
def test_a_rule_that_nft_refuses() -> None:
    def make() -> tuple[str, str]:
        with pytest.raises(ContainerError) as caught:
            network.nft("add rule nowhere")
        return caught.value.what, caught.value.reason

    what, reason = alone(make)
    assert what == "cannot write rules for packets"
    assert "rror" in reason


@needs_userns
def test_without_nft_the_package_is_named() -> None:
    def ask() -> tuple[str, str]:
        for place in ("/usr/sbin", "/sbin"):
            syscalls.mount("tmpfs", place, "tmpfs")
        os.environ["PATH"] = "/nowhere"
        try:
            network.masquerade("10.88.0.0/16")
        except ContainerError as error:
            return error.reason, error.hint
        return "", ""

    reason, hint = inside(ask, kinds=("user", "mnt", "net"))
    assert reason == "nft is not installed"
    assert "nftables" in hint


@needs_nft
def test_nft_is_found_where_an_ordinary_users_path_does_not_lead(monkeypatch: pytest.MonkeyPatch) -> None:
    if os.path.dirname(shutil.which("nft") or "") not in ("/usr/sbin", "/sbin"):
        pytest.skip("nft is not in a sbin here")
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    alone(network.masquerade, "10.88.0.0/16")
