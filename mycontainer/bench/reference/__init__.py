"""Runs that come with the course: QUESTION.json is the one that its texts speak of.

QUESTION-NAME.json is a further machine's. ``mycontainer bench QUESTION --output`` writes them; README's
figure is drawn from startup.json: ``plots.save(reference("startup"), "notebooks/figures/startup.png")``.
"""

from __future__ import annotations

from pathlib import Path

from mycontainer.bench.run import Run
from mycontainer.errors import ContainerError

HERE = Path(__file__).parent


def reference(question: str = "startup") -> Run:
    """The course's own run of a question. Raises ContainerError if there is none."""
    path = HERE / f"{question}.json"
    if not path.exists():
        there_are = ", ".join(questions()) or "none"
        raise ContainerError(f"no reference run of {question!r}", f"there are {there_are}")
    return Run.load(path)


def references(question: str = "startup") -> list[Run]:
    """That run, and those of further machines."""
    return [reference(question), *map(Run.load, sorted(HERE.glob(f"{question}-*.json")))]


def questions() -> list[str]:
    """What there are runs of."""
    return sorted(path.stem for path in HERE.glob("*.json") if "-" not in path.stem)
