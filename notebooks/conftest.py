"""The notebooks run under the leak check too, also when they are asked for without tests/."""

from __future__ import annotations

import pytest

import leaks


def pytest_configure(config: pytest.Config) -> None:
    leaks.install(config)
