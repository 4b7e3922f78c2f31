"""`make course`: JupyterLab on the learner's workspace, with every kernel and every terminal in the lab.

The server stays outside the lab: it saves the notebooks, which no cell can reach. Its settings live in the
checkout (`.cache/jupyter`) and not in the learner's home, and nothing it does needs the internet.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import socket
import sys
from pathlib import Path
from typing import Any

from mycontainer.errors import ContainerError
from mycontainer.lab import kernelspec, workspace

FIRST_CHAPTER = "00_start_here.ipynb"
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


def server_settings(directory: Path, port: int, address: str, browser: bool) -> dict[str, Any]:
    """The whole jupyter_server_config.json. https://jupyter-server.readthedocs.io, "Configuration"."""
    chapter = f"/lab/tree/{FIRST_CHAPTER}" if (directory / FIRST_CHAPTER).is_file() else "/lab"
    return {
        "ServerApp": {
            "root_dir": str(directory),
            "ip": address,
            "port": port,
            "port_retries": 0,  # the address that we print is the one that answers
            "open_browser": browser,
            "allow_root": os.geteuid() == 0,  # the server runs as root then; the cells never do
            # -I: a terminal starts in the workspace, and a json.py there must not run outside the lab.
            "terminado_settings": {
                "shell_command": [kernelspec.interpreter(), "-I", "-m", "mycontainer.lab.terminal"]
            },
        },
        "LabApp": {
            "default_url": chapter,
            "news_url": None,
            "check_for_updates_class": "jupyterlab.handlers.announcements.NeverCheckForUpdate",
            "extension_manager": "readonly",  # the other one asks a package index
        },
        # ipykernel brings a plain "Python 3" too, whose cells would run outside the lab.
        "KernelSpecManager": {"ensure_native_kernel": False, "allowed_kernelspecs": [kernelspec.NAME]},
        "MultiKernelManager": {"default_kernel_name": kernelspec.NAME},
        "Application": {"log_level": "WARN"},
    }


# Asking "would you like news?" and asking the internet for new versions: neither belongs into a class room.
PAGE_SETTINGS = {
    "disabledExtensions": {
        "@jupyterlab/apputils-extension:announcements": True,
        "@jupyterlab/extensionmanager-extension:plugin": True,
    }
}


def write_settings(home: Path, settings: dict[str, Any]) -> dict[str, str]:
    """Write both files below `home`; returns the environment variables that lead Jupyter there."""
    for path, content in {
        home / "config" / "jupyter_server_config.json": settings,
        home / "config" / "labconfig" / "page_config.json": PAGE_SETTINGS,
    }.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1))
    return {"JUPYTER_CONFIG_DIR": str(home / "config"), "JUPYTER_DATA_DIR": str(home / "data")}


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
    """Become JupyterLab. Returns only by raising ContainerError."""
    written = workspace.sync(workspace.course(), directory)
    port = free_port(port)
    settings = server_settings(directory, port, address, wants_browser())
    os.environ.update(write_settings(directory.parent / ".cache" / "jupyter", settings))
    trust(written)
    os.environ["JUPYTER_TOKEN"] = token = os.environ.get("JUPYTER_TOKEN") or secrets.token_urlsafe(24)
    os.environ["MYCONTAINER_WORKSPACE"] = str(directory)
    if os.environ.get("BROWSER") == "none":
        del os.environ["BROWSER"]  # to everybody else that is the name of a program
    print(f"\nJupyterLab: http://127.0.0.1:{port}{settings['LabApp']['default_url']}?token={token}")
    print("Your notebooks are in workspace/. Stop with Ctrl-C, twice.\n", flush=True)
    os.execv(sys.executable, [sys.executable, "-I", "-m", "jupyterlab"])


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
