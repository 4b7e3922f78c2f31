"""A drawing of how much disk space containers take: what was measured, and where a straight line leads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from mycontainer.lab.style import FAINT, LINE, Figure, figure, swatch, text

Points = Sequence[tuple[int, float]]  # (containers, MB), in order

WIDE, HIGH, LEFT = 560, 300, 96
MARKS = ("circle", "square")


def space_figure(series: Mapping[str, Points], most: int = 100,
                 title: str = "Space that containers take") -> Figure:
    """Lines through the measured ``series``, from 0 to ``most`` containers.

    ``series`` maps a name to its points. A line that was not measured to the end goes on dashed, as far as
    its first and last point lead: that part is calculated, and the legend and the words say so.
    """
    ends = {name: at(points, most) for name, points in series.items()}
    top = _round(max(*ends.values(), 1.0))
    body = _axes(most, top)
    words = []
    for number, (name, points) in enumerate(series.items()):
        measured, last = points[-1][0] >= most, points[-1]
        body += _line(number, points, ends[name], most, top)
        note = "measured" if measured else f"measured up to {last[0]}, dashed: calculated"
        body += _legend(number, f"{name} ({note})")
        words.append(f"{name}: {last[1]:,.0f} MB at {last[0]} containers" + (
            "" if measured else f", which leads to {ends[name]:,.0f} MB at {most}"))
    return figure("".join(body), WIDE + LEFT + 20, HIGH + 112, title, "; ".join(words) + ".")


def at(points: Points, count: int) -> float:
    """What the straight line through the first and the last point says for ``count`` containers."""
    (first, low), (last, high) = points[0], points[-1]
    return high if last == first else low + (high - low) * (count - first) / (last - first)


def _round(size: float) -> float:
    """The next number of which a quarter is a round one."""
    power = 10.0 ** math.floor(math.log10(size))
    return next(part * power for part in (1, 2, 4, 8, 10) if part * power >= size)


def _axes(most: int, top: float) -> list[str]:
    drawn = [text(0, 4, "MB", weight=700)]
    for part in range(5):
        y = 20 + HIGH * (1 - part / 4)
        drawn.append(f'<path d="M{LEFT},{y:g} H{LEFT + WIDE}" stroke="{LINE}"/>')
        drawn.append(text(LEFT - 12, y + 6, f"{top * part / 4:,.0f}", anchor="end", size=16))
        x = LEFT + WIDE * part / 4
        drawn.append(text(x, 20 + HIGH + 26, f"{most * part // 4}", anchor="middle", size=16))
    drawn.append(text(LEFT + WIDE / 2, 20 + HIGH + 48, "containers", anchor="middle", weight=700))
    return drawn


def _line(number: int, points: Points, end: float, most: int, top: float) -> list[str]:
    def place(count: float, size: float) -> tuple[float, float]:
        return LEFT + WIDE * count / most, 20 + HIGH * (1 - size / top)

    ink, spots = _ink(number), [place(*point) for point in points]
    path = " L".join(f"{x:g},{y:g}" for x, y in spots)
    drawn = [f'<path d="M{path}" fill="none" stroke="{ink}" stroke-width="4"/>']
    if points[-1][0] < most:
        (x, y), (to_x, to_y) = spots[-1], place(most, end)
        drawn.append(f'<path d="M{x:g},{y:g} L{to_x:g},{to_y:g}" stroke="{ink}" stroke-width="3" '
                     'stroke-dasharray="9 7"/>')
    shown = spots if len(spots) < 12 else spots[::len(spots) // 10]
    return [*drawn, *(_mark(number, *spot) for spot in shown)]


def _ink(number: int) -> str:
    return ("#1b4f8a", "#b35900")[number % 2]


def _mark(number: int, x: float, y: float) -> str:
    """A circle or a square: the lines can be told apart without their colours."""
    fill = swatch(number)[0]
    if MARKS[number % 2] == "circle":
        return f'<circle cx="{x:g}" cy="{y:g}" r="6" fill="{fill}" stroke="{_ink(number)}" stroke-width="2"/>'
    return (f'<rect x="{x - 6:g}" y="{y - 6:g}" width="12" height="12" fill="{fill}" '
            f'stroke="{_ink(number)}" stroke-width="2"/>')


def _legend(number: int, words: str) -> list[str]:
    y = 20 + HIGH + 72 + 24 * number
    return [_mark(number, LEFT + 8, y - 6), text(LEFT + 26, y, words, size=16, ink=FAINT)]
