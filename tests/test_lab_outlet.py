"""Ports of the lab led out: whom they reach, who gets them, and that nothing of them stays."""

from __future__ import annotations

import http.cookiejar
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from email.message import Message
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("jupyter_client", reason="needs the Python module jupyter_client")

from lab_kernel import Kernel, children_of, family, kernel, kill, parent_of, wait_until_gone
from mycontainer.engine import outlet as engine
from mycontainer.engine import ports
from mycontainer.engine.outlet import EVERYBODY, PLACE, worth_asking
from mycontainer.errors import ContainerError
from mycontainer.lab import outlet
from mycontainer.lab.state import sweep
from needs import needs_lab, needs_userns
from sandbox import inside

SERVE = """
import http.server, os, threading
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"from the lab")
    def log_message(self, *_):
        pass
def serve(port, address="127.0.0.1"):
    server = http.server.ThreadingHTTPServer((address, port), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
from mycontainer import lab
from mycontainer.errors import ContainerError
granted = {}
def refusal(*asked):
    try:
        granted[asked[0]] = lab.publish(*asked)
        return f"granted: {granted[asked[0]]}"
    except ContainerError as error:
        return f"{error} ({error.hint})"
"""
ASK = """
import json, socket
def ask(wish):
    lease = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    lease.settimeout(2)
    lease.connect(PLACE)
    lease.send(wish if isinstance(wish, bytes) else json.dumps(wish).encode())
    return lease, json.loads(lease.recv(4096) or b'"closed"')
def wish(port):
    return {"port": port, "host": "127.0.0.1", "inside": port}
""".replace("PLACE", repr(PLACE))


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    base = tmp_path_factory.mktemp("outlet")
    with kernel(base, base) as one:
        one.run(SERVE + ASK)
        yield one


numbers = itertools.count(20000 + os.getpid() % 100 * 100)  # below those that Linux gives to callers


def free_ports(count: int) -> list[int]:
    """Ports that nobody has here, at no address."""
    found: list[int] = []
    while len(found) < count:
        with suppress(OSError), socket.create_server(("0.0.0.0", next(numbers))) as free:
            found.append(free.getsockname()[1])
    return found


@pytest.fixture
def port() -> int:
    return free_ports(1)[0]


def get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return str(answer.read().decode())


def place(url: str) -> tuple[str, int]:
    host, _, number = url.removeprefix("http://").rpartition(":")
    return host, int(number)


