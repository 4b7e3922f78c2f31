"""The figures of `layers` (who unpacks how fast, into how much) and `overhead` (what work costs inside)."""

from __future__ import annotations

from typing import Any

from mycontainer.bench import numbers, overhead, plot_rows, verdicts
from mycontainer.bench import plot_style as style
from mycontainer.bench.plot_rows import Row
from mycontainer.bench.plot_sheet import Panel, Sheet
from mycontainer.bench.plot_style import FAINT, INK, LINE, PALE, SMALL, Drawing
from mycontainer.bench.plot_words import footer, introduction, nothing, words
from mycontainer.bench.run import Run
from mycontainer.bench.subject import COLD
from mycontainer.bench.twin import AGAIN
from mycontainer.bench.verdicts import AA

EVERY = ("Every sample is drawn, divided by the median of the plain process; a number in grey is no "
         "difference that can be told from none.")

# ---- layers ------------------------------------------------------------------------------------------------


def layers(run: Run, *others: Run) -> Drawing:
    """Two panels: the time, and the room on the disk."""
    runs, title = (run, *others), "Unpacking a layer"
    rows = layer_rows(run, "unpack", "tar", others)
    if not rows:
        return nothing(run, title)
    about = run.settings.get("layer", {})
    lines = introduction(runs, verdicts.visible_line(run),
                         f"{about.get('entries', '?')} files and directories, "
                         f"{style.size(about.get('tar', 0))} of tar, {style.size(about.get('blob', 0))} with "
                         f"gzip, onto {about.get('file_system', '?')}.")
    note = verdicts.ahead(run, "unpack", COLD)
    space = layer_rows(run, "space", "tar", others)
    below = ["× is the median over that of tar, with its 95 % interval from five samples on.", *footer(runs)]
    sheet = Sheet(title, lines, [Panel(plot_rows.HIGH * len(rows), note), Panel(plot_rows.HIGH * len(space))],
                  below)
    for axis, those, unit, name in (
            (sheet.axes[0], rows, style.seconds, "Time until the files are there"),
            (sheet.axes[1], space, style.size, "Room on the disk, with what is kept beside")):
        every = [value for row in those for value in row.values]
        plot_rows.panel(axis, those, unit, name, plot_rows.limits(every or [1, 2]), "× tar")
    sheet.legend(plot_rows.marks([row.look for row in rows]))
    sheet.figure.words = "\n".join([title, *lines, *words(rows, style.seconds), note,
                                    *words(space, style.size), *below])
    return sheet.figure


def layer_rows(run: Run, series: str, base: str, others: tuple[Run, ...] = ()) -> list[Row]:
    """The programs in the order of their medians."""
    rows = []
    for number, one in enumerate((run, *others)):
        reference = one.values(base, series)
        for name in one.subjects:
            if values := one.values(name, series):
                ratio = verdicts.ratio(values, reference) if reference and name != base else None
                mark = f" ({'ABCDEFGH'[number]})" if others else ""
                rows.append(Row(style.label(one, name) + mark, values, style.look(one, name), ratio))
    return sorted(rows, key=lambda row: numbers.median(row.values))


# ---- overhead ----------------------------------------------------------------------------------------------


def overhead_figure(run: Run, *others: Run) -> Drawing:
    """A column for each kind of work, a row a subject: how many times as long as outside."""
    title, base = "Working inside: how many times as long as in a plain process", "process"
    names = [name for name in run.subjects
             if any(overhead.unit_times(run, name, work) for work in overhead.EVERYTHING)]
    works = [work for work in overhead.EVERYTHING if overhead.unit_times(run, base, work)]
    if not names or not works:
        return nothing(run, title)
    seen = {work: visible(run, work) for work in works}
    told = ", ".join(f"{overhead.EVERYTHING[work].words} {style.percent(seen[work])}"
                     for work in works if seen[work])
    lines = introduction((run,), f"This machine cannot tell apart (A/A, 95 %): {told}." if told
                         else verdicts.visible_line(run, 0))
    below = [EVERY, *(["Other runs are not drawn here."] if others else []), *footer((run,))]
    share = 1 / len(works)
    sheet = Sheet(title, lines, [Panel(plot_rows.HIGH * len(names),
                                       parts=[(share * place, share * 0.9) for place in range(len(works))])],
                  below, right=0.3)
    said = []
    for axis, work in zip(sheet.axes, works, strict=True):
        said.append(f"{overhead.EVERYTHING[work].words}: " + ", ".join(
            column(axis, run, names, work, base, seen[work])) + ".")
    sheet.axes[0].set_yticks(range(len(names)), [style.label(run, name) for name in names])
    sheet.legend(plot_rows.marks([style.look(run, name) for name in names])[:-1])
    sheet.figure.words = "\n".join([title, *lines, *said, *below])
    return sheet.figure


