"""The learner's workspace: new chapters arrive, and no answer is ever overwritten."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from mycontainer.errors import ContainerError
from mycontainer.lab import workspace


class Course:
    """A course and a learner's workspace, with what the learner was told."""

    def __init__(self, path: Path) -> None:
        self.source, self.target = path / "notebooks", path / "workspace"
        self.source.mkdir()
        self.told: list[str] = []

    def sync(self) -> list[str]:
        self.told.clear()
        return [path.name for path in workspace.sync(self.source, self.target, self.told.append)]

    def write(self, name: str, text: str) -> None:
        (self.source / name).write_text(text)

    def files(self) -> dict[str, str]:
        found = {path.name: path.read_text() for path in self.target.iterdir() if path.is_file()}
        found.pop(workspace.MANIFEST, None)
        return found


@pytest.fixture
def course(tmp_path: Path) -> Course:
    course = Course(tmp_path)
    course.write("00_start.ipynb", "version 1")
    course.sync()
    return course


def test_the_first_sync_brings_every_chapter_and_says_so(course: Course) -> None:
    assert course.files() == {"00_start.ipynb": "version 1"}
    assert course.told == ["workspace: 00_start.ipynb is there for you"]


def test_a_learner_gets_the_chapter_as_nobody_has_run_it(course: Course) -> None:
    text = {"cell_type": "markdown", "id": "a", "metadata": {}, "source": ["Guess: é"]}
    code = {"cell_type": "code", "id": "b", "metadata": {"tags": ["x"]}, "source": ["1 + 1"]}
    output = {"output_type": "stream", "name": "stdout", "text": "2"}
    played = {"cells": [text, code | {"outputs": [output], "execution_count": 7}],
              "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    course.write("01_played.ipynb", json.dumps(played))
    course.sync()
    there = json.loads(course.files()["01_played.ipynb"])
    assert there == played | {"cells": [text, code | {"outputs": [], "execution_count": None}]}
    assert course.sync() == []


def test_only_notebooks_of_the_top_directory_are_brought(course: Course) -> None:
    (course.source / "instructor").mkdir()
    (course.source / "instructor" / "01_notes.ipynb").write_text("for teachers")
    course.write("conftest.py", "for pytest")
    assert course.sync() == []
    assert course.files() == {"00_start.ipynb": "version 1"}


def test_a_second_sync_writes_nothing_and_says_nothing(course: Course) -> None:
    before = {path: path.stat().st_mtime_ns for path in course.target.iterdir()}
    assert course.sync() == course.told == []
    assert {path: path.stat().st_mtime_ns for path in course.target.iterdir()} == before


def test_a_new_chapter_arrives_beside_the_old(course: Course) -> None:
    course.write("01_chroot.ipynb", "new")
    assert course.sync() == ["01_chroot.ipynb"]
    assert course.files() == {"00_start.ipynb": "version 1", "01_chroot.ipynb": "new"}


def test_an_untouched_chapter_follows_the_course(course: Course) -> None:
    course.write("00_start.ipynb", "version 2")
    assert course.sync() == ["00_start.ipynb"]
    assert course.files() == {"00_start.ipynb": "version 2"}


def test_an_answer_stays_bit_for_bit_and_the_new_version_lies_beside_it_once(course: Course) -> None:
    mine = course.target / "00_start.ipynb"
    mine.write_text("my answer")
    assert course.sync() == []
    before = mine.stat()
    course.write("00_start.ipynb", "version 2")
    assert course.sync() == ["00_start.new.ipynb"]
    assert course.files() == {"00_start.ipynb": "my answer", "00_start.new.ipynb": "version 2"}
    assert (mine.stat().st_mtime_ns, mine.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    assert "yours and stays" in course.told[0]
    (course.target / "00_start.new.ipynb").unlink()  # seen, not wanted
    assert course.sync() == course.told == []


def test_a_third_version_replaces_the_untouched_second(course: Course) -> None:
    (course.target / "00_start.ipynb").write_text("my answer")
    for version in ("version 2", "version 3"):
        course.write("00_start.ipynb", version)
        course.sync()
    assert course.files() == {"00_start.ipynb": "my answer", "00_start.new.ipynb": "version 3"}


def test_a_new_version_that_the_learner_works_in_stays_as_well(course: Course) -> None:
    (course.target / "00_start.ipynb").write_text("my answer")
    course.write("00_start.ipynb", "version 2")
    course.sync()
    (course.target / "00_start.new.ipynb").write_text("my second answer")
    course.write("00_start.ipynb", "version 3")
    assert course.sync() == []
    assert course.files() == {"00_start.ipynb": "my answer", "00_start.new.ipynb": "my second answer"}
    assert "move it away" in course.told[0]


def test_a_chapter_that_the_learner_deletes_comes_back_fresh(course: Course) -> None:
    (course.target / "00_start.ipynb").unlink()
    assert course.sync() == ["00_start.ipynb"]


@pytest.mark.parametrize("manifest", [None, "", "not json", "[1, 2]"])
def test_without_a_manifest_every_difference_is_the_learners(course: Course, manifest: str | None) -> None:
    (course.target / workspace.MANIFEST).unlink()
    if manifest is not None:
        (course.target / workspace.MANIFEST).write_text(manifest)
    course.write("00_start.ipynb", "version 2")
    course.sync()
    assert course.files() == {"00_start.ipynb": "version 1", "00_start.new.ipynb": "version 2"}


@pytest.mark.parametrize("dangling", [False, True])
def test_a_symlink_in_the_workspace_is_not_followed(course: Course, tmp_path: Path, dangling: bool) -> None:
    outside = tmp_path / "outside"
    if not dangling:
        outside.write_text("version 1")  # what an untouched chapter holds: a follower would replace it
    chapter = course.target / "00_start.ipynb"
    chapter.unlink()
    chapter.symlink_to(outside)
    course.write("00_start.ipynb", "version 2")
    course.sync()
    assert chapter.is_symlink()
    assert outside.exists() is not dangling
    assert dangling or outside.read_text() == "version 1"


def test_a_manifest_that_is_a_symlink_is_not_followed(course: Course, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (course.target / workspace.MANIFEST).rename(outside)
    (course.target / workspace.MANIFEST).symlink_to(outside)
    before = outside.read_text()
    course.write("01_chroot.ipynb", "new")
    course.sync()
    assert outside.read_text() == before
    assert "01_chroot.ipynb" in json.loads((course.target / workspace.MANIFEST).read_text())


def test_a_directory_or_a_fifo_of_that_name_is_the_learners_business(course: Course) -> None:
    chapter = course.target / "00_start.ipynb"
    chapter.unlink()
    os.mkfifo(chapter)  # opening it to read would wait for ever
    (course.target / "01_chroot.ipynb").mkdir()
    course.write("01_chroot.ipynb", "new")
    course.sync()
    assert chapter.is_fifo()
    assert (course.target / "01_chroot.ipynb").is_dir()
    assert course.files()["01_chroot.new.ipynb"] == "new"


def test_a_workspace_that_is_a_symlink_is_refused(course: Course, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    link = tmp_path / "link"
    link.symlink_to(elsewhere)
    with pytest.raises(ContainerError, match="as workspace") as refusal:
        workspace.sync(course.source, link)
    assert "not a symlink" in refusal.value.hint
    assert list(elsewhere.iterdir()) == []


def test_a_crash_while_writing_leaves_the_old_file_whole(
    course: Course, monkeypatch: pytest.MonkeyPatch
) -> None:
    course.write("00_start.ipynb", "version 2")

    def crash(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "rename", crash)
    with pytest.raises(KeyboardInterrupt):
        course.sync()
    monkeypatch.undo()
    assert (course.target / "00_start.ipynb").read_text() == "version 1"


def test_no_scraps_stay(course: Course) -> None:
    course.write("00_start.ipynb", "version 2")
    course.sync()
    assert not list(course.target.glob("*.scrap")) + list(course.target.glob(".*.scrap"))


def test_a_file_system_without_hard_links_will_do(course: Course, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    course.write("01_chroot.ipynb", "new")
    assert course.sync() == ["01_chroot.ipynb"]
    assert course.files()["01_chroot.ipynb"] == "new"
