"""How thoroughly it is measured, how far one is told that it has come, and what counts as a failure."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import NamedTuple

from mycontainer.bench.observe import NotReady
from mycontainer.errors import ContainerError

FAULTS = (NotReady, ContainerError, OSError, subprocess.SubprocessError)  # the subject's

Progress = Callable[[float, float, str], None]  # seconds done, seconds in all (expected), what is going on


class Settings(NamedTuple):
    """How thoroughly."""

    rounds: int = 40          # at most so many samples of a subject
    warmup: int = 2           # rounds before, that are dropped
    deadline: float = 60.0    # seconds that one start may take
    budget: float = 180.0     # seconds that all of it may take: dear subjects get fewer rounds
    quick: bool = False
    seed: int = 0             # of the order


QUICK = Settings(rounds=20, warmup=1, deadline=40.0, budget=45.0, quick=True)
FULL = Settings(rounds=100, warmup=3, deadline=120.0, budget=1800.0)


def silent(done: float, total: float, what: str) -> None:
    """The progress of one who does not want to see any."""


def one_line(error: BaseException) -> str:
    """What went wrong, for a table."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:199] + "…"
