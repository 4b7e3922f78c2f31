"""What chapter 4 shows: the layer explorer, the drawing of space; and the kernel as oracle for *where*."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

pytest.importorskip("jupyter_client", reason="needs the Python module jupyter_client")
pytest.importorskip("ipywidgets", reason="needs the Python module ipywidgets")

from lab_kernel import kernel
from mycontainer import layers
from mycontainer.lab import explorer, space
from mycontainer.lab.exercises.layers import where
from needs import needs_lab, needs_userns
from sandbox import inside
from test_layers import fill

# ── the explorer: what it looks at, without a browser ────────────────────────────────────────────────


@pytest.fixture
def stack() -> Iterator[explorer.Stack]:
    """The sample stack."""
    made = explorer.sample()
    yield made
    with suppress(FileNotFoundError):  # what the kernel makes in work is closed to all but root
        os.chmod(f"{made.work}/work", 0o700)
    shutil.rmtree(os.path.dirname(made.upper))


def after(stack: explorer.Stack, action: str = "", path: str = "") -> dict[str, explorer.Row]:
    """The rows of the table after a click, by path."""
    tree = inside(explorer.act, stack, action, path)
    return {row.path: row for row in explorer.rows(stack, tree)}


@needs_userns
def test_the_topmost_that_has_it_is_seen(stack: explorer.Stack) -> None:
    found = after(stack)
    seen = {path: row.seen for path, row in found.items() if "/" in path}
    assert seen == {"bin/sh": "base", "bin/python": "runtime", "etc/motd": "app", "lib/greet.so": "runtime",
                    "srv/app.py": "app"}
    assert list(found["etc/motd"].holds.values()) == ["", "has it", "", "has it"]


@needs_userns
def test_each_click_changes_the_upper_and_nothing_else(stack: explorer.Stack) -> None:
    before = {name: sorted(explorer.walk(path)) for name, path in stack.layers.items()}

    row = after(stack, "append a line", "etc/motd")["etc/motd"]
    assert (row.seen, explorer.told(row)) == ("upper", "that of upper")
    assert Path(stack.upper, "etc/motd").read_text() == "welcome to the app\none line more\n"

    row = after(stack, "delete", "lib/greet.so")["lib/greet.so"]
    assert (row.holds["upper"], row.seen) == (explorer.DELETED, "")
    assert explorer.told(row) == "nothing: deleted"
    assert row.holds["base"] == row.holds["runtime"] == explorer.FILE

    assert after(stack, "new file beside", "srv/app.py")["srv/new"].holds["upper"] == explorer.FILE
    assert before == {name: sorted(explorer.walk(path)) for name, path in stack.layers.items()}
    assert Path(stack.layers["app"], "etc/motd").read_text() == "welcome to the app\n"


@needs_userns
def test_a_directory_made_anew_hides_what_is_below(stack: explorer.Stack) -> None:
    found = after(stack, "make the directory anew", "etc")
    assert found["etc"].holds["upper"] == explorer.HIDES
    assert found["etc/motd"].seen == ""
    words = explorer.in_words(list(found.values()), list(stack.all()))
    assert "nothing: deleted" in next(line for line in words.splitlines() if line.startswith("etc/motd"))


@needs_lab
def test_in_the_lab_a_click_does_it_and_says_so(tmp_path: Path) -> None:
    with kernel(tmp_path, tmp_path) as lab:
        said = lab.value("""
from mycontainer import lab
mounts = open('/proc/self/mountinfo').read()
widget = lab.layer_explorer()
parts = widget.parts
said = [parts["shown"].value]
for action, path in [("delete", "lib/greet.so"), ("append a line", "etc/motd"), ("append a line", "etc"),
                     ("make the directory anew", "bin"), ("new file beside", "srv/app.py")]:
    parts["listing"].value = path
    parts["buttons"][action].click()
    said.append(parts["shown"].value)
gone = "lib/greet.so" not in parts["listing"].options
for path in ("bin", "etc", "lib", "srv"):
    parts["listing"].value = path
    parts["buttons"]["delete"].click()
