"""A packet's way from a container to the internet and back, drawn with the kernel's own counters.

The network is the one of wires.py; a drawing shows what `wires.try_wires` has seen of it: how many packets
each device has received and sent while somebody called, and which wire was pulled. So the numbers may differ
a little from time to time (a device first asks who has an address); where they stop does not.
"""

from __future__ import annotations

import html as escaping
from typing import TYPE_CHECKING, Any

from mycontainer.errors import ContainerError
from mycontainer.lab import wires
from mycontainer.lab.style import CHANGES, FAINT, INK, LINE, TWIG, Figure, box, columns, figure, text
from mycontainer.lab.wires import DESTINATIONS, WIRES, Seen

if TYPE_CHECKING:
    from mycontainer.lab.widgets import Live

TITLE = "A packet's way"
WIDE, HIGH = 1010, 214
BAD = CHANGES["gone"]
# Where a wire is missing: the middle of its mark, in the drawing.
SPOTS = {"cable": (266, 96), "address": (106, 150), "prefix": (106, 150), "route": (106, 150),
         "forwarding": (505, 96), "masquerade": (606, 150)}
MEANING = {
    "answers": "", "timeout": "nothing comes back", "ECONNREFUSED": "somebody is there, and nobody listens",
    "ENETUNREACH": "our own kernel knows no way there", "EHOSTUNREACH": "nobody there has that address",
}


def path_figure(seen: Seen | None = None, title: str = TITLE) -> Figure:
    """Draw what was seen; without an argument a network in order is built, and called, for it."""
    seen = seen or wires.try_out()
    body = [*_machines(), *_cables(seen)]
    if seen.without:
        body += _mark(seen.without)
    calls = [f"{name}, {DESTINATIONS[name]}: {_verdict(came)}" for name, came in seen.calls.items()]
    body += [text(0, HIGH + 4 + 24 * number, f"call to the {line}", weight=600)
             for number, line in enumerate(calls)]
    rows = [["device", "received", "sent"], *([name, str(got), str(sent)]
                                              for name, (got, sent) in seen.passed.items())]
    pulled = f"Pulled: {seen.without} ({WIRES[seen.without]})." if seen.without else "All six wires are in."
    words = "\n".join([pulled, columns(rows), *(f"call to the {line}" for line in calls)])
    return figure("".join(body), WIDE, HIGH + 24 * len(calls), title, words)


def _verdict(came: str) -> str:
    return f"{came} ({MEANING[came]})" if MEANING.get(came) else came


def _machines() -> list[str]:
    """The three network namespaces, and what is in them."""
    drawn = []
    for x, wide, name, about in ((0, 212, "web", "a container"), (320, 372, "router", "what the host does"),
                                 (798, 212, "internet", "two servers on port 80")):
        drawn += [box(x, 0, wide, HIGH - 34, "#f6f8fa", LINE, radius=12),
                  text(x + wide / 2, 26, name, weight=700, size=19, anchor="middle"),
                  text(x + wide / 2, 46, about, size=14, ink=FAINT, anchor="middle")]
    for x, wide, name, address in ((112, 100, "eth0", "10.88.0.2"), (320, 86, "web", "in br0"),
                                   (410, 86, "br0", "10.88.0.1"), (594, 98, "wan", "203.0.113.1"),
                                   (798, 110, "eth0", "203.0.113.80")):
        drawn += [box(x, 76, wide, 44, "#ffffff", INK, radius=6),
                  text(x + wide / 2, 95, name, weight=700, anchor="middle", mono=True, size=16),
                  text(x + wide / 2, 113, address, size=13, ink=FAINT, anchor="middle")]
    return drawn


def _cables(seen: Seen) -> list[str]:
    """Each cable with the packets that went either way, as its near end has counted them."""
    drawn = []
    for start, end, near in ((212, 320, "web eth0"), (496, 594, "router wan"), (692, 798, "router wan")):
        back, out = seen.passed[near]
        middle = (start + end) / 2
        inside = start == 496
        style = 'stroke-width="2" stroke-dasharray="5 5"' if inside else 'stroke-width="4"'
        drawn.append(f'<path d="M{start},98 H{end}" stroke="{TWIG}" {style} fill="none"/>')
        if inside:
            drawn.append(text(middle, 66, "passed on", size=14, ink=FAINT, anchor="middle"))
        drawn += [text(middle, 88, f"{out} →", weight=700, anchor="middle", mono=True, halo="#ffffff"),
                  text(middle, 118, f"← {back}", weight=700, anchor="middle", mono=True, halo="#ffffff")]
    return drawn


def _mark(wire: str) -> list[str]:
    """A cross where the wire is missing, and its name."""
    x, y = SPOTS[wire]
    _, ink, ground = BAD
    wide = 36 + 10 * len(wire)
    return [box(x - wide / 2, y - 15, wide, 30, ground, ink, radius=6),
            text(x, y + 6, f"✗ {wire}", weight=700, ink=ink, anchor="middle")]


def pull_a_wire() -> Live:
    """Buttons, one for each wire: the network is built anew without it, called, and drawn."""
    import ipywidgets

    from mycontainer.lab.widgets import Live, html, item, row

    state: dict[str, Any] = {}
    shown = ipywidgets.HTML()
    chosen = ipywidgets.ToggleButtons(options=["nothing", *WIRES], description="pull out")
    target = ipywidgets.ToggleButtons(options=list(DESTINATIONS), value="internet", description="call the")
    for one in (chosen, target):
        one.style.button_width = "auto"

    def update(*_: object) -> None:
        shown.value = html("<p>calling …</p>")
        wire = "" if chosen.value == "nothing" else chosen.value
        try:
            state["seen"] = path_figure(wires.try_out(wire, target.value))
            words = escaping.escape(state["seen"].words, quote=True)
            shown.value = html(f'<div role="img" aria-label="{words}">{state["seen"].svg}</div>')
        except (ChildProcessError, ContainerError) as error:
            state["seen"] = str(error)
            shown.value = html(item(str(error), "bad"))

    for one in (chosen, target):
        one.observe(update, "value")
    update()
    return Live([row(chosen), row(target), shown], lambda: str(state["seen"]), chosen=chosen, target=target,
                shown=shown)