def closed(url: str, seconds: float = 5) -> bool:
    """Whether nobody listens there any more, in a moment."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with socket.socket() as caller:
            if caller.connect_ex(place(url)):
                return True
        time.sleep(0.02)
    return False


# ---- who is reached, and from where ----------------------------------------------------------------------


@needs_lab
def test_a_port_of_the_lab_is_reached_from_outside(lab: Kernel, port: int) -> None:
    lab.run(f"serve({port}); page = lab.publish({port})")
    url, html = lab.value("[str(page), page._repr_html_()]")
    assert url.endswith(f":{port}")
    assert f'href="{url}"' in html
    assert get(url) == "from the lab"
    assert lab.value(f"str(lab.publish({port}))") == url  # the cell runs again
    assert get(url) == "from the lab"
    lab.run(f"lab.publish({port}).close()")
    assert closed(url)


@needs_lab
def test_only_on_loopback_and_not_at_the_address_of_jupyter(lab: Kernel, port: int) -> None:
    with socket.create_server(("127.0.0.1", port)):  # somebody else's, who is not disturbed
        url = lab.value(f"str(lab.publish({port}))")
        rows = [row.split() for row in (Path("/proc/net/tcp").read_text()
                                        + Path("/proc/net/tcp6").read_text()).splitlines()]
        listening = [row[1] for row in rows if row[1].endswith(f":{port:04X}") and row[3] == ports.LISTENING]
    host, _ = place(url)
    assert host in outlet.ADDRESSES
    packed = socket.inet_aton(host)[::-1].hex().upper()
    assert sorted(listening) == sorted([f"0100007F:{port:04X}", f"{packed}:{port:04X}"])
    lab.run(f"lab.publish({port}).close()")


@needs_lab
def test_another_address_and_port_inside(lab: Kernel) -> None:
    first, second = free_ports(2)
    lab.run(f"serve({second}, '127.0.0.9')")
    assert get(lab.value(f"str(lab.publish({first}, '127.0.0.9', {second}))")) == "from the lab"
    lab.run(f"lab.publish({first}).close()")


@needs_lab
def test_an_address_that_leads_nowhere_ends_nobody(lab: Kernel) -> None:
    odd = ["255.255.255.255", "224.0.0.1", "fe80::1", "::ffff:127.0.0.1", "10.9.8.7", "::", "0.0.0.0"]
    pages = dict(zip(free_ports(len(odd)), odd, strict=True))
    urls = lab.value(f"[str(lab.publish(n, host)) for n, host in {pages}.items()]")
    callers = [socket.create_connection(place(url), 10) for url in urls]
    for caller in callers:
        with caller, pytest.raises(ConnectionResetError):
            caller.recv(1)
    lab.run(f"for n in {[*pages]}: lab.publish(n).close()")
    assert lab.value("1 + 1") == 2


@needs_lab
def test_nobody_inside_is_a_reset_not_an_empty_page(lab: Kernel, port: int) -> None:
    url = lab.value(f"str(lab.publish({port}))")
    with pytest.raises(ConnectionResetError):
        get(url)
    lab.run(f"lab.publish({port}).close()")


@needs_lab
def test_a_container_in_the_lab_is_reached_and_its_port_goes_with_it(lab: Kernel) -> None:
    port, other = free_ports(2)
    command = (f"['mycontainer', 'run', '-p', '{port}:80', '-p', '{other}:81/udp', 'busybox', 'sh', '-c', "
               "'echo from a container > /index.html; httpd -f -p 80 -h /']")
    lab.run(f"import subprocess\nran = subprocess.Popen({command}, stderr=subprocess.PIPE, text=True)")
    said = lab.value("ran.stderr.readline()")
    assert said.startswith("mycontainer: outside the lab it is http://127.0.0.")
    url = said.split()[-1]
    assert get(url) == "from a container\n"
    lab.run("ran.kill(); ran.wait(); ran.stderr.close()")
    assert closed(url)


@needs_lab
def test_a_detached_container_says_in_its_row_where_it_is(lab: Kernel) -> None:
    (port,) = free_ports(1)
    command = ["mycontainer", "run", "-d", "--name", "web", "-p", f"{port}:80", "busybox", "sh", "-c",
               "echo from behind > /index.html; httpd -f -p 80 -h /"]
    lab.run(f"import subprocess\nsubprocess.run({command}, check=True, capture_output=True)")
    row = lab.value("subprocess.run(['mycontainer', 'ps'], capture_output=True, text=True).stdout")
    url = next(word for word in row.split() if word.startswith("http://"))
    assert url.endswith(f":{port}")
    assert get(url) == "from behind\n"
    lab.run("subprocess.run(['mycontainer', 'rm', '-f', 'web'], check=True, capture_output=True)")
    assert closed(url)


@needs_lab
def test_a_port_that_stays_in_the_lab_is_told_and_serves_in_there(lab: Kernel) -> None:
    code, text = lab.sh("mycontainer run -p 80:80 busybox true")
    assert code == 0
    assert "mycontainer: cannot publish port 80 outside the lab" in text
    assert "hint: Take 8080" in text


@needs_lab
def test_from_a_terminal(lab: Kernel, port: int) -> None:
    """A process that the kernel has not started, and that has none of its descriptors."""
    lab.run(f"serve({port})")
    script = f"from mycontainer import lab; print(lab.publish({port}), flush=True); input()"
    with subprocess.Popen([sys.executable, "-m", "mycontainer.lab.terminal", sys.executable, "-c", script],
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as terminal:
        assert terminal.stdin
        assert terminal.stdout
        url = terminal.stdout.readline().strip()
        assert get(url) == "from the lab"
        terminal.stdin.write("\n")
        terminal.stdin.close()
        terminal.wait(10)
    assert closed(url)


# ---- a lease ends with its process -----------------------------------------------------------------------


@needs_lab
def test_it_is_closed_when_the_function_that_asked_has_ended(lab: Kernel, port: int) -> None:
    assert closed(lab.value(f"lab.run(lambda: str(lab.publish({port}))).value"))


@needs_lab
def test_it_is_closed_when_who_asked_is_killed(lab: Kernel, port: int) -> None:
    lab.run(f"""
