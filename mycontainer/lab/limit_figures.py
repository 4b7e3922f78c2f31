"""Drawings of limits at work: the comb of a CPU quota, and the pressure that rises before the OOM killer.

They are drawn from measurements, so they differ from run to run; what the cells print beside them does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from mycontainer.lab.limited import replay
from mycontainer.lab.style import CHANGES, FAINT, INK, LINE, Figure, box, columns, figure, swatch, text

Stretch = tuple[float, float]  # from, to: seconds since the beginning, as `hogs.stretches` has them
Sample = tuple[float, int, float]  # seconds, bytes in use, µs that somebody waited so far
TOOTH = 0.005  # seconds
WIDTH = 800


def comb_figure(rows: Mapping[str, Sequence[Stretch]] | None, seconds: float = 0.4) -> Figure | None:
    """One CPU, drawn every 5 ms: for each row how much of that time it ran.

    Where nothing could be measured it shows what was recorded (`limited.replay`)."""
    if not rows:
        replay("lab.comb_figure(")
        return None
    high, body, words = 96, [], []
    for number, (name, stretches) in enumerate(rows.items()):
        teeth = shares(stretches, seconds)
        y = number * high
        fill, pattern = swatch(number)
        body.append(text(0, y + 16, name, weight=700))
        for at, share in enumerate(teeth):
            wide = WIDTH / len(teeth)
            body.append(box(at * wide, y + 24, wide - 1, 52, "#f3f5f7", radius=0))
            if share >= 0.02:
                body.append(box(at * wide, y + 24 + 52 * (1 - share), wide - 1, 52 * share, fill, INK,
                                radius=0, pattern=pattern))
        words.append([name, "".join("#" if share > 0.5 else "." for share in teeth)])
    y = len(rows) * high
    for tick in range(0, round(seconds * 1000) + 1, 100):
        x = WIDTH * tick / (seconds * 1000)
        body.append(f'<path d="M{x:g},0 V{y}" stroke="{LINE}" stroke-dasharray="3 4"/>')
        body.append(text(x, y + 16, f"{tick} ms", size=14, ink=FAINT, anchor="middle"))
    caption = "A full bar: it ran in all of these 5 ms. None: it stood still."
    body.append(text(0, y + 44, caption, size=14, ink=FAINT))
    told = columns(words) + "\n\nEach character is 5 ms: # it ran, . it stood still."
    return figure("".join(body), WIDTH + 24, y + 48, "One CPU, drawn every 5 ms", told)


def shares(stretches: Sequence[Stretch], seconds: float, tooth: float = TOOTH) -> list[float]:
    """For each ``tooth`` of seconds from 0 on the part of it, 0 to 1, that lies in one of the stretches."""
    found = []
    for at in range(round(seconds / tooth)):
        begin, end = at * tooth, (at + 1) * tooth
        ran = sum(max(0.0, min(end, to) - max(begin, start)) for start, to in stretches)
        found.append(min(1.0, ran / tooth))
    return found


def pressure_figure(samples: Sequence[Sample] | None, high: int, maximum: int) -> Figure | None:
    """Memory in use, and how much of the time somebody waited for memory, until the end.

    ``high`` and ``maximum`` are the limits, in bytes. Where nothing could be measured: as `comb_figure`.
    """
    if not samples:
        replay("lab.pressure_figure(")
        return None
    end, top, room = samples[-1][0] or 1.0, maximum * 1.15, 150
    waits = waiting(samples)

    def x(seconds: float) -> float:
        return WIDTH * seconds / end

    def line(points: Sequence[tuple[float, float]], ink: str, dashes: str = "") -> str:
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in points)
        return (f'<polyline points="{path}" fill="none" stroke="{ink}" stroke-width="3" '
                f'stroke-dasharray="{dashes}"/>')

    body = [text(0, 14, "memory in use", weight=700)]
    for limit, name in ((high, "memory.high"), (maximum, "memory.max")):
        y = 24 + room * (1 - limit / top)
        body.append(f'<path d="M0,{y:g} H{WIDTH}" stroke="{INK}" stroke-dasharray="6 5"/>')
        body.append(text(WIDTH, y - 4, f"{name} {limit >> 20} MB", size=14, anchor="end", halo="#ffffff"))
    body.append(line([(x(when), 24 + room * (1 - used / top)) for when, used, _ in samples], "#1f5fa8"))
    below = room + 64
    body.append(text(0, below + 4, "pressure: % of the time that somebody waited", weight=700))
    body.append(line([(x(when), below + 14 + 90 * (1 - share)) for when, share in waits],
                     CHANGES["gone"][1], "1 0"))
    for share in (0, 100):
        y = below + 14 + 90 * (1 - share / 100)
        body.append(f'<path d="M0,{y:g} H{WIDTH}" stroke="{LINE}"/>')
        body.append(text(WIDTH + 6, y + 5, f"{share} %", size=14, ink=FAINT))
    body.append(text(0, below + 124, "0 s", size=14, ink=FAINT))
    body.append(text(WIDTH, below + 124, f"{end:.1f} s: killed", size=14, ink=FAINT, anchor="end"))
    some = max(1, len(samples) // 8)
    table = [["seconds", "MB", "% waiting"]] + [
        [f"{when:.1f}", str(used >> 20), f"{100 * share:.0f}"]
        for (when, used, _), (_, share) in zip(samples[::some], waits[::some], strict=True)]
    return figure("".join(body), WIDTH + 60, below + 132, "Pressure rises before the kill", columns(table))


def waiting(samples: Sequence[Sample]) -> list[tuple[float, float]]:
    """Between one sample and the next the share of the time, 0 to 1, in which somebody waited."""
    found = [(samples[0][0], 0.0)]
    for (before, _, waited), (now, _, more) in pairwise(samples):
        found.append((now, min(1.0, (more - waited) / 1e6 / max(now - before, 1e-6))))
    return found
