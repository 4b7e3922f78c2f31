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
from pathlib import Path
from typing import Any

import pytest

from mycontainer.errors import ContainerError
from mycontainer.lab import course, kernelspec
from needs import needs_module

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


def test_chapter_0_is_opened_once_it_is_there(tmp_path: Path) -> None:
    assert course.server_settings(tmp_path, 1, "", False)["LabApp"]["default_url"] == "/lab"
    (tmp_path / course.FIRST_CHAPTER).touch()
    url = course.server_settings(tmp_path, 1, "", False)["LabApp"]["default_url"]
    assert url == "/lab/tree/00_start_here.ipynb"


class Server:
    """JupyterLab as `make course BROWSER=none` starts it, on a workspace of its own."""

    def __init__(self, directory: Path) -> None:
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "JUPYTER"))}
        self.port = course.free_port()
        options = ["--workspace", str(directory / "workspace"), "--port", str(self.port)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mycontainer.lab.course", *options],
            env={**environment, "BROWSER": "none", "JUPYTER_TOKEN": "secret"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip

    def ask(self, path: str, token: str = "secret") -> Any:
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}")
        request.add_header("Authorization", f"token {token}")
        with urllib.request.urlopen(request, timeout=LIMIT) as answer:
            text = answer.read().decode()
        return json.loads(text) if answer.headers.get_content_subtype() == "json" else text

    def wait_until_up(self) -> None:
        deadline = time.monotonic() + LIMIT
        while True:
            try:
                self.ask("/api")
                return
            except urllib.error.URLError:
                assert self.process.poll() is None, self.stop()
                assert time.monotonic() < deadline, "the server does not answer"
                time.sleep(0.05)

    def stop(self) -> str:
        self.process.send_signal(signal.SIGTERM)
        return self.process.communicate(timeout=LIMIT)[0]


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
    assert "token=secret" in said
    assert "Traceback" not in said
    assert set(specs["kernelspecs"]) <= {kernelspec.NAME}, "a plain kernel would run outside the lab"
    assert specs["default"] == kernelspec.NAME
    script = page.partition('id="jupyter-config-data"')[2].partition(">")[2]
    settings = json.loads(script.partition("</script>")[0])
    assert "@jupyterlab/apputils-extension:announcements" in settings["disabledExtensions"]
    assert settings["extensionManager"]["can_install"] is False
    assert (tmp_path / "workspace").is_dir()