import subprocess, sys
code = "from mycontainer import lab; print(lab.publish({port}), flush=True); input()"
pipe = subprocess.PIPE
asker = subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True)
url = asker.stdout.readline().strip()""")
    url = lab.value("url")
    assert not closed(url, 0.1)
    lab.run("asker.kill(); asker.wait(); asker.stdin.close(); asker.stdout.close()")
    assert closed(url)


@needs_lab
def test_removing_all_files_does_not_take_it_away(tmp_path: Path, port: int) -> None:
    with kernel(tmp_path, tmp_path) as other:
        other.run(SERVE + f"serve({port})")
        assert "No such file" in other.sh("rm -rf /run /tmp /var 2>/dev/null; ls /run")[1]
        assert get(other.value(f"str(lab.publish({port}))")) == "from the lab"


@needs_lab
def test_two_labs_have_the_same_port(lab: Kernel, tmp_path: Path, port: int) -> None:
    first = lab.value(f"str(lab.publish({port}))")
    with kernel(tmp_path, tmp_path) as other:
        second = other.value(f"from mycontainer import lab\nstr(lab.publish({port}))")
        assert first != second
        assert first.rpartition(":")[2] == second.rpartition(":")[2]
        other.restart()
        assert closed(second)
    lab.run(f"lab.publish({port}).close()")


# ---- what is refused -------------------------------------------------------------------------------------


@needs_lab
def test_refusals_are_one_clear_line(lab: Kernel) -> None:
    said = {asked: lab.value(f"refusal(*{asked!r})") for asked in [
        (80,), (0,), (65536,), (-1,), ("x",), (8080.5,), (True,), (8080, "nowhere"), (8080, "127.0.0.1", -5)]}
    assert said[80,] == ("cannot publish port 80 outside the lab: those below 1024 are the machine's own "
                         "(Take 8080, say.)")
    assert said[8080, "nowhere"].startswith("not an IP address: nowhere")
    assert [text for asked, text in said.items() if asked not in [(80,), (8080, "nowhere")]
            and not text.startswith("not a port: ")] == []


@needs_lab
def test_a_port_that_is_taken_everywhere(lab: Kernel, port: int) -> None:
    with socket.create_server(("0.0.0.0", port)):
        assert lab.value(f"refusal({port})") == (
            f"cannot publish port {port} outside the lab: port {port} of the machine is taken "
            "(Take another one.)")


@needs_lab
def test_not_more_than_its_share(lab: Kernel) -> None:
    wanted = free_ports(outlet.MOST + 1)
    said = lab.value(f"[refusal(n) for n in {wanted}]")
    assert [text.startswith("granted") for text in said] == [True] * outlet.MOST + [False]
    assert f"{outlet.MOST} are in use" in said[-1]
    lab.run(f"for n in {wanted[:-1]}: granted[n].close()")
    time.sleep(1.5)  # it has heard many questions at once
    assert "granted" in lab.value(f"refusal({wanted[-1]})")
    lab.run(f"lab.publish({wanted[-1]}).close()")


@needs_lab
def test_from_another_network_nobody_is_heard(lab: Kernel) -> None:
    said = lab.value("""lab.run(lambda: (__import__("mycontainer.namespaces").namespaces.create(["net"]),
                                         refusal(8080))[1]).value""".replace("\n", " "))
    assert "nobody hears us" in said
    assert "another network namespace" in said


GARBAGE = [b"x", b"[" * 4000, b"{}", b"\xff" * 100, b"null", b"9" * 5000, b'{"port": 8080}',
           b'{"port": NaN, "host": "127.0.0.1", "inside": 1}',
           b'{"port": 8080, "host": "127.0.0.1\\u0000", "inside": 80}',
           b'{"port": 1e9, "host": "::1", "inside": 80}', b'{"port": 8080, "host": ["::1"], "inside": 80}']


@pytest.mark.parametrize("message", GARBAGE)
def test_what_is_no_question_is_refused(message: bytes) -> None:
    with pytest.raises(ContainerError):
        outlet.understand(message)


@needs_lab
def test_garbage_ends_nobody(lab: Kernel) -> None:
    for message in GARBAGE:
        assert "what" in lab.value(f"ask({message!r})[1]")
    lab.run(f"""
import os
lease, answer = ask(wish({free_ports(1)[0]}))
assert "address" in answer
lease.send(b"more")  # who says more than one word has said enough
assert lease.recv(10) == b""
lease = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
lease.connect({PLACE!r})
socket.send_fds(lease, [b"x"], [os.open("/dev/null", os.O_RDONLY)] * 50)
lease.recv(4096)""")
    assert len(os.listdir(f"/proc/{family(lab)['doorman']}/fd")) < 60
    assert lab.value("1 + 1") == 2


# ---- floods ----------------------------------------------------------------------------------------------


@needs_lab
def test_a_flood_of_questions(lab: Kernel, port: int) -> None:
    doorman = family(lab)["doorman"]
    lab.run(f"""
import threading, time
halt, asked = False, 0
def flood():
    global asked
    while not halt:
        try:
            ask(wish({port}))[0].close()
            asked += 1
        except OSError:
            time.sleep(0.001)
