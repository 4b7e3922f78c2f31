"""Containers in networks: found by name, reached by port, and nothing of it on the host, nor afterwards.

Each is started by a command of its own, as a person would do it: a process that is in a network stays there.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from mycontainer import namespaces, paths
from mycontainer.engine import leases, state
from needs import needs_tool, needs_userns

pytestmark = needs_userns
COMMAND = [sys.executable, "-m", "mycontainer.cli.main", "run"]
SERVE = ["busybox", "httpd", "-f", "-p", "80", "-h", "/www"]
READY = "echo ready; exec sleep 60"
N = f"test{os.getpid()}"  # a network of this run's own: others may be at work on this machine


class Started:
    """A container that was started; ``lines`` of its errors tell the ports that were chosen."""

    def __init__(self, *words: str) -> None:
        self.process = subprocess.Popen([*COMMAND, *words], stdin=subprocess.DEVNULL, text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def read(self) -> str:
        """The next line that it prints."""
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def port(self) -> int:
        """The port that was chosen for it."""
        assert self.process.stderr
        line = self.process.stderr.readline()
        found = re.search(r":(\d+) leads to", line)
        assert found, line
        return int(found[1])

    def child(self, what: str) -> int:
        """The pid of "PID 1" or the "relay"."""
        children = children_of(self.process.pid)
        runner = next(pid for pid in children if children_of(pid))
        return children_of(runner)[0] if what == "PID 1" else next(pid for pid in children if pid != runner)

    def end(self, number: int = signal.SIGKILL) -> int:
        """End what runs in it, and wait for the command."""
        if self.process.poll() is None:
            os.kill(self.child("PID 1"), number)
        return self.process.wait(10)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdout, self.process.stderr):
            assert pipe
            pipe.close()


def children_of(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


@pytest.fixture(autouse=True)
def _no_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sends anything off this machine, whatever is installed here."""
    monkeypatch.setenv("MYCONTAINER_WAY_OUT", "no")


@pytest.fixture
def start() -> Iterator[Callable[..., Started]]:
    """`start(*words)`: `mycontainer run` with these words, in the background."""
    running: list[Started] = []

    def begin(*words: str) -> Started:
        running.append(Started(*words))
        return running[-1]

    yield begin
    for one in running:
        one.close()
    until(lambda: not survivors(running))
    leases.sweep()  # as the next container would
    until(lambda: not left_over())


def left_over() -> list[str]:
    """Records of containers whose command was killed: the next one clears them up, once all have died."""
    return [one.id for one in state.containers() if not one.alive]


def survivors(running: list[Started]) -> list[int]:
    return [one.process.pid for one in running if os.path.exists(f"/proc/{one.process.pid}")]


