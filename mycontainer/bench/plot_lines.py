"""What figures with curves share: points of every sample, a line through the medians, names at its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from matplotlib.ticker import NullLocator

from mycontainer.bench import numbers
from mycontainer.bench import plot_style as style
from mycontainer.bench.plot_style import FAINT, LINE, SMALL, Look, Unit

DASHES = ("-", (0, (5, 2)), (0, (1.2, 1.5)), (0, (6, 2, 1.2, 2)), (0, (9, 3)), (0, (3, 1, 1, 1, 1, 1)))


class Curve(NamedTuple):
    """Samples of one subject: (x, y) each."""

    label: str
    points: Sequence[tuple[float, float]]
    look: Look


def draw(axis: Any, curves: Sequence[Curve], y_unit: Unit, title: str, x_name: str,
         inches: tuple[float, float], more: int = 0) -> None:
    """Every point, a line through the medians for each x, both axes logarithmic, the name at the right end.

    ``inches`` are the width and height of the axes; ``more`` is what was added to x to have a logarithm.
    """
    from mycontainer.bench.plot_rows import limits

    xs = [x for one in curves for x, _ in one.points]
    ys = [y for one in curves for _, y in one.points if y > 0]
    axis.set_xscale("log")
    axis.set_yscale("log")
    x_low, x_high = min(xs) / 1.3, max(max(xs), 2 * min(xs)) * 1.3
    y_low, y_high = limits(ys)
    axis.set_xlim(x_low, x_high)
    axis.set_ylim(y_low, y_high)
    style.log_axis(axis.xaxis, style.count, x_low, x_high, inches[0])
    if len(set(xs)) <= 6:
        axis.set_xticks(sorted(set(xs)), [style.count(x - more) for x in sorted(set(xs))])
        axis.xaxis.set_minor_locator(NullLocator())
    style.log_axis(axis.yaxis, y_unit, y_low, y_high, 3 * inches[1])
    axis.grid(color=LINE, linewidth=0.8)
    axis.set_title(title, pad=12)
    axis.set_xlabel(x_name)
    ends = []
    alike: Counter[str] = Counter()  # curves of one colour so far
    for one in curves:
        points = [(x, y) for x, y in one.points if y > 0]
        many = len(points) > 100
        axis.scatter(*zip(*points, strict=True), marker=one.look.mark, s=10 if many else 26, zorder=3,
                     facecolor=one.look.ink if one.look.full else "white",
                     edgecolor="white" if one.look.full else one.look.ink,
                     linewidth=0.3 if many else 0.6, alpha=0.8,
                     gid=f"samples {one.label}")
        medians = [(x, numbers.median([y for at, y in points if at == x]))
                   for x in sorted({x for x, _ in points})]
        axis.plot(*zip(*medians, strict=True), color=one.look.ink, linewidth=1.8, zorder=2,
                  linestyle=DASHES[alike[one.look.ink] % len(DASHES)])
        alike[one.look.ink] += 1
        ends.append((*medians[-1], one))
    _names(axis, ends, (y_low, y_high), inches[1])


def _names(axis: Any, ends: Sequence[tuple[float, float, Curve]], limits: tuple[float, float],
           high: float) -> None:
    """The names at the right edge, each as near to its curve's end as the others let it be."""
    import math

    low, span = math.log(limits[0]), math.log(limits[1] / limits[0])
    wanted = sorted(((math.log(y) - low) / span, x, y, one) for x, y, one in ends)
    room = 0.235 / high  # of the axis' height, a name
    places: list[float] = []
    for share, *_ in wanted:
        places.append(max(share, places[-1] + room if places else -0.05))
    over = max(0.0, places[-1] - 1.04) if places else 0.0
    for index in range(len(places) - 1, -1, -1):
        limit = places[index + 1] - room if index + 1 < len(places) else places[-1] - over
        places[index] = min(places[index], limit)
    for place, (_, x, y, one) in zip(places, wanted, strict=True):
        axis.annotate(one.label, (x, y), (1.03, place), xycoords="data", textcoords="axes fraction",
                      va="center",
                      fontsize=SMALL, annotation_clip=False,
                      arrowprops={"arrowstyle": "-", "color": FAINT, "linewidth": 0.7, "shrinkA": 1,
                                  "shrinkB": 3})
