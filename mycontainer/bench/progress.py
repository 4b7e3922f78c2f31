"""A bar that tells what is being measured and how long it still takes; nothing where nobody looks."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from mycontainer.bench import measure


@contextmanager
def bar() -> Iterator[measure.Progress]:
    """What a question's `measure` calls to tell how far it is. Without a terminal it does nothing."""
    if not sys.stderr.isatty():
        yield measure.silent
        return
    columns = (TextColumn("{task.description:22}"), BarColumn(), TaskProgressColumn(),
               TextColumn("{task.fields[left]}"))
    # Drawn when we are told something, between two measurements, and never by a thread in the midst of one.
    with Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False) as shown:
        task = shown.add_task("", total=None, left="")

        def tell(done: float, total: float, what: str) -> None:
            left = f"{max(0, round(total - done))} s left" if total else ""
            shown.update(task, description=what, completed=done, total=total or None, left=left)
            shown.refresh()

        yield tell