def column(axis: Any, run: Run, names: list[str], work: str, base: str, seen: float) -> list[str]:
    """One kind of work: every sample as a ratio; returns the same in words."""
    reference = overhead.unit_times(run, base, work)
    middle = numbers.median(reference)
    every = [value / middle for name in names for value in overhead.unit_times(run, name, work)]
    low, high = plot_rows.limits([*every, 0.6, 1.8])
    axis.set_xscale("log")
    axis.set_xlim(low, high * (high / low) ** 0.35)  # room for the numbers
    axis.set_ylim(len(names) - 0.5, -0.5)
    style.log_axis(axis.xaxis, lambda value, places=2: f"{value:g}", low, high, 1.6)
    axis.tick_params(axis="x", labelsize=SMALL)
    axis.grid(axis="x", color=LINE, linewidth=0.8)
    axis.axvline(1, color=FAINT, linewidth=1.2, zorder=1)
    axis.set_yticks([])
    axis.set_title(_broken(overhead.EVERYTHING[work].words), fontsize=SMALL + 1, pad=8)
    told = []
    for number, name in enumerate(names):
        if number % 2 == 0:
            axis.axhspan(number - 0.5, number + 0.5, color=PALE, linewidth=0, zorder=0)
        values = overhead.unit_times(run, name, work)
        if not values:
            axis.annotate("not here", (0.98, number), xycoords=("axes fraction", "data"), va="center",
                          ha="right",
                          color=FAINT, fontsize=SMALL - 1)
            continue
        look = style.look(run, name)
        axis.scatter([value / middle for value in values],
                     plot_rows.side_by_side(number, 0.25, len(values)), marker=look.mark, s=22,
                     facecolor=look.ink if look.full else "white",
                     edgecolor="white" if look.full else look.ink,
                     linewidth=0.5 if look.full else 1.1, alpha=0.85, zorder=3, gid=f"samples {name} {work}")
        ratio = verdicts.ratio(values, reference)
        axis.vlines(ratio.value, number - 0.4, number + 0.4, color=INK, linewidth=2, zorder=4)
        if name != base:
            clear = (ratio.differs and abs(ratio.value - 1) > seen
                     and (numbers.sure(values) or ratio.value > 2))
            axis.annotate(style.times(ratio.value), (0.98, number), xycoords=("axes fraction", "data"),
                          va="center",
                          ha="right", fontsize=SMALL, color=INK if clear else FAINT,
                          fontweight="bold" if clear else "normal")
            told.append(f"{style.label(run, name)} {style.times(ratio.value)}"
                        f"{'' if clear else ' (no clear difference)'}")
    return told


def visible(run: Run, work: str) -> float:
    """What the A/A samples of this work let one tell."""
    again = overhead.unit_times(run, f"process{AGAIN}", AA + work)
    same = overhead.unit_times(run, "process", work)
    return verdicts.differing(same, again) if again and same else 0.0


def _broken(text: str) -> str:
    """In two lines, the second no shorter than the first."""
    words = text.split()
    cut = next((at for at in range(len(words) - 1, 0, -1) if len(" ".join(words[:at])) <= len(text) / 2), 0)
    return f"{' '.join(words[:cut])}\n{' '.join(words[cut:])}"
