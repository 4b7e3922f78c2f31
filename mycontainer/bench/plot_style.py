"""How the benchmark's figures look: marks, units, the words above and below; and where each goes.

Made for a projector, a grey printer and a zoom of 200 %: nothing is told by colour alone (each kind of subject
has a mark of its own, and ours a fill), and no letter is smaller than what a caption may be.
"""

from __future__ import annotations

import base64
import io
import math
import textwrap
from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import Any, NamedTuple

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from mycontainer.bench.run import Run
from mycontainer.bench.subject import CONTAINER, MACHINE, PROCESS

INK, FAINT, LINE, PALE = "#1b1f24", "#57606a", "#c9d1d9", "#f3f5f7"
SIZE, SMALL = 14, 11.5  # points
OURS = "ours"           # what our own subjects' names begin with
TOOL = "tool"           # the kind of those who start nothing


class Look(NamedTuple):
    """How the samples of one kind of subject are drawn."""

    mark: str
    ink: str
    words: str
    full: bool = True  # or hollow: emulated


# Okabe and Ito's hues, and of different lightness: dark, middle, light-with-an-edge survive a grey printer.
LOOKS = {PROCESS: Look("o", "#3b3f45", "process"), CONTAINER: Look("s", "#2f7fbf", "container"),
         MACHINE: Look("^", "#7a2a86", "virtual machine"), OURS: Look("D", "#e08a00", "ours"),
         TOOL: Look("s", "#2f7fbf", "a program of others")}

RC: Any = {"font.size": SIZE, "font.family": ["DejaVu Sans"], "text.color": INK, "axes.labelcolor": INK,
      "axes.edgecolor": FAINT, "xtick.color": INK, "ytick.color": INK, "axes.spines.top": False,
      "axes.spines.right": False, "svg.fonttype": "path", "svg.hashsalt": "mycontainer", "axes.titlesize": SIZE + 1,
      "axes.titleweight": "bold", "axes.titlelocation": "left", "axes.axisbelow": True}


class Drawing(Figure):
    """A matplotlib figure that shows itself in a notebook, with an alternative text (``words``)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.words = ""
        FigureCanvasAgg(self)

    def png(self, dpi: int = 110) -> bytes:
        """The picture as a file's bytes, the same each time.

        A palette of 64 colours makes it a third of the size: notebooks hold it, and are kept for ever.
        """
        from PIL import Image  # matplotlib needs it, too

        whole, small = io.BytesIO(), io.BytesIO()
        with matplotlib.rc_context(RC):
            self.savefig(whole, format="png", dpi=dpi, metadata={"Software": None})
        picture = Image.open(whole).convert("RGB").quantize(64, dither=Image.Dither.NONE)
        picture.save(small, "PNG", optimize=True)
        return small.getvalue()

    def svg(self) -> str:
        """As SVG, with its words in it for a screen reader, the same each time."""
        with matplotlib.rc_context(RC):
            out = io.StringIO()
            self.savefig(out, format="svg", metadata={"Date": None})
        head, _, rest = out.getvalue().partition("<svg ")
        attributes, _, body = rest.partition(">")
        told = f"<desc>{escape(self.words)}</desc>"
        return f'{head}<svg role="img" aria-label="{escape(self.words, quote=True)}" {attributes}>{told}{body}'

    def _repr_mimebundle_(self, **_: object) -> dict[str, Any]:
        data = base64.b64encode(self.png()).decode()
        alt = escape(self.words, quote=True)
        return {"text/plain": self.words,
                "text/html": f'<img alt="{alt}" style="max-width:100%" src="data:image/png;base64,{data}">'}


# ---- units -------------------------------------------------------------------------------------------------


def seconds(value: float, places: int = 2) -> str:
    """"4.2 ms": so many digits that count."""
    for unit, factor in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6), ("ns", 1e-9)):
        if abs(value) >= 0.9995 * factor or unit == "ns":
            return f"{digits(value / factor, places)} {unit}"
    raise AssertionError


def size(value: float, places: int = 2) -> str:
    """"49 kB", in powers of ten."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(value) >= 0.9995 * factor:
            return f"{digits(value / factor, places)} {unit}"
    return f"{value:.0f} B"


