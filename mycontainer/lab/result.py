"""What a child process left behind: its exit code, its output, its value or its failure."""

from __future__ import annotations

import reprlib
import signal as signals
import sys
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Failure:
    """An exception that ended a function in a child, as plain data: the object itself stays there.

    ``kind`` is the exception's name ("PermissionError"), ``errno`` the kernel's number or None,
    ``notes`` what was added to explain it, such as the likely cause of a failed system call; ``told`` is the
    traceback, of the learner's own lines.
    """

    kind: str
    message: str = ""
    errno: int | None = None
    notes: tuple[str, ...] = ()
    told: str = field(default="", repr=False)

    def __str__(self) -> str:
        return f"{self.kind}: {self.message}" if self.message else self.kind


@dataclass(frozen=True)
class Result:
    """How a child ended.

    ``exit_code`` is 0 to 255, and 128 + n if signal n ended it, as a shell and Docker say it;
    ``signal`` is that n, or None. ``value`` is what the function returned, ``error`` why it did not.
    """

    exit_code: int
    signal: int | None = None
    stdout: str = ""
    stderr: str = ""
    value: Any = None
    error: Failure | None = None
    shown: bool = field(default=False, compare=False)  # what it wrote has been printed already

    def __bool__(self) -> bool:
        return self.exit_code == 0

    def show(self) -> Result:
        """Print what the child wrote: first its standard output, then its standard error."""
        if self.stdout:
            print(self.stdout, end="" if self.stdout.endswith("\n") else "\n", flush=True)
        if self.stderr:
            print(self.stderr, end="" if self.stderr.endswith("\n") else "\n", file=sys.stderr, flush=True)
        return replace(self, shown=True)

    def _ipython_display_(self) -> None:
        """As the last line of a cell it says nothing once all is shown, and all was well."""
        if not self.shown or self.exit_code or self.value is not None:
            raise NotImplementedError  # then IPython shows the text below

    def __repr__(self) -> str:
        parts = [f"exit_code={self.exit_code}"]
        if self.signal is not None:
            parts.append(f"signal={_NAMES.get(self.signal, self.signal)}")
        for name in ("stdout", "stderr"):
            if lines := len(getattr(self, name).splitlines()):
                parts.append(f"{name}=<{lines} line{'s' * (lines > 1)}>")
        if self.value is not None:
            parts.append(f"value={reprlib.repr(self.value)}")
        if self.error is not None:
            parts.append(f"error={self.error.kind}")
        return f"Result({', '.join(parts)})"


_NAMES = {int(signal): signal.name for signal in signals.Signals}
