"""The benchmark to play with: choose whose numbers, which subjects, what was measured, and the scale.

Everything is drawn from the raw samples of `Run`s; nothing is measured by a click.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

import ipywidgets

from mycontainer.bench import memory as memory_question
from mycontainer.bench import numbers
from mycontainer.bench.run import Run
from mycontainer.bench.subject import CONTAINER, MACHINE, PROCESS
from mycontainer.lab import style
from mycontainer.lab.claims import accelerator, label
from mycontainer.lab.style import FAINT, INK, LINE, Figure, figure, swatch, text
from mycontainer.lab.widgets import Live, html, row

LOG, LINEAR = "each step ten times as much (log)", "from zero (linear)"
WIDE, LEFT, RIGHT = 560, 370, 110  # of the axis, of the names before it, of the number after it
HIGH = 44                          # of a row
TITLES = {  # what was measured: (question, series) in words
    ("startup", "byte"): "start: until the first word of a program",
    ("startup", "page"): "start: until the first web page",
    ("memory", "idle"): "memory of one more, idle",
    ("memory", "serving"): "memory of one more, serving a page",
    ("density", "count"): "how many ran at once",
}
KINDS = {PROCESS: 0, CONTAINER: 5, MACHINE: 3}  # of style's swatches
STEPS = {"s": ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")),
         "bytes": ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B"))}
NO_CHOICE = "Choose at least one subject."


class Row(NamedTuple):
    """The samples of one subject of one run."""

    words: str
    kind: str
    driver: str   # of a virtual machine: KVM or TCG
    values: Sequence[float]
    unit: str


# ── what there is to choose from ─────────────────────────────────────────────────────────────────────

def metrics(runs: Mapping[str, Run]) -> list[tuple[str, str]]:
    """(question, series) of all that was measured in one of the runs, the known ones only."""
    return [metric for metric in TITLES if any(True for run in runs.values() for _ in measured(run, metric))]


def measured(run: Run, metric: tuple[str, str]) -> Iterator[tuple[str, Sequence[float], str]]:
    """The subjects of a run with what was measured of each: (name, values, unit)."""
    question, series = metric
    if run.question != question:
        return
    for name in run.subjects:
        if question == "memory":
            values, unit = memory_question.total(run, name, series), "bytes"
        else:
            values = run.values(name, series)
            unit = next((one.unit for one in run.samples if one.series == series), "")
        if any(value > 0 for value in values):
            yield name, [value for value in values if value > 0], unit


def rows(runs: Mapping[str, Run], metric: tuple[str, str], subjects: Sequence[str]) -> list[Row]:
    """What is drawn: the least median first; with several runs each row says whose it is."""
    found = []
    several = sum(run.question == metric[0] for run in runs.values()) > 1
    for whose, run in runs.items():
        for name, values, unit in measured(run, metric):
            if name in subjects:
                words = label(run, name) + (f" · {whose}" if several else "")
                kind = str(run.subjects[name].get("kind", CONTAINER))
                found.append(Row(words, kind, accelerator(run, name), values, unit))
    return sorted(found, key=lambda one: numbers.median(one.values))


# ── the drawing ──────────────────────────────────────────────────────────────────────────────────────

def drawing(found: Sequence[Row], metric: tuple[str, str], log: bool) -> Figure:
    """Every sample a mark, the median a bar, a thin one where 95 % are below."""
    every = [value for one in found for value in one.values]
    low, high = (min(every) / 1.3, max(every) * 1.3) if log else (0.0, max(every) * 1.05)

    def x(value: float) -> float:
        share = math.log(value / low) / math.log(high / low) if log else value / high
        return LEFT + WIDE * share

    bottom = HIGH * len(found)
    body = []
    for tick in ticks(low, high, log):
        body.append(f'<path d="M{x(tick):g},0 V{bottom}" stroke="{LINE}" stroke-dasharray="3 4"/>')
        words = amount(tick, found[0].unit)
        body.append(text(x(tick), bottom + 20, words, size=14, ink=FAINT, anchor="middle"))
    for number, one in enumerate(found):
        body += _row(one, HIGH * number + HIGH / 2, x)
    signs = "○ process   □ container   △ virtual machine, dashed: emulated   ▮ median   | 95 % are below"
    body.append(text(0, bottom + 50, signs, size=14, ink=FAINT))
    table = [["", "median", "95 % below", "samples"]]
    table += [[one.words, amount(numbers.median(one.values), one.unit), _high(one), str(len(one.values))]
              for one in found]
    title = TITLES[metric][:1].upper() + TITLES[metric][1:]
    return figure("".join(body), LEFT + WIDE + RIGHT, bottom + 56, title,
                  style.columns(table) + _warning(found))


def _row(one: Row, y: float, x: Callable[[float], float]) -> Iterator[str]:
    middle = numbers.median(one.values)
    yield text(0, y + 6, style.cut(one.words, 44), size=16)
    for number, value in enumerate(one.values):
        yield mark(one, x(value), y + (number % 5 - 2) * 4)
    yield f'<path d="M{x(middle):g},{y - 17:g} V{y + 17:g}" stroke="{INK}" stroke-width="4"/>'
    if (far := numbers.p95(one.values)) is not None:
        yield f'<path d="M{x(far):g},{y - 14:g} V{y + 14:g}" stroke="{INK}" stroke-width="1.5"/>'
    yield text(LEFT + WIDE + RIGHT, y + 6, amount(middle, one.unit), size=16, weight=700, anchor="end")


def mark(one: Row, x: float, y: float) -> str:
    """A sample: its shape says what kind of subject it is of, a dashed edge that it was emulated."""
    fill = swatch(KINDS.get(one.kind, 1))[0]
    look = f'fill="{fill}" fill-opacity="0.7" stroke="{INK}" stroke-width="1"'
    look += ' stroke-dasharray="2 2"' if one.driver == "TCG" else ""
    if one.kind == PROCESS:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="5" {look}/>'
    if one.kind == MACHINE:
        return f'<path d="M{x:.1f},{y - 6:.1f} l6,11 h-12 z" {look}/>'
    return f'<rect x="{x - 4.5:.1f}" y="{y - 4.5:.1f}" width="9" height="9" {look}/>'


def ticks(low: float, high: float, log: bool) -> list[float]:
    """Round numbers from ``low`` to ``high``, at most eight or so."""
    if not log:
        step = 10.0 ** math.floor(math.log10(high / 4))
        step *= next(part for part in (1, 2, 5, 10) if high / (step * part) <= 5)
        return [step * number for number in range(int(high / step) + 1)]
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    parts = (1,) if len(powers) > 4 else (1, 3) if len(powers) > 2 else (1, 2, 5)
    return [tick for power in powers for part in parts if low <= (tick := part * 10.0**power) <= high]


def amount(value: float, unit: str) -> str:
    """"4.2 ms", "49 kB", "120": two digits that count."""
    for size, name in STEPS.get(unit, ()):
        if value >= size * 0.9995:
            return f"{_two(value / size)} {name}"
    return f"{_two(value)} {unit if unit in STEPS else ''}".strip()


def _two(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0") if value < 10 else f"{value:,.0f}"


def _high(one: Row) -> str:
    far = numbers.p95(one.values)
    return "too few to tell" if far is None else amount(far, one.unit)


def _warning(found: Sequence[Row]) -> str:
    emulated = [one.words for one in found if one.driver == "TCG"]
    told = f"\n\nEmulated (TCG), not what a VM costs where the CPU helps: {', '.join(emulated)}"
    return told if emulated else ""


# ── the widget ───────────────────────────────────────────────────────────────────────────────────────

def bench_explorer(**runs: Run) -> Live:
    """Lists of what was measured and of subjects, the scale, and the drawing; ``runs`` by whose they are."""
    there = metrics(runs)
    metric = ipywidgets.Dropdown(options=[(TITLES[one], one) for one in there], description="what",
                                 layout={"width": "440px"})
    scale = ipywidgets.Dropdown(options=[LOG, LINEAR], description="scale", layout={"width": "360px"})
    subjects = ipywidgets.SelectMultiple(rows=9, layout={"width": "300px"})
    subjects.add_class("mc-list")
    shown = ipywidgets.HTML()
    state: dict[str, Any] = {"figure": None, "quiet": False}

    def draw() -> None:
        found = rows(runs, metric.value, subjects.value)
        state["figure"] = drawing(found, metric.value, scale.value == LOG) if found else None
        shown.value = html(_shown(state["figure"], found))

    def offer() -> None:
        names = {name: label(run, name) for run in runs.values()
                 for name, _, _ in measured(run, metric.value)}
        kept = [name for name in subjects.value if name in names]
        state["quiet"] = True  # until both the list and the choice are right
        subjects.options = [(words, name) for name, words in names.items()]
        subjects.value = kept or list(names)
        state["quiet"] = False
        draw()

    metric.observe(lambda _: offer(), "value")
    scale.observe(lambda _: draw(), "value")
    subjects.observe(lambda _: None if state["quiet"] else draw(), "value")
    offer()
    keys = "Ctrl-click: one more, one less · Shift-click: from here to there"
    help_ = ipywidgets.HTML(html(f'<p class="faint">{keys}</p>'))
    controls = row(subjects, ipywidgets.VBox([metric, scale, help_]))
    return Live([controls, shown], lambda: str(state["figure"] or NO_CHOICE),
                metric=metric, scale=scale, subjects=subjects, shown=shown)


def _shown(drawn: Figure | None, found: Sequence[Row]) -> str:
    if drawn is None:
        return f"<p>{NO_CHOICE}</p>"
    picture: str = drawn._repr_mimebundle_()["text/html"].replace("<img ", '<img style="max-width:100%" ', 1)
    warning = _warning(found).strip()
    return picture + (f"<p><b>{escape(warning)}</b></p>" if warning else "")
