"""Where exercises and predictions are found: one module a chapter, with EXERCISES and PREDICTIONS in it."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

from mycontainer.lab.exercise import Exercise, Prediction

CHAPTERS = ("start", "chroot", "namespaces")

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
    return [one for chapter in _chapters() for one in import_module(module_of(chapter)).EXERCISES]


def every_prediction() -> list[Prediction]:
    """All predictions, in the order of the course."""
    found = [getattr(import_module(module_of(chapter)), "PREDICTIONS", ()) for chapter in _chapters()]
    return [one for some in found for one in some]


def find(id: str) -> Exercise:
    """The exercise with this id; LookupError, with the ids that there are, if there is none."""
    for exercise in every_exercise():
        if exercise.id == id:
            return exercise
    raise _unknown("exercise", id, [exercise.id for exercise in every_exercise()])


def find_prediction(id: str) -> Prediction:
    """The prediction with this id; LookupError, with the ids that there are, if there is none."""
    for prediction in every_prediction():
        if prediction.id == id:
            return prediction
    raise _unknown("prediction", id, [prediction.id for prediction in every_prediction()])


def _chapters() -> list[str]:
    return [*(name for name in CHAPTERS if find_spec(module_of(name))), *_more]


def _unknown(kind: str, id: str, known: list[str]) -> LookupError:
    return LookupError(f"there is no {kind} {id!r}; there are {', '.join(known) or 'none'}")
