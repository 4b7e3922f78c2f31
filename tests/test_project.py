"""The project itself: what it declares, and the promises of its layout."""

from __future__ import annotations

import subprocess
import sys


def test_importing_the_package_loads_nothing_heavy() -> None:
    """`import mycontainer` is paid by every start of a container: it must load no other module."""
    script = "import sys; before = set(sys.modules); import mycontainer; print(*set(sys.modules) - before)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == ["mycontainer"]