threads = [threading.Thread(target=flood, daemon=True) for _ in range(20)]
for one in threads: one.start()""")
    began = cpu_seconds(doorman)
    time.sleep(2)
    assert cpu_seconds(doorman) - began < 1
    assert len(os.listdir(f"/proc/{doorman}/fd")) < 100
    assert 0 < lab.value("asked") < outlet.BURST + 5 * outlet.PER_SECOND
    lab.run("halt = True\nfor one in threads: one.join()")
    time.sleep(1.5)
    assert "granted" in lab.value(f"refusal({port})")
    lab.run(f"lab.publish({port}).close()")


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@needs_lab
def test_a_flood_of_callers(lab: Kernel, port: int) -> None:
    """They come in turn, and the notebook goes on."""
    lab.run(f"serve({port})")
    url = lab.value(f"str(lab.publish({port}))")
    heard: list[str] = []

    def call() -> None:
        heard.extend(get(url) for _ in range(10))

    threads = [threading.Thread(target=call) for _ in range(20)]
    idle = [socket.create_connection(place(url)) for _ in range(outlet.CALLERS - 2)]
    for one in threads:
        one.start()
    assert lab.value("1 + 1") == 2
    assert len(os.listdir(f"/proc/{family(lab)['doorman']}/fd")) < 60 + 2 * outlet.CALLERS
    for one in threads:
        one.join()
    for caller in idle:
        caller.close()
    assert heard == ["from the lab"] * 200
    lab.run(f"lab.publish({port}).close()")


@needs_lab
def test_a_stopped_launcher_holds_up_nobody(tmp_path: Path, port: int) -> None:
    with kernel(tmp_path, tmp_path) as other:
        other.run(SERVE + ASK)
        os.kill(other.launcher, signal.SIGSTOP)
        try:
            other.run(f"""
for _ in range(60):
    lease = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    try:
        lease.connect({PLACE!r})
        lease.send(json.dumps(wish({port})).encode())
    except OSError:
        pass
    lease.close()""")
            assert other.value("1 + 1") == 2
        finally:
            os.kill(other.launcher, signal.SIGCONT)
        assert "granted" in other.value(f"refusal({port})")


# ---- whoever dies first ----------------------------------------------------------------------------------

ROLES = ("server", "launcher", "doorman", "init", "kernel")
PUBLISHES = ("import sys, time; from mycontainer import lab; "
             "print(lab.publish({port}), file=sys.stderr, flush=True); time.sleep(1000)")
SERVER = """
import subprocess, sys
launcher = '''
import os, sys
from mycontainer.lab.launcher import Lab
lab = Lab(os.getcwd())
lab.start([sys.executable, "-I", "-c", "PUBLISHES"])
print(lab.init, flush=True)
sys.exit(lab.watch())
'''
subprocess.run([sys.executable, "-c", launcher], start_new_session=True)
"""


@contextmanager
def publishing_lab(cwd: Path, port: int) -> Iterator[tuple[dict[str, int], str]]:
    """A lab under a server of its own that publishes a port: the pid of each role, and the URL."""
    script = SERVER.replace("PUBLISHES", PUBLISHES.format(port=port))
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, cwd=cwd) as server:
        assert server.stdout
        assert server.stderr
        init = int(server.stdout.readline())
        doorman = parent_of(init)
        roles = {"server": server.pid, "launcher": parent_of(doorman), "doorman": doorman, "init": init,
                 "kernel": children_of(init)[0]}
        try:
            yield roles, server.stderr.readline().strip()
        finally:
            for pid in roles.values():
                if pid != server.pid:
                    kill(pid)
            server.kill()
            sweep()


def assert_closed_after(order: tuple[str, ...], cwd: Path, port: int) -> None:
    with publishing_lab(cwd, port) as (roles, url):
        assert not closed(url, 0.1)
        for role in order:
            kill(roles[role])
        assert closed(url)
        assert wait_until_gone([pid for role, pid in roles.items() if role != "server"]) == []


@needs_lab
@pytest.mark.parametrize("order", [(one,) for one in ROLES] + list(itertools.permutations(ROLES[1:4], 2)),
                         ids="-".join)
def test_sigkills_leave_no_port_open(order: tuple[str, ...], tmp_path: Path, port: int) -> None:
    assert_closed_after(order, tmp_path, port)


@needs_lab
@pytest.mark.soak
@pytest.mark.parametrize("order", list(itertools.permutations(ROLES)), ids="-".join)
def test_sigkills_in_every_order_leave_no_port_open(order: tuple[str, ...], tmp_path: Path,
                                                    port: int) -> None:
    assert_closed_after(order, tmp_path, port)


# ---- who asks --------------------------------------------------------------------------------------------


@contextmanager
def answering(answer: bytes | None, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """A doorman who says this, or nothing at all; what they hear."""
    here = f"\0test-outlet-{os.getpid()}"
    monkeypatch.setattr(engine, "PLACE", here)
    monkeypatch.setattr(engine, "PATIENCE", 1)
    heard: list[Any] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(here)
        listener.listen()

        def hear() -> None:
            connection, _ = listener.accept()
            with connection:
                heard.append(json.loads(connection.recv(5000)))
                connection.send(answer) if answer else time.sleep(0 if answer == b"" else 1.2)

        thread = threading.Thread(target=hear)
        thread.start()
        yield heard
        thread.join()


def test_the_question_names_who_listens_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are found at their loopback address, whose callers the relay knows how to tell apart."""
    with answering(b'{"address": "127.0.0.2"}', monkeypatch) as heard:
        granted = engine.ask(8080, "0.0.0.0")
        granted.lease.close()
    assert heard == [{"port": 8080, "host": "127.0.0.1", "inside": 8080}]
    assert granted.url == "http://127.0.0.2:8080"


