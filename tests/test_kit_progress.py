"""What is yours, hints, solutions, predictions: what is kept, and where."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mycontainer.lab.hints as hints
from mycontainer import lab, syscalls
from mycontainer.lab import exercises
from mycontainer.lab.exercise import from_source
from mycontainer.lab.progress import FILE, _own, picks, record, record_solved, solved, whole_source
from needs import needs_module, needs_userns
from recording import recording

pytestmark = needs_module("cloudpickle")
exercises.add("demo", "kit_demo")
FLAGS = syscalls.CLONE_NEWUTS | syscalls.CLONE_NEWIPC


def helper(name: str) -> None:
    syscalls.sethostname(name)


def my_rename(name: str) -> None:
    syscalls.unshare(FLAGS)
    helper(name)


@pytest.fixture(autouse=True)
def nothing_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test begins as a fresh kernel does, without a lab or a workspace."""
    for name in ("MYCONTAINER_LAB_FD", "MYCONTAINER_WORKSPACE"):
        monkeypatch.delenv(name, raising=False)
    for memory in (_own, hints._given, hints._asked):
        memory.clear()  # type: ignore[attr-defined]
    yield
    _own.clear()


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MYCONTAINER_WORKSPACE", str(tmp_path))
    return tmp_path


@needs_userns
def test_a_solution_is_kept_and_comes_back_in_another_kernel(workspace: Path, capsys: Any) -> None:
    lab.check("demo.rename", my_rename)
    assert "✓ demo.rename is solved" in capsys.readouterr().out
    event = json.loads((workspace / FILE).read_text())
    assert (event["type"], event["exercise"], event["event"]) == ("progress", "demo.rename", "solved")
    assert event["seconds"] >= 0
    _own.clear()  # another kernel
    again = lab.mine("demo.rename")
    assert again is not my_rename
    verdict = lab.check("demo.rename", again, quiet=True)
    assert verdict, "it brings its helper and its constants along"


def test_the_kept_source_stands_alone() -> None:
    names: dict[str, Any] = {}
    exec(whole_source(my_rename), names)
    with recording() as calls:
        names["my_rename"]("box")
    assert calls == ["unshare(CLONE_NEWUTS|CLONE_NEWIPC)", 'sethostname("box", 3)']