def count(value: float, places: int = 2) -> str:
    """"120", "1 200"."""
    return f"{value:,.0f}".replace(",", "\u202f") if value >= 1 else f"{value:g}"


def digits(value: float, places: int = 2) -> str:
    """Two digits that count; whole numbers from 100 on as they are."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:.{max(0, places - 1 - math.floor(math.log10(abs(value) * 1.0005)))}f}"


def percent(value: float) -> str:
    """"3.5 %" for 0.035."""
    return f"{digits(100 * value)} %"


def times(value: float) -> str:
    """"×1.04", "×12"."""
    return f"×{value:.2f}" if value < 2 else f"×{digits(value)}"


Unit = Callable[..., str]  # of a value, and how many digits


def tick(value: float, unit: Unit) -> str:
    """For an axis: no zeros that say nothing."""
    number, space, name = unit(value, 3).partition(" ")
    return (number.rstrip("0").rstrip(".") if "." in number else number) + space + name


def log_axis(axis: Any, unit: Unit, low: float, high: float, inches: float = 8.0) -> None:
    """Let a log axis say "1 ms, 10 ms, 100 ms", with 2 and 5 between when there is room."""
    decades, room = math.log10(high / low), inches / 1.2
    subs = (1.0,) if decades > room / 3 else (1.0, 2.0, 5.0) if decades > room / 10 else tuple(map(float, range(1, 10)))
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: tick(value, unit)))
    axis.set_minor_formatter(NullFormatter())


# ---- who is who --------------------------------------------------------------------------------------------


def look(run: Run, name: str) -> Look:
    """The marks of a subject; ours stand out among the containers."""
    seen = LOOKS[OURS if name.startswith(OURS) else run.subjects.get(name, {}).get("kind", CONTAINER)]
    return seen._replace(full=False, words=f"{seen.words}, emulated") if accelerator(run, name) == "TCG" else seen


def label(run: Run, name: str) -> str:
    """What a subject is called on a plot; a virtual machine with what drives it."""
    said = str(run.subjects.get(name, {}).get("label", name))
    driver = accelerator(run, name)
    return f"{said} [{driver}]" if driver and driver not in said else said


def accelerator(run: Run, name: str) -> str:
    """KVM or TCG for a virtual machine, as far as the run says; else nothing."""
    facts = run.subjects.get(name, {})
    if facts.get("kind") != MACHINE:
        return ""
    told = str(facts)
    return next((word for word in ("TCG", "KVM") if word in told or word.lower() in told.split()), "TCG or KVM?")


def emulated(run: Run) -> str:
    """What must stand on a plot with emulated machines in it."""
    names = [name for name in run.subjects if accelerator(run, name) == "TCG"
             and any(one.subject == name for one in run.samples)]
    return ("VMs here run by TCG: every instruction is emulated, there is no KVM. "
            "Not what a VM costs on hardware that helps.") if names else ""


def footer(run: Run) -> list[str]:
    """What a reader must know of the run: differences in work, who is missing, what failed, the machine."""
    said = []
    if told := [f"{label(run, name)}: {'; '.join(facts['differences'])}"
                for name, facts in run.subjects.items() if facts.get("differences")]:
        said.append("Not the same work. " + ". ".join(told) + ".")
    if run.missing:
        said.append("Missing: " + "; ".join(f"{name} ({gap['reason']}; {gap['cure']})"
                                            for name, gap in run.missing.items()) + ".")
    if run.failures:
        failed: dict[str, list[str]] = {}
        for one in run.failures:
            failed.setdefault(one.subject, []).append(one.why)
        said.append("Failed: " + "; ".join(f"{name} {len(whys)} × ({whys[0]})" for name, whys in failed.items())
                    + ".")
    said += [note if note.endswith(".") else f"{note}." for note in run.notes]
    said.append(machine(run))
    return said


def machine(run: Run) -> str:
    """The machine in one line."""
    facts = run.machine
    return (f"{facts.get('cpus', '?')} × {facts.get('cpu') or 'CPU unknown'}, Linux {facts.get('kernel', '?')}, "
            f"{facts.get('architecture', '')}".rstrip(", "))


# ---- the sheet ---------------------------------------------------------------------------------------------

WIDE, PAD = 16.0, 0.35             # inches
HEAD, FOOT, WORD = 0.29, 0.21, 0.25  # inches a line: beneath the title, at the foot, beneath a panel
AXIS = 0.38                        # what a panel's own scale takes below it


class Sheet:
    """A figure with a title above, panels in the middle, and a footer below; all measured in inches."""

    def __init__(self, title: str, lines: Sequence[str], panels: Sequence[Panel], below: Iterable[str],
                 left: float = 3.4, right: float = 4.4, legend: bool = True) -> None:
        """``panels`` from the top down; ``lines`` go beneath the title."""
        head_rows = [row for line in lines for row in textwrap.wrap(line, 142)]
        foot_rows = [row for line in below for row in textwrap.wrap(line, 200, subsequent_indent="   ")]
        notes = [textwrap.wrap(one.note, 112) for one in panels]
        top = PAD + 0.5 + HEAD * len(head_rows) + 0.15
        under = [AXIS + one.scale + WORD * len(rows) + 0.1 for one, rows in zip(panels, notes, strict=True)]
        high = (top + sum(one.high + 0.5 for one in panels) + sum(under) + 0.45 * legend
                + FOOT * len(foot_rows) + PAD)
        self.figure, self.high, self.left, self.axes = Drawing(figsize=(WIDE, high), facecolor="white"), high, left, []
        self.text(PAD, PAD, title, fontsize=SIZE + 7, fontweight="bold", va="top")
        for number, row in enumerate(head_rows):
            self.text(PAD, PAD + 0.5 + HEAD * number, row, fontsize=SIZE - 0.5, va="top")
        for one, rows, room in zip(panels, notes, under, strict=True):
            top += 0.5
            for start, share in one.parts:
                wide = WIDE - left - right
                self.axes.append(self.figure.add_axes(((left + start * wide) / WIDE, 1 - (top + one.high) / high,
                                                       share * wide / WIDE, one.high / high)))
            top += one.high
            for number, row in enumerate(rows):
                self.text(left, top + AXIS + one.scale + WORD * number, row, fontsize=SMALL + 0.5,
                          fontweight="bold", va="top")
            top += room
        self.legend_at = top + 0.05
        for number, row in enumerate(foot_rows):
            self.text(PAD, top + 0.45 * legend + FOOT * number, row, fontsize=SMALL - 1, color=FAINT, va="top")

    def text(self, x: float, y: float, words: str, **how: Any) -> None:
        """Words at inches from the left and the top."""
        self.figure.text(x / WIDE, 1 - y / self.high, words, **how)

    def legend(self, handles: Sequence[Any]) -> None:
        """What the marks mean, between the panels and the footer."""
        self.figure.legend(handles=handles, loc="upper left", frameon=False, fontsize=SMALL + 0.5, ncols=len(handles),
                           bbox_to_anchor=(self.left / WIDE, 1 - self.legend_at / self.high), borderaxespad=0,
                           borderpad=0, handletextpad=0.4, columnspacing=1.6)


class Panel(NamedTuple):
    """Room for a row of axes: its height, the words below it, and more for a scale that has a name."""

    high: float                                             # inches
    note: str = ""
    scale: float = 0.0                                      # inches
    parts: Sequence[tuple[float, float]] = ((0.0, 1.0),)    # where each begins, and how wide: shares of 1
