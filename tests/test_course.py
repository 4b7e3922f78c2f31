"""`make course`: a JupyterLab in which every kernel and terminal is in the lab."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from mycontainer.errors import ContainerError
from mycontainer.lab import course, exercises, kernelspec, record
from needs import needs_lab, needs_module

with suppress(ImportError):
    import lab_kernel  # noqa: F401 (it has jupyter_client make its event loop before any test is watched)

TOKEN = "a-secret-of-the-server"
LIMIT = 30  # seconds until the server must answer on a slow machine


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_port_that_is_taken_is_one_clear_line(taken: int) -> None:
    with pytest.raises(ContainerError, match=f"port {taken}: Address already in use") as refusal:
        course.free_port(taken)
    assert "make course PORT=" in refusal.value.hint


def test_without_a_wish_the_next_free_port_is_taken(taken: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(course, "FIRST_PORT", taken)
    monkeypatch.setattr(course, "LAST_PORT", taken + 50)
    assert taken < course.free_port() <= taken + 50


@pytest.mark.parametrize(
    ("browser", "display", "expected"),
    [("none", ":0", False), ("", ":0", True), ("firefox", ":0", True), ("", "", False)],
)
def test_a_browser_is_opened_only_where_there_is_a_screen(
    monkeypatch: pytest.MonkeyPatch, browser: str, display: str, expected: bool
) -> None:
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setenv("BROWSER", browser)
    monkeypatch.setenv("DISPLAY", display)
    assert course.wants_browser() is expected


def test_terminals_open_in_the_lab_and_import_nothing_from_the_workspace(tmp_path: Path) -> None:
    settings = course.server_settings(tmp_path, 1, "", False)["ServerApp"]["terminado_settings"]
    assert settings["shell_command"] == [kernelspec.interpreter(), "-I", "-m", "mycontainer.lab.terminal"]


def test_the_chapter_that_was_worked_on_last_is_opened(tmp_path: Path) -> None:
    assert course.first_page(tmp_path) == "/lab"
    for name in ("00_start_here", "01_chroot", "01_chroot-Copy1", "02_namespaces"):
        (tmp_path / f"{name}.ipynb").touch()
    assert course.first_page(tmp_path) == "/lab/tree/00_start_here.ipynb"
    events = [b'{"exercise": "namespaces.join"}', b'{"exercise": "chroot.enter"}', b'{"exercise": 7}', b"[]",
              b'{"exercise": "no_chapter.x"}', b"\xff", b'{"exercise": "../../etc/passwd"}', b'{"exer']
    (tmp_path / record.FILE).write_bytes(b"\n".join(events))
    assert course.first_page(tmp_path) == "/lab/tree/01_chroot.ipynb"
    (tmp_path / "01_chroot.ipynb").unlink()
    assert course.first_page(tmp_path) == "/lab"


def test_each_chapters_exercises_lead_to_a_notebook(tmp_path: Path) -> None:
    found = []
    for chapter in exercises.CHAPTERS:
        for name in course.CHAPTERS:
            (tmp_path / name).touch()
        (tmp_path / record.FILE).write_text(f'{{"exercise": "{chapter}.x"}}')
        found.append(course.first_page(tmp_path).removeprefix("/lab/tree/"))
    assert found == course.CHAPTERS


def test_the_keys_of_two_workspaces_lie_apart_and_in_no_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MYCONTAINER_HOME", str(tmp_path / "data"))
    one, other = (course.jupyter_home(tmp_path / name / "workspace") for name in ("one", "other"))
    assert one != other
    assert one == course.jupyter_home(tmp_path / "one" / "workspace")
    assert one.stat().st_mode & 0o777 == 0o700
    assert one.is_relative_to(tmp_path / "data")
    (tmp_path / "file").touch()
    monkeypatch.setenv("MYCONTAINER_HOME", str(tmp_path / "file"))
    with pytest.raises(ContainerError, match=f"cannot make {tmp_path}/file/jupyter/"):
        course.jupyter_home(tmp_path)


def test_the_page_may_run_its_own_scripts_only() -> None:
    settings = course.server_settings(Path("/nowhere"), 1, "", False)["ServerApp"]
    policy = settings["tornado_settings"]["headers"]["Content-Security-Policy"]
    scripts = next(part.split() for part in policy.split("; ") if part.startswith("script-src "))
    assert {"'unsafe-inline'", "*", "data:", "blob:", "http:", "https:"}.isdisjoint(scripts)
    assert sum(word.startswith("'sha256-") for word in scripts) == 1, "of the script that hides the token"


class Server:
    """JupyterLab as `make course BROWSER=none` starts it, on a workspace of its own."""

    def __init__(self, directory: Path) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "JUPYTER"))}
        self.port, self.said = course.free_port(), ""
        options = ["--workspace", str(directory / "workspace"), "--port", str(self.port)]
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-m", "mycontainer.lab.course", *options],
            env={**environment, "BROWSER": "none", "JUPYTER_TOKEN": TOKEN, "HOME": str(directory),
                 "MYCONTAINER_HOME": str(directory / "data")},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def ask(self, path: str, method: str = "GET", token: str = TOKEN, **headers: str) -> Any:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", method=method)
        for name, value in {"Authorization": f"token {token}", **headers}.items():
            request.add_header(name, value)
        with urllib.request.urlopen(request, timeout=LIMIT) as answer:
            text = answer.read().decode()
        return json.loads(text) if answer.headers.get_content_subtype() == "json" else text

    def wait_until_up(self) -> None:
        """Until the address is printed: then it must answer."""
        assert self.process.stdout
        for line in self.process.stdout:
            self.said += line
            if line.startswith("JupyterLab: "):
                self.ask("/api")
                return
        raise AssertionError(f"the server did not start: {self.said}")

    def stop(self) -> str:
        self.process.send_signal(signal.SIGTERM)
        return self.said + self.process.communicate(timeout=LIMIT)[0]


@needs_module("jupyterlab")
def test_the_server_offers_the_lab_and_nothing_else(tmp_path: Path) -> None:
    server = Server(tmp_path)
    try:
        server.wait_until_up()
        specs = server.ask("/api/kernelspecs")
        page = server.ask("/lab")
        with pytest.raises(urllib.error.HTTPError, match="403"):
            server.ask("/api/kernelspecs", token="guessed")
    finally:
        said = server.stop()
    assert f"JupyterLab: http://127.0.0.1:{server.port}/lab" in said
    assert f"token={TOKEN}" in said
    assert "Traceback" not in said
    assert set(specs["kernelspecs"]) <= {kernelspec.NAME}, "a plain kernel would run outside the lab"
    assert specs["default"] == kernelspec.NAME
    script = page.partition('id="jupyter-config-data"')[2].partition(">")[2]
    settings = json.loads(script.partition("</script>")[0])
    assert "@jupyterlab/apputils-extension:announcements" in settings["disabledExtensions"]
    assert settings["extensionManager"]["can_install"] is False
    assert (tmp_path / "workspace").is_dir()


@needs_module("jupyterlab")
def test_the_servers_files_are_nobodys_script(tmp_path: Path) -> None:
    """Scripts from the server's own address are allowed: the learner's files must not be such."""
    server = Server(tmp_path)
    try:
        server.wait_until_up()
        (tmp_path / "workspace" / "evil.js").write_text("1")
        assert server.ask("/files/evil.js") == "1"
        for path in ("/files/evil.js", "/nbconvert/script/00_start_here.ipynb"):
            with pytest.raises(urllib.error.HTTPError, match="403"):
                server.ask(path, **{"Sec-Fetch-Dest": "script"})
    finally:
        server.stop()


@needs_lab
def test_a_cell_finds_no_keys_of_the_server(tmp_path: Path) -> None:
    """Through the kernel that the server starts: no token, no key of another kernel, no secret."""
    server = Server(tmp_path)
    try:
        server.wait_until_up()
        ids = [server.ask("/api/kernels", "POST")["id"] for _ in range(2)]
        (home,) = (tmp_path / "data" / "jupyter").iterdir()
        outside = {path.name for path in home.rglob("*")}
        assert {f"kernel-{id}.json" for id in ids} < outside
        assert {"jupyter_cookie_secret", f"jpserver-{server.process.pid}.json"} < outside
        keys = [json.loads((home / "runtime" / f"kernel-{id}.json").read_text())["key"] for id in ids]
        seen = run_in_kernel(home / "runtime" / f"kernel-{ids[0]}.json", f"""
