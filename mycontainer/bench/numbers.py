"""From raw samples to what a person reads: median, 95th percentile, ratios and how sure they are.

Only the order of the samples is used, never their mean: one start that a busy machine delayed tenfold should
not move the number.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

RESAMPLES = 2000
ENOUGH_FOR_P95 = 20  # below that the 95th percentile is the largest sample, or made up


class Ratio(NamedTuple):
    """How many times as long (as much) as the other: of the medians, and its 95 % confidence interval."""

    value: float
    low: float
    high: float

    @property
    def differs(self) -> bool:
        """Is 1, "the same", outside of the interval?"""
        return not self.low <= 1 <= self.high


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which this share of them lies, interpolated between neighbours (R's type 7)."""
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no samples")
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def median(values: Sequence[float]) -> float:
    """Half of them are below."""
    return quantile(values, 0.5)


def p95(values: Sequence[float]) -> float | None:
    """19 of 20 are below; None if there are too few to tell."""
    return quantile(values, 0.95) if len(values) >= ENOUGH_FOR_P95 else None


def interval(values: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """Where the median probably is: its 95 % bootstrap interval."""
    medians = _medians_of_resamples(values, random.Random(seed))
    return quantile(medians, 0.025), quantile(medians, 0.975)


def ratio(values: Sequence[float], base: Sequence[float], seed: int = 0) -> Ratio:
    """The medians' ratio with its 95 % bootstrap confidence interval (percentile method).

    Both sides are drawn anew, with replacement, from what was measured; the seed makes the result the same
    each time. With fewer than five samples the interval is too narrow to be believed: see `sure`. Raises
    ValueError where there is nothing to divide by.
    """
    if min(base, default=0) <= 0:
        raise ValueError("no ratio to nothing")
    generator = random.Random(seed)
    mine, theirs = (_medians_of_resamples(side, generator) for side in (values, base))
    ratios = [one / other for one, other in zip(mine, theirs, strict=True)]
    return Ratio(median(values) / median(base), quantile(ratios, 0.025), quantile(ratios, 0.975))


def sure(values: Sequence[float]) -> bool:
    """Are there enough samples for an interval to mean anything?"""
    return len(values) >= 5


def visible(same: Sequence[float], again: Sequence[float]) -> float:
    """The smallest difference that can be told from none: 0.03 means 3 %.

    Both are samples of one subject under two names, taken in turns (an A/A run). How far their ratio's
    interval reaches from 1 is what chance alone, and this method's own faults, make of no difference at all.
    """
    found = ratio(again, same)
    return max(abs(found.low - 1), abs(found.high - 1))


def _medians_of_resamples(values: Sequence[float], generator: random.Random) -> list[float]:
    if not values:
        raise ValueError("no samples")
    return [median(generator.choices(values, k=len(values))) for _ in range(RESAMPLES)]
