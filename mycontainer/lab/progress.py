"""What is yours: solved exercises, kept with their source, across kernels and notebooks.

In the lab nothing of the host is writable, so an event is handed to the launcher outside, over the socket
whose number is in MYCONTAINER_LAB_FD; it appends one line of JSON to ``.progress.jsonl`` in the workspace.
Without a lab we append ourselves if there is a workspace, and otherwise remember until the kernel ends.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import json
import os
import secrets
import socket
import textwrap
import time
from collections.abc import Callable
from types import CodeType, FunctionType, ModuleType
from typing import Any

from mycontainer.lab import exercises
from mycontainer.lab.child import remember_source
from mycontainer.lab.display import card
from mycontainer.lab.exercise import LEARNER, from_source

FILE = ".progress.jsonl"
LONGEST = 100_000  # bytes of an event that we send; a longer source is not kept

_own: list[dict[str, Any]] = []  # of this process, in order: the file may lag behind
_since: dict[str, float] = {}    # when work on an exercise began


def progress() -> None:
    """Show which exercises are solved, and are yours."""
    state = solved()
    rows = [(f"{'✓' if one.id in state else '○'} {one.id}", one.title) for one in exercises.every_exercise()]
    count = sum(label.startswith("✓") for label, _ in rows)
    card("good" if count else "plain", f"{count} of {len(rows)} exercises are yours", rows)


def mine(id: str) -> Callable[..., Any]:
    """Your own function for this exercise, as you solved it; ours if you have not solved it yet."""
    exercise = exercises.find(id)
    event = solved().get(id)
    if not event or not event.get("source"):
        return exercise.reference_function()
    file = f"<your {id}>"
    remember_source(file, event["source"].splitlines(keepends=True))
    function: Callable[..., Any] = from_source(event["source"], event.get("name", ""), file)
    return function


def reset(id: str = "") -> None:
    """Forget your solution of one exercise (or of all of them), to solve it again."""
    known = [exercises.find(id).id] if id else [one.id for one in exercises.every_exercise()]
    for one in known:
        _since.pop(one, None)
        if one in solved():
            record({"type": "reset", "exercise": one})
    card("plain", f"{id or 'All exercises'}: open again")


def solved() -> dict[str, dict[str, Any]]:
    """The last solution of each solved exercise: id to event."""
    state: dict[str, dict[str, Any]] = {}
    for event in _events():
        name = event.get("exercise")
        if not isinstance(name, str):
            continue
        if event.get("type") == "reset":
            state.pop(name, None)
        elif event.get("type") == "progress" and event.get("event") == "solved":
            state[name] = event
    return state


def picks() -> dict[str, str]:
    """The predictions made so far: id to letter."""
    return {str(event["exercise"]): str(event["pick"]) for event in _events()
            if event.get("event") == "predicted" and "exercise" in event and "pick" in event}


def begin(id: str) -> None:
    """Note that work on this exercise has begun."""
    _since.setdefault(id, time.monotonic())


def record_solved(id: str, solution: Any) -> None:
    """Keep a solution, with its source, so that `mine` can bring it back in another kernel."""
    seconds = round(time.monotonic() - _since.get(id, time.monotonic()), 1)
    event = {"type": "progress", "exercise": id, "event": "solved", "seconds": seconds,
             "name": getattr(solution, "__name__", ""), "source": whole_source(solution)}
    if len(json.dumps(event)) > LONGEST:
        event["source"] = ""
    record(event)


def record(event: dict[str, Any]) -> None:
    """Append an event to the learner's progress, wherever that is kept."""
    event = {"id": secrets.token_hex(8), **event}
    _own.append(event)
    line = json.dumps(event).encode()
    if (number := os.environ.get("MYCONTAINER_LAB_FD", "")).isdigit():
        _send(int(number), line)
    elif path := _file():
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(fd, line + b"\n")  # one write: two kernels do not mix their lines
        finally:
            os.close(fd)


def _send(fd: int, line: bytes) -> None:
    try:
        launcher = socket.socket(fileno=fd)
        try:
            launcher.send(line)
        finally:
            launcher.detach()  # it stays open: others use it too
    except OSError:
        print("Your progress could not be handed to the launcher: it lasts until this kernel ends.")


def _file() -> str:
    workspace = os.environ.get("MYCONTAINER_WORKSPACE")
    return os.path.join(workspace, FILE) if workspace else ""


def _events() -> list[dict[str, Any]]:
    """Those in the file that make sense, then our own that are not there yet."""
    found = []
    try:
        with open(_file(), "rb") as file:
            for line in file:
                try:
                    event = json.loads(line)
                except (ValueError, RecursionError):  # half a line, or somebody's editor
                    continue
                if isinstance(event, dict):
                    found.append(event)
    except OSError:
        pass
    known = {event.get("id") for event in found}
    return found + [event for event in _own if event["id"] not in known]


# ── a function's source, so that it stands alone ─────────────────────────────────────────────────────

def whole_source(solution: Any) -> str:
    """The source of a function with what it needs: imports, constants, the learner's own helpers.

    Empty if there is no source to be had; a value that is no function is written down as such.
    """
    if not isinstance(solution, FunctionType):
        return f"answer = {solution!r}\n"
    lines: list[str] = []
    try:
        _gather(solution, lines, set())
    except (OSError, TypeError):
        return ""
    return "\n".join(lines)


def _gather(function: FunctionType, lines: list[str], seen: set[str]) -> None:
    for name in _names(function.__code__):
        if name in seen or name not in function.__globals__ or hasattr(builtins, name):
            continue
        seen.add(name)
        value = function.__globals__[name]
        if isinstance(value, ModuleType):
            lines.append(f"import {value.__name__} as {name}" if "." in value.__name__ or
                         value.__name__ != name else f"import {name}")
        elif isinstance(value, FunctionType) and value.__module__ in (function.__module__, LEARNER):
            if value is not function:
                _gather(value, lines, seen)
            if value.__name__ != name:
                lines.append(f"{name} = {value.__name__}")
        elif isinstance(getattr(value, "__module__", None), str) and hasattr(value, "__qualname__"):
            lines.append(f"from {value.__module__} import {value.__qualname__} as {name}")
        elif _is_literal(value):
            lines.append(f"{name} = {value!r}")
    lines.append(textwrap.dedent(inspect.getsource(function)))


def _names(code: CodeType) -> list[str]:
    inner = [name for one in code.co_consts if isinstance(one, CodeType) for name in _names(one)]
    return [*code.co_names, *inner]


def _is_literal(value: Any) -> bool:
    try:
        return bool(ast.literal_eval(repr(value)) == value)
    except (ValueError, SyntaxError):
        return False
