"""What the kit shows: cards, the fold over an answer, and one line where a traceback would not help."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mycontainer import lab
from mycontainer.lab import display, exercises
from mycontainer.lab.check import OPEN, SOLVED, Verdict
from mycontainer.lab.child import LabGone
from mycontainer.lab.progress import _own
from mycontainer.lab.result import Result
from needs import needs_module, needs_userns

pytestmark = needs_module("cloudpickle")
exercises.add("demo", "kit_demo")


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, str]]]:
    """What cards say from here on: (plain text, HTML)."""
    said: list[tuple[str, str]] = []
    monkeypatch.setattr(display, "show", lambda text, html="", markdown="": said.append((text, html)))
    monkeypatch.delenv("MYCONTAINER_LAB_FD", raising=False)
    monkeypatch.delenv("MYCONTAINER_WORKSPACE", raising=False)
    _own.clear()
    yield said
    _own.clear()


def visible(page: str) -> str:
    """The words that one sees before anything is clicked on."""
    return html.unescape(re.sub(r"<details.*?</summary>.*?</details>|<[^>]*>", " ", page, flags=re.DOTALL))


def test_no_row_is_tinted_as_if_it_were_chosen(shown: list[tuple[str, str]]) -> None:
    lab.predict("demo.where")
    rows = re.findall(r"<tr[^>]*>", shown[0][1])
    assert rows == ['<tr style="background:none">'] * 2


def test_your_guess_is_marked(shown: list[tuple[str, str]]) -> None:
    lab.predict("demo.where", "a")
    text, page = shown[0]
    assert "  a  in a small machine  ← your guess\n" in text
    assert text.count("← your guess") == 1
    styles = re.findall(r'<tr style="([^"]*)">', page)
    assert styles == ["background:none;font-weight:bold", "background:none"]


def test_without_a_guess_the_answer_is_folded(shown: list[tuple[str, str]]) -> None:
    lab.reveal("demo.where")
    text, page = shown[0]
    assert 'Your guess first? lab.predict("demo.where", "a")' in visible(page)
    assert "It is b" in page
    assert "It is b" not in visible(page)
    assert "It is b" in text
    assert "A container has no kernel of its own" in text
    lab.predict("demo.where", "b")
    lab.reveal("demo.where")
    assert "You had it right" in visible(shown[-1][1])
    assert "It is a process" in visible(shown[-1][1])


def test_a_check_finds_the_function_under_the_stubs_name(shown: list[tuple[str, str]]) -> None:
    cell = "verdict = lab.check('demo.rename', quiet=True)"
    notebook: dict[str, Any] = {"lab": lab}
    exec(cell, notebook)
    assert notebook["verdict"] == Verdict("demo.rename", OPEN, "○ demo.rename: run the cell above first",
                                          after="It defines my_rename, and that is what this cell tries.")


@needs_userns
def test_and_the_newest_of_that_name_is_tried() -> None:
    notebook: dict[str, Any] = {"lab": lab}
    cells = ["def my_rename(name):\n    ...", """
from mycontainer import syscalls
def my_rename(name):
    syscalls.unshare(syscalls.CLONE_NEWUTS | syscalls.CLONE_NEWIPC)
    syscalls.sethostname(name)"""]
    for cell, state in zip(cells, (OPEN, SOLVED), strict=True):
        exec(cell, notebook)
        exec("verdict = lab.check('demo.rename', quiet=True)", notebook)
        assert notebook["verdict"].state == state


@pytest.mark.parametrize("exercise", exercises.every_exercise(), ids=lambda one: one.id)
def test_each_stub_has_a_name_to_find(exercise: Any) -> None:
    from mycontainer.lab.check import stub_name

    assert stub_name(exercise).startswith("my_")


def test_where_no_program_starts_any_more_one_line_says_so(monkeypatch: pytest.MonkeyPatch,
                                                           tmp_path: Path) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "gone"))
    for call in (lambda: lab.sh("true"), lambda: lab.run(lambda: 1), lambda: lab.check("demo.rename", print)):
        with pytest.raises(LabGone) as gone:
            call()
        assert gone.value._render_traceback_() == [
            "The programs of this lab are gone: Kernel → Restart Kernel."]


def test_a_result_says_nothing_only_when_all_was_shown_and_well() -> None:
    Result(0, stdout="x").show()._ipython_display_()
    for other in (Result(0, stdout="x"), Result(1).show(), Result(0, value=3).show()):
        with pytest.raises(NotImplementedError):
            other._ipython_display_()