def run(*words: str) -> str:
    """Run to the end; what it printed."""
    done = subprocess.run([*COMMAND, *words], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def until(condition: Callable[[], Any], patience: float = 10.0) -> Any:
    """Wait for it; its value."""
    deadline = time.monotonic() + patience
    while not (value := condition()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.01)
    return value


def get(port: int, host: str = "127.0.0.1") -> bytes:
    """The page that is served there; waits for the server to start."""
    def ask() -> bytes:
        try:
            with socket.create_connection((host, port), 5) as caller:
                caller.sendall(b"GET / HTTP/1.0\r\n\r\n")
                answer = b"".join(iter(lambda: caller.recv(65536), b""))
            return answer.partition(b"\r\n\r\n")[2].strip()
        except ConnectionError:
            return b""
    return bytes(until(ask))


@pytest.fixture
def site(tmp_path: Path) -> Callable[[str], list[str]]:
    """`site(text)`: the options for a container that serves it."""
    def make(text: str) -> list[str]:
        directory = tmp_path / text
        directory.mkdir()
        (directory / "index.html").write_text(text)
        for path in (tmp_path, *tmp_path.parents):  # root's container is a stranger here
            if path.stat().st_uid == os.getuid() and path.stat().st_mode & 0o777 == 0o700:
                path.chmod(0o711)
        return ["-v", f"{directory}:/www:ro"]
    return make


def hosts(text: str) -> dict[str, str]:
    """Name to IPv4 address, of what /etc/hosts says."""
    return {name: row.split()[0] for row in text.splitlines() if row.startswith("10.")
            for name in row.split()[1:]}


ECHO = """
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("0.0.0.0", 7))
while True:
    data, sender = server.recvfrom(100)
    server.sendto(data, sender)
"""


# ---- published ports -------------------------------------------------------------------------------------


def test_two_servers_on_port_80(start: Any, site: Any) -> None:
    """Each has one of its own, in one network or in two; a page from each."""
    servers = {text: start("--network", N, "-p", "80", *options, *site(text), *SERVE)
               for text, options in {
                   "one": [], "two": [], "other": ["--network", f"{N}b"]}.items()}
    for text, server in servers.items():
        port = server.port()
        assert get(port) == text.encode()
        if socket.has_dualstack_ipv6():
            assert get(port, "::1") == text.encode()


def test_a_published_port_is_this_machine_s_alone_unless_asked_for(start: Any, site: Any) -> None:
    def listening(port: int) -> set[str]:
        rows = [row.split() for table in ("tcp", "tcp6")
                for row in Path(f"/proc/net/{table}").read_text().splitlines()]
        return {row[1].partition(":")[0] for row in rows
                if row[1].endswith(f":{port:04X}") and row[3] == "0A"}

    loopback = {"0100007F", "00000000000000000000000001000000"}
    mine = start("--network", N, "-p", "80", *site("mine"), *SERVE).port()
    assert listening(mine) <= loopback
    everybody_s = start("--network", N, "-p", "0.0.0.0::80", *site("everybody"), *SERVE).port()
    assert listening(everybody_s) == {"00000000"}
    assert get(everybody_s) == b"everybody"


def test_who_comes_before_the_server_listens_waits_a_moment(start: Any) -> None:
    port = start("--network", N, "-p", "80", "busybox", "sh", "-c",
                 "sleep 0.3; echo late | nc -l -p 80").port()
    with socket.create_connection(("127.0.0.1", port), 5) as caller:
        assert caller.recv(100) == b"late\n"


def test_where_nobody_listens_callers_are_sent_away(start: Any) -> None:
    port = start("--network", N, "-p", "80", "busybox", "sleep", "60").port()
    with socket.create_connection(("127.0.0.1", port), 5) as caller, pytest.raises(ConnectionResetError):
        caller.recv(100)


def test_a_large_answer_comes_whole_after_a_half_closed_question(start: Any) -> None:
    script = "nc -l -p 80 -e sh -c 'cat >/tmp/in; wc -c </tmp/in; head -c 3000000 /dev/zero'"
    port = start("--network", N, "-p", "80", "busybox", "sh", "-c", script).port()
    with socket.create_connection(("127.0.0.1", port), 10) as caller:
        caller.sendall(b"x" * 1_000_000)
        caller.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: caller.recv(65536), b""))
    assert answer == b"1000000\n" + bytes(3_000_000)


@pytest.mark.skipif(not os.path.exists("/usr/bin/python3"), reason="needs /usr/bin/python3")
def test_datagrams_are_led_as_well(start: Any) -> None:
    """busybox has no server for them; this machine's Python has, and is lent to the container."""
    lent = [word for path in ("/usr", "/lib", "/lib64") if os.path.exists(path)
            for word in ("-v", f"{path}:{path}:ro")]
    python = ["/usr/bin/python3", "-I", "-S", "-c", ECHO]
    port = start("--network", N, "-p", "7/udp", *lent, "busybox", *python).port()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as caller:
        caller.settimeout(0.2)
        caller.connect(("127.0.0.1", port))

        def echo() -> bytes:
            try:
                caller.send(b"echo")
                return caller.recv(100)
            except (TimeoutError, ConnectionError):
                return b""
        assert until(echo) == b"echo"


