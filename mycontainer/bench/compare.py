"""Two runs of one question, side by side: what became faster or slower, and is it more than chance?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from mycontainer.bench import numbers, report
from mycontainer.bench.run import Run
from mycontainer.errors import ContainerError


class Row(NamedTuple):
    """One subject and series in both runs; ``ratio`` is the second to the first."""

    subject: str
    series: str
    before: float
    after: float
    ratio: numbers.Ratio
    verdict: str


def compare(before: Run, after: Run) -> list[Row]:
    """All that both have measured. Raises ContainerError if they are answers to different questions."""
    if before.question != after.question:
        raise ContainerError(f"cannot compare {before.question} with {after.question}",
                             hint="Two files of the same question can be compared.")
    rows = []
    for series in report.series_of(before):
        for name, labels in report.groups(before, series):
            old, new = (report.values_of(run, name, series, labels) for run in (before, after))
            if new and min(old) > 0:
                what = ", ".join([name, *map(str, labels.values())])
                rows.append(_row(what, series, old, new, max(floor(before, series), floor(after, series))))
    return rows


def _row(name: str, series: str, old: Sequence[float], new: Sequence[float], threshold: float) -> Row:
    ratio = numbers.ratio(new, old)
    if not (numbers.sure(old) and numbers.sure(new)):
        verdict = "too few samples"
    elif not ratio.differs or abs(ratio.value - 1) <= threshold:
        verdict = "not different"
    else:
        verdict = "less" if ratio.value < 1 else "more"
    return Row(name, series, numbers.median(old), numbers.median(new), ratio, verdict)


def floor(run: Run, series: str) -> float:
    """What the run could not tell from no difference: its A/A part; 0 if it has none."""
    same = report.values_of(run, report.BASE, series)
    again = report.values_of(run, f"{report.BASE}-again", f"aa-{series}")
    if min([*same, *again], default=0) <= 0:
        return 0.0
    return numbers.visible(same, again) if numbers.sure(same) and numbers.sure(again) else 0.0


def warnings(before: Run, after: Run) -> list[str]:
    """What makes the two hard to compare: they were not made by the same machine, or not for as long."""
    unlike = [name for name in ("cpu", "cpus", "kernel", "architecture", "cgroups", "user")
              if before.machine.get(name) != after.machine.get(name)]
    lines = [f"the machines differ ({name}): {before.machine.get(name)} and {after.machine.get(name)}"
             for name in unlike]
    return lines + [f"{which}: {note}" for which, run in (("first", before), ("second", after))
                    for note in run.notes]


def show(before: Run, after: Run, console: Console | None = None) -> None:
    """Print it."""
    console = console or Console(highlight=False)
    shown = Table(title=f"{before.question}: the second run to the first", title_justify="left",
                  title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("", "series", "first", "second", "ratio", "95 % CI", ""):
        shown.add_column(name, justify="left" if name in ("", "series") else "right", no_wrap=True)
    for row in compare(before, after):
        unit = report.unit_of(before, row.series)
        medians = [report.amount(value, unit) for value in (row.before, row.after)]
        shown.add_row(row.subject, row.series, *medians, report.digits(row.ratio.value),
                      f"{report.digits(row.ratio.low)} – {report.digits(row.ratio.high)}", row.verdict)
    console.print(shown)
    for line in warnings(before, after):
        console.print(f"  {line}", markup=False)
