"""A run for a person at a terminal: a table for each series, who differs, who is missing, how sure it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from mycontainer.bench import numbers
from mycontainer.bench.run import Run
from mycontainer.bench.subject import COLD, WARM, Subject

BASE = "process"
TITLES = {"byte": "To the first instruction of one's own program, one start after another",
          "byte-idle": "To the first instruction, after 0.1 s in which nothing happened",
          "page": "To the first page served",
          "idle": "What one more costs in memory, idle", "serving": "What one more costs in memory, serving",
          "count": "How many ran at once", "total": "From the order to the first word",
          "step": "Where that time went"}
GROUPS = {"anatomy": ("step",), "overhead": ("clock",),
          "scale": ("running", "starters")}  # labels that split a series
NOT_SHOWN = {"density": ("available",)}  # what says something as a curve only
UNITS: dict[str, list[tuple[float, str]]] = {
    "s": [(1.0, "s"), (1e-3, "ms"), (1e-6, "µs")],
    "bytes": [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "B")],
    "count": [(1, "")],
}


def show(run: Run, console: Console | None = None) -> None:
    """Print all of it."""
    console = console or Console(highlight=False)
    console.print(f"\n[bold]{run.question}[/bold] on {machine(run)}")
    for series in series_of(run):
        console.print()
        console.print(table(run, series))
        if said := visible(run, series):
            console.print(said, style="italic")
    sections: list[tuple[str, Sequence[str]]] = [
        ("What they do less, or more, than our container", differences(run)),
        ("Not measured, and what would change that", missing(run)),
        ("Failed, and not timed", failures(run)), ("Notes", [*emulation(run), *busy(run), *run.notes])]
    for title, lines in sections:
        if lines:
            console.print(f"\n[bold]{title}[/bold]")
            for line in lines:  # wrapped lines are indented below their first
                console.print(Padding(Text(line), (0, 0, 0, 2)))


def series_of(run: Run) -> list[str]:
    """Which series it has, in the order in which they were measured; an A/A run's belong to another's."""
    names = dict.fromkeys(sample.series for sample in run.samples)
    return [name for name in names
            if not name.startswith("aa-") and name not in NOT_SHOWN.get(run.question, ())]


def machine(run: Run) -> str:
    """In one line."""
    facts = run.machine
    memory = f"{facts.get('memory', 0) / (1 << 30):.0f} GiB"
    return (f"{facts.get('cpus')} CPUs ({facts.get('cpu') or facts.get('architecture')}), {memory}, "
            f"Linux {facts.get('kernel')}, {facts.get('distribution')}, cgroups {facts.get('cgroups')}, "
            f"as {facts.get('user')}, load {facts.get('load')}")


def table(run: Run, series: str) -> Table:
    """One row a subject: cold ones first, then those for which something runs already."""
    shown = Table(title=TITLES.get(series, series), title_justify="left", title_style="bold", box=None,
                  pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("", "n", "median", "p95", "× process", "95 % CI"):
        shown.add_column(name, justify="left" if not name else "right", no_wrap=bool(name))
    for temperature in (COLD, WARM):
        rows = [(name, labels) for name, labels in groups(run, series)
                if run.subjects.get(name, {}).get("temperature", COLD) == temperature]
        if rows:
            shown.add_row(f"[dim]{temperature}[/dim]")
        rows.sort(key=lambda row: numbers.median(values_of(run, row[0], series, row[1])))
        for name, labels in rows:
            what = ", ".join([run.subjects.get(name, {}).get("label", name), *map(str, labels.values())])
            values, base = (values_of(run, one, series, labels) for one in (name, BASE))
            shown.add_row(*row(what, values, base, unit_of(run, series)))
    return shown


def values_of(run: Run, name: str, series: str,
              labels: Mapping[str, Any] = MappingProxyType({})) -> list[float]:
    """The samples of one row; of memory, what follows from the readings that are its samples."""
    if run.question == "memory":
        from mycontainer.bench import memory

        return memory.total(run, name, series)
    return run.values(name, series, **labels)


def groups(run: Run, series: str) -> list[tuple[str, dict[str, Any]]]:
    """Whose samples belong together: those of one subject, with the same labels as far as they count."""
    wanted = GROUPS.get(run.question, ())
    keys = dict.fromkeys(
        (one.subject, tuple((name, one.labels[name]) for name in wanted if name in one.labels))
        for one in run.samples if one.series == series)
    found = [(name, dict(labels)) for name, labels in keys]
    return [(name, labels) for name, labels in found if any(values_of(run, name, series, labels))]


def unit_of(run: Run, series: str) -> str:
    return next(sample.unit for sample in run.samples if sample.series == series)


def row(label: str, values: Sequence[float], base: Sequence[float], unit: str) -> list[str]:
    """The cells of one subject."""
    percentile = numbers.p95(values)
    cells = [f"  {label}", str(len(values)), amount(numbers.median(values), unit),
             amount(percentile, unit) if percentile is not None else f"max {amount(max(values), unit)}"]
    if not base or min(base) <= 0:
        return [*cells, "", ""]
    ratio = numbers.ratio(values, base)
    if values is base or list(values) == list(base):
        return [*cells, "1", ""]
    if not (numbers.sure(values) and numbers.sure(base)):
        return [*cells, digits(ratio.value), "too few"]
    return [*cells, digits(ratio.value), f"{digits(ratio.low)} – {digits(ratio.high)}"]


def amount(value: float, unit: str) -> str:
    """With three digits and a handy unit: 12.3 ms."""
    if unit not in UNITS:
        return f"{digits(value)} {unit}"
    fitting = [one for one in UNITS[unit] if abs(value) >= one[0] * 0.9995] or UNITS[unit][-1:]
    factor, name = fitting[0]
    return f"{digits(value / factor)} {name}".rstrip()


def digits(value: float) -> str:
    """Three of them, never as 1e+03."""
    return f"{value:.3g}" if abs(value) < 999.5 else f"{value:.0f}"


def visible(run: Run, series: str) -> str:
    """What the A/A run says of this series."""
    same, again = values_of(run, BASE, series), values_of(run, f"{BASE}-again", f"aa-{series}")
    if run.question in GROUPS or not (numbers.sure(same) and numbers.sure(again) and min(same) > 0):
        return ""  # of a series that is split, the tables' rows would each need their own
    ratio = numbers.ratio(again, same)
    least = numbers.visible(same, again)
    words = (f"The plain process, measured twice in turns: a difference of less than "
             f"{f'{least:.0%}' if least < 1 else f'a factor of {1 + least:.1f}'} cannot be told from none.")
    if ratio.differs:
        words += f" It even differs from itself ({ratio.value:.2f} times): something disturbed this run."
    return words


def differences(run: Run) -> list[str]:
    """What each does less or more."""
    return [f"{facts['label']}: {'; '.join(facts['differences'])}"
            for facts in run.subjects.values() if facts.get("differences")]


def emulation(run: Run) -> list[str]:
    """What a number of an emulated machine is not."""
    whys = {facts["versions"].get("why no KVM", "") for facts in run.subjects.values()
            if facts.get("versions", {}).get("accelerator", "").startswith("TCG")}
    return [f"The virtual machines are emulated (TCG): {why or 'KVM does not work'}. With KVM they would "
            "be many times faster" for why in whys]


def busy(run: Run) -> list[str]:
    """When others were at work before it began."""
    load, cpus = run.machine.get("load", 0), run.machine.get("cpus", 1)
    words = f"The machine was busy when this began (load {load} on {cpus} CPUs): do not trust single times"
    return [words] if load > cpus / 2 else []


def missing(run: Run) -> list[str]:
    """Who is not here, and how to get them."""
    return [f"{name}: {lack['reason']}" + (f" → {lack['cure']}" if lack.get("cure") else "")
            for name, lack in run.missing.items()]


def failures(run: Run) -> list[str]:
    """Starts that were not timed, counted by what was wrong."""
    counted: dict[tuple[str, str, str], int] = {}
    for one in run.failures:
        key = (one.subject, one.series, one.why)
        counted[key] = counted.get(key, 0) + 1
    return [f"{subject}, {series}: {why}" + (f" ({times} times)" if times > 1 else "")
            for (subject, series, why), times in counted.items()]


def show_subjects(subjects: Sequence[Subject], console: Console | None = None) -> None:
    """Who takes part here, who is missing, and how to get them."""
    console = console or Console(highlight=False)
    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("name", "what", "kind", "start", "here"):
        shown.add_column(name, no_wrap=name != "here")
    for subject in subjects:
        lack = subject.available()
        here = f"{lack.reason} (cure: {lack.cure})" if lack else "yes"
        shown.add_row(subject.name, subject.label, subject.kind, subject.temperature, here)
    console.print(shown)
