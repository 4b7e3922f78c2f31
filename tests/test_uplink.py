"""The way out, where pasta or slirp4netns is installed. The world is a network namespace of ours."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mycontainer import namespaces, network, paths
from mycontainer.engine import leases, uplink
from needs import needs_root, needs_tool, needs_userns
from sandbox import inside

pytestmark = needs_userns
COMMAND = [sys.executable, "-m", "mycontainer.cli.main", "run"]
N = f"out{os.getpid()}"
WORLD = "192.0.2.80"  # RFC 5737: for documentation, nobody's


@contextmanager
def world() -> Iterator[None]:
    """We are a machine, whose network leads to a server that says from where it is asked."""
    ready, tell = os.pipe()
    go, begin = os.pipe()
    pid = os.fork()
    if pid == 0:
        namespaces.create(["net"])
        os.write(tell, b"n")
        os.read(go, 1)
        network.ask(network.up("eth0"), network.address("eth0", f"{WORLD}/24"))
        with socket.create_server((WORLD, 80)) as server:
            os.write(tell, b"s")
            while True:
                connection, (caller, _) = server.accept()
                with connection:
                    connection.recv(100)
                    connection.sendall(f"you are {caller}\n".encode())
    try:
        os.read(ready, 1)
        network.ask(network.up("lo"), network.veth("wan", pid))
        network.ask(network.address("wan", "192.0.2.1/24"), network.up("wan"))
        network.ask(network.default_route(WORLD))
        os.write(begin, b"g")
        os.read(ready, 1)
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def visit(program: str, places: dict[str, str]) -> tuple[str, list[str]]:
    """What a container gets from the world, and who is still there afterwards."""
    with world():
        script = f"cat /etc/resolv.conf; echo who am I | timeout 8 nc -w 5 {WORLD} 80; true"
        done = subprocess.run([*COMMAND, "--network", N, "busybox", "sh", "-c", script],
                              env={**os.environ, "MYCONTAINER_WAY_OUT": program, **places},
                              capture_output=True, text=True)
        deadline = time.monotonic() + 5
        while (left := running(program)) and time.monotonic() < deadline:
            time.sleep(0.02)
    return done.stdout + done.stderr, left


def running(program: str) -> list[str]:
    """Processes of that name in our network namespace: a way out stays where it was started."""
    found = []
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/comm") as file:
                name = file.read().strip()
            if name.startswith(program) and namespaces.shared(pid)["net"]:
                found.append(f"{pid} {name}")
        except OSError:
            continue
    return found


needs_pasta, needs_slirp = needs_tool("pasta", "passt"), needs_tool("slirp4netns", "slirp4netns")


@needs_tool("nft", "nftables")
@pytest.mark.parametrize(("program", "kinds"), [
    pytest.param("slirp4netns", ("net",), marks=[needs_slirp, needs_root]),
    pytest.param("slirp4netns", ("user", "net"), marks=needs_slirp),
    pytest.param("pasta", ("user", "net"), marks=needs_pasta)])
def test_the_world_is_reached_as_the_machine_itself(program: str, kinds: tuple[str, ...],
                                                    tmp_path: Path) -> None:
    # Root of a user namespace would look for root's places.
    places = {"MYCONTAINER_HOME": paths.data_dir(), "XDG_RUNTIME_DIR": str(tmp_path)}
    said, left = inside(visit, program, places, kinds=kinds)
    assert "you are 192.0.2.1\n" in said
    assert f"nameserver {uplink.NAME_SERVER}\n" in said
    assert left == []
    leases.sweep()


def test_without_it_the_container_is_told_so() -> None:
    done = subprocess.run([*COMMAND, "--network", N, "busybox", "cat", "/etc/resolv.conf"],
                          env={**os.environ, "MYCONTAINER_WAY_OUT": "no"}, capture_output=True, text=True)
    assert done.stdout.startswith("# No way out of this network: neither slirp4netns nor pasta is installed")
    assert "nameserver" not in done.stdout


def test_which_program_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    there: set[str] = set()
    monkeypatch.setattr(shutil, "which", lambda name, *_: name if name in there else None)
    monkeypatch.delenv("MYCONTAINER_WAY_OUT", raising=False)
    assert uplink.find() == ""
    there.add("pasta")
    assert uplink.find() == ("" if os.geteuid() == 0 else "pasta")
    there.add("slirp4netns")
    assert uplink.find() == "slirp4netns"
    for wanted, found in {"slirp4netns": "slirp4netns", "no": "", "bash": ""}.items():
        monkeypatch.setenv("MYCONTAINER_WAY_OUT", wanted)
        assert uplink.find() == found


def test_a_program_that_dies_is_no_failure_of_the_network(tmp_path: Path) -> None:
    fake = tmp_path / "slirp4netns"
    fake.write_text("#!/bin/sh\necho no such luck >&2\nexit 1\n")
    fake.chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "MYCONTAINER_WAY_OUT": "slirp4netns"}
    begun = time.monotonic()
    done = subprocess.run([*COMMAND, "--network", N, "busybox", "cat", "/etc/resolv.conf"], env=env,
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("# No way out of this network: slirp4netns could not make one.\n")
    assert time.monotonic() - begun < uplink.PATIENCE
