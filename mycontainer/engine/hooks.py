"""Hooks: programs of somebody else's, called at six moments of a container's life.

Each gets the container's state as JSON on its standard input. Runtime-spec, config.md, "POSIX-platform
Hooks". `load` is for those that run inside: once the root has changed, nothing may be imported any more.
"""

from __future__ import annotations

from collections.abc import Sequence

from mycontainer.engine.config import Hook
from mycontainer.errors import ContainerError, explain


def load() -> None:
    """Load what `call` needs."""
    import subprocess  # slow to load, and few have hooks

    subprocess.list2cmdline([])
    "".encode("utf-16-le")  # a codec is loaded at its first use, too (state.to_json)


def call(moment: str, hooks: Sequence[Hook], state: str) -> None:
    """Call them in their order. Raises ContainerError at the first that fails."""
    import subprocess

    for number, hook in enumerate(hooks):
        what = f"cannot go on after hooks.{moment}[{number}]"
        try:
            done = subprocess.run(hook.args, executable=hook.path, input=state.encode(), capture_output=True,
                                  timeout=hook.timeout, env=dict(pair.split("=", 1) for pair in hook.env))
        except subprocess.TimeoutExpired:
            raise ContainerError(what, f"{hook.path} took longer than {hook.timeout} s") from None
        except OSError as error:
            raise explain(f"{what}: cannot run {hook.path}", error) from error
        if done.returncode:
            said = " ".join((done.stderr or done.stdout).decode(errors="replace").split())[-300:]
            raise ContainerError(what, f"{hook.path} ended with {done.returncode}: {said}".removesuffix(": "))
