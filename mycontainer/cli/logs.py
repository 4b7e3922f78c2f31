"""`mycontainer logs`: what a detached container has written, each stream to ours of the same name."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Sequence

from mycontainer.cli.containers import parsed
from mycontainer.cli.options import Command, Option
from mycontainer.engine import log, state
from mycontainer.engine.state import Container
from mycontainer.errors import ContainerError

LOGS = Command(
    "mycontainer logs [OPTIONS] CONTAINER",
    f"""\
Show what a detached container has written: its output as our output, its
errors as ours. The last {log.LIMIT >> 20} MiB at least are kept.""",
    Option("follow", "stay, and show what is written, until it ends", letter="f"),
    Option("tail", "only the last NUMBER lines (default: all)", "NUMBER", "n"),
    Option("timestamps", "with the time of each line", letter="t"),
    later=dict.fromkeys(("--since", "--until", "--details"), 7))
PAUSE = 0.1  # seconds between two looks


def main(arguments: Sequence[str]) -> int:
    """Show the log; returns the exit code."""
    given, words = parsed(LOGS, arguments)
    if words is None:
        return 0
    if len(words) > 1:
        raise ContainerError("which container?", "logs shows one at a time", f"Usage: {LOGS.usage}")
    one = state.find(words[0])
    try:
        reader = log.Reader(one.path)
    except FileNotFoundError:
        raise ContainerError(f"no log of {one.name}", "it runs in the foreground",
                             "What it writes is shown where it was started.", state.EXIT_FAILED) from None
    show(last(reader.rows(), given.get("tail", ["all"])[-1]), "timestamps" in given)
    if "follow" in given:
        follow(one, reader, "timestamps" in given)
    return 0


def follow(one: Container, reader: log.Reader, timestamps: bool) -> None:
    """Show what comes, until the container has ended and all is shown."""
    while True:
        ended = not one.alive  # asked first: what it wrote before is in the log then
        show(reader.rows(), timestamps)
        if ended:
            return
        time.sleep(PAUSE)


def last(rows: Sequence[log.Row], text: str) -> Sequence[log.Row]:
    """The rows that make the last lines. A line may be of several."""
    if text == "all":
        return rows
    if not text.isdecimal():
        raise ContainerError(f"not a number of lines: {text}", hint="Write 10, or all.")
    wanted, at = int(text), len(rows)
    while at and wanted:
        at -= 1
        wanted -= at == 0 or rows[at - 1].text.endswith(b"\n")  # here a line begins
    return rows[at:]


def show(rows: Iterable[log.Row], timestamps: bool) -> None:
    """Each stream of the container's goes to ours."""
    for row in rows:
        stream = sys.stderr if row.stream == log.STDERR else sys.stdout
        stream.buffer.write(row.time + b" " + row.text if timestamps else row.text)
    sys.stdout.flush()
    sys.stderr.flush()
