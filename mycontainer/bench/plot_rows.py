"""Figures of the kind "who takes how long": a row a subject, every sample a mark, a log axis.

Startup (cold and warm in panels of their own), unpack speed and overhead are drawn so.
"""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import fill
from typing import Any, NamedTuple

from mycontainer.bench import numbers
from mycontainer.bench import plot_style as style
from mycontainer.bench.plot_style import FAINT, INK, LINE, PALE, SIZE, SMALL, Look, Unit

HIGH = 0.52  # inches a row
WIDEST = 3.0  # from end to end at least so many times


class Row(NamedTuple):
    """One line of a panel."""

    label: str
    values: Sequence[float]
    look: Look
    ratio: tuple[float, float, float] | None = None  # to the reference: value, confidence interval
    note: str = ""                                   # instead of a ratio; or why there is no sample


def panel(axis: Any, rows: Sequence[Row], unit: Unit, title: str,
          limits: tuple[float, float], ratios: str = "") -> None:
    """Draw the rows, the first on top; at the right the median, the 95th percentile and the ratio.

    ``limits`` are those of the log axis.
    """
    axis.set_xscale("log")
    axis.set_xlim(*limits)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    style.log_axis(axis.xaxis, unit, *limits)
    axis.grid(axis="x", color=LINE, linewidth=0.8)
    axis.set_title(title, pad=12)
    axis.set_yticks(range(len(rows)), [fill(row.label, 30) for row in rows])
    axis.tick_params(axis="y", length=0)
    for number, row in enumerate(rows):
        if number % 2 == 0:
            axis.axhspan(number - 0.5, number + 0.5, color=PALE, linewidth=0, zorder=0)
        _draw(axis, number, row)
    columns = [(1.015, "median", lambda row: unit(numbers.median(row.values))),
               (1.13, "95 %", lambda row: unit(high) if (high := numbers.p95(row.values)) else "–"),
               (1.235, ratios, lambda row: _ratio(row))]
    for x, name, told in columns:
        axis.annotate(name, (x, 1), (0, 6), xycoords="axes fraction", textcoords="offset points",
                      fontsize=SMALL, color=FAINT)
        for number, row in enumerate(rows):
            if row.values:
                axis.annotate(told(row), (x, number), xycoords=("axes fraction", "data"), va="center",
                              fontsize=SIZE - 1, annotation_clip=False,
                              fontweight="bold" if name == "median" else "normal")


def _draw(axis: Any, number: int, row: Row) -> None:
    """Every sample, one beside the other as they came, the median and the 95th percentile over them."""
    if not row.values:
        axis.annotate(row.note or "no sample", (0.01, number), xycoords=("axes fraction", "data"),
                      va="center",
                      color=FAINT, fontsize=SIZE - 1)
        return
    count = len(row.values)
    axis.scatter(row.values, side_by_side(number, 0.3, count), marker=row.look.mark,
                 s=34 if count < 60 else 14,
                 zorder=3,
                 facecolor=row.look.ink if row.look.full else "white",
                 edgecolor="white" if row.look.full else row.look.ink,
                 linewidth=0.5 if row.look.full else 1.3,
                 alpha=0.85, gid=f"samples {row.label}")
    middle, high = numbers.median(row.values), numbers.p95(row.values)
    axis.vlines(middle, number - 0.42, number + 0.42, color=INK, linewidth=3.2, zorder=4)
    if high is not None:  # with few samples nobody knows
        axis.vlines(high, number - 0.28, number + 0.28, color=INK, linewidth=1.6, linestyle=(0, (2, 1.2)),
                    zorder=4)


def side_by_side(middle: float, room: float, count: int) -> list[float]:
    """Heights for so many marks of one row, in the order of the samples."""
    return [middle + room * (2 * (index + 0.5) / count - 1) for index in range(count)]


def _ratio(row: Row) -> str:
    if not row.ratio:
        return row.note
    value, low, high = row.ratio
    if not numbers.sure(row.values):  # an interval of so few would be believed
        return f"{style.times(value)}  (of {len(row.values)})"
    return f"{style.times(value)}  [{_short(low)} … {_short(high)}]"


def _short(value: float) -> str:
    return f"{value:.2f}" if value < 10 else style.digits(value) if value < 100 else f"{value:.0f}"


def limits(values: Sequence[float]) -> tuple[float, float]:
    """A log axis on which all of these values have room, and on which a few per cent look like a few."""
    low, high = min(values), max(values)
    if high / low < WIDEST:
        middle = (low * high) ** 0.5
        low, high = middle / WIDEST ** 0.5, middle * WIDEST ** 0.5
    room = (high / low) ** 0.04 * 1.06
    return low / room, high * room


def marks(looks: Sequence[Look]) -> list[Any]:
    """For a legend: what the marks mean."""
    from matplotlib.lines import Line2D

    handles = [Line2D([], [], marker=one.mark, color=one.ink,
                      markerfacecolor=one.ink if one.full else "white",
                      linestyle="", markersize=8, label=one.words) for one in dict.fromkeys(looks)]
    return [*handles, *(Line2D([], [], color=INK, marker="|", markersize=high, markeredgewidth=wide,
                               linestyle="",
                               label=words)
                        for high, wide, words in ((16, 3.2, "median"), (11, 1.6, "95 % are below")))]
