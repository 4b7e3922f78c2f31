"""Show something: rich in JupyterLab, plain text everywhere else, and the same text in both.

What is shown never depends on the place: a committed notebook holds the same output whoever ran it.
"""

from __future__ import annotations

import html
from collections.abc import Sequence

# JupyterLab's own colours, so that a card is right in the light and in the dark theme.
TONES = {"good": "--jp-success-color1", "bad": "--jp-error-color1", "open": "--jp-warn-color1",
         "plain": "--jp-brand-color1"}


def show(text: str, html: str = "", markdown: str = "") -> None:
    """Show ``text``, or where a notebook can, its richer form."""
    rich = {key: value for key, value in (("text/html", html), ("text/markdown", markdown)) if value}
    if rich and in_notebook():
        from IPython.display import display

        display({"text/plain": text, **rich}, raw=True)
    else:
        print(text)


def in_notebook() -> bool:
    """Whether this process is a notebook's kernel."""
    import sys

    if "ipykernel" not in sys.modules:  # then nobody has started a kernel in here
        return False
    from IPython import get_ipython

    return hasattr(get_ipython(), "kernel")


def card(tone: str, title: str, rows: Sequence[tuple[str, str]] = (), after: str = "", *,
         marked: str = "", fold: str = "") -> None:
    """Show a small card: a title, rows of (label, text), and a last line or block.

    The row with the label ``marked`` stands out. With ``fold`` a notebook shows only the title and this
    word, until somebody clicks on it; plain text cannot be folded.
    """
    width = max((len(label) for label, _ in rows), default=0)
    lines = [title, *([f"  {fold}"] if fold else [])]
    for label, value in rows:
        first, *more = value.splitlines() or [""]
        lines += [f"  {label.ljust(width)}  {first}".rstrip(), *(f"  {' ' * width}  {one}" for one in more)]
    if after:
        lines += [f"  {line}".rstrip() for line in after.splitlines()]
    show("\n".join(lines), _card_html(tone, title, rows, after, marked, fold))


def _card_html(tone: str, title: str, rows: Sequence[tuple[str, str]], after: str, marked: str,
               fold: str) -> str:
    plain = "background:none"  # JupyterLab tints every second row: among choices that looks like a choice
    cell = f"padding:1px 12px 1px 0;vertical-align:top;text-align:left;{plain}"
    body = "".join(
        f'<tr style="{plain}{";font-weight:bold" if label == marked else ""}">'
        f'<td style="{cell};white-space:pre;color:var(--jp-ui-font-color2)">{html.escape(label)}</td>'
        f'<td style="{cell};white-space:pre-wrap">{html.escape(value)}</td></tr>' for label, value in rows)
    table = f'<table style="margin:4px 0 0 0;border:none;{plain}">{body}</table>' if rows else ""
    font = ";font-family:var(--jp-code-font-family)" if after.startswith("Traceback") else ""
    style = f"margin-top:4px;white-space:pre-wrap{font}"
    inner = table + (f'<div style="{style}">{html.escape(after)}</div>' if after else "")
    if fold:
        inner = (f'<details style="margin-top:4px"><summary style="cursor:pointer">{html.escape(fold)}'
                 f"</summary>{inner}</details>")
    return (f'<div style="border-left:4px solid var({TONES[tone]});padding:4px 12px;'
            'color:var(--jp-content-font-color1);background:var(--jp-layout-color1)">'
            f'<strong>{html.escape(title)}</strong>{inner}</div>')