import os
from pathlib import Path
wanted = ("jpserver-*", "kernel-*.json", "*_secret", "nbsignatures.db", "jupyter_server_config.json")
trees = [top for top in Path("/").iterdir() if str(top) not in ("/proc", "/sys", "/dev")]
found = [str(path) for tree in trees for path in tree.rglob("*") if any(map(path.match, wanted))]
connection = [path for path in Path("/run").rglob("*.json") if {keys[0]!r} in path.read_text()]
print(found, len(connection), {TOKEN!r} in str(os.environ), os.access({str(home)!r}, os.F_OK))""")
        assert seen.split() == ["[]", "1", "False", "False"]
        assert TOKEN not in keys
        for id in ids:
            server.ask(f"/api/kernels/{id}", "DELETE")
    finally:
        server.stop()


def wait_until_ready(client: Any) -> None:
    """The client takes a kernel that is still starting for a dead one."""
    deadline = time.monotonic() + LIMIT
    while True:
        try:
            client.wait_for_ready(timeout=LIMIT)
            return
        except RuntimeError:
            assert time.monotonic() < deadline, "the kernel does not answer"


def run_in_kernel(connection_file: Path, code: str) -> str:
    """Run a cell in a kernel that somebody else has started; returns what it printed."""
    from jupyter_client.blocking.client import BlockingKernelClient

    client = BlockingKernelClient(connection_file=str(connection_file))
    client.load_connection_file()
    client.start_channels()
    printed: list[str] = []
    try:
        wait_until_ready(client)
        client.execute_interactive(code, timeout=60, store_history=False, output_hook=lambda message: (
            printed.extend([message["content"].get("text", ""), *message["content"].get("traceback", [])])))
    finally:
        client.stop_channels()
        client.context.destroy(linger=0)
    return "".join(printed)
