"""A live gauge: a cgroup with hogs to let loose in it, and what the kernel says of it twice a second.

The cgroup is made and read by the notebook's kernel, with files and nothing else; each hog is a process of
its own, which joins before it begins (`mycontainer.lab.hogs`). Where the lab has no cgroups it says so.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from html import escape

import ipywidgets

from mycontainer import cgroups
from mycontainer.lab.limited import refusal
from mycontainer.lab.widgets import Live, button, html, item, row

MEMORY, QUOTA, PERIOD, PROCESSES = 64 << 20, 50_000, 100_000, 16
EVERY = 0.5       # seconds between two looks
AT_MOST = 1800.0  # seconds that it goes on by itself
HOGS = {"eat": "eat 8 MB", "burn": "burn a CPU", "sleep": "one process more"}

_running: list[Gauge] = []  # at most one: of the cell that was run last


class Gauge:
    """The cgroup behind the widget: its hogs, and what it says between two looks."""

    def __init__(self) -> None:
        self.group = cgroups.create(f"gauge-{os.getpid()}")
        self.group.limit_memory(MEMORY)
        self.group.limit_cpu(QUOTA, PERIOD)
        self.group.limit_processes(PROCESSES)
        self.hogs: list[subprocess.Popen[bytes]] = []
        self.over = threading.Event()
        self.last = (time.monotonic(), 0, 0)

    def start(self, what: str) -> None:
        """Let a hog loose (a key of HOGS). -I: a file beside the notebook must not run in there."""
        self.hogs.append(subprocess.Popen(
            [sys.executable, "-I", "-m", "mycontainer.lab.hogs", self.group.path, what],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))

    def read(self) -> dict[str, float]:
        """What there is to show. CPU and pauses are shares of the time since the last look."""
        self.hogs = [hog for hog in self.hogs if hog.poll() is None]  # which also buries the others
        stat, (before, used, stopped) = self.group.numbers("cpu.stat"), self.last
        self.last = time.monotonic(), stat["usage_usec"], stat["nr_throttled"]
        passed = max(self.last[0] - before, 1e-3)
        pressure = {kind: self.group.pressure(kind)["some"]["avg10"] for kind in ("memory", "cpu")}
        return {"memory": self.group.memory()[0], "kills": self.group.numbers("memory.events")["oom_kill"],
                "cpu": (self.last[1] - used) / 1e6 / passed, "stopped": self.last[2] - stopped,
                "processes": int(self.group.read("pids.current")),
                "frozen": int(self.group.read("cgroup.freeze")),
                "memory waits": pressure["memory"], "cpu waits": pressure["cpu"]}

    def close(self) -> None:
        """Kill the hogs, remove the cgroup."""
        self.over.set()
        self.group.remove()
        for hog in self.hogs:
            hog.wait()


def gauge() -> Live:
    """A cgroup with 64 MB, half a CPU and 16 processes, live: buttons let hogs loose in it."""
    while _running:  # the cell was run again
        _running.pop().close()
    if why := refusal():
        return Live([ipywidgets.HTML(html(item(f"no gauge: {why}", "bad")))], lambda: f"no gauge here: {why}")
    one = Gauge()
    _running.append(one)
    shown = ipywidgets.HTML()

    def look() -> None:
        shown.value = html(bars(one.read()))

    def after(action: object) -> None:
        if not one.over.is_set():
            action()  # type: ignore[operator]
            look()

    def close() -> None:
        one.close()
        shown.value = html(item("The cgroup is removed. Run the cell again for another one."))

    def watch() -> None:
        end = time.monotonic() + AT_MOST
        while not one.over.wait(EVERY) and time.monotonic() < end:
            with suppress(OSError):  # it is being removed
                look()

    look()
    threading.Thread(target=watch, daemon=True).start()
    buttons = [button(words, lambda what=what: after(lambda: one.start(what)))  # type: ignore[misc]
               for what, words in HOGS.items()]
    buttons += [button(words, lambda do=do: after(do))  # type: ignore[misc]
                for words, do in (("freeze", one.group.freeze), ("thaw", one.group.thaw),
                                  ("kill all", one.group.kill))]
    buttons.append(button("remove", close))
    return Live([row(*buttons), shown], lambda: in_words(one.read()), shown=shown, gauge=one, close=close)


def facts(seen: dict[str, float]) -> list[tuple[str, str, float]]:
    """(what, in words, how full from 0 to 1)."""
    stopped = f", stopped {seen['stopped']:.0f} times since the last look" if seen["stopped"] else ""
    kills = f", OOM kills: {seen['kills']:.0f}" if seen["kills"] else ""
    frozen = ", frozen" if seen["frozen"] else ""
    return [
        ("memory", f"{seen['memory'] / (1 << 20):.0f} of {MEMORY >> 20} MB{kills}", seen["memory"] / MEMORY),
        ("CPU", f"{seen['cpu']:.2f} of {QUOTA / PERIOD:g} CPUs{stopped}", seen["cpu"] * PERIOD / QUOTA),
        ("processes", f"{seen['processes']:.0f} of {PROCESSES}{frozen}", seen["processes"] / PROCESSES),
        ("waiting for memory", f"{seen['memory waits']:.0f} % of the last 10 s", seen["memory waits"] / 100),
        ("waiting for a CPU", f"{seen['cpu waits']:.0f} % of the last 10 s", seen["cpu waits"] / 100)]


def bars(seen: dict[str, float]) -> str:
    """The same as HTML: a bar for each."""
    rows = []
    for what, words, full in facts(seen):
        wide = 100 * min(1.0, max(0.0, full))
        rows.append(f'<tr><td><b>{escape(what)}</b></td><td style="width:45%"><div style="border:1px solid '
                    f'currentColor;height:18px"><div style="width:{wide:.0f}%;height:100%;background:'
                    f'{"#d9822b" if full > 0.85 else "#2ea043"}"></div></div></td>'
                    f"<td>{escape(words)}</td></tr>")
    return f"<table>{''.join(rows)}</table>"


def in_words(seen: dict[str, float]) -> str:
    """The same as plain text."""
    return "\n".join(f"{what}: {words}" for what, words, _ in facts(seen))