@pytest.mark.parametrize(("answer", "reason"), [(None, "no answer"), (b"", "the lab ends"), (
    b'{"what": "no", "reason": "taken", "hint": "another"}', "no: taken")])
def test_an_answer_that_is_none(answer: bytes | None, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(answer, monkeypatch), pytest.raises(ContainerError, match=reason):
        engine.ask(8080)


# ---- without a lab ---------------------------------------------------------------------------------------


def test_the_learner_may_choose_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MYCONTAINER_PUBLISH_ADDRESS", "127.0.0.1")
    assert list(outlet.addresses()) == ["127.0.0.1"]


def test_which_published_ports_are_led_out() -> None:
    def port(address: str, outside: int, protocol: str = "tcp") -> ports.Port:
        return ports.Port((address,), outside, 80, protocol)

    asked = worth_asking([port("127.0.0.1", 1), port("::1", 1), port("::1", 2), port("::", 3),
                          port("0.0.0.0", 3), port("127.0.0.1", 4, "udp")])
    assert [(one.addresses[0], one.outside) for one in asked] == [
        ("127.0.0.1", 1), ("::1", 2), ("0.0.0.0", 3)]
    assert EVERYBODY == {"0.0.0.0": "127.0.0.1", "::": "::1"}


def test_outside_of_a_lab_there_is_nothing_to_open(monkeypatch: pytest.MonkeyPatch) -> None:
    from mycontainer.lab.publish import publish

    monkeypatch.delenv("MYCONTAINER_LAB", raising=False)
    assert [str(publish(8080)), str(publish(8080, "::1", 80))] == ["http://127.0.0.1:8080", "http://[::1]:80"]


def _every_address_is_taken_by_one() -> list[str]:
    from mycontainer import namespaces

    namespaces.raise_loopback()
    opened = [outlet.open_port(8080) for _ in range(len(outlet.ADDRESSES))]
    with pytest.raises(ContainerError, match="port 8080 of the machine is taken"):
        outlet.open_port(8080)
    for listener, _ in opened:
        listener.close()
    return [address for _, address in opened]


@needs_userns
def test_the_first_address_that_is_free() -> None:
    assert inside(_every_address_is_taken_by_one, kinds=("user", "net")) == outlet.ADDRESSES


# ---- cookies ---------------------------------------------------------------------------------------------


def cookies_for(url: str) -> str | None:
    """What a client sends there that has got JupyterLab's cookies at 127.0.0.1 and at localhost."""
    jar = http.cookiejar.CookieJar()
    for host in ("127.0.0.1", "localhost"):
        asked: Any = urllib.request.Request(f"http://{host}:8888/lab")
        answer = Message()
        answer["Set-Cookie"] = f"username-{host}-8888=secret; Path=/; HttpOnly; SameSite=Strict"
        jar.extract_cookies(type("Answer", (), {"info": lambda self, m=answer: m})(), asked)  # type: ignore[arg-type]
    request = urllib.request.Request(url)
    jar.add_cookie_header(request)
    return request.get_header("Cookie")


def test_cookies_do_not_look_at_ports_but_at_hosts() -> None:
    """In a real browser: test_course_browser.py."""
    assert "secret" in (cookies_for("http://127.0.0.1:8080/") or "")  # which is why it is not there
    assert [address for address in outlet.ADDRESSES if cookies_for(f"http://{address}:8888/")] == []
