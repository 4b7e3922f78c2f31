"""One figure for each question of the benchmark, from its runs.

    figure = plots.draw(run)          # shows itself in a notebook; more runs are laid beside the first
    figure.words                      # the same in words, also the alternative text
    plots.save(run, "startup.svg")    # or .png
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib

from mycontainer.bench import numbers, plot_rows, verdicts
from mycontainer.bench import plot_style as style
from mycontainer.bench.plot_rows import Row
from mycontainer.bench.plot_sheet import Panel, Sheet
from mycontainer.bench.plot_style import Drawing
from mycontainer.bench.plot_words import footer, introduction, nothing, words
from mycontainer.bench.run import Run
from mycontainer.bench.subject import COLD, WARM

# Question -> module and function that draw it.
FIGURES = {
    "startup": ("plots", "startup"), "anatomy": ("plot_anatomy", "anatomy"),
    "memory": ("plot_memory", "memory"), "density": ("plot_memory", "density"),
    "overhead": ("plot_layers", "overhead_figure"),
    "scale": ("plot_scale", "scale"), "layers": ("plot_layers", "layers"),
}
HEADLINES = {"byte": "the first word of a program", "page": "the first web page"}
PANELS = {COLD: "Cold (nothing of it runs before)", WARM: "Warm (a daemon or library waits)"}


def draw(run: Run, *others: Run) -> Drawing:
    """The figure for the question of ``run``. Raises ValueError for runs of different questions."""
    if odd := {one.question for one in (run, *others)} - {run.question}:
        raise ValueError(f"these runs answer different questions: {run.question}, {', '.join(sorted(odd))}")
    if run.question not in FIGURES:
        raise ValueError(f"nobody knows how to draw {run.question!r}")
    module, name = FIGURES[run.question]
    function: Callable[..., Drawing] = getattr(importlib.import_module(f"mycontainer.bench.{module}"), name)
    with matplotlib.rc_context(style.RC):
        return function(run, *others)


def alt(run: Run, *others: Run) -> str:
    """What the figure says, in words."""
    return draw(run, *others).words


def save(run: Run, path: str | Path, *others: Run) -> None:
    """Write the figure; the file's name says as what: .svg or .png."""
    path, figure = Path(path), draw(run, *others)
    if path.suffix == ".svg":
        path.write_text(figure.svg())
    else:
        path.write_bytes(figure.png())


# ---- startup -----------------------------------------------------------------------------------------------


def startup(run: Run, *others: Run) -> Drawing:
    """Time to the first word and to the first page: cold and warm in panels of their own."""
    runs = (run, *others)
    panels = [(series, warm, rows) for series in HEADLINES for warm in PANELS
              if (rows := startup_rows(runs, series, warm))]
    if not any(row.values for _, _, rows in panels for row in rows):
        return nothing(run, "Time to start")
    lines = introduction(runs, verdicts.visible_line(run))
    below = ["× is the median over the plain process's, with its 95 % interval from five samples on.",
             *footer(runs)]
    notes = [verdicts.ahead(run, series, warm) for series, warm, _ in panels]
    sheet = Sheet("From the order to start until it is seen to work", lines,
                  [Panel(plot_rows.HIGH * len(rows), note)
                   for (_, _, rows), note in zip(panels, notes, strict=True)], below)
    told = []
    for axis, (series, warm, rows), note in zip(sheet.axes, panels, notes, strict=True):
        every = [value for one, _, those in panels if one == series for row in those for value in row.values]
        title = f"{PANELS[warm]}, until {HEADLINES[series]}"
        plot_rows.panel(axis, rows, style.seconds, title, plot_rows.limits(every or [0.001, 1]), "× process")
        told += [f"{title}:", *words(rows, style.seconds), *([note] if note else [])]
    sheet.legend(plot_rows.marks([row.look for _, _, rows in panels for row in rows]))
    sheet.figure.words = "\n".join(["From the order to start until it is seen to work.", *lines, *told,
                                    *below])
    return sheet.figure


def startup_rows(runs: Sequence[Run], series: str, warm: str) -> list[Row]:
    """The subjects of one temperature, the fastest first; those of other runs beneath the same of the first.

    Who was tried and never came up has a row without samples."""
    rows: list[tuple[float, int, Row]] = []
    first: dict[str, float] = {}
    for number, run in enumerate(runs):
        base = run.values("process", series)
        for name in run.subjects:
            values = run.values(name, series)
            failed = any(one.subject == name and one.series == series for one in run.failures)
            if verdicts.temperature(run, name) != warm or not (values or failed):
                continue
            key = first.setdefault(name, numbers.median(values) if values else float("inf"))
            ratio = verdicts.ratio(values, base) if values and base and name != "process" else None
            note = "" if values else "it did not come up: see below"
            mark = f" ({'ABCDEFGH'[number]})" if len(runs) > 1 else ""
            rows.append((key, number, Row(style.label(run, name) + mark, values, style.look(run, name), ratio,
                                          note)))
    return [row for _, _, row in sorted(rows, key=lambda one: one[:2])]
