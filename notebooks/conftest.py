"""The notebooks run under the leak check too, also when they are asked for without tests/."""

from __future__ import annotations

import os

import pytest

import leaks

STRICT = "MYCONTAINER_CHAPTER_3"  # tools/vm-lane.sh sets it to "strict"


def pytest_configure(config: pytest.Config) -> None:
    leaks.install(config)


def pytest_itemcollected(item: pytest.Item) -> None:
    """Chapter 3 is compared with its outputs where the lab is known to have cgroups; elsewhere it must run."""
    if item.path.name.startswith("03_") and os.environ.get(STRICT) != "strict":
        item.options["check"] = False  # type: ignore[attr-defined]  # nbval's: compare the outputs
