"""Chapters 6 and 7 run with the learner's own functions: a part that is made of parts is kept whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mycontainer import lab
from mycontainer.lab.check import judge
from mycontainer.lab.exercise import from_source
from mycontainer.lab.progress import _own, record_solved, solved, whole_source
from mycontainer.layers import make_upper
from needs import needs_module, needs_userns

pytestmark = [needs_userns, needs_module("cloudpickle")]

STACK = '''
def join(layers):
    return ":".join(layers[::-1])

def my_stack(layers, root, upper, work):
    options = f"lowerdir={join(layers)},upperdir={upper},workdir={work},userxattr"
    syscalls.mount("overlay", root, "overlay", 0, options)
'''
ROOT = '''
def my_root(image, place):
    chroot.make_private()
    syscalls.mount("tmpfs", place, "tmpfs", 0, "mode=755")
    upper, work = make_upper(place)
    stack(image, place, upper, work)
    chroot.furnish(place)
    cage(place)
'''


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MYCONTAINER_LAB_FD", raising=False)
    monkeypatch.setenv("MYCONTAINER_WORKSPACE", str(tmp_path))
    _own.clear()
    return tmp_path


def in_a_cell(source: str, name: str, **names: Any) -> Any:
    """The function that a cell defines, with what other cells have defined; its source can be found."""
    from mycontainer.lab.child import remember_source
    from mycontainer.lab.exercise import learners_world

    file = f"<ipython-input-{name}>"
    remember_source(file, source.splitlines(keepends=True))
    return from_source(source, name, file, {**learners_world(), "__name__": "__main__", **names})


def test_a_solution_made_of_solutions_comes_back_in_another_kernel(workspace: Path) -> None:
    record_solved("layers.stack", in_a_cell(STACK, "my_stack"))
    _own.clear()  # another kernel, another chapter
    stack, cage = lab.mine("layers.stack"), lab.mine("chroot.cage")
    assert stack.__name__ == "my_stack"
    assert cage.__module__.startswith("mycontainer."), "not solved: ours"
    my_root = in_a_cell(ROOT, "my_root", stack=stack, cage=cage, make_upper=make_upper)
    record_solved("container.root", my_root)
    _own.clear()  # and one more
    source = solved()["container.root"]["source"]
    assert "def join" in source
    assert "stack = my_stack" in source
    again = lab.mine("container.root")
    assert judge("container.root", again), str(judge("container.root", again))


def test_a_name_of_ones_own_is_no_alias(workspace: Path) -> None:
    assert "my_stack = my_stack" not in whole_source(in_a_cell(STACK, "my_stack"))
