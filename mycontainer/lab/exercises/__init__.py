"""Where exercises and predictions are found: one module a chapter, with EXERCISES and PREDICTIONS in it."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from mycontainer.lab.exercise import Exercise, Prediction

CHAPTERS = ("start", "chroot", "namespaces", "cgroups", "layers", "network", "container", "bench")

_more: dict[str, str] = {}  # chapters from elsewhere: their name, and the module that they are in


def add(chapter: str, module: str) -> None:
    """Make the exercises of another module known; a chapter of the course cannot be replaced."""
    if chapter in CHAPTERS:
        raise ValueError(f"{chapter} is a chapter of the course")
    _more[chapter] = module


def module_of(chapter: str) -> str:
    """The name of the module in which a chapter's exercises are; KeyError if there is no such chapter."""
    return f"{__name__}.{chapter}" if chapter in CHAPTERS else _more[chapter]


def every_exercise() -> list[Exercise]:
    """All exercises, in the order of the course."""
    return [one for chapter in chapters() for one in _of(chapter, "EXERCISES")]


def every_prediction() -> list[Prediction]:
    """All predictions, in the order of the course."""
    return [one for chapter in chapters() for one in _of(chapter, "PREDICTIONS")]


def find(id: str) -> Exercise:
    """The exercise with this id; LookupError, with the ids that there are, if there is none."""
    found: Exercise = _find("exercise", id)
    return found


def find_prediction(id: str) -> Prediction:
    """The prediction with this id; LookupError, with the ids that there are, if there is none."""
    found: Prediction = _find("prediction", id)
    return found


def chapters() -> list[str]:
    """The chapters that have a module here, in the order of the course."""
    return [*(name for name in CHAPTERS if find_spec(module_of(name))), *_more]


def _of(chapter: str, what: str) -> Sequence[Any]:
    return getattr(import_module(module_of(chapter)), what, ())


def _find(kind: str, id: str) -> Any:
    chapter = id.partition(".")[0]
    known = {one.id: one for one in _of(chapter, f"{kind.upper()}S")} if chapter in chapters() else {}
    if id not in known:
        there_are = known or dict.fromkeys(f"{name}.…" for name in chapters())
        raise LookupError(f"there is no {kind} {id!r}; there are {', '.join(there_are) or 'none'}")
    return known[id]
