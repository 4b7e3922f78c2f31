"""Show the course's own code, from the file that runs: so a notebook cannot drift away from it."""

from __future__ import annotations

import inspect
import os
from types import ModuleType
from typing import Any

from mycontainer.lab.display import show
from mycontainer.lab.exercise import source_of


def source(what: Any) -> None:
    """Show the source of a function, class or module, and how many lines it has."""
    code = (inspect.getsource(what) if isinstance(what, ModuleType) else source_of(what)).rstrip()
    file = inspect.getsourcefile(inspect.unwrap(what)) or ""
    base = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    name = os.path.relpath(file, base) if file.startswith(base) else os.path.basename(file)
    count = len(code.splitlines())
    title = f"{name}, {count} line{'s' * (count != 1)}"
    show(f"{title}\n\n{code}", markdown=f"`{title}`\n```python\n{code}\n```")
