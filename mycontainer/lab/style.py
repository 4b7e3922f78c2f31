"""How everything that the lab draws looks: colours, letters, patterns and type, in one place.

Drawings are SVG, so that text stays crisp on a projector at 200 %. They lie on a white card of their own and
read the same in a light and a dark notebook. Nothing is told by colour alone: each colour comes with a letter
and a pattern, and differs in lightness as well, for grey paper and for eyes that see colours differently (the
hues are from Okabe and Ito, "Color Universal Design", 2008).

Widgets are HTML and take JupyterLab's own colours (its CSS variables), so they follow its theme (`CSS`).
"""

from __future__ import annotations

import base64
from html import escape
from typing import Any

SANS = "system-ui, 'Segoe UI', Roboto, 'Noto Sans', 'DejaVu Sans', sans-serif"
MONO = "ui-monospace, 'DejaVu Sans Mono', 'Liberation Mono', Menlo, Consolas, monospace"
INK, FAINT, TWIG, LINE, CARD = "#1b1f24", "#57606a", "#8c959f", "#d0d7de", "#ffffff"

# One entry per namespace that a row can tell apart, the first being the reader's own: fill, pattern.
SWATCHES = [("#d6e6f5", ""), ("#f3a953", "rising"), ("#6cc3a0", "dots"), ("#c79bd2", "crossed"),
            ("#f0e08a", "upright"), ("#7f9fc6", "falling"), ("#e58f7b", "level"), ("#b8bec6", "rings")]

# What happened to a thing between two looks: mark, ink, ground.
CHANGES = {"same": ("", INK, ""), "appeared": ("+", "#0b5d2e", "#d3f0dd"),
           "gone": ("−", "#8f1d1d", "#fbdfdc"), "changed": ("~", "#7a4b00", "#fdeec4")}

_PATTERNS = {
    "rising": '<path d="M-2,10 L10,-2 M4,16 L16,4"/>',
    "falling": '<path d="M-2,2 L10,14 M4,-4 L16,8"/>',
    "crossed": '<path d="M0,12 L12,0 M0,0 L12,12"/>',
    "upright": '<path d="M6,0 V12"/>',
    "level": '<path d="M0,6 H12"/>',
    "dots": '<circle cx="6" cy="6" r="1.6" fill="#000"/>',
    "rings": '<circle cx="6" cy="6" r="3"/>',
}


class Figure:
    """A drawing, with the same in words for where there are no pictures (a terminal, a screen reader).

    In a notebook it is an image whose alternative text is the title and the words.
    """

    def __init__(self, svg: str, title: str, words: str) -> None:
        self.svg, self.title, self.words = svg, title, words

    def __str__(self) -> str:
        return f"{self.title}\n\n{self.words}"

    __repr__ = __str__

    def _repr_mimebundle_(self, **_: object) -> dict[str, Any]:
        # As an <img> also a notebook that nobody trusts yet may show it: no script can hide in there.
        data = base64.b64encode(self.svg.encode()).decode()
        alt = escape(f"{self.title}. {self.words}", quote=True)
        image = f'<img alt="{alt}" src="data:image/svg+xml;base64,{data}">'
        return {"text/plain": str(self), "text/html": image}


def figure(body: str, width: int, height: int, title: str, words: str) -> Figure:
    """Put SVG elements on a white card with a heading; the body starts at (0, 0) below that."""
    pad, head = 24, 52
    full_width, full_height = width + 2 * pad, height + head + 2 * pad
    patterns = "".join(f'<pattern id="{name}" width="12" height="12" patternUnits="userSpaceOnUse">'
                       f'<g stroke="#000" stroke-width="1.4" fill="none">{drawn}</g></pattern>'
                       for name, drawn in _PATTERNS.items())
    svg = (f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{escape(title, quote=True)}" '
           f'viewBox="0 0 {full_width} {full_height}" width="{full_width}" height="{full_height}" '
           f'font-family="{SANS}" font-size="17" fill="{INK}">'
           f"<title>{escape(title)}</title><desc>{escape(words)}</desc><defs>{patterns}</defs>"
           + box(1, 1, full_width - 2, full_height - 2, CARD, LINE, radius=14)
           + text(pad, pad + 22, title, size=23, weight=700)
           + f'<g transform="translate({pad},{pad + head})">{body}</g></svg>')
    return Figure(svg, title, words)


def text(x: float, y: float, words: str, *, size: int = 17, ink: str = INK, weight: int = 400,
         anchor: str = "start", mono: bool = False, struck: bool = False, halo: str = "") -> str:
    """Words at (x, y); ``halo`` is a colour around them, to be read on a pattern."""
    extra = f' font-family="{MONO}"' if mono else ""
    extra += ' text-decoration="line-through"' if struck else ""
    extra += f' stroke="{halo}" stroke-width="5" paint-order="stroke" stroke-linejoin="round"' if halo else ""
    return (f'<text x="{x:g}" y="{y:g}" font-size="{size}" font-weight="{weight}" fill="{ink}" '
            f'text-anchor="{anchor}"{extra} xml:space="preserve">{escape(words)}</text>')


def box(x: float, y: float, width: float, height: float, fill: str, stroke: str = "none", *,
        radius: float = 8, pattern: str = "") -> str:
    """A rectangle, with a pattern over its colour."""
    shape = f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius:g}" '
    plain = f'{shape}fill="{fill}" stroke="{stroke}" stroke-width="1.5"/>'
    return plain + (f'{shape}fill="url(#{pattern})" opacity="0.28"/>' if pattern else "")


