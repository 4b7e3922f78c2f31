"""`mycontainer bench`: containers against virtual machines, and all that is in between, measured here."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

from mycontainer.cli.options import Command, Option

TYPE_CHECKING = False
if TYPE_CHECKING:
    pass

QUESTIONS = {  # each a module of mycontainer/bench with a function `measure`
    "startup": "time to the first instruction of one's own program, and to the first page",
}

BENCH = Command("mycontainer bench QUESTION", "", Option("quick", ""))


def main(arguments: Sequence[str]) -> int:
    """Measure, show, save."""
    from mycontainer.bench import report, subjects, world
    from mycontainer.bench.measure import QUICK, silent
    def work():
        question = import_module(f"mycontainer.bench.{arguments[0]}")
        run = question.measure(subjects.named(subjects.ALL), QUICK, silent)
        report.show(run)
        return 0
    return world.run(work)
