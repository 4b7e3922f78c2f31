"""`make course`: JupyterLab on the learner's workspace, with every kernel and every terminal in the lab.

The server stays outside the lab: it saves the notebooks, which no cell can reach. So two things must not
come out of a cell. A script: what a cell displays is shown in the very page that may write and delete files.
And the server's keys: they lie in a directory that no lab shows. Nothing here needs the internet.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import re
import secrets
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from mycontainer import paths
from mycontainer.errors import ContainerError, explain
from mycontainer.lab import kernelspec, workspace
from mycontainer.lab.record import FILE as PROGRESS

CHAPTERS = sorted(path.name for path in workspace.course().glob("[0-9][0-9]_*.ipynb"))
FIRST_CHAPTER = "00_start_here.ipynb"
NAMES = {"bench": "containers_"}  # exercises whose chapter's file has another name
FIRST_PORT, LAST_PORT = 8888, 8987


def free_port(wanted: int = 0) -> int:
    """`wanted` if it is free, or without a wish the first free port from 8888 on. Raises ContainerError."""
    for port in [wanted] if wanted else range(FIRST_PORT, LAST_PORT + 1):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                refusal = error.strerror or ""
                continue
            return port
    raise ContainerError(
        f"cannot listen on port {wanted or FIRST_PORT}", refusal, "Choose another: make course PORT=9000"
    )


def first_page(directory: Path) -> str:
    """Where JupyterLab opens: the chapter that the learner last worked in, chapter 0 for a beginner."""
    name = FIRST_CHAPTER
    for line in _read(directory / PROGRESS).splitlines():
        with suppress(ValueError, TypeError, AttributeError):  # half a line, or somebody's editor
            chapter = json.loads(line).get("exercise", "").partition(".")[0]
            begins = NAMES.get(chapter, chapter)
            name = next((one for one in CHAPTERS if chapter and one.startswith(begins, 3)), name)
    return f"/lab/tree/{name}" if (directory / name).is_file() else "/lab"


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def server_settings(directory: Path, port: int, address: str, browser: bool) -> dict[str, Any]:
    """The whole jupyter_server_config.json. https://jupyter-server.readthedocs.io, "Configuration"."""
    return {
        "ServerApp": {
            "root_dir": str(directory),
            "ip": address,
            "port": port,
            "port_retries": 0,  # the address that we print is the one that answers
            "open_browser": browser,
            "allow_root": os.geteuid() == 0,  # the server runs as root then; the cells never do
            "authorizer_class": "mycontainer.lab.gate.NoScripts",
            "tornado_settings": {
                "headers": {"Content-Security-Policy": content_security_policy()},
                # Most browsers have it so anyway: who asks from the page of another site is not the learner.
                "xsrf_cookie_kwargs": {"path": "/", "samesite": "Lax"},
                "ws_ping_interval": 0,  # Jupyter's and Tornado's pings disagree, and say so in the terminal
            },
            # -I: a terminal starts in the workspace, and a json.py there must not run outside the lab.
            "terminado_settings": {
                "shell_command": [kernelspec.interpreter(), "-I", "-m", "mycontainer.lab.terminal"]
            },
        },
        "IdentityProvider": {"cookie_options": {"samesite": "Lax"}},
        "LabApp": {
            "default_url": first_page(directory),
            "news_url": None,
            "check_for_updates_class": "jupyterlab.handlers.announcements.NeverCheckForUpdate",
            "extension_manager": "readonly",  # the other one asks a package index
        },
        # ipykernel brings a plain "Python 3" too, whose cells would run outside the lab.
        "KernelSpecManager": {"ensure_native_kernel": False, "allowed_kernelspecs": [kernelspec.NAME]},
        "MultiKernelManager": {"default_kernel_name": kernelspec.NAME},
        "Application": {"log_level": "WARN"},
    }


def content_security_policy() -> str:
    """Which scripts a browser runs in our pages: JupyterLab's own files, and none that a cell displays.

    A script in the page could do all that the learner can: delete notebooks, open a terminal. 'unsafe-eval'
    has to stay, JupyterLab compiles the schemas of its settings; what evaluates a cell's words for it is
    switched off in PAGE_SETTINGS. https://www.w3.org/TR/CSP3/
    """
    page = _read(Path(sys.prefix, "share", "jupyter", "lab", "static", "index.html"))
    own = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
           for script in re.findall(r"<script>(.*?)</script>", page, re.DOTALL)]  # it hides the token
    scripts = " ".join(["'self'", "'unsafe-eval'", *(f"'sha256-{digest}'" for digest in own)])
    return f"frame-ancestors 'self'; base-uri 'none'; script-src {scripts}; worker-src 'self' blob:"


