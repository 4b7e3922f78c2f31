"""The figures of `memory` (what one more costs) and `density` (how many run at once)."""

from __future__ import annotations

from mycontainer.bench import density as counted
from mycontainer.bench import memory as measured
from mycontainer.bench import numbers, plot_lines, plot_rows, plot_sheet, verdicts
from mycontainer.bench import plot_style as style
from mycontainer.bench.plot_lines import Curve
from mycontainer.bench.plot_rows import Row
from mycontainer.bench.plot_sheet import Panel, Sheet
from mycontainer.bench.plot_style import SIZE, Drawing
from mycontainer.bench.plot_words import LETTERS, footer, introduction, nothing, words
from mycontainer.bench.run import Run, Sample
from mycontainer.bench.subject import COLD, WARM
from mycontainer.bench.twin import AGAIN
from mycontainer.bench.verdicts import AA

NAMES = {"idle": "Idle: a program that sleeps", "serving": "Serving: a web server that has been asked"}
STOPPED = {counted.MEMORY: "the memory budget was used up",
           counted.TIME: "starts took too long, or its time was up",
           counted.CAP: "as many as were asked for", counted.FAILED: "the next one did not come up",
           counted.INTERRUPTED: "interrupted"}


LEAST = 1e5  # bytes


def memory(run: Run, *others: Run) -> Drawing:
    """What one more instance costs, idle and serving: every round's sum, and of which parts it is."""
    runs, title = (run, *others), "Memory: what one more instance costs"
    panels = [(series, rows) for series in NAMES if (rows := memory_rows(runs, series))]
    if not any(row.values for _, rows in panels for row in rows):
        return nothing(run, title)
    lines = introduction(runs, visible_line(run))
    whole = [style.label(run, name) for name in run.subjects
             if measured.source(run, name, "idle") == measured.WHOLE]
    below = [measured.FORMULA]
    if whole:
        below.append("The kernel's part is the change of the whole machine's, not of a cgroup's: "
                     + ", ".join(whole) + ".")
    below += footer(runs)
    notes = [" ".join(filter(None, (verdicts.compared(
        run, lambda name, series=series: measured.total(run, name, series), warm, 0.1, "smaller")  # type: ignore[misc]
        for warm in (COLD, WARM)))) for series, _ in panels]
    sheet = Sheet(title, lines, [Panel(plot_rows.HIGH * len(rows), note)
                                 for (_, rows), note in zip(panels, notes, strict=True)], below, right=5.0)
    told = []
    every = [value for _, rows in panels for row in rows for value in row.values]
    for axis, (series, rows), note in zip(sheet.axes, panels, notes, strict=True):
        plot_rows.panel(axis, rows, style.size, NAMES[series], plot_rows.limits(every),
                        "processes + kernel + files in memory")
        told += [f"{NAMES[series]}:", *words(rows, style.size), note]
    sheet.legend(plot_rows.marks([row.look for _, rows in panels for row in rows])[:-1])
    sheet.figure.words = "\n".join([title, *lines, *told, *below])
    return sheet.figure


def memory_rows(runs: tuple[Run, ...], series: str) -> list[Row]:
    """A row a subject and run; the sum of the parts' medians stands beside it."""
    rows = []
    for number, run in enumerate(runs):
        for name in run.subjects:
            values = [max(value, 1e3) for value in measured.total(run, name, series)]
            failed = any((one.subject, one.series) == (name, series) for one in run.failures)
            if not values and not failed:
                continue
            parts = [max(0.0, numbers.median(found)) for part in measured.PARTS
                     if (found := measured.one_more(run, name, series, part))]
            note = " + ".join(map(style.size, parts)) if values else "it did not come up: see below"
            mark = f" ({LETTERS[number]})" if len(runs) > 1 else ""
            rows.append(Row(style.label(run, name) + mark, values, style.look(run, name), None, note))
    return sorted(rows, key=lambda row: numbers.median(row.values) if row.values else float("inf"))


def visible(run: Run) -> float:
    """In bytes: by how much two rounds of the plain process differed, itself and under its second name."""
    found = [0.0]
    for series in NAMES:
        again = measured.total(run, f"process{AGAIN}", AA + series)
        every = [*measured.total(run, "process", series), *again] if again else [0.0]
        found.append(max(every) - min(every))
    return max(found)


def visible_line(run: Run) -> str:
    """For below the title."""
    seen = visible(run)
    if not seen:
        return verdicts.visible_line(run, 0)
    return (f"This machine cannot tell {style.size(seen)} apart: by so much the plain process differed from "
            "itself (A/A), most of it in the kernel's part.")


# ---- density -----------------------------------------------------------------------------------------------


