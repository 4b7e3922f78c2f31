"""The verbs for containers that are there: ps, stop, kill, rm, wait. In Docker's words.

Each takes several containers, by name or by the first letters of the id: what fails for one is told in a
line, the others are done all the same, and the exit code is 1.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from mycontainer.cli.options import Command, Option
from mycontainer.engine import state
from mycontainer.engine.state import Container, NotRunning
from mycontainer.errors import ContainerError

GRACE = 10  # seconds from SIGTERM to SIGKILL, as Docker's
DEATH = 10  # seconds that a keeper may take to clear up after its container

PS = Command(
    "mycontainer ps [OPTIONS]",
    "List the containers of this user that run.",
    Option("all", "those that have ended as well", letter="a"),
    Option("quiet", "only their ids", letter="q"),
    Option("no-trunc", "whole ids and commands"),
    Option("format", "json: an object a line, with Docker's keys", "FORMAT"),
    later=dict.fromkeys(("-f", "--filter", "-n", "--last", "-l", "--latest", "-s", "--size"), 7))
STOP = Command(
    "mycontainer stop [OPTIONS] CONTAINER...",
    f"""\
Send SIGTERM to process 1 of each container, and SIGKILL if it is still there
after {GRACE} seconds; that ends all other processes in it, too.""",
    Option("time", f"seconds of grace before SIGKILL (default: {GRACE})", "SECONDS", "t"))
KILL = Command(
    "mycontainer kill [OPTIONS] CONTAINER...",
    "Send a signal, SIGKILL by default, to process 1 of each container.",
    Option("signal", "which one: TERM, SIGTERM or 15", "SIGNAL", "s"))
RM = Command(
    "mycontainer rm [OPTIONS] CONTAINER...",
    "Remove containers that have ended: their names, logs and exit codes.",
    Option("force", "kill those that still run", letter="f"))
WAIT = Command(
    "mycontainer wait CONTAINER...",
    "Wait until each container has ended, and print its exit code.")


def ps(arguments: Sequence[str]) -> int:
    """List the containers."""
    given, words = PS.parse(arguments)
    if "help" in given:
        print(PS.help(), end="")
        return 0
    if words:
        raise ContainerError(f"what is {words[0]}?", hint=f"Usage: {PS.usage}")
    if (form := given.get("format", ["table"])[-1]) not in ("table", "json"):
        raise ContainerError(f"no such format: {form}", hint="There is: table, json.")
    shown = [one for one in state.containers() if "all" in given or one.end is None]
    whole = "no-trunc" in given
    if "quiet" in given:
        print(*(one.id if whole else one.id[:12] for one in shown), sep="\n", end="\n" if shown else "")
    elif form == "json":
        print_json(shown)
    else:
        print_table([row(one, whole) for one in shown])
    return 0


TITLES = ("CONTAINER ID", "IMAGE", "COMMAND", "CREATED", "STATUS", "PORTS", "NAMES")


def row(one: Container, whole: bool = False) -> tuple[str, ...]:
    """What `ps` tells of a container, in the order of TITLES."""
    command = printable(" ".join(one.command))
    if not whole and len(command) > 20:
        command = command[:19] + "…"
    return (one.id if whole else one.id[:12], printable(one.image), f'"{command}"',
            f"{ago(one.created)} ago", status(one), "" if one.end else one.ports, one.name)


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Columns as wide as their widest cell."""
    widths = [max(map(len, column)) for column in zip(TITLES, *rows, strict=True)]
    for cells in (TITLES, *rows):
        print("   ".join(map(str.ljust, cells, widths)).rstrip())


def print_json(shown: Sequence[Container]) -> None:
    """An object a line, as ``docker ps --format json`` has it."""
    import json

    for one in shown:
        identity, image, command, running_for, status_, ports, name = row(one)
        print(json.dumps({
            "ID": identity, "Image": image, "Command": command, "RunningFor": running_for, "Status": status_,
            "Ports": ports, "Names": name, "State": "running" if one.end is None else "exited",
            "CreatedAt": time.strftime("%Y-%m-%d %H:%M:%S %z %Z", time.localtime(one.created))}))


