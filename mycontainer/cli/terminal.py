"""The person's terminal: left as it was found."""

from __future__ import annotations

import os
import termios
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def settings_kept() -> Iterator[None]:
    """Put the terminal's settings back at the end: a command that was killed could not do it itself."""
    if not os.isatty(0):
        yield
        return
    before = termios.tcgetattr(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)