def letter(number: int) -> str:
    """A, B, … Z, AA, …: the name of the namespace number ``number`` of its kind, from 0."""
    return (letter(number // 26 - 1) if number >= 26 else "") + chr(ord("A") + number % 26)


def swatch(number: int) -> tuple[str, str]:
    """Colour and pattern of the namespace number ``number`` of its kind."""
    return SWATCHES[number % len(SWATCHES)]


def cut(words: str, length: int) -> str:
    """At most ``length`` characters, with a sign that there is more."""
    return words if len(words) <= length else words[: length - 1] + "…"


def columns(rows: list[list[str]], gap: int = 2) -> str:
    """Rows of words as aligned columns of plain text."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = ([word.ljust(width) for word, width in zip(row, widths, strict=True)] for row in rows)
    return "\n".join((" " * gap).join(row).rstrip() for row in padded)


# Doubled class names (.mc.mc) outrank the notebook's own rules for the same elements.
CSS = f"""<style>
.mc {{ font: 16px/1.45 {SANS}; color: var(--jp-ui-font-color0, {INK}); }}
.mc h3 {{ font-size: 23px; font-weight: 700; margin: 8px 0 4px; }}
.mc.mc pre, .mc.mc code, .mc .mono {{ font-family: {MONO}; font-size: 14px; color: inherit;
  background: none; }}
.mc ul {{ margin: 4px 0 8px; padding: 0; list-style: none; }}
.mc li {{ margin: 3px 0; padding: 2px 10px; border-left: 5px solid #d9822b;
  background: rgba(243,169,83,.17); }}
.mc li.ok {{ border-color: #2ea043; background: rgba(46,160,67,.13); }}
.mc li.bad {{ border-color: #cf222e; background: rgba(207,34,46,.14); }}
.mc .faint {{ color: var(--jp-ui-font-color2, {FAINT}); }}
.mc svg {{ max-width: 100%; height: auto; }}
.mc table {{ border-collapse: collapse; width: 100%; font-size: 16px; }}
.mc th, .mc td {{ text-align: left; vertical-align: top; padding: 5px 10px; color: inherit;
  border-bottom: 1px solid var(--jp-border-color2, #e0e0e0); }}
.mc td.ok b {{ border-bottom: 3px solid #2ea043; }}
.mc td.bad {{ background: rgba(207,34,46,.14); }}
.mc td b {{ white-space: nowrap; }}
.mc .letter {{ display: inline-block; min-width: 1.5em; text-align: center; border-radius: 5px;
  font-weight: 700; color: {INK}; border: 1px solid rgba(0,0,0,.35); }}
.mc .top {{ display: flex; flex-wrap: wrap; gap: 0 18px; align-items: baseline; }}
.mc .grid {{ display: grid; gap: 10px; grid-template-columns: repeat(auto-fill, minmax(265px, 1fr)); }}
.mc .pair {{ display: grid; gap: 8px 20px; grid-template-columns: repeat(auto-fit, minmax(420px, 1fr)); }}
.mc .panel {{ border: 1px solid var(--jp-border-color1, #c4cad0); border-radius: 8px; overflow: hidden;
  background: var(--jp-layout-color0, {CARD}); }}
.mc .panel header {{ display: flex; justify-content: space-between; gap: 8px; padding: 4px 10px;
  font-weight: 700; background: rgba(46,160,67,.13); }}
.mc .panel header.plain {{ background: var(--jp-layout-color2, #eee); }}
.mc .panel p {{ margin: 0; padding: 4px 10px 0; font-size: 15px; line-height: 1.3; }}
.mc.mc .panel pre {{ margin: 0; padding: 6px 10px; line-height: 1.4; overflow: hidden;
  text-overflow: ellipsis; white-space: pre; word-break: normal; overflow-wrap: normal; }}
.mc .names {{ display: flex; flex-wrap: wrap; gap: 0 14px; }}
.mc .leak {{ border: 2px solid #d9822b; }}
.mc .leak header {{ background: rgba(243,169,83,.4); }}
.mc .new {{ background: rgba(243,169,83,.3); font-weight: 700; }}
.mc .tag {{ white-space: nowrap; font-size: 15px; }}
.mc-row {{ flex-flow: row wrap; gap: 4px 12px; align-items: center; overflow: visible; }}
.mc-row .widget-checkbox {{ width: auto; height: auto; margin: 2px 0; }}
.mc-row .widget-label-basic {{ font: 16px/1.2 {SANS}; display: flex; align-items: center; gap: 7px;
  width: auto; color: var(--jp-ui-font-color0, {INK}); cursor: pointer; }}
.mc-row .widget-label-basic span {{ display: block; white-space: pre-line; font-size: 14px; }}
.mc-row .widget-label-basic span::first-line {{ font-size: 17px; font-weight: 700; }}
.mc-row input[type=checkbox] {{ width: 22px; height: 22px; margin: 0; flex: none; accent-color: #2ea043; }}
.mc-row button {{ font-size: 15px; width: auto; height: 34px; line-height: 34px; }}
.mc.mc .list-head {{ margin: 2px 0 0; padding: 0 9px; font-size: 15px; font-weight: 700;
  white-space: pre; }}
.mc-list.mc-list {{ width: auto; height: auto; }}
.mc-list.mc-list select {{ font: 15px/1.6 {MONO}; height: auto; width: 100%; padding: 4px; overflow: auto;
  color: var(--jp-ui-font-color0, {INK}); background: var(--jp-layout-color0, {CARD}); }}
.mc-list option {{ padding: 2px 4px; }}
</style>"""
