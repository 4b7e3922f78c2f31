"""A cell's output is shown in the page that may delete files: in a real browser, no script of it runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from html import escape
from pathlib import Path
from typing import Any

import pytest

import browser
from needs import needs_lab, needs_module
from test_course import TOKEN, Server

SCRIPT = """
(window.mcRan = window.mcRan || []).push('HOW');
(() => {
    const headers = {'X-XSRFToken': (document.cookie.match('_xsrf=([^;]+)') || [])[1]};
    fetch('/api/contents/deleted.ipynb', {method: 'DELETE', headers});
    fetch('/api/contents/overwritten.ipynb', {method: 'PUT', headers, body:
          JSON.stringify({type: 'file', format: 'text', content: 'HOW'})});
})();"""


def script(how: str) -> str:
    """A script that deletes one file, overwrites another, and leaves its name in the page."""
    return " ".join(SCRIPT.replace("HOW", how).split())


def attack(how: str, template: str, quoted: bool = True) -> str:
    """HTML that would run the script."""
    return template.replace("JS", escape(script(how)) if quoted else script(how))


HTML = {
    "script element": attack("script element", "<script>JS</script>", quoted=False),
    "module": attack("module", "<script type=module>JS</script>", quoted=False),
    "event": attack("event", '<img src=nowhere onerror="JS">'),
    "svg": attack("svg", '<svg onload="JS"><script>JS</script></svg>'),
    "details": attack("details", '<details open ontoggle="JS">x</details>'),
    "srcdoc": f'<iframe srcdoc="{escape(attack("srcdoc", "<script>top.eval(`JS`)</script>", quoted=False))}">'
              "</iframe>",
    "javascript frame": attack("javascript frame", '<iframe src="javascript:top.eval(`JS`)"></iframe>'),
    "javascript link": attack("javascript link", '<a class="click-me" href="javascript:JS">click</a>'),
    "file": '<script src="/files/evil.js"></script>',
    "exported": '<script src="/nbconvert/script/evil.ipynb"></script>',
    "refresh": attack("refresh", '<meta http-equiv="refresh" content="0;url=javascript:JS">'),
    "base": '<base href="http://127.0.0.1:1/">',
}
CELLS = [
    "import ipywidgets\nfrom IPython.display import HTML, SVG, Javascript, display",
    f"display(Javascript({script('javascript')!r}))",
    *(f"display(HTML({text!r}))" for text in HTML.values()),
    f"display({{'text/markdown': {HTML['event']!r}, 'image/svg+xml': {HTML['svg']!r}}}, raw=True)",
    f"display({{'text/markdown': {HTML['event']!r}}}, raw=True)",
    f"ipywidgets.HTML({HTML['event'] + HTML['script element']!r})",
    f"out = ipywidgets.Output()\ndisplay(out)\nwith out: display(Javascript({script('in a widget')!r}))",
    "ipywidgets.Label('a widget is shown')",
    "print('all', 'done')",
]


def notebook(*sources: str) -> str:
    """A notebook as its file."""
    cells: list[object] = [{"cell_type": "code", "id": f"c{number}", "source": source, "metadata": {},
                            "outputs": [], "execution_count": None} for number, source in enumerate(sources)]
    spec = {"name": "container-lab", "display_name": "Container Lab", "language": "python"}
    return json.dumps({"cells": cells, "metadata": {"kernelspec": spec}, "nbformat": 4, "nbformat_minor": 5})


def run_all(server: Server, name: str, last: str) -> Any:
    """All cells of a notebook, in the browser: what is to be seen then."""
    url = f"http://127.0.0.1:{server.port}/lab/tree/{name}?token={TOKEN}"
    with tempfile.TemporaryDirectory() as home:  # a short path: the browser has a socket in there
        places = dict.fromkeys(("HOME", "TMPDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"), home)
        done = subprocess.run([sys.executable, browser.__file__, url, last], capture_output=True, text=True,
                              env={**os.environ, **places})
    assert done.returncode == 0, done.stderr + server.stop()
    return json.loads(done.stdout)


@needs_lab
@needs_module("jupyterlab")
@needs_module("playwright")
@pytest.mark.skipif(not browser.CHROMIUM, reason="needs the program chromium")
def test_nothing_that_a_cell_displays_can_delete_or_overwrite_a_file(tmp_path: Path) -> None:
    server = Server(tmp_path)
    workspace = tmp_path / "workspace"
    try:
        server.wait_until_up()
        (workspace / "attack.ipynb").write_text(notebook(*CELLS))
        (workspace / "evil.js").write_text(script("file"))
        for name in ("deleted", "overwritten"):
            (workspace / f"{name}.ipynb").write_text(notebook("'three years of work'"))
        seen = run_all(server, "attack.ipynb", "all done")
    finally:
        said = server.stop()
    assert seen["scripts"] == []
    for name in ("deleted", "overwritten"):
        assert "three years of work" in (workspace / f"{name}.ipynb").read_text()
    assert any("a widget is shown" in text for text in seen["outputs"])
    assert "token" not in seen["address"]
    assert "websocket_ping" not in said
