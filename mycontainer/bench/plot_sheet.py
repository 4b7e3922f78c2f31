"""The paper of a figure: a title and its lines above, panels in the middle, a footer below."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from mycontainer.bench.plot_style import FAINT, SIZE, SMALL, Drawing

WIDE, PAD = 16.0, 0.35             # inches
HEAD, FOOT, WORD = 0.29, 0.21, 0.25  # inches a line: beneath the title, at the foot, beneath a panel
AXIS = 0.38                        # what a panel's own scale takes below it


class Sheet:
    """A figure with its title, axes and footer, all measured in inches."""

    def __init__(self, title: str, lines: Sequence[str], panels: Sequence[Panel], below: Iterable[str],
                 left: float = 3.4, right: float = 4.4, legend: bool = True) -> None:
        """``panels`` from the top down; ``lines`` go beneath the title."""
        head_rows = [row for line in lines for row in textwrap.wrap(line, 142)]
        foot_rows = [row for line in below for row in textwrap.wrap(line, 186, subsequent_indent="   ")]
        notes = [textwrap.wrap(one.note, 112) for one in panels]
        top = PAD + 0.5 + HEAD * len(head_rows) + 0.15
        under = [AXIS + one.scale + WORD * len(rows) + 0.1 for one, rows in zip(panels, notes, strict=True)]
        high = (top + sum(one.high + 0.5 for one in panels) + sum(under) + 0.45 * legend
                + FOOT * len(foot_rows) + PAD)
        self.figure, self.axes = Drawing(figsize=(WIDE, high), facecolor="white"), []
        self.high, self.left = high, left
        self.text(PAD, PAD, title, fontsize=SIZE + 7, fontweight="bold", va="top")
        for number, row in enumerate(head_rows):
            self.text(PAD, PAD + 0.5 + HEAD * number, row, fontsize=SIZE - 0.5, va="top")
        for one, rows, room in zip(panels, notes, under, strict=True):
            top += 0.5
            for start, share in one.parts:
                wide = WIDE - left - right
                self.axes.append(self.figure.add_axes(((left + start * wide) / WIDE,
                                                       1 - (top + one.high) / high,
                                                       share * wide / WIDE, one.high / high)))
            top += one.high
            for number, row in enumerate(rows):
                self.text(left, top + AXIS + one.scale + WORD * number, row, fontsize=SMALL + 0.5,
                          fontweight="bold", va="top")
            top += room
        self.legend_at = top + 0.05
        for number, row in enumerate(foot_rows):
            self.text(PAD, top + 0.45 * legend + FOOT * number, row, fontsize=SMALL - 1, color=FAINT,
                      va="top")

    def text(self, x: float, y: float, words: str, **how: Any) -> None:
        """Words at inches from the left and the top."""
        self.figure.text(x / WIDE, 1 - y / self.high, words, **how)

    def legend(self, handles: Sequence[Any]) -> None:
        """What the marks mean, between the panels and the footer."""
        left = self.left if len(handles) < 6 else PAD  # many need the whole width
        self.figure.legend(handles=handles, loc="upper left", frameon=False, fontsize=SMALL + 0.5,
                           ncols=len(handles),
                           bbox_to_anchor=(left / WIDE, 1 - self.legend_at / self.high), borderaxespad=0,
                           borderpad=0, handletextpad=0.4, columnspacing=1.6)


class Panel(NamedTuple):
    """Room for a row of axes: its height, the words below it, and more for a scale that has a name."""

    high: float                                             # inches
    note: str = ""
    scale: float = 0.0                                      # inches
    parts: Sequence[tuple[float, float]] = ((0.0, 1.0),)    # where each begins, and how wide: shares of 1