def density(run: Run, *others: Run) -> Drawing:
    """How many: each subject's number and what stopped it; each start, and the memory gone, on the way."""
    title = "How many run at once"
    counts = {name: found[0] for name in run.subjects if (found := [
        one for one in run.samples if one.subject == name and one.series == "count"])}
    if not counts:
        return nothing(run, title)
    order = sorted(counts, key=lambda name: -counts[name].value)
    lines = introduction((run,), limits(run))
    below = ["A number with ≈ is how many would fit into the memory budget, by what those that ran took.",
             f"Less memory gone than {style.size(LEAST)}, by somebody else's doing, is drawn there.",
             "No A/A run: nothing is compared to within a few per cent here.",
             *(["Other runs are not drawn here."] if others else []), *footer((run,))]
    high = 4.6
    weight = {name: [run.settings["limits"]["memory"] / number] for name in order
              if (number := counted.would_fit(run, name, run.settings["limits"]["memory"]))}

    def weights(name: str) -> list[float]:
        return weight.get(name, [])

    note = " ".join(verdicts.compared(run, weights, warm, 0.25, "lighter") for warm in (COLD, WARM)
                    if verdicts.standings(run, weights, warm))
    sheet = Sheet(title, lines, [Panel(plot_rows.HIGH * len(order), note, 0.1),
                                 Panel(high, scale=0.3, parts=[(0.0, 0.28), (0.54, 0.28)])], below, right=0.3)
    bars(sheet, run, order, counts)
    starts = curves(run, {name: [(one.labels["running"] + 1, one.value) for one in run.samples
                                 if (one.subject, one.series) == (name, "start")] for name in run.subjects})
    gone = curves(run, {name: [(count, max(used, LEAST)) for count, used in counted.taken(run, name)]
                        for name in run.subjects})
    inches = (0.28 * (plot_sheet.WIDE - 3.7), high)
    for axis, some, unit, name in ((sheet.axes[1], starts, style.seconds, "Time to start the next"),
                                     (sheet.axes[2], gone, style.size, "Memory gone (MemAvailable)")):
        if some:
            plot_lines.draw(axis, some, unit, name, "as many run", inches)
        else:
            axis.set_axis_off()
    sheet.legend(plot_rows.marks([style.look(run, name) for name in order])[:-2])
    told = [f"{style.label(run, name)}: {counts[name].value:.0f}, then "
            f"{STOPPED[counts[name].labels['stopped_by']]}{fit(run, name)}." for name in order]
    sheet.figure.words = "\n".join([title, *lines, *told, note, *below])
    return sheet.figure


def curves(run: Run, points: dict[str, list[tuple[float, float]]]) -> list[Curve]:
    """One for each subject that has points."""
    return [Curve(style.label(run, name), found, style.look(run, name))
            for name, found in points.items() if found]


def bars(sheet: Sheet, run: Run, order: list[str], counts: dict[str, Sample]) -> None:
    """The upper panel."""
    axis, most = sheet.axes[0], max(one.value for one in counts.values())
    axis.set_xscale("log")
    axis.set_xlim(0.9, most * 40)
    axis.set_ylim(len(order) - 0.5, -0.5)
    axis.set_title("Until a budget was hit", pad=12)
    axis.set_yticks(range(len(order)), [style.label(run, name) for name in order])
    axis.tick_params(axis="y", length=0)
    style.log_axis(axis.xaxis, style.count, 0.9, most * 40, 12)
    axis.set_xticks([tick for tick in (1, 10, 100, 1000) if tick <= most * 1.5])
    for number, name in enumerate(order):
        look, value, why = style.look(run, name), counts[name].value, counts[name].labels["stopped_by"]
        axis.barh(number, max(value, 0.92) - 0.9, left=0.9, height=0.62,
                  color=look.ink if look.full else "white", edgecolor=look.ink, linewidth=1.4,
                  hatch="" if look.full else "///", gid=f"samples {name}")
        axis.annotate(f"{value:.0f}", (max(value, 1), number), (8, 0), textcoords="offset points",
                      va="center",
                      fontsize=SIZE, fontweight="bold")
        axis.annotate(f"{STOPPED[why]}{fit(run, name)}", (max(value, 1), number), (58, 0),
                      textcoords="offset points",
                      va="center", fontsize=style.SMALL)


def fit(run: Run, name: str) -> str:
    """How many would fit, where something else than memory was the end."""
    budget = run.settings.get("limits", {}).get("memory", 0)
    stopped = next(one.labels["stopped_by"] for one in run.samples
                   if (one.subject, one.series) == (name, "count"))
    number = counted.would_fit(run, name, budget)
    known = number and stopped != counted.MEMORY
    return f"; ≈ {style.count(float(style.digits(number)))} would fit" if known else ""


def limits(run: Run) -> str:
    """The budgets in a sentence."""
    told = run.settings.get("limits", {})
    return (f"Budgets: {style.size(told.get('memory', 0))} of memory, and "
            f"{style.size(run.settings.get('reserve', 0))} stay free in any case; three starts in a row "
            f"slower than {told.get('slow', 0):g} s; {told.get('seconds', 0):.0f} s for each; "
            f"{told.get('cap', 0)} instances, {told.get('machines', 0)} machines.")