def test_in_the_lab_it_is_handed_to_the_launcher(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with launcher, ours:
        monkeypatch.setenv("MYCONTAINER_LAB_FD", str(ours.fileno()))
        record_solved("demo.rename", my_rename)
        event = json.loads(launcher.recv(1 << 20))
        assert event["exercise"] == "demo.rename"
        assert "def my_rename" in event["source"]
        assert not (workspace / FILE).exists(), "the workspace is read-only in there"
        assert "demo.rename" in solved(), "known here before the launcher has written it"
        (workspace / FILE).write_text(json.dumps(event) + "\n" +
                                      json.dumps({"type": "reset", "exercise": "demo.rename"}) + "\n")
        assert "demo.rename" not in solved(), "another kernel's reset counts, our old news does not"


def test_a_launcher_that_is_gone_is_survived(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    launcher, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    launcher.close()
    with ours:
        monkeypatch.setenv("MYCONTAINER_LAB_FD", str(ours.fileno()))
        record_solved("demo.rename", my_rename)
    assert "could not be handed to the launcher" in capsys.readouterr().out
    assert "demo.rename" in solved()


def test_garbage_in_the_file_is_passed_over(workspace: Path) -> None:
    good = json.dumps({"type": "progress", "exercise": "demo.first", "event": "solved", "source": ""})
    lines = [b'{"half', b"\xff\xfe\x00", b"[]", b"3", b"null", b"", b'{"type": 3}', b'{"exercise": ["x"]}',
             b'{"type": "progress", "event": "solved"}', b"[" * 100_000, good.encode()]
    (workspace / FILE).write_bytes(b"\n".join(lines) + b"\n")
    assert set(solved()) == {"demo.first"}
    lab.progress()
    assert lab.mine("demo.first").__name__ == "first", "solved but without a source: ours serves"


def test_without_a_workspace_it_lasts_as_long_as_the_kernel(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    record_solved("demo.rename", my_rename)
    assert "demo.rename" in solved()
    assert not os.listdir(tmp_path)


def test_reset_opens_an_exercise_again(workspace: Path, capsys: Any) -> None:
    record_solved("demo.rename", my_rename)
    record_solved("demo.first", my_rename)
    lab.reset("demo.rename")
    assert set(solved()) == {"demo.first"}
    assert lab.mine("demo.rename").__module__ == "kit_demo"
    lab.reset()
    assert not solved()
    capsys.readouterr()
    lab.progress()
    table = capsys.readouterr().out
    assert table.startswith("0 of ")
    assert "○ demo.rename" in table


def test_hints_come_one_by_one_and_the_solution_at_the_second_asking(capsys: Any) -> None:
    def said(call: Any) -> str:
        call("demo.rename")
        text: str = capsys.readouterr().out
        return text

    assert "Which namespace?" in said(lab.hint)
    assert "Then the name." in said(lab.hint)
    assert "Then the name." in said(lab.hint)
    assert "unshare" not in said(lab.solution)
    assert "syscalls.unshare(syscalls.CLONE_NEWUTS" in said(lab.solution)


def test_a_prediction_says_nothing_before_it_is_revealed(capsys: Any) -> None:
    def said(call: Any, *args: str) -> str:
        call("demo.where", *args)
        text: str = capsys.readouterr().out
        return text

    for early in (said(lab.predict), said(lab.predict, "a"), said(lab.predict, "z")):
        assert "in a small machine" in early
        assert "kernel of its own" not in early
    assert picks() == {"demo.where": "a"}
    surprised = said(lab.reveal)
    assert "You said a; it is b" in surprised
    assert "A container has no kernel of its own" in surprised
    said(lab.predict, "b")
    right = said(lab.reveal)
    assert "You had it right" in right
    assert "kernel of its own" not in right


def test_an_unanswered_prediction_reveals_all(capsys: Any) -> None:
    lab.reveal("demo.where")
    assert "It is b" in (text := capsys.readouterr().out)
    assert "A container has no kernel of its own" in text


def test_an_unknown_id_lists_those_that_there_are() -> None:
    for call in (lab.hint, lab.solution, lab.mine, lab.reset):
        with pytest.raises(LookupError, match=r"there are demo\.rename, demo\.first"):
            call("demo.nope")
    with pytest.raises(LookupError, match=r"no exercise 'nowhere\.x'"):
        lab.check("nowhere.x", my_rename)
    with pytest.raises(LookupError, match=r"demo\.where"):
        lab.predict("demo.nope")


def test_a_very_long_event_is_kept_without_its_source(workspace: Path) -> None:
    long = from_source("def long():\n" + "    x = 1\n" * 20_000)
    import linecache
    linecache.cache["<solution>"] = (1, None, ["def long():\n"] + ["    x = 1\n"] * 20_000, "<solution>")
    record_solved("demo.rename", long)
    assert len((workspace / FILE).read_bytes()) < 1000
    assert "demo.rename" in solved()


@pytest.mark.parametrize("prediction", exercises.every_prediction(), ids=lambda one: one.id)
def test_every_prediction_explains_each_wrong_choice(prediction: Any) -> None:
    assert prediction.answer in prediction.choices
    assert set(prediction.misconceptions) == set(prediction.choices) - {prediction.answer}
    assert all(prediction.misconceptions.values())
    assert prediction.why


def test_two_writers_do_not_mix_their_lines(workspace: Path) -> None:
    children = []
    for _ in range(4):
        pid = os.fork()
        if pid == 0:
            for n in range(50):
                record({"type": "progress", "exercise": f"demo.{n}", "event": "solved", "source": "x" * 3000})
            os._exit(0)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 4
    assert len([json.loads(line) for line in (workspace / FILE).read_text().splitlines()]) == 200
