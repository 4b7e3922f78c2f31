"""The figure of `anatomy`: where the time of a start goes, all on one axis, then each step by step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mycontainer.bench import anatomy as measured
from mycontainer.bench import numbers, steps, verdicts
from mycontainer.bench import plot_style as style
from mycontainer.bench.anatomy import Typical
from mycontainer.bench.plot_rows import side_by_side
from mycontainer.bench.plot_sheet import Panel, Sheet
from mycontainer.bench.plot_style import FAINT, INK, LINE, PALE, SIZE, SMALL, Drawing
from mycontainer.bench.plot_words import footer, introduction, nothing
from mycontainer.bench.run import Run
from mycontainer.bench.subject import COLD, WARM

ROW = 0.38
CLOCK = ("From the order to the first word, by one clock. The clock inside ours costs a little: startup has "
         "it without. No A/A run: these are parts, and nothing is compared closely.")
CHAPTERS = {0: ("#c9ced4", "not of a container's making"), 1: ("#2f7fbf", "chapter 1: root"),
            2: ("#e08a00", "chapter 2: namespaces"), 3: ("#7a2a86", "chapter 3: limits"),
            4: ("#3d8f6b", "chapter 4: layers"), 6: ("#3b3f45", "the program itself")}
HATCHES = {0: "", 1: "///", 2: "", 3: "xxx", 4: "...", 6: ""}


def anatomy(run: Run, *others: Run) -> Drawing:
    """All totals on a log axis; below, the steps of everybody who can be looked into."""
    title = "Where the time of a start goes"
    names = [name for name in run.subjects if run.values(name, "total")]
    if not names:
        return nothing(run, title)
    names.sort(key=lambda name: numbers.median(run.values(name, "total")))
    detailed = [name for name in names if len(measured.typical(run, name)) > 1]
    lines = introduction((run,), CLOCK)
    below = ["The bars are the start that took the median time; a mark is where the step ended in another.",
             *(["Other runs are not drawn here."] if others else []),
             *footer((run,))]
    note = " ".join(filter(None, (
        verdicts.compared(run, lambda name: run.values(name, "total"), warm, 0.1, "faster")
        for warm in (COLD, WARM))))
    tables = {name: table(measured.typical(run, name)) for name in detailed}
    sheet = Sheet(title, lines, [Panel(0.55 * len(names), note, 0.1), *(
        Panel(ROW * len(tables[name]), scale=0.1) for name in detailed)], below, left=3.7, right=1.6)
    overview(sheet.axes[0], run, names)
    told = [f"{style.label(run, name)}: {style.seconds(numbers.median(run.values(name, 'total')))}."
            for name in names]
    for axis, name in zip(sheet.axes[1:], detailed, strict=True):
        waterfall(axis, run, name, tables[name])
        told.append(f"{style.label(run, name)}, step by step: " + ", ".join(
            f"{row[0].name} {style.seconds(sum(one.seconds for one in row))}" for row in tables[name]) + ".")
    from matplotlib.patches import Patch

    used = {one.chapter for rows in tables.values() for row in rows for one in row}
    sheet.legend([Patch(facecolor=ink, edgecolor=INK, hatch=HATCHES[chapter], label=words)
                  for chapter, (ink, words) in CHAPTERS.items() if chapter in used])
    sheet.figure.words = "\n".join([title, *lines, *told, note, *below])
    return sheet.figure


def table(found: Sequence[Typical]) -> list[list[Typical]]:
    """A row for each name; what lies between the steps is one row, the last."""
    rows: dict[str, list[Typical]] = {}
    for one in found:
        rows.setdefault(one.name, []).append(one)
    between = rows.pop(steps.BETWEEN, None)
    return [*rows.values(), *([between] if between else [])]


def overview(axis: Any, run: Run, names: Sequence[str]) -> None:
    """A bar from the start to the first word for each, in its pieces, on a log axis."""
    totals = [value for name in names for value in run.values(name, "total")]
    low, high = min(totals) / 4, max(totals) * 1.3
    axis.set_xscale("log")
    axis.set_xlim(low, high)
    axis.set_ylim(len(names) - 0.5, -0.5)
    style.log_axis(axis.xaxis, style.seconds, low, high, 10)
    axis.grid(axis="x", color=LINE, linewidth=0.8)
    axis.set_title("All on one axis (each mark is ten times the one before)", pad=12)
    axis.set_yticks(range(len(names)), [style.label(run, name) for name in names])
    axis.tick_params(axis="y", length=0)
    for number, name in enumerate(names):
        look, values = style.look(run, name), run.values(name, "total")
        for one in measured.typical(run, name):
            ink, hatch = piece(one)
            begin = max(one.begin, low)
            if one.begin + one.seconds > begin:
                axis.barh(number, one.begin + one.seconds - begin, left=begin, height=0.56, color=ink,
                          hatch=hatch, edgecolor=INK, linewidth=0.6, zorder=2)
        axis.scatter(values, side_by_side(number, 0.24, len(values)),
                     marker=look.mark, s=26, facecolor=look.ink if look.full else "white",
                     edgecolor="white" if look.full else look.ink,
                     linewidth=0.8, zorder=4, gid=f"samples {name}")
        axis.annotate(style.seconds(numbers.median(values)), (1.01, number),
                      xycoords=("axes fraction", "data"),
                      va="center", fontweight="bold", fontsize=SIZE, annotation_clip=False)


def piece(one: Typical) -> tuple[str, str]:
    """Colour and pattern of a step. A machine's phases go from light to dark as they follow."""
    return CHAPTERS.get(one.chapter, CHAPTERS[0])[0], HATCHES.get(one.chapter, "")


def waterfall(axis: Any, run: Run, name: str, rows: Sequence[Sequence[Typical]]) -> None:
    """The steps of one subject below each other, when each begins and ends, on a plain time axis."""
    end = max(one.begin + one.seconds for row in rows for one in row)
    last = max([end, *(begin + value for row in rows for begin, value in row[0].samples)])
    unit = (lambda value: f"{value * 1e3:g} ms") if end < 1 else (lambda value: f"{value:g} s")
    axis.set_xlim(0, last * 1.03)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.set_title(f"{style.label(run, name)}, step by step", pad=12)
    axis.xaxis.set_major_formatter(lambda value, _: unit(round(value, 9)))
    axis.grid(axis="x", color=LINE, linewidth=0.8)
    axis.set_yticks(range(len(rows)), [row[0].name for row in rows], fontsize=SMALL + 0.5)
    axis.tick_params(axis="y", length=0)
    for number, row in enumerate(rows):
        if number % 2 == 0:
            axis.axhspan(number - 0.5, number + 0.5, color=PALE, linewidth=0, zorder=0)
        for one in row:
            ink, hatch = piece(one)
            axis.barh(number, max(one.seconds, end / 900), left=one.begin, height=0.62, color=ink,
                      hatch=hatch, edgecolor=INK, linewidth=0.6, zorder=2)
        samples = row[0].samples  # the same for all pieces of one name
        axis.scatter([begin + value for begin, value in samples],
                     side_by_side(number, 0.25, len(samples)),
                     marker="|", s=22, color=FAINT, linewidth=0.9, zorder=3,
                     gid=f"samples {name} {row[0].name}")
        axis.annotate(style.seconds(sum(one.seconds for one in row)), (1.01, number),
                      xycoords=("axes fraction", "data"), va="center", fontsize=SMALL + 0.5,
                      annotation_clip=False)
