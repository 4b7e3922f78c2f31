"""How the benchmark's figures look: marks, units, the words above and below; and where each goes.

Made for a projector, a grey printer and a zoom of 200 %: nothing is told by colour alone (each kind of
subject has a mark of its own, what is emulated is hollow), and no letter is too small for a caption.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Sequence
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
      "axes.spines.right": False, "svg.fonttype": "path", "svg.hashsalt": "mycontainer",
      "axes.titlesize": SIZE + 1,
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
        told = escape(self.words, quote=True)
        return f'{head}<svg role="img" aria-label="{told}" {attributes}><desc>{told}</desc>{body}'

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
    """"3.5 %" for 0.035; "a factor of 2.4" for 1.4."""
    return f"{digits(100 * value)} %" if value < 1 else f"a factor of {digits(1 + value)}"


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
    subs: Sequence[float] = range(1, 10)
    if decades > room / 10:
        subs = (1,) if decades > room / 3 else (1, 2, 5)
    axis.set_major_locator(LogLocator(subs=subs))
    axis.set_major_formatter(FuncFormatter(lambda value, _: tick(value, unit)))
    axis.set_minor_formatter(NullFormatter())


# ---- who is who --------------------------------------------------------------------------------------------


def look(run: Run, name: str) -> Look:
    """The marks of a subject; ours stand out among the containers."""
    seen = LOOKS[OURS if name.startswith(OURS) else run.subjects.get(name, {}).get("kind", CONTAINER)]
    emulated = accelerator(run, name) == "TCG"
    return seen._replace(full=False, words=f"{seen.words}, emulated") if emulated else seen


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
    return next((word for word in ("TCG", "KVM") if word in told or word.lower() in told.split()),
                "TCG or KVM?")


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
        said.append("Failed: " + "; ".join(f"{name} {len(whys)} × ({whys[0]})"
                                           for name, whys in failed.items()) + ".")
    said += [note if note.endswith(".") else f"{note}." for note in run.notes]
    said.append(machine(run))
    return said


def machine(run: Run) -> str:
    """The machine in one line."""
    facts = run.machine
    return (f"{facts.get('cpus', '?')} × {facts.get('cpu') or 'CPU unknown'}, "
            f"Linux {facts.get('kernel', '?')}, {facts.get('architecture', '')}".rstrip(", "))
