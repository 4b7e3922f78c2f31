"""Every test of this project runs under the leak check."""

from __future__ import annotations

import pytest

import leaks


def pytest_configure(config: pytest.Config) -> None:
    leaks.install(config)
