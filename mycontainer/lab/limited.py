"""Cells that need cgroups, and what becomes of them where a lab has none.

A lab has cgroups of its own on a machine with version 2, if somebody gives it some. Elsewhere such a cell
cannot run. It then shows its outputs in the course's own copy of chapter 3, which the tests compare, word by
word, with what happens on a machine that has them.
"""

from __future__ import annotations

import functools
import json
import os
import secrets
from collections.abc import Callable, Iterator
from typing import Any

from mycontainer import cgroups
from mycontainer.cgroups import Cgroup
from mycontainer.errors import ContainerError
from mycontainer.lab.child import run
from mycontainer.lab.display import in_notebook
from mycontainer.lab.result import Result

CHAPTER = "03_cgroups.ipynb"
NOT_HERE = "[Not run: this lab has no cgroups. On a machine where it has, this cell showed:]"
TIMEOUT = 60.0  # seconds


@functools.cache
def refusal() -> str:
    """Why no cgroup can be made here; empty where one can. It is tried."""
    try:
        group = cgroups.create(f"trial-{secrets.token_hex(4)}")
        missing = {"cpu", "memory", "pids"} - {*group.read("cgroup.controllers").split()}
        group.remove()
        return f"this lab was not given the controllers {', '.join(sorted(missing))}" if missing else ""
    except ContainerError as error:
        return error.reason
    except OSError as error:
        return f"{error.strerror} ({error.filename})"


def cgroups_here() -> None:
    """Say whether the cells of chapter 3 run here, or show what was recorded."""
    if not refusal():
        print("This lab can make cgroups: every cell of this chapter runs.")
        return
    print(f"This lab cannot make cgroups: {refusal()}.\n"
          "Cells that need them show what they showed on a machine where it can, and say so.\n"
          "A cure, for later: a machine that boots with cgroup version 2, as distributions do since 2021.")


def with_cgroups(function: Callable[..., Any]) -> Callable[..., Result]:
    """A decorator like `lab.child`, for a function that makes cgroups: those that it leaves are removed.

    Where there are none the call shows what was recorded, and its `Result` has no value.
    """
    @functools.wraps(function)
    def run_or_replay(*args: Any, **kwargs: Any) -> Result:
        if refusal():
            replay(f"def {function.__name__}(")
            return Result(0, shown=True)
        before = set(below(cgroups.home()))
        try:
            return run(function, *args, timeout=TIMEOUT, show=True, **kwargs)
        finally:
            for path in set(below(cgroups.home())) - before:
                Cgroup(path).remove()
    return run_or_replay


def below(group: Cgroup) -> Iterator[str]:
    """The cgroups directly below this one."""
    return (entry.path for entry in os.scandir(group.path) if entry.is_dir())


def replay(mark: str) -> None:
    """Show the recorded outputs of the cell that has ``mark`` in its source."""
    print(NOT_HERE)
    for output in recorded(mark):
        if output["output_type"] == "stream":
            print("".join(output["text"]), end="")
        else:
            _display(output["data"])


def recorded(mark: str) -> list[dict[str, Any]]:
    """The outputs in the course's copy of the notebook; none if the course is not here, only the package."""
    from mycontainer.lab import workspace

    try:
        cells = json.loads((workspace.course() / CHAPTER).read_text())["cells"]
    except OSError:
        return [{"output_type": "stream", "text": f"(see notebooks/{CHAPTER} of the course)\n"}]
    return next((cell["outputs"] for cell in cells if cell["cell_type"] == "code"
                 and mark in "".join(cell["source"])), [])


def _display(data: dict[str, Any]) -> None:
    joined = {kind: "".join(text) if isinstance(text, list) else text for kind, text in data.items()}
    if in_notebook():
        from IPython.display import display

        display(joined, raw=True)
    else:
        print(joined.get("text/plain", ""))