parts["buttons"]["delete"].click()
empty = [list(parts["listing"].options), "Nothing is left" in parts["shown"].value]
parts["afresh"].click()
[*said, gone, empty, str(widget), open('/proc/self/mountinfo').read() == mounts]""")
    first, deleted, appended, refused, anew, new, gone, empty, words, same_mounts = said
    assert "that of base" in first
    assert "✗" not in first.split("<table>")[1].split("</table>")[0]
    assert "a whiteout in upper hides" in deleted
    assert "copied up whole" in appended
    assert "IsADirectoryError" in refused
    assert "Traceback" not in refused
    assert "an opaque directory in upper" in anew
    assert "A new file" in new
    assert gone is True
    assert empty == [[], True]
    assert words.splitlines()[0].split()[:5] == ["path", "upper", "app", "runtime", "base"]
    assert words == fresh_words()
    assert same_mounts is True


def fresh_words() -> str:
    """What a fresh explorer says: the notebook holds this text."""
    made = explorer.sample()
    try:
        tree = sorted({path for one in made.layers.values() for path in explorer.walk(one)})
        return explorer.in_words(explorer.rows(made, tree), list(made.all()))
    finally:
        shutil.rmtree(os.path.dirname(made.upper))


# ── the drawing of space ─────────────────────────────────────────────────────────────────────────────

def test_what_was_not_measured_is_dashed_and_said_to_be_calculated() -> None:
    copies, mounts = [(0, 180), (1, 360), (2, 540)], [(number, 180.0) for number in range(101)]
    drawn = space.space_figure({"a copy for each": copies, "a mount for each": mounts})
    assert drawn.words == ("a copy for each: 540 MB at 2 containers, which leads to 18,180 MB at 100; "
                           "a mount for each: 180 MB at 100 containers.")
    assert drawn.svg.count("stroke-dasharray") == 1
    assert "a copy for each (measured up to 2, dashed: calculated)" in drawn.svg
    assert "a mount for each (measured)" in drawn.svg
    assert [f">{number}</text>" in drawn.svg for number in ("0", "5,000", "20,000")] == [True] * 3


def test_a_line_leads_where_its_points_lead() -> None:
    assert space.at([(0, 10), (2, 30)], 100) == 1010
    assert space.at([(0, 5)], 100) == 5


# ── where: the kernel as oracle ──────────────────────────────────────────────────────────────────────

@needs_userns
def test_where_says_what_the_kernel_shows(tmp_path: Path) -> None:
    """A stack with marks of every kind: for each path of any layer, the file that we name is what is seen."""
    lower = [fill(tmp_path / "0", a__x="0", a__y="0", b__x="0", c="0", d__e__f="0"),
             fill(tmp_path / "1", a__x="1", b__new="1", d__e__g="1"), fill(tmp_path / "2", c="2")]
    upper, work = fill(tmp_path / "upper", a__z="u"), fill(tmp_path / "work")
    root = fill(tmp_path / "root")

    def look() -> list[tuple[str, str | None, str | None]]:
        os.mknod(f"{lower[1]}/a/y", stat.S_IFCHR)
        layers.stack(lower, root, upper, work)
        Path(root, "d/e/f").write_text("changed")
        shutil.rmtree(f"{root}/b")
        os.mkdir(f"{root}/b")
        Path(root, "b/again").write_text("u")
        os.unlink(f"{root}/c")
        Path(root, "c").write_text("u")
        paths = {f"/{path.relative_to(top)}" for top in map(Path, [*lower, upper, root])
                 for path in top.rglob("*")}
        found = []
        for path in sorted(paths):
            ours, seen = where(path, lower, upper, {}), Path(root + path)
            if not seen.is_dir():
                found.append((path, Path(ours).read_text() if ours else None,
                              seen.read_text() if seen.exists() else None))
        return found

    found = inside(look)
    assert {path for path, _, seen in found if seen is None} == {"/a/y", "/b/x", "/b/new"}
    assert [(path, ours) for path, ours, _ in found] == [(path, seen) for path, _, seen in found]
