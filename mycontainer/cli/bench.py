"""`mycontainer bench`: containers against virtual machines, and all that is in between, measured here."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from mycontainer import paths
from mycontainer.cli.options import Command, Option
from mycontainer.errors import ContainerError

TYPE_CHECKING = False
if TYPE_CHECKING:  # loading these takes longer than all the rest of a start
    from mycontainer.bench.measure import Settings
    from mycontainer.bench.run import Run

MODULES = {"layers": "unpack"}  # whose name in mycontainer/bench is not the question's
QUESTIONS = {  # each a module of mycontainer/bench with a function `measure`
    "startup": "how long a start takes: to the first instruction, to the first page",
    "anatomy": "where that time goes",
    "memory": "what one more costs, idle and serving",
    "density": "how many run at once",
    "overhead": "whether work inside is slower than outside",
    "scale": "how a start slows down when many are running, or starting",
    "layers": "what images cost: disk space, and time to unpack",
}

BENCH = Command(
    "mycontainer bench QUESTION [OPTIONS]",
    """\
Measure containers, virtual machines and a plain process against one another,
on this machine, and save every single sample. As root it runs in namespaces
and a cgroup of its own, so that nothing stays of what it starts.

Questions:
""" + "".join(f"  {name:9} {text}\n" for name, text in QUESTIONS.items()) + """
And:
  list                   who takes part, who is missing, and how to get them
  show FILE              the tables of a saved run
  compare FILE FILE      two runs of one question: what differs, beyond chance
  prepare                make the virtual machines (fetches a kernel; minutes)""",
    Option("subjects", "only these: process,crun,docker (see: list)", "NAME,NAME..."),
    Option("quick", "less than a minute; few samples of what is slow"),
    Option("full", "half an hour; many samples of everything"),
    Option("only", "with prepare: only these (micro,debian,web)", "KIND,KIND..."),
    Option("minutes", "so long may it take in all (default: 3)", "NUMBER"),
    Option("rounds", "at most so many samples of each", "NUMBER"),
    Option("output", "where the samples go, and a plot beside it\n"
           "(default: a file in the data directory)", "FILE.json"),
    epilog="""\
Ctrl-C ends it, and keeps what was measured until then.

Examples:
  mycontainer bench startup --quick
  mycontainer bench startup --subjects process,ours-cli,docker --rounds 100
  mycontainer bench compare before.json after.json""")


def main(arguments: Sequence[str]) -> int:
    """Which question or verb it is; returns the exit code."""
    given, words = parse(arguments)
    if "help" in given or not words:
        print(BENCH.help(), end="")
        return 0
    name, *rest = words
    if name in QUESTIONS:
        _expect(rest, 0, name)
        return measured(name, given)
    verbs: dict[str, tuple[Callable[..., int], int]] = {
        "list": (listed, 0), "show": (shown, 1), "compare": (compared, 2),
        "prepare": (prepared, 0)}
    if name not in verbs:
        raise ContainerError(f"no such question: {name}", hint=_suggestion(name, [*QUESTIONS, *verbs]))
    verb, number = verbs[name]
    _expect(rest, number, name)
    if verb is prepared:
        return prepared(",".join(given.get("only", [])))
    _need("rich")
    return told(lambda: verb(*rest))


def parse(arguments: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Options may stand before and after the question and its files."""
    given: dict[str, list[str]] = {}
    words: list[str] = []
    rest = list(arguments)
    while rest:
        more, rest = BENCH.parse(rest)
        for name, values in more.items():
            given.setdefault(name, []).extend(values)
        words += rest[:1]
        rest = rest[1:]
    return given, words


def _expect(words: Sequence[str], number: int, name: str) -> None:
    if len(words) != number:
        what = {0: "no more words", 1: "one file", 2: "two files"}[number]
        raise ContainerError(f"{name} takes {what}", hint="To see what there is: mycontainer bench --help")


