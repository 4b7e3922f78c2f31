"""The figure of `scale`: the time of a start beside others, and with several starters."""

from __future__ import annotations

from mycontainer.bench import numbers, plot_lines, plot_rows, plot_sheet, verdicts
from mycontainer.bench import plot_style as style
from mycontainer.bench.plot_lines import Curve
from mycontainer.bench.plot_sheet import Panel, Sheet
from mycontainer.bench.plot_style import Drawing
from mycontainer.bench.plot_words import LETTERS, footer, introduction, nothing
from mycontainer.bench.run import Run
from mycontainer.bench.subject import COLD, WARM

LEFT = 1.2  # inches

# Series -> label of its samples, title, name of the axis, what is added so that a logarithm exists.
AXES = {"running": ("running", "A start beside others that run", "so many others run", 1),
        "starters": ("starters", "Starts at the same moment", "so many start at once", 0)}


def scale(run: Run, *others: Run) -> Drawing:
    """Two panels, all samples of all runs, lines through the medians."""
    runs, title = (run, *others), "Does a start get slower?"
    if not any(curves(runs, series) for series in AXES):
        return nothing(run, title)
    lines = introduction(runs, verdicts.visible_line(run))
    below = ["Starters are processes of their own. This shows how steep a line is; how high, startup shows.",
             *footer(runs)]
    high, part = 6.0, 0.3
    sheet = Sheet(title, lines, [Panel(high, note(run), 0.35, [(0.0, part), (0.51, part)])], below, LEFT, 0.0)
    told = []
    for axis, (series, (_, name, x_name, more)) in zip(sheet.axes, AXES.items(), strict=True):
        found = curves(runs, series)
        if not found:
            axis.set_axis_off()
            continue
        plot_lines.draw(axis, found, style.seconds, name, x_name,
                        (part * (plot_sheet.WIDE - LEFT), high), more)
        told += [f"{name}:", *(sentence(curve, more) for curve in found)]
    sheet.legend(plot_rows.marks([style.look(one, name) for one in runs for name in one.subjects])[:-2])
    sheet.figure.words = "\n".join([title, *lines, *told, note(run), *below])
    return sheet.figure


def note(run: Run) -> str:
    """Who is ahead of ours when as many start at once as were tried."""
    most = max((one.labels["starters"] for one in run.samples if one.series == "starters"), default=0)
    told = [verdicts.compared(run, lambda name: run.values(name, "starters", starters=most), warm,
                              verdicts.visible(run, "starters"), "faster") for warm in (COLD, WARM)]
    return " ".join([f"{most} at once:", *filter(None, told)]) if any(told) else ""


def curves(runs: tuple[Run, ...], series: str) -> list[Curve]:
    """Of each subject that has samples of this series."""
    label, _, _, more = AXES[series]
    return [Curve(style.label(run, name) + (f" ({LETTERS[number]})" if len(runs) > 1 else ""), points,
                  style.look(run, name))
            for number, run in enumerate(runs) for name in run.subjects
            if (points := [(one.labels[label] + more, one.value) for one in run.samples
                           if (one.subject, one.series) == (name, series)])]


def sentence(curve: Curve, more: int) -> str:
    """The medians from the first to the last."""
    xs = sorted({x for x, _ in curve.points})
    middles = [f"{x - more:g}: {style.seconds(numbers.median([y for at, y in curve.points if at == x]))}"
               for x in xs]
    return f"{curve.label}: {', '.join(middles)}."
