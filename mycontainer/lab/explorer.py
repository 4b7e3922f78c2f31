"""The layer explorer: a stack to play with, and where each file that a container sees comes from.

Nothing is mounted in the notebook's kernel. Each click starts a process that mounts the stack in a mount
namespace of its own, does what was asked, looks, and ends: the upper directory stays, as that of a stopped
container does.

Source: docs.kernel.org/filesystems/overlayfs.html.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

import ipywidgets

from mycontainer import chroot, layers, syscalls
from mycontainer.lab import style
from mycontainer.lab.child import run
from mycontainer.lab.widgets import Live, button, html, item, row

SAMPLE: dict[str, dict[str, str]] = {  # name of a layer, the lowest first: its files
    "base": {"bin/sh": "the shell\n", "etc/motd": "welcome\n", "lib/greet.so": "version 1\n"},
    "runtime": {"bin/python": "the interpreter\n", "lib/greet.so": "version 2\n"},
    "app": {"srv/app.py": "print('hello')\n", "etc/motd": "welcome to the app\n"},
}
NOTHING, FILE, DIRECTORY, DELETED, HIDES = "", "has it", "directory", "deletes it", "hides what is below"
SIGNS = {NOTHING: "·", FILE: "●", DIRECTORY: "/", DELETED: "✗", HIDES: "■"}


class Stack(NamedTuple):
    """A stack on disk: names and directories of its layers, the lowest first, and where changes go."""

    layers: Mapping[str, str]
    upper: str
    work: str
    root: str

    def all(self) -> dict[str, str]:
        """All directories that may hold a file, the topmost first."""
        return {"upper": self.upper, **dict(reversed([*self.layers.items()]))}


def sample() -> Stack:
    """Make the sample stack, with an empty upper, in a directory of its own."""
    place = tempfile.mkdtemp(prefix="layers-")
    for name, files in SAMPLE.items():
        for path, content in files.items():
            os.makedirs(os.path.dirname(f"{place}/{name}/{path}"), exist_ok=True)
            with open(f"{place}/{name}/{path}", "w") as file:
                file.write(content)
    for name in ("upper", "work", "root"):
        os.mkdir(f"{place}/{name}")
    return Stack({name: f"{place}/{name}" for name in SAMPLE}, f"{place}/upper", f"{place}/work",
                 f"{place}/root")


# ── in a process of its own, with the stack mounted ──────────────────────────────────────────────────

def act(stack: Stack, action: str = "", path: str = "") -> list[str]:
    """Mount the stack, do something to ``path`` as a program in the container would, and list the tree."""
    syscalls.unshare(syscalls.CLONE_NEWNS)
    chroot.make_private()
    layers.stack(list(stack.layers.values()), stack.root, stack.upper, stack.work)
    if action:
        ACTIONS[action](os.path.join(stack.root, path))
    return sorted(walk(stack.root))


def _append(path: str) -> None:
    with open(path, "a") as file:
        file.write("one line more\n")


def _delete(path: str) -> None:
    if os.path.isdir(path):
        shutil.rmtree(path)
    else:
        os.unlink(path)


def _anew(path: str) -> None:
    _delete(path)
    os.mkdir(path)


def _new(path: str) -> None:
    above = path if os.path.isdir(path) else os.path.dirname(path)
    with open(f"{above}/new", "w") as file:
        file.write("new\n")


ACTIONS: dict[str, Callable[[str], None]] = {
    "append a line": _append, "delete": _delete, "make the directory anew": _anew, "new file beside": _new}


def walk(top: str) -> Iterator[str]:
    """The paths of all files and directories below ``top``, from there."""
    for above, directories, files in os.walk(top):
        yield from (os.path.relpath(os.path.join(above, name), top) for name in directories + files)


# ── what each layer has ──────────────────────────────────────────────────────────────────────────────

class Row(NamedTuple):
    """A path, what each directory of the stack has of it, and which one a container sees ("" for none)."""

    path: str
    holds: Mapping[str, str]
    seen: str


def rows(stack: Stack, tree: Sequence[str]) -> list[Row]:
    """All paths that are anywhere in the stack; ``tree`` are those that the mount shows."""
    every = sorted({path for directory in stack.all().values() for path in walk(directory)} | set(tree))
    found = []
    for path in every:
        holds = {name: look(f"{directory}/{path}") for name, directory in stack.all().items()}
        owner = next((name for name, what in holds.items() if what), "")
        found.append(Row(path, holds, owner if path in tree else ""))
    return found


def look(path: str) -> str:
    """What one directory of the stack has at a path: one of the words above."""
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return NOTHING
    if layers.is_whiteout(path):
        return DELETED
    if stat.S_ISDIR(mode):
        return HIDES if layers.is_opaque(path) else DIRECTORY
    return FILE


def in_words(found: Sequence[Row], names: Sequence[str]) -> str:
    """The table as plain text."""
    table = [["path", *names, "a container sees"]]
    for one in found:
        table.append([one.path, *(SIGNS[one.holds[name]] for name in names), told(one)])
    signs = "   ".join(f"{sign} {what}" for what, sign in SIGNS.items() if what)
    return f"{style.columns(table)}\n\n{signs}"


def told(one: Row) -> str:
    """What a container sees of it."""
    if not one.seen:
        return "nothing: deleted"
    if one.holds[one.seen] in (DIRECTORY, HIDES):
        return "a directory"
    return f"that of {one.seen}"


def in_html(found: Sequence[Row], names: Sequence[str], chosen: str) -> str:
    """The table for a browser: the copy that a container sees is boxed."""
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    lines = []
    for one in found:
        cells = "".join(_cell(one, number, name) for number, name in enumerate(names))
        mark = ' style="font-weight:700"' if one.path == chosen else ""
        lines.append(f'<tr{mark}><td class="mono">{escape(one.path)}</td>{cells}'
                     f"<td>{escape(told(one))}</td></tr>")
    signs = " &nbsp; ".join(f"{sign} {what}" for what, sign in SIGNS.items() if what)
    return (f"<table><tr><th>path</th>{head}<th>a container sees</th></tr>{''.join(lines)}</table>"
            f'<p class="faint">{signs} &nbsp; In a box: the copy that is seen.</p>')


def _cell(one: Row, number: int, name: str) -> str:
    what = one.holds[name]
    label = f'{SIGNS[what]}<span style="position:absolute;left:-9999px">{what or "nothing"}</span>'
    if name == one.seen and what == FILE:
        return f'<td><span class="letter" style="background:{style.swatch(number)[0]}">{label}</span></td>'
    return f'<td class="{"bad" if what == DELETED else ""}">{label}</td>'


# ── the widget ───────────────────────────────────────────────────────────────────────────────────────

_places: list[str] = []  # the directory of the stack that is shown, if any


def layer_explorer() -> Live:
    """A list of paths, buttons that change one of them, and the table of who has what."""
    listing = ipywidgets.Select(rows=9, description="path", style={"description_width": "initial"})
    shown = ipywidgets.HTML()
    listing.add_class("mc-list")
    state: dict[str, Any] = {"stack": None, "rows": [], "quiet": False}

    def show(message: str = "", kind: str = "") -> None:
        names, found = list(state["stack"].all()), state["rows"]
        shown.value = html((item(message, kind) if message else "") + in_html(found, names, listing.value))

    def do(action: str = "") -> None:
        path = listing.value or ""
        if action and not path:
            return show("Nothing is left to choose: start afresh.")
        done = run(act, state["stack"], action, path)
        seen = run(act, state["stack"]) if done.error else done  # it may have come half way
        state["rows"] = found = rows(state["stack"], seen.value or [])
        visible = [one.path for one in found if one.seen]
        state["quiet"] = True  # until both the list and the choice are right
        listing.options = visible
        listing.value = path if path in visible else next(iter(visible), None)
        state["quiet"] = False
        if done.error:
            return show(f"{action} {path}: {done.error}", "bad")
        return show(*(said(found, action, path) if action else ("",)))

    def afresh() -> None:
        while _places:
            shutil.rmtree(_places.pop(), ignore_errors=True)
        state["stack"] = sample()
        _places.append(os.path.dirname(state["stack"].upper))
        do()

    listing.observe(lambda _: None if state["quiet"] else show(), "value")
    buttons = {action: button(action, lambda action=action: do(action)) for action in ACTIONS}  # type: ignore[misc]
    afresh()
    again = button("start afresh", afresh)
    controls = row(listing, ipywidgets.VBox([row(*buttons.values()), row(again)]))
    return Live([controls, shown],
                lambda: in_words(state["rows"], list(state["stack"].all())),
                listing=listing, shown=shown, buttons=buttons, afresh=again)


def said(found: Sequence[Row], action: str, path: str) -> tuple[str, str]:
    """One line on what a click has done to the upper; the layers below have not changed."""
    one = next((one for one in found if one.path == path), None)
    now = one.holds["upper"] if one else NOTHING
    below = one is not None and any(what for name, what in one.holds.items() if name != "upper")
    if action == "delete":
        return (f"{path}: a whiteout in upper hides what the layers still have." if now == DELETED else
                f"{path}: it was in upper only, and is really gone."), "ok"
    if action == "append a line":
        return (f"{path}: copied up whole, then changed. The layer's own is as it was." if below else
                f"{path}: changed in upper."), "ok"
    if action == "make the directory anew":
        return f"{path}: an opaque directory in upper hides what the layers have in theirs.", "ok"
    return "A new file: it is in upper, and nowhere else.", "ok"