def printable(text: str) -> str:
    """Nothing in it may move the cursor."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def status(one: Container) -> str:
    """``Up 5 seconds``, ``Exited (0) 2 minutes ago``."""
    if one.end is None:
        return f"Up {ago(one.created)}"
    code, when = one.end
    return f"Exited ({code}) {ago(when)} ago"


def ago(when: float) -> str:
    """How long it is since then, in words: Docker's."""
    seconds = int(time.time() - when)
    if seconds < 1:
        return "Less than a second"
    for size, unit, one in ((365 * 86400, "years", ""), (30 * 86400, "months", ""), (7 * 86400, "weeks", ""),
                            (86400, "days", ""), (3600, "hours", "About an hour"),
                            (60, "minutes", "About a minute")):
        if seconds >= 2 * size or (one and seconds >= size):
            return f"{seconds // size} {unit}" if seconds >= 2 * size else one
    return f"{seconds} second{'s' * (seconds != 1)}"


def stop(arguments: Sequence[str]) -> int:
    """All get SIGTERM at once, so that ten stubborn ones take the grace of one."""
    given, words = parsed(STOP, arguments)
    if words is None:
        return 0
    grace = seconds(given["time"][-1]) if "time" in given else GRACE
    until = time.monotonic() + grace

    def begin(one: Container) -> None:
        if one.end is None:
            if grace and one.ignores(signal.SIGTERM):
                hint(f"process 1 of {one.name} has no handler for SIGTERM and will not hear it: "
                     f"SIGKILL follows after {grace} s (-t 0: at once)")
            with suppress(NotRunning):
                one.signal(signal.SIGTERM if grace else signal.SIGKILL)

    def finish(one: Container) -> None:
        if one.wait(max(0, until - time.monotonic())) is None:
            end(one)

    return each(words, begin, finish)


def kill(arguments: Sequence[str]) -> int:
    """Send a signal."""
    given, words = parsed(KILL, arguments)
    if words is None:
        return 0
    number = signal_number(given.get("signal", ["KILL"])[-1])
    return each(words, lambda one: one.signal(number))


def rm(arguments: Sequence[str]) -> int:
    """Remove them."""
    given, words = parsed(RM, arguments)
    if words is None:
        return 0

    def remove(one: Container) -> None:
        if "force" in given and one.end is None:
            end(one)
        one.remove()

    return each(words, remove)


def wait(arguments: Sequence[str]) -> int:
    """Wait for them."""
    _, words = parsed(WAIT, arguments)
    if words is None:
        return 0
    return each(words, lambda one: print(one.wait(), flush=True), say=False)


def end(one: Container) -> None:
    """SIGKILL; returns when its keeper has cleared up."""
    with suppress(NotRunning):  # it has just ended, and its keeper is still busy with that
        one.signal(signal.SIGKILL)
    if one.wait(DEATH) is None:
        raise ContainerError(f"cannot end {one.name}", f"still there {DEATH} seconds after SIGKILL",
                             exit_code=state.EXIT_FAILED)


def each(words: Sequence[str], *steps: Callable[[Container], object], say: bool = True) -> int:
    """Find the containers, then do one step after the other with all for whom none has failed yet.

    Prints each word when its last step is done (if ``say``), and a complaint for each that fails. Returns
    the exit code.
    """
    from mycontainer.cli.main import complain

    code = 0
    going: list[tuple[str, Container | None]] = [(word, None) for word in dict.fromkeys(words)]
    for step in (None, *steps):
        still = []
        for word, one in going:
            try:
                if step is None:
                    one = state.find(word)
                elif one:
                    step(one)
                still.append((word, one))
                if step is steps[-1] and say:
                    print(word, flush=True)
            except ContainerError as error:
                code = complain(str(error), error.hint, state.EXIT_FAILED)
        going = still
    return code


def parsed(command: Command, arguments: Sequence[str]) -> tuple[dict[str, list[str]], list[str] | None]:
    """Options and names of containers; None for the names if only help was wanted, which is printed."""
    given, words = command.parse(arguments)
    if "help" in given:
        print(command.help(), end="")
        return given, None
    if not words:
        raise ContainerError("which container?", hint=f"Usage: {command.usage}")
    return given, words


def seconds(text: str) -> int:
    """A number of seconds."""
    if not text.isdecimal():
        raise ContainerError(f"not a number of seconds: {text}", hint="Write 0, or 10.")
    return int(text)


def signal_number(text: str) -> int:
    """From ``TERM``, ``SIGTERM``, ``15``."""
    name = text.upper().removeprefix("SIG")
    known = {each.name.removeprefix("SIG"): each.value for each in signal.Signals}
    number = int(name) if name.isdecimal() else known.get(name, 0)
    if number not in signal.valid_signals():
        raise ContainerError(f"no such signal: {text}", hint="To see all of them: kill -l")
    return number


def hint(text: str) -> None:
    print(f"hint: {text}", file=sys.stderr)