def _suggestion(name: str, known: Sequence[str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, known, n=1)
    return f"Did you mean: mycontainer bench {close[0]}" if close else f"There are: {', '.join(known)}"


def _need(*modules: str) -> None:
    for name in modules:
        if find_spec(name) is None:
            raise ContainerError(f"no Python module {name}", "benchmarks need it",
                                 "To install all that they need: pip install 'mycontainer[bench]'")


def measured(question: str, given: Mapping[str, list[str]]) -> int:
    """Measure, show, save. Returns the exit code: 130 after Ctrl-C."""
    _need("rich")
    module = f"mycontainer.bench.{MODULES.get(question, question)}"
    if find_spec(module) is None:
        raise ContainerError(f"no {question} yet", hint="To see what there is: mycontainer bench --help")
    from mycontainer.bench import world
    from mycontainer.bench.subjects import ALL, named

    names = ",".join(given["subjects"]).split(",") if "subjects" in given else list(ALL)
    named(names)  # a typing error is told before anything begins
    settings = settings_of(given)
    output = output_of(question, given)
    return world.run(lambda: told(lambda: _measure(module, names, settings, output)))


def told(work: Callable[[], int]) -> int:
    """Do it, in the worker or here; what goes wrong is told as everywhere."""
    from mycontainer.cli.main import explain_to_person

    try:
        return work()
    except SystemExit:  # so rich ends us when the reader goes away ("| head")
        return 128 + signal.SIGPIPE
    except BaseException as error:
        if "MYCONTAINER_DEBUG" in os.environ:
            import traceback

            traceback.print_exc()
        return explain_to_person(error)


def _measure(module: str, names: Sequence[str], settings: Settings, output: Path) -> int:
    from mycontainer.bench import report
    from mycontainer.bench.progress import bar
    from mycontainer.bench.subjects import named

    with bar() as progress:
        run: Run = import_module(module).measure(named(names), settings, progress)
    run.save(output)
    report.show(run)
    print(f"\nSaved, every sample: {output}")
    if picture := drawn(run, output):
        print(f"Drawn: {picture}")
    return 128 + signal.SIGINT if "interrupted" in run.notes else 0


def settings_of(given: Mapping[str, list[str]]) -> Settings:
    """From the options to how thorough it is."""
    from mycontainer.bench.measure import FULL, QUICK, Settings

    if "quick" in given and "full" in given:
        raise ContainerError("cannot be both --quick and --full")
    settings = QUICK if "quick" in given else FULL if "full" in given else Settings()
    settings = settings._replace(seed=int.from_bytes(os.urandom(4), "big"))
    if minutes := _number(given, "minutes"):
        settings = settings._replace(budget=60.0 * minutes)
    if rounds := _number(given, "rounds"):
        settings = settings._replace(rounds=rounds, warmup=min(settings.warmup, rounds))
    return settings


def _number(given: Mapping[str, list[str]], option: str) -> int:
    """What an option says; 0 if it is not there."""
    if option not in given:
        return 0
    text = given[option][-1]
    if not re.fullmatch(r"[1-9]\d{0,5}", text):
        raise ContainerError(f"not a number of {option}: {text}", hint="Write 1 or more.")
    return int(text)


def output_of(question: str, given: Mapping[str, list[str]]) -> Path:
    """Where the samples go; that it can be written is found out before half an hour is measured."""
    if "output" in given:
        path = Path(given["output"][-1]).absolute()
        if path.suffix != ".json":
            raise ContainerError(f"not the name of a JSON file: {path.name}", hint="Let it end in .json")
    else:
        from datetime import datetime

        path = Path(paths.data_dir(), "bench", f"{question}-{datetime.now():%Y-%m-%d-%H%M%S}.json")
        path.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path.parent, os.W_OK):
        raise ContainerError(f"cannot write to {path.parent}", "no such directory, or not yours",
                             "Say where: --output FILE.json")
    return path


def drawn(run: Run, output: Path) -> Path | None:
    """The plot beside the samples; None if nothing can draw it here."""
    if find_spec("matplotlib") is None or find_spec("mycontainer.bench.plots") is None or not run.samples:
        return None
    plots = import_module("mycontainer.bench.plots")
    picture = output.with_suffix(".png")
    plots.save(run, picture)
    return picture


def loaded(name: str) -> Run:
    """A saved run. Raises ContainerError for what is none."""
    from mycontainer.bench.run import Run

    try:
        return Run.load(Path(name))
    except OSError as error:
        raise ContainerError(f"cannot read {name}", error.strerror or "") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ContainerError(f"cannot use {name}", "not a file of mycontainer bench") from error


def shown(name: str) -> int:
    """The tables of a saved run."""
    from mycontainer.bench import report

    report.show(loaded(name))
    return 0


def compared(first: str, second: str) -> int:
    """Two runs side by side."""
    from mycontainer.bench import compare

    compare.show(loaded(first), loaded(second))
    return 0


def listed() -> int:
    """Who takes part here."""
    from mycontainer.bench import world

    return world.run(lambda: told(_list))


def _list() -> int:
    from mycontainer.bench import report
    from mycontainer.bench.subjects import ALL, named

    report.show_subjects(named(ALL))
    return 0


def prepared(only: str) -> int:
    """Make what virtual machines need: all of it, or ``only`` some kinds, with commas between."""
    from mycontainer.bench import prepare

    kinds = only.split(",") if only else prepare.KINDS
    prepare.prepare(lambda text: print(text, file=sys.stderr, flush=True), kinds)
    return 0
