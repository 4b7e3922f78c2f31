"""Things to click: the dissolving container, the explorer of namespaces, the doctor.

Each is made of ipywidgets alone, takes the colours of the notebook's theme, and says the same in words where
there is no browser. Nothing forks in the kernel: containers are started by processes of their own
(`mycontainer.lab.dissolve`), and what is shown is read from /proc.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from html import escape
from typing import TYPE_CHECKING, Any

import ipywidgets

from mycontainer.errors import ContainerError
from mycontainer.lab import figures, style
from mycontainer.lab.dissolve import PLAIN, VIEWS, WALLS, Dissolved, Specimen, dissolve

if TYPE_CHECKING:
    from mycontainer.lab.doctor import Finding

# ── what all have in common ──────────────────────────────────────────────────────────────────────────


class Live(ipywidgets.VBox):
    """A box of widgets that also knows how to say it in words, for a terminal, nbconvert or a test.

    ``parts`` are those of its widgets that one may want to press or to read.
    """

    def __init__(self, children: Iterable[ipywidgets.Widget], words: Callable[[], str], **parts: Any) -> None:
        super().__init__(list(children))
        self._words, self.parts = words, parts

    def __str__(self) -> str:
        return self._words()

    def _repr_mimebundle_(self, **options: Any) -> dict[str, Any]:
        return {**super()._repr_mimebundle_(**options), "text/plain": self._words()}


def row(*widgets: ipywidgets.Widget) -> ipywidgets.HBox:
    """Widgets side by side, in our style."""
    box = ipywidgets.HBox(list(widgets))
    box.add_class("mc-row")
    return box


def button(words: str, action: Callable[[], object]) -> ipywidgets.Button:
    """A button that calls ``action``."""
    made = ipywidgets.Button(description=words)
    made.on_click(lambda _: action())
    return made


def html(inner: str) -> str:
    """A piece of HTML in our style; a screen reader is told when it changes."""
    return f'{style.CSS}<div class="mc" aria-live="polite">{inner}</div>'


def item(words: str, kind: str = "") -> str:
    """A line of a list: kind "ok", "bad" or, by default, worth a look."""
    return f'<ul><li class="{kind}">{MARKS[kind]} {escape(words)}</li></ul>'


MARKS = {"ok": "✓", "bad": "✗", "": "◆"}

# ── the dissolving container ─────────────────────────────────────────────────────────────────────────

CAPTIONS = {"root": "files", "pid": "processes", "uts": "host name", "ipc": "shared memory", "net": "network",
            "user": "user ids", "cgroup": "control groups"}
MOST_LINES = 7


def dissolving_container() -> Live:
    """Check boxes for the walls of a container, and beneath what a shell in it sees with just those."""
    whole = dissolve()
    shown = ipywidgets.HTML(html(render(whole, whole)))
    state: dict[str, Any] = {"seen": whole, "quiet": False}
    boxes = {wall: ipywidgets.Checkbox(True, description=f"{wall}\n{caption}", indent=False)
             for wall, caption in CAPTIONS.items()}

    def update(*_: object) -> None:
        if not state["quiet"]:
            state["seen"] = seen = dissolve(wall for wall, box in boxes.items() if not box.value)
            shown.value = html(render(seen, whole))

    def set_all(value: bool) -> None:
        state["quiet"] = True
        for box in boxes.values():
            box.value = value
        state["quiet"] = False
        update()

    for box in boxes.values():
        box.observe(update, "value")
    controls = row(*boxes.values(), button("all walls", lambda: set_all(True)),
                   button("no walls", lambda: set_all(False)))
    return Live([controls, shown], lambda: str(state["seen"]), boxes=boxes, shown=shown, set_all=set_all)


def render(seen: Dissolved, whole: Dissolved) -> str:
    """What was seen, as HTML; marked is what the ``whole`` container does not show."""
    if seen.error:
        return f"<h3>{escape(seen.title)}</h3>{item(seen.error, 'bad')}"
    if len(seen.leaks) == len(WALLS):
        verdict = item(PLAIN)
    elif seen.leaks:
        verdict = item("marks what it shares with the notebook.")
    else:
        verdict = item("It shares nothing of all this with the notebook.", "ok")
    panels = [panel(wall, seen, whole) for wall in VIEWS] + [outside_panel(seen)]
    return (f'<div class="top"><h3>{escape(seen.title)}</h3>{verdict}</div>'
            f'<div class="grid">{"".join(panels)}</div>')


def panel(wall: str, seen: Dissolved, whole: Dissolved) -> str:
    """One question to the shell inside, and its answer; if the wall is gone, what that means."""
    leak = not seen.own[wall]
    known = {gist(wall, line) for line in whole.views.get(wall, [])}
    indent = "  " * (leak and wall != "root")  # as wide as a mark, so that columns stay columns
    lines = [mark(line, indent, leak and gist(wall, line) not in known) for line in seen.views[wall]
             if wall != "net" or not line.startswith("  ") or "inet " in line]  # the rest says little
    shown = f'<span class="names">{"".join(lines)}</span>' if wall == "root" else first_lines(lines)
    tag, about = (("◆ shared", f"<p>{escape(WALLS[wall])}</p>") if leak else ("✓ its own", ""))
    return (f'<section class="panel{" leak" * leak}"><header><code>{escape(VIEWS[wall][0])}</code>'
            f'<span class="tag">{tag}</span></header>{about}<pre>{shown}</pre></section>')


def gist(wall: str, line: str) -> str:
    """What makes a line the same line, whichever program prints it: of a process its command, no pid."""
    words = line.split()
    return " ".join(words[2:] if wall == "pid" else words[:2])


def mark(line: str, indent: str, new: bool) -> str:
    """A line of output, marked if it is ``new``, else indented."""
    return f'<span class="new">◆ {escape(line)}</span>' if new else f"<span>{indent}{escape(line)}</span>"


def first_lines(lines: list[str]) -> str:
    """As many lines as there is room for; never "1 more", which would take the place of that one."""
    if (more := len(lines) - MOST_LINES) <= 1:
        return "\n".join(lines)
    return "\n".join([*lines[:MOST_LINES], f'<span class="faint">… {more} more</span>'])


def outside_panel(seen: Dissolved) -> str:
    """The same process, seen from the notebook and from the host: it is always there."""
    pid, user = seen.outside["pid"], seen.outside["user"]
    lines = [f"pid   {pid}", f"user  {user}" + ("" if user else "  (root, here too)")]
    if (host := figures.on_the_host(user)) not in (None, user):
        lines.append(f"user  {host}  on the host")
    return ('<section class="panel"><header class="plain">seen from the notebook</header>'
            f"<pre>{chr(10).join(lines)}</pre></section>")


# ── the explorer of namespaces ───────────────────────────────────────────────────────────────────────

WIDE = 24  # characters of a command: a line of the list fits into a window of 1280 pixels, side bar and all


def in_columns(words: Iterable[str]) -> str:
    """A word for each kind, beneath its name."""
    return "".join(word.ljust(len(kind) + 2) for kind, word in zip(figures.MEANING, words, strict=True))


HEAD = "pid".rjust(6) + "  " + "command".ljust(WIDE) + in_columns(figures.MEANING)


_beside: list[Specimen] = []  # the container that the explorer has started, if any


def namespace_explorer() -> Live:
    """All processes that are seen from here: click one for its namespaces, its ids, and who shares them."""
    listing, detail = ipywidgets.Select(), ipywidgets.HTML()
    listing.add_class("mc-list")
    state: dict[str, Any] = {"found": [], "quiet": False}

    def show(*_: object) -> None:
        if not state["quiet"]:
            detail.value = html(describe(state["found"], listing.value))

    def look(choose: int | None = None) -> None:
        wanted = choose or listing.value or os.getpid()
        state["found"] = found = figures.processes()
        letters, pids = letters_of(found), [one.pid for one in found]
        state["quiet"] = True  # until both the list and the choice are right
        listing.options = [(option(one, letters), one.pid) for one in found]
        listing.rows = min(max(len(found), 4), 14)
        listing.value = wanted if wanted in pids else pids[0]
        state["quiet"] = False
        show()

    def start_or_end() -> None:
        if _beside:
            _beside.pop().close()
            toggle.description = "start a container"
            return look()
        try:
            _beside.append(Specimen())
        except ContainerError as error:
            detail.value = html(item(str(error), "bad"))
            return None
        toggle.description = "end the container"
        return look(choose=_beside[0].pid)

    while _beside:  # the cell was run again
        _beside.pop().close()
    toggle, refresh = button("start a container", start_or_end), button("look again", look)
    listing.observe(show, "value")
    look()
    head = ipywidgets.HTML(html(f'<pre class="list-head">{HEAD}</pre>'))
    return Live([row(toggle, refresh), head, listing, detail], lambda: in_words(state["found"]),
                listing=listing, detail=detail, toggle=toggle, refresh=refresh)


Letters = Mapping[str, Mapping[int, int]]  # kind, inode: its number


def letters_of(found: list[figures.Seen]) -> Letters:
    """Number the namespaces of each kind in the order of the processes, our own first."""
    letters: dict[str, dict[int, int]] = {kind: {} for kind in figures.MEANING}
    for one in figures.ours_first(found):
        for kind, inode in one.spaces.items():
            letters[kind].setdefault(inode, len(letters[kind]))
    return letters


def marks_of(one: figures.Seen, letters: Letters) -> list[str]:
    """The letter of each of its namespaces; "?" for a process that is not ours to look at."""
    return [style.letter(letters[kind][one.spaces[kind]]) if one.spaces else "?" for kind in figures.MEANING]


def option(one: figures.Seen, letters: Letters) -> str:
    """A line of the list; its blanks do not collapse in a browser."""
    marks = in_columns(marks_of(one, letters))
    me = "this notebook" if one.pid == os.getpid() else ""
    return f"{one.pid:>6}  {style.cut(one.command, WIDE - 2).ljust(WIDE)}{marks}{me}".replace(" ", "\u00a0")


def describe(found: list[figures.Seen], pid: int | None) -> str:
    """One process as HTML: its numbers, and for each namespace who else is in it."""
    one = next((one for one in found if one.pid == pid), None)
    try:
        if one is None or not os.path.exists(f"/proc/{pid}"):
            raise ContainerError("that process has ended", "look again")
        drawing, rows = figures.three_numbers(one.pid).svg, figures.id_map(one.pid)
    except (ContainerError, OSError) as error:
        return item(str(error), "bad")
    mapped = "; ".join(f"{inside} to {inside + count - 1} inside = {outside} to {outside + count - 1} here"
                       for inside, outside, count in rows)
    pids = " → ".join(map(str, one.pids))
    return (f"<h3>{escape(style.cut(one.command, 60))}</h3>"
            f"<p>pids, from here inwards: <b>{pids}</b>. User ids: <b>{mapped}</b>.</p>"
            f'<div class="pair">{sharing(one, found)}<div>{drawing}</div></div>')


def sharing(one: figures.Seen, found: list[figures.Seen]) -> str:
    """A table of its namespaces: letter, number, and the others in it."""
    letters, rows = letters_of(found), []
    for kind in figures.MEANING if one.spaces else ():
        inode = one.spaces[kind]
        names = [f"{style.cut(other.command.split(' ')[0], 20)} ({other.pid})" for other in found
                 if other is not one and other.spaces.get(kind) == inode]
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        number = letters[kind][inode]
        rows.append(f'<tr><td class="mono">{kind}</td><td><span class="letter" style="background:'
                    f'{style.swatch(number)[0]}">{style.letter(number)}</span></td>'
                    f'<td class="mono faint">{inode}</td>'
                    f"<td>{escape(', '.join(names[:5])) + more or '<b>nobody else</b>'}</td></tr>")
    return ("<table><tr><th>kind</th><th></th><th>number</th><th>who else is in it</th></tr>"
            f"{''.join(rows)}</table>")


def in_words(found: list[figures.Seen]) -> str:
    """The list as plain text."""
    letters = letters_of(found)
    return style.columns([["command", *figures.MEANING],
                          *([style.cut(one.command, 30), *marks_of(one, letters)] for one in found)])


# ── the doctor ───────────────────────────────────────────────────────────────────────────────────────

VERDICTS = {True: ("ok", "✓ works"), False: ("bad", "✗ does not work"), None: ("", "– not here")}


def doctor_widget() -> Live:
    """What each chapter needs of this machine, whether it worked when tried, and the cure if not."""
    shown = ipywidgets.HTML()
    state: dict[str, list[Finding]] = {"findings": []}

    def look() -> None:
        from mycontainer.lab.doctor import examine

        try:
            state["findings"] = examine()
            shown.value = html(diagnosis(state["findings"]))
        except ContainerError as error:
            shown.value = html(item(str(error), "bad"))

    look()
    return Live([row(button("try again", look)), shown], lambda: prescription(state["findings"]), shown=shown)


def diagnosis(findings: Iterable[Finding]) -> str:
    """The doctor's findings as HTML: the verdict, what this part of the course needs, the rest folded."""
    from mycontainer.lab import doctor

    findings = list(findings)
    first, *more = doctor.verdict(findings)
    now = [one for one in findings if one.chapter in doctor.CHAPTERS]
    later = [one for one in findings if one.chapter not in doctor.CHAPTERS]
    there = sum(one.works is True for one in later)
    folded = (f"<details><summary>Later chapters: {there} of {len(later)} needs are met here</summary>"
              f"{findings_table(later)}</details>" if later else "")
    return (item(first, "ok" if doctor.good(findings) else "bad") + "".join(map(item, more))
            + findings_table(now) + folded)


def findings_table(findings: Iterable[Finding]) -> str:
    """A row for each need, with the cure where there is one."""
    rows = []
    for one in findings:
        kind, verdict = VERDICTS[one.works]
        cure = f"<br><b>Cure:</b> <code>{escape(one.cure)}</code>" if one.cure and not one.works else ""
        rows.append(f"<tr><td>{one.chapter}</td><td>{escape(one.need)}</td>"
                    f'<td class="{kind}"><b>{verdict}</b></td><td>{escape(one.detail)}{cure}</td></tr>')
    return f"<table><tr><th>chapter</th><th>needs</th><th>here</th><th></th></tr>{''.join(rows)}</table>"


def prescription(findings: Iterable[Finding]) -> str:
    """The same as plain text."""
    from mycontainer.lab import doctor

    findings = list(findings)
    table = style.columns([["chapter", "needs", "here", ""],
                           *([str(one.chapter), one.need, VERDICTS[one.works][1], one.detail if one.works else
                              one.cure or one.detail] for one in findings)])
    return "\n".join([*doctor.verdict(findings), "", table])
