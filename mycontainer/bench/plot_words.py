"""What all figures say in words: above the panels, below them, and instead of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mycontainer.bench import numbers
from mycontainer.bench import plot_style as style
from mycontainer.bench.plot_rows import Row
from mycontainer.bench.plot_sheet import Panel, Sheet
from mycontainer.bench.plot_style import Drawing
from mycontainer.bench.run import Run

LETTERS = "ABCDEFGH"


def introduction(runs: Sequence[Run], *first: str) -> list[str]:
    """The lines beneath the title: what is special to the figure, which machines, whether emulated."""
    warnings = dict.fromkeys(warning for run in runs if (warning := style.emulated(run)))
    return [*first, *named(runs), *warnings]


def words(rows: Sequence[Row], unit: Callable[[float], str]) -> list[str]:
    """A sentence a row."""
    said = []
    for row in rows:
        if not row.values:
            said.append(f"{row.label}: {row.note or 'no sample'}.")
            continue
        ratio = "" if not row.ratio else f", {style.times(row.ratio[0])}"
        high = numbers.p95(row.values)
        below = f", 95 % below {unit(high)}" if high else ""
        said.append(f"{row.label}: median {unit(numbers.median(row.values))}{below}, "
                    f"{len(row.values)} samples{ratio}.")
    return said


def named(runs: Sequence[Run]) -> list[str]:
    """Which letter is which machine."""
    return [f"{letter}: {style.machine(run)}." for letter, run in zip("ABCDEFGH", runs, strict=False)
            ] if len(runs) > 1 else []


def footer(runs: Sequence[Run]) -> list[str]:
    """The footers of all runs, each line once."""
    return list(dict.fromkeys(line for run in runs for line in style.footer(run)))


def nothing(run: Run, title: str) -> Drawing:
    """A sheet for a run without a sample: it says why."""
    below = style.footer(run)
    sheet = Sheet(title, ["Nothing was measured."], [Panel(0.1)], below, legend=False)
    sheet.axes[0].set_axis_off()
    sheet.figure.words = "\n".join([title, "Nothing was measured.", *below])
    return sheet.figure