PAGE_SETTINGS = {
    "disabledExtensions": {
        # "Would you like news?", and asking the internet for new versions: neither belongs into a class room.
        "@jupyterlab/apputils-extension:announcements": True,
        "@jupyterlab/extensionmanager-extension:plugin": True,
        # They evaluate what a cell displays, in the page: see content_security_policy.
        "@jupyterlab/javascript-extension": True,
        "@jupyterlab/vega5-extension": True,
    }
}


def jupyter_home(directory: Path) -> Path:
    """The server's own directory, one for each workspace: settings, signatures, and its keys.

    With the keys of a kernel or the token of the server a cell could act outside the lab. So it must lie in
    no directory that the lab shows: not in the checkout. Raises ContainerError if it cannot be made.
    """
    name = hashlib.sha256(os.fsencode(directory.resolve())).hexdigest()[:12]
    home = Path(paths.data_dir(), "jupyter", name)
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        home.chmod(0o700)
    except OSError as error:
        raise explain(f"cannot make {home}", error) from error
    return home


def write_settings(home: Path, settings: dict[str, Any]) -> dict[str, str]:
    """Write both files below `home`; returns the environment variables that lead Jupyter there."""
    for path, content in {
        home / "config" / "jupyter_server_config.json": settings,
        home / "config" / "labconfig" / "page_config.json": PAGE_SETTINGS,
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1))
    return {"JUPYTER_CONFIG_DIR": str(home / "config"), "JUPYTER_DATA_DIR": str(home / "data"),
            "JUPYTER_RUNTIME_DIR": str(home / "runtime")}


def trust(notebooks: list[Path]) -> None:
    """Sign our own chapters, so that their figures show before a cell has run. `nbformat.sign`."""
    if not notebooks:
        return
    import nbformat
    from nbformat.sign import NotebookNotary

    notary = NotebookNotary()
    for path in notebooks:
        notary.sign(nbformat.read(path, as_version=4))


def wants_browser() -> bool:
    """Whether to open one: not with BROWSER=none, and not where there is no screen."""
    screen = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return bool(screen) and os.environ.get("BROWSER") != "none"


def start(port: int, address: str, directory: Path) -> None:
    """Serve JupyterLab until Ctrl-C. Raises ContainerError if that cannot begin."""
    written = workspace.sync(workspace.course(), directory)
    port = free_port(port)
    settings = server_settings(directory, port, address, wants_browser())
    os.environ.update(write_settings(jupyter_home(directory), settings))
    trust(written)
    os.environ["JUPYTER_TOKEN"] = token = os.environ.get("JUPYTER_TOKEN") or secrets.token_urlsafe(24)
    os.environ["MYCONTAINER_WORKSPACE"] = str(directory)
    if os.environ.get("BROWSER") == "none":
        del os.environ["BROWSER"]  # to everybody else that is the name of a program
    print("Starting JupyterLab ...", flush=True)
    from jupyterlab.labapp import LabApp  # reads the environment, and takes a second

    def say_where() -> None:
        print(f"\nJupyterLab: http://127.0.0.1:{port}{settings['LabApp']['default_url']}?token={token}")
        print("Your notebooks are in workspace/. Stop with Ctrl-C, twice.\n", flush=True)

    server = LabApp.initialize_server(argv=[])
    server.io_loop.add_callback(say_where)  # behind the callback that makes it listen
    server.start()


def main() -> int:
    """`python -m mycontainer.lab.course [--port PORT] [--address ADDRESS] [--workspace DIRECTORY]`."""
    parser = argparse.ArgumentParser(description="JupyterLab on the learner's workspace.")
    parser.add_argument("--port", type=int, default=0, help="default: the first free one from 8888 on")
    parser.add_argument("--address", default="127.0.0.1", help="where to listen; 0.0.0.0 is everywhere")
    parser.add_argument("--workspace", type=Path, default=workspace.default())
    options = parser.parse_args()
    try:
        start(options.port, options.address, options.workspace.absolute())
    except ContainerError as error:
        print(f"mycontainer: {error}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
