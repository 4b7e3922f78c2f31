"""Every test of this project runs under the leak check."""

from __future__ import annotations

import signal

import pytest

import leaks


def pytest_configure(config: pytest.Config) -> None:
    leaks.install(config)
    start_with_the_usual_signals()


def start_with_the_usual_signals() -> None:
    """Undo what we may have inherited: a shell ignores SIGINT and SIGQUIT for a job in the background.

    A program may want to keep it so; a test of what a signal does cannot.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
