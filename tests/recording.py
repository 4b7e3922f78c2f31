"""A double for the kernel, so that a *sequence* of system calls can be tested without being root."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from mycontainer import syscalls


@contextmanager
def recording(fail: dict[str, int] | None = None) -> Iterator[list[str]]:
    """Inside the block calls are noted down, as `syscalls.describe` shows them, and not made.

    ``fail`` maps a call's name to the errno with which it shall fail.
    """
    calls: list[str] = []

    def double(name: str, *arguments: object) -> int:
        calls.append(syscalls.describe(name, *arguments))
        if fail and name in fail:
            raise OSError(fail[name], os.strerror(fail[name]), calls[-1])
        return 0

    before, syscalls._call = syscalls._call, double
    try:
        yield calls
    finally:
        syscalls._call = before
