"""The small internet of chapter 5: what each pulled wire looks like, what the tap hears, what is drawn.

Everything happens in network namespaces of the test's own. The oracle for the drawing's numbers is `ip -j`.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from typing import Any

import pytest

from mycontainer import network
from mycontainer.lab import journey, wires
from mycontainer.lab.child import descendants
from mycontainer.lab.wires import Net, Seen
from needs import needs_module, needs_tool, needs_userns
from sandbox import inside

needs_nft = pytest.mark.skipif(not wires.has_nft(), reason="needs nft (package nftables)")
pytestmark = [needs_userns, needs_nft]


def alone(function: Any, *arguments: Any) -> Any:
    """Call in a user and network namespace of our own; whatever it has forked ends with it."""
    def call() -> Any:
        try:
            return function(*arguments)
        finally:
            for pid in descendants(os.getpid()):
                os.kill(pid, signal.SIGKILL)
    return inside(call, kinds=("user", "net"))


@pytest.fixture(scope="module")
def six() -> dict[str, Seen]:
    seen = alone(wires.try_all, ["", *wires.WIRES])
    return {one.without: one for one in seen}


SYMPTOMS = {  # router, office, internet, and whether a packet leaves the router
    "": ("ECONNREFUSED", "answers", "answers", True),
    "cable": ("EHOSTUNREACH", "EHOSTUNREACH", "EHOSTUNREACH", False),
    "address": ("ENETUNREACH", "ENETUNREACH", "ENETUNREACH", False),
    "prefix": ("ECONNREFUSED", "EHOSTUNREACH", "answers", True),
    "route": ("ECONNREFUSED", "ENETUNREACH", "ENETUNREACH", False),
    "forwarding": ("ECONNREFUSED", "timeout", "timeout", False),
    "masquerade": ("ECONNREFUSED", "timeout", "timeout", True),
}


@pytest.mark.parametrize("wire", ["", *wires.WIRES])
def test_each_wire_has_a_symptom_of_its_own(six: dict[str, Seen], wire: str) -> None:
    seen = six[wire]
    assert (*(seen.calls[to] for to in ("router", "office", "internet")), seen.leaves) == SYMPTOMS[wire]
    assert len(set(SYMPTOMS.values())) == len(wires.WIRES) + 1


def test_the_order_of_the_six_does_not_tell_them() -> None:
    assert sorted(wires.ORDER) == sorted(wires.WIRES)
    assert list(wires.ORDER) != list(wires.WIRES)


def test_without_nft_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wires, "PROGRAMS", "")
    monkeypatch.setenv("PATH", "/nowhere")
    for call in (wires.build, wires.try_six):
        with pytest.raises(SystemExit, match="nft is not installed"):
            call()


def test_a_wire_that_is_none() -> None:
    with pytest.raises(ValueError, match="not a wire: antenna"):
        wires.build("antenna")


def test_the_counters_stop_where_the_packet_stops(six: dict[str, Seen]) -> None:
    def out(wire: str) -> list[bool]:
        way = (("web eth0", 1), ("router web", 0), ("router wan", 1), ("internet eth0", 0))
        return [six[wire].passed[name][sent] > 0 for name, sent in way]

    assert out("") == [True, True, True, True]
    assert out("cable") == [False, False, False, False]
    assert out("forwarding") == [True, True, False, False]
    assert out("masquerade") == [True, True, True, True]
    for seen in six.values():  # what one end of a cable sends, the other receives
        assert seen.passed["web eth0"] == seen.passed["router web"][::-1]
        assert seen.passed["router wan"] == seen.passed["internet eth0"][::-1]


@needs_tool("ip", "iproute2")
def test_the_counters_are_those_that_ip_shows() -> None:
    def look() -> tuple[Any, Any]:
        net = wires.build()
        wires.at(net.web, wires.knock, wires.DESTINATIONS["internet"])
        ours = wires.counters(net)
        with network.inside(net.web):
            told = subprocess.run(["ip", "-j", "-s", "link", "show", "eth0"], capture_output=True, check=True)
        one = json.loads(told.stdout)[0]["stats64"]
        return ours["web eth0"], (one["rx"]["packets"], one["tx"]["packets"])

    ours, theirs = alone(look)
    assert ours == theirs
    assert ours[0] > 0


def test_the_server_sees_the_routers_address_and_through_the_relay_its_own_localhost() -> None:
    from mycontainer.lab.exercises.network import publish

    def look() -> list[str]:
        net = wires.build()
        pages = [wires.at(net.web, wires.fetch, wires.DESTINATIONS["internet"])]
        with network.inside(net.web):
            wires.serve("you are {caller}")
        with network.inside(net.router):
            publish(8080, net.web)
            pages += [wires.fetch("127.0.0.1", 8080), wires.fetch(wires.CONTAINER)]
        return pages

    assert alone(look) == ["you are 203.0.113.1", "you are 127.0.0.1", "you are 10.88.0.1"]


def test_namespaces_start_as_they_should_whatever_the_machine_is() -> None:
    def look() -> list[str]:
        found = []
        with network.inside(wires.namespace()):
            for name in wires.SETTINGS:
                if os.path.exists(f"/proc/sys/net/{name}"):
                    with open(f"/proc/sys/net/{name}") as file:
                        found.append(f"{name} {file.read().strip()}")
        return found

    assert alone(look) == [f"{name} {value}" for name, value in wires.SETTINGS.items()
                           if os.path.exists(f"/proc/sys/net/{name}")]


def test_what_fails_elsewhere_is_told_here() -> None:
    def fails() -> None:
        raise OSError(19, "no such thing")

    with pytest.raises(ChildProcessError, match=r"OSError.*no such thing"):
        alone(lambda: wires.at(wires.namespace(), fails))


# ── the tap ──────────────────────────────────────────────────────────────────────────────────────────

def test_the_tap_hears_a_refusal_and_a_missing_neighbour() -> None:
    def listen() -> list[list[str]]:
        net = wires.build()
        with network.inside(net.router):
            tap = wires.Tap("web")
        heard = []
        for ip in (wires.GATEWAY, "10.88.0.9"):
            wires.at(net.web, wires.knock, ip)
            heard.append([line for line in tap.heard() if ip in line])  # the router may ask, too, later
        return heard

    refusal, nobody = alone(listen)
    assert refusal == ["who has 10.88.0.1? tell 10.88.0.2", "10.88.0.1 is here",
                       "10.88.0.2 > 10.88.0.1:80  SYN", "10.88.0.1:80 > 10.88.0.2  RST ACK"]
    assert nobody == ["who has 10.88.0.9? tell 10.88.0.2"] * 3


@pytest.mark.parametrize(("frame", "words"), [
    # By hand, from RFC 791 and RFC 9293: a header of 24 bytes, with options; ports 32767 and 80, SYN and FIN.
    (("ffffffffffff 020000000001 0800 46000000 00000000 40060000 0a580002 cb007150 01010101"
      "7fff0050 00000000 00000000 5003 0000"), "10.88.0.2:32767 > 203.0.113.80:80  FIN SYN"),
    ("ffffffffffff 020000000001 0800 45000000 00000000 40110000 0a580002 cb007150 7fff0050", ""),  # UDP
    ("ffffffffffff 020000000001 86dd 60000000", ""),  # IPv6
])
def test_a_frame_in_words(frame: str, words: str) -> None:
    assert wires.in_words(bytes.fromhex(frame)) == words


# ── joined connections ───────────────────────────────────────────────────────────────────────────────

def test_join_passes_everything_both_ways_and_then_closes() -> None:
    def pass_on() -> list[int]:
        (caller, outer), (inner, server) = socket.socketpair(), socket.socketpair()
        if os.fork() == 0:
            for one in (caller, server):
                one.close()
            wires.join(outer, inner)
            os._exit(0)
        outer.close()
        inner.close()
        if os.fork() == 0:  # the server: answers as much as it got
            caller.close()
            got = b"".join(iter(lambda: server.recv(65536), b""))
            server.sendall(got[::-1])
            os._exit(0)
        server.close()
        sent = os.urandom(1 << 20)
        caller.sendall(sent)
        caller.shutdown(socket.SHUT_WR)
        got = b"".join(iter(lambda: caller.recv(65536), b""))
        return [len(got), got == sent[::-1]]

    assert alone(pass_on) == [1 << 20, True]


# ── the drawing ──────────────────────────────────────────────────────────────────────────────────────

COUNTED = {"web eth0": (3, 6), "router web": (6, 3), "router wan": (1, 5), "internet eth0": (5, 1)}


def test_the_drawing_shows_the_counters_and_the_pulled_wire() -> None:
    seen = Seen("masquerade", {"internet": "timeout"}, COUNTED)
    drawn = journey.path_figure(seen)
    for words in ("6 →", "← 3", "5 →", "← 1", "✗ masquerade"):
        assert f">{words}<" in drawn.svg
    assert "Pulled: masquerade" in str(drawn)
    assert "web eth0       3         6" in str(drawn)
    assert "timeout (nothing comes back)" in str(drawn)
    whole = journey.path_figure(Seen("", {"internet": "answers"}, COUNTED))
    assert "✗" not in whole.svg
    assert "All six wires are in." in str(whole)


def test_every_wire_has_a_place_in_the_drawing() -> None:
    assert set(journey.SPOTS) == set(wires.WIRES)
    for x, y in journey.SPOTS.values():
        assert 0 < x < journey.WIDE
        assert 0 < y < journey.HIGH


def seen_of(wire: str = "", destination: str = "internet") -> Seen:
    if wire == "cable":
        raise ChildProcessError("cannot write rules for packets: nft is not installed")
    return Seen(wire, {destination: "answers"}, COUNTED)


@needs_module("ipywidgets")
def test_pulling_a_wire_draws_anew_and_a_failure_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wires, "try_out", seen_of)
    live = journey.pull_a_wire()
    assert "All six wires are in." in str(live)
    live.parts["chosen"].value = "route"
    assert "Pulled: route" in str(live)
    assert "✗ route" in live.parts["shown"].value
    live.parts["target"].value = "office"
    assert "call to the office" in str(live)
    live.parts["chosen"].value = "cable"
    assert "nft is not installed" in live.parts["shown"].value
    monkeypatch.setattr(wires, "try_out", lambda: seen_of("cable"))
    assert "nft is not installed" in str(journey.path_figure())


def test_the_table_has_letters_for_names() -> None:
    rows = [Seen("cable", {"router": "EHOSTUNREACH"}, COUNTED),
            Seen("route", {"router": "ECONNREFUSED"}, COUNTED)]
    lines = wires.table(rows).splitlines()
    assert lines[0].split() == ["router", "office", "internet", "leaves", "the", "router"]
    assert lines[1].split() == ["A", "EHOSTUNREACH", "yes"]
    assert not any(wire in wires.table(rows) for wire in ("cable", "route "))


def test_a_network_that_nobody_needs_any_more_ends_with_who_built_it() -> None:
    net: Net = inside(wires.build, kinds=("user", "net"))
    deadline = time.monotonic() + 5
    while (left := [pid for pid in net if os.path.exists(f"/proc/{pid}")]) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not left