def test_a_port_that_is_taken(start: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        done = subprocess.run([*COMMAND, "--network", N, "-p", f"{port}:80", "busybox", "true"],
                              capture_output=True, text=True)
    assert done.returncode == 125
    assert re.fullmatch(rf"mycontainer: cannot publish port 80 on 127\.0\.0\.1:{port}/tcp: "
                        rf"\S+ \(pid {os.getpid()}\) has it\nhint: .*-p 80\n", done.stderr)


# ---- names -----------------------------------------------------------------------------------------------


def test_they_find_each_other_by_name_and_host_name_live(start: Any, site: Any) -> None:
    early = start("--network", N, "--name", "early", "busybox", "sh", "-c", READY)
    assert early.read() == "ready"

    def seen_by_early() -> dict[str, str]:
        return hosts(Path(f"/proc/{early.child('PID 1')}/root/etc/hosts").read_text())

    assert seen_by_early()["early"] == "10.88.0.2"
    start("--network", N, "--name", "web", "-h", "www", *site("page"), *SERVE)
    until(lambda: "web" in seen_by_early())
    assert seen_by_early()["web"] == seen_by_early()["www"] == "10.88.0.3"
    for name in ("web", "www"):
        assert run("--network", N, "busybox", "sh", "-c",
                   f"until wget -qO- http://{name}/; do sleep 0.05; done").strip() == "page"
    until(lambda: len(seen_by_early()) == 4)  # who has left is no longer there; two names each


def test_files_of_the_network_are_read_only_inside() -> None:
    script = "echo 1.2.3.4 evil >>/etc/hosts; umount /etc/hosts; echo x >/etc/resolv.conf; cat /etc/hosts"
    done = subprocess.run([*COMMAND, "--network", N, "busybox", "sh", "-c", script],
                          capture_output=True, text=True)
    assert "evil" not in done.stdout
    assert "localhost" in done.stdout
    assert done.stderr.count("can't create") == 2, done.stderr
    assert "can't unmount" in done.stderr


def test_another_network_is_another_world(start: Any, site: Any) -> None:
    start("--network", f"{N}a", "--name", "web", *site("secret"), *SERVE)
    first = start("--network", f"{N}b", "--name", "other", "busybox", "sh", "-c", READY)
    assert first.read() == "ready"
    script = ("cat /etc/hosts; wget -T 1 -qO- http://10.88.0.2/ || wget -T 1 -qO- http://web/ || "
              "wget -T 1 -qO- http://10.88.0.9/ || echo nobody")
    seen = run("--network", f"{N}b", "busybox", "sh", "-c", script)
    assert "other" in hosts(seen)
    assert "web" not in hosts(seen)
    assert seen.endswith("nobody\n")
    assert "secret" in run("--network", f"{N}a", "busybox", "sh", "-c",
                           "until wget -qO- http://web/; do sleep 0.05; done")


# ---- what is on the host: nothing ------------------------------------------------------------------------


def host_network() -> tuple[Any, ...]:
    """Devices, forwarding, and for root the rules."""
    rules = ""
    if os.geteuid() == 0:
        done = subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True)
        rules = done.stdout
    switches = [Path(f"/proc/sys/net/{name}").read_text() for name in (
        "ipv4/ip_forward", "ipv6/conf/all/forwarding", "ipv4/conf/all/route_localnet")]
    return socket.if_nameindex(), switches, rules, Path("/proc/net/route").read_text()


@needs_tool("nft", "nftables")
def test_nothing_is_made_on_the_host(start: Any, site: Any) -> None:
    before = host_network()
    server = start("--network", N, "-p", "80", "--name", "web", *site("page"), *SERVE)
    assert get(server.port()) == b"page"
    assert host_network() == before
    assert namespaces.shared(server.process.pid)["net"] is False
    server.end()
    assert host_network() == before


def test_a_hundred_come_and_go(start: Any) -> None:
    """Eight at a time. All addresses differ, and afterwards there is nothing."""
    keeper = start("--network", N, "busybox", "sh", "-c", READY)
    assert keeper.read() == "ready"
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: in_a_process("ip", "-o", "-4", "addr", "show", "eth0"), range(100)))
    assert len({line.split()[3] for line in found}) == 100
    until(lambda: len(cables(keeper.process.pid)) == 1)
    network = leases.Network(N)
    with network.locked():
        assert [lease.place.number for lease in network.leases()] == [2]
    keeper.end()
    assert not os.path.exists(network.path)


RUN = "import sys; from mycontainer.api import run; run('busybox', sys.argv[2:], network=sys.argv[1])"


def in_a_process(*argv: str) -> str:
    """What a container of network N prints, without the time that a command line takes."""
    done = subprocess.run([sys.executable, "-I", "-c", RUN, N, *argv], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def cables(pid: int) -> list[str]:
    """The names of the cables in the network namespace of a process."""
    enter = ["net"] if os.geteuid() == 0 else ["user", "net"]
    script = ("import sys, socket; from mycontainer import namespaces; "
              f"namespaces.enter({pid}, {enter}); print(*(name for _, name in socket.if_nameindex()))")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return [name for name in done.stdout.split() if name.startswith("veth")]


def test_eight_at_once_make_one_network(start: Any) -> None:
    eight = [start("--network", N, "--name", f"c{number}", "busybox", "sh", "-c", READY)
             for number in range(8)]
    assert [one.read() for one in eight] == ["ready"] * 8
    assert len({namespaces.identify(one.process.pid)["net"] for one in eight}) == 1
    names = hosts((Path(leases.Network(N).path) / "hosts").read_text())
    assert {f"c{number}" for number in range(8)} <= set(names)
    assert len(set(names.values())) == 8
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(Started.end, eight))
    assert not os.path.exists(leases.Network(N).path)


