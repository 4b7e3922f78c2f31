"""What a run says, in sentences: who is ahead of ours, and how small a difference this machine can tell.

Computed from the raw samples each time, so that a plot, the notebook and a test read the same.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

from mycontainer.bench import numbers
from mycontainer.bench import plot_style as style
from mycontainer.bench.run import Run
from mycontainer.bench.subject import COLD, CONTAINER, PROCESS
from mycontainer.bench.twin import AGAIN

AA = "aa-"
PLAIN = 2.0  # so many times as much is plain to see with few samples, too


class Standing(NamedTuple):
    """A peer against ours: our median over theirs, with its confidence interval."""

    peer: str
    ratio: float
    low: float
    high: float


def ratio(values: Sequence[float], base: Sequence[float]) -> numbers.Ratio:
    """`numbers.ratio`, which takes its time, once for the same samples."""
    return _ratio(tuple(values), tuple(base))


@functools.lru_cache(maxsize=4096)
def _ratio(values: tuple[float, ...], base: tuple[float, ...]) -> numbers.Ratio:
    return numbers.ratio(values, base)


def temperature(run: Run, name: str) -> str:
    """Cold or warm."""
    return str(run.subjects.get(name, {}).get("temperature", COLD))


Values = Callable[[str], Sequence[float]]  # of a subject, by its name: the less, the better


def ours(run: Run, values: Values, warm_or_cold: str) -> str:
    """The best of our own subjects of this temperature, or nothing."""
    found = [name for name in run.subjects
             if name.startswith(style.OURS) and temperature(run, name) == warm_or_cold and values(name)]
    return min(found, key=lambda name: numbers.median(values(name)), default="")


def standings(run: Run, values: Values, warm_or_cold: str) -> list[Standing]:
    """Each peer of this temperature against ours, the best first. More than 1: they are ahead."""
    mine = ours(run, values, warm_or_cold)
    found = []
    for name, facts in run.subjects.items():
        if (mine and not name.startswith(style.OURS) and facts.get("kind", CONTAINER) != PROCESS
                and temperature(run, name) == warm_or_cold and values(name)):
            found.append(Standing(name, *ratio(values(mine), values(name))))
    return sorted(found, key=lambda one: -one.ratio)


def ahead(run: Run, series: str, warm_or_cold: str) -> str:
    """One sentence on a series: who of this temperature starts faster than ours, by how much."""
    return compared(run, lambda name: run.values(name, series), warm_or_cold, visible(run, series), "faster")


def compared(run: Run, values: Values, warm_or_cold: str, seen: float, better: str) -> str:
    """Who is better than the best of ours, and who is too near to tell; ``seen`` is the smallest difference
    that can be told."""
    mine = ours(run, values, warm_or_cold)
    if not mine:
        return ""
    all_of_them = standings(run, values, warm_or_cold)
    if not all_of_them:
        return f"No {warm_or_cold} peer was measured beside {style.label(run, mine)}."
    first = [one for one in all_of_them if one.low > 1 and one.ratio > 1 + seen
             and (one.ratio > PLAIN or (numbers.sure(values(mine)) and numbers.sure(values(one.peer))))]
    near = [one for one in all_of_them if one not in first and (one.high > 1 or one.ratio > 1 / (1 + seen))]
    said = []
    if first:
        said.append(f"{better.capitalize()} than {style.label(run, mine)}: " + ", ".join(
            f"{style.label(run, one.peer)} {style.times(one.ratio)}" for one in first) + ".")
    if near:
        said.append("Too near, or too few samples, to tell: "
                    + ", ".join(style.label(run, one.peer) for one in near) + ".")
    return " ".join(said) or f"No {warm_or_cold} peer measured is {better} than {style.label(run, mine)}."


def visible(run: Run, series: str = "") -> float:
    """The smallest difference that can be told in this series, or in any, as a fraction; 0: no A/A was made.

    The A/A samples are those of a subject under a second name (twin.py), in a series of their own.
    """
    found = [0.0]
    for one in {one.series for one in run.samples if one.series.startswith(AA)}:
        if series in ("", one.removeprefix(AA)):
            for name in run.subjects:
                again = run.values(name + AGAIN, one)
                same = run.values(name, one.removeprefix(AA))
                if again and same:
                    found.append(differing(same, again))
    return max(found)


def differing(same: Sequence[float], again: Sequence[float]) -> float:
    """`numbers.visible`, by the ratio that we remember; of few samples it is a factor of `PLAIN` at least."""
    found = ratio(again, same)
    seen = max(abs(found.low - 1), abs(found.high - 1))
    return seen if numbers.sure(same) and numbers.sure(again) else max(seen, PLAIN - 1)


def visible_line(run: Run, seen: float | None = None) -> str:
    """For below the title. ``seen`` is given where a question's numbers are not its samples themselves."""
    seen = visible(run) if seen is None else seen
    if not seen:
        return "No A/A run was made: how small a difference can be told here is not known."
    return (f"This machine cannot tell {style.percent(seen)} apart: by so much a subject may differ from "
            "itself (A/A, 95 %).")
