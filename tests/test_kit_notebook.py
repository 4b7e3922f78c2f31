"""The kit in a real notebook kernel: strict nbval agrees with itself, and nothing reaches the kernel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from needs import needs_module, needs_userns

nbformat = pytest.importorskip("nbformat", reason="needs the Python module nbformat")
pytestmark = [needs_userns, needs_module("ipykernel"), needs_module("nbconvert"), needs_module("nbval")]
HERE = Path(__file__).parent
SOURCE = f"""
import os, sys
sys.path[:0] = {[str(HERE), str(HERE.parent)]!r}
from mycontainer import lab, syscalls, chroot
from mycontainer.lab import exercises
exercises.add("demo", "kit_demo")
---
@lab.child
def fails():
    print("pid differs:", os.getpid() != 1)
    os.write(2, b"raw\\n")
    syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)
    syscalls.mount("x", "/nowhere", "proc")
fails()
---
def my_rename(name):
    ...
lab.check("demo.rename", my_rename)
---
def solves(name):
    syscalls.unshare(syscalls.CLONE_NEWUTS | syscalls.CLONE_NEWIPC)
    syscalls.sethostname(name)
lab.check("demo.rename", solves)
---
lab.progress()
lab.hint("demo.first")
lab.solution("demo.first")
---
lab.solution("demo.first")
---
lab.predict("demo.where")
lab.predict("demo.where", "a")
lab.reveal("demo.where")
---
lab.source(chroot.enter)
---
lab.run(lambda: 3)
---
lab.sh("echo out; echo err >&2; exit 3", show=True)
---
print(lab.mine("demo.rename").__name__, lab.mine("demo.first").__name__)
"""
CELLS = [cell.strip() for cell in SOURCE.split("---\n")]


def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "IPYTHONDIR": str(tmp_path / "ipython"),
            "JUPYTER_RUNTIME_DIR": str(tmp_path / "run")}


def execute(path: Path, cells: list[str]) -> None:
    """Write a notebook with these cells and run it with nbconvert."""
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells],
                                    metadata={"kernelspec": kernel})
    nbformat.write(made, path)
    command = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "--inplace", str(path)]
    subprocess.run(command, env=environment(path.parent), check=True, capture_output=True, timeout=100)


def outputs(notebook: Path) -> list[dict[str, Any]]:
    return [output for cell in json.loads(notebook.read_text())["cells"] for output in cell["outputs"]]


@pytest.fixture(scope="module")
def notebook(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cells, executed once by nbconvert."""
    path = tmp_path_factory.mktemp("notebook") / "kit.ipynb"
    execute(path, CELLS)
    return path


def test_strict_nbval_sees_no_difference(notebook: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "--nbval", "-q", "-p", "no:cacheprovider",
               "--rootdir", str(notebook.parent), "-c", os.devnull, str(notebook)]
    done = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout[-3000:]
    assert f"{len(CELLS)} passed" in done.stdout


def test_what_a_cell_shows(notebook: Path) -> None:
    shown = outputs(notebook)
    text = "".join("".join(one.get("text", "")) for one in shown if one["output_type"] == "stream")
    assert "pid differs: True" in text
    assert "raw\n" in text
    assert "your cell, line 6, in fails" in text
    assert "ipykernel_" not in json.dumps(shown), "a cell's file name holds a pid"
    assert not [one for one in shown if one["output_type"] == "error"]


def test_cards_have_the_same_words_in_text_and_in_html(notebook: Path) -> None:
    cards = [one["data"] for one in outputs(notebook) if "text/html" in one.get("data", {})]
    assert len(cards) >= 7
    for card in cards:
        html = "".join(card["text/html"])
        assert "var(--jp-" in html, "colours of the theme, so that it is right in light and in dark"
        for word in "".join(card["text/plain"]).replace('"', "").replace("'", "").split():
            assert word in html.replace("&quot;", "").replace("&#x27;", ""), word


def test_the_kernel_itself_is_untouched(tmp_path: Path) -> None:
    """The namespaces of the kernel after the cells are those before."""
    look = "{kind: os.readlink(f'/proc/self/ns/{kind}') for kind in os.listdir('/proc/self/ns')}"
    cells = [CELLS[0], f"before = {look}", *CELLS[1:4],
             f"print({look} == before, os.readlink('/proc/self/root'))"]
    execute(tmp_path / "kit.ipynb", cells)
    assert "".join(outputs(tmp_path / "kit.ipynb")[-1]["text"]) == "True /\n"