SLOWLY = """
import sys
from mycontainer import api, network
make = network.default_route

def when_told(router):  # now in the container's network namespace; others come by our pid
    if network.default_route is when_told:
        network.default_route = make
        print("there", flush=True)
        input()
    return make(router)

network.default_route = when_told
api.run("busybox", ["true"], network=sys.argv[1])
"""


def test_who_joins_while_another_is_being_plugged_in_finds_the_router(start: Any) -> None:
    words = [sys.executable, "-c", SLOWLY, N]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as slow:
        assert slow.stdin
        assert slow.stdout
        assert slow.stdout.readline() == b"there\n"
        other = start("--network", N, "busybox", "ip", "-o", "-4", "addr", "show", "eth0")
        with suppress(subprocess.TimeoutExpired):  # it cannot be connected before the first
            other.process.wait(0.5)
        slow.stdin.write(b"\n")
        slow.stdin.flush()
        assert "10.88.0." in other.read()
        assert other.process.wait(10) == 0


# ---- killed, in any order --------------------------------------------------------------------------------


def test_the_command_is_killed(start: Any, site: Any) -> None:
    server = start("--network", N, "-p", "80", *site("page"), *SERVE)
    port = server.port()
    assert get(port) == b"page"
    everybody = [server.child("PID 1"), server.child("relay")]
    server.process.kill()
    server.process.wait()
    until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in everybody))
    with socket.create_server(("127.0.0.1", port)):
        pass  # the port is free again
    leases.sweep()
    assert not os.path.exists(leases.Network(N).path)


def test_pid_1_is_killed(start: Any, site: Any) -> None:
    server = start("--network", N, "-p", "80", *site("page"), *SERVE)
    port, relay = server.port(), server.child("relay")
    assert get(port) == b"page"
    assert server.end(signal.SIGKILL) == 137
    assert not os.path.exists(f"/proc/{relay}")
    assert not os.path.exists(leases.Network(N).path)


def test_the_relay_is_killed(start: Any, site: Any) -> None:
    """Its ports are closed, and all else goes on."""
    server = start("--network", N, "-p", "80", "--name", "web", *site("page"), *SERVE)
    port = server.port()
    assert get(port) == b"page"
    os.kill(server.child("relay"), signal.SIGKILL)
    with pytest.raises(ConnectionRefusedError):
        until(lambda: socket.create_connection(("127.0.0.1", port), 1).close())
    assert run("--network", N, "busybox", "wget", "-qO-", "http://web/").strip() == "page"
    assert server.end() == 137


def test_whoever_made_the_network_may_go_first(start: Any, site: Any) -> None:
    maker = start("--network", N, "busybox", "sh", "-c", READY)
    assert maker.read() == "ready"
    server = start("--network", N, "--name", "web", "-p", "80", *site("page"), *SERVE)
    assert get(server.port()) == b"page"
    maker.process.kill()
    maker.process.wait()
    assert "page" in run("--network", N, "busybox", "wget", "-qO-", "http://web/")


def test_a_start_that_fails_leaves_nothing() -> None:
    done = subprocess.run([*COMMAND, "--network", N, "-p", "80", "busybox", "no-such-command"],
                          capture_output=True, text=True)
    assert done.returncode == 127
    assert not os.path.exists(leases.Network(N).path)


# ---- the network of another ------------------------------------------------------------------------------


JOIN = """
import sys
from mycontainer import api
name, pid = sys.argv[1:]
sys.exit(api.run("busybox", ["wget", "-qO-", "http://localhost/"], network=f"container:{name}",
                 find_pid={name: int(pid)}.__getitem__))
"""


@pytest.mark.parametrize("network", ["none", N], ids=["none", "a network"])
def test_the_network_of_another_container(start: Any, site: Any, network: str) -> None:
    """Its localhost is ours."""
    server = start("--network", network, *site("page"), "busybox", "sh", "-c",
                   "echo ready; exec httpd -f -p 80 -h /www")
    assert server.read() == "ready"
    time.sleep(0.2)
    done = subprocess.run([sys.executable, "-c", JOIN, "web", str(server.child("PID 1"))],
                          capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "page"), done.stderr


def test_an_ordinary_user_s_places_stay_theirs(start: Any) -> None:
    """In the router they are root of a namespace, whose places would be others."""
    one = start("--network", N, "busybox", "sh", "-c", READY)
    assert one.read() == "ready"
    assert os.path.exists(f"{paths.runtime_dir()}/networks/{N}/hosts")
