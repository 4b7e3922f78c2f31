"""Run a piece of a test in namespaces of its own, so that no test can change the machine's mounts.

`inside(function, ...)` forks, makes a user namespace (in which we are root) and the others asked for, and
calls the function there; it returns what the function returned, or raises what it raised.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable, Iterable
from typing import Any

from mycontainer import chroot, namespaces


def inside(function: Callable[..., Any], *arguments: Any, kinds: Iterable[str] = ("user", "mnt")) -> Any:
    """Call `function` in a child in new namespaces, as their root; its result must be picklable."""
    kinds = tuple(kinds)
    reader, writer = os.pipe()
    go, ready = os.pipe()
    outer, inner = os.pipe()
    child = os.fork()
    if child == 0:  # inside
        answer: tuple[bool, Any] = (False, RuntimeError("no answer"))
        try:
            namespaces.create(kinds)
            os.write(inner, b"u")
            os.read(go, 1)
            if "user" in kinds:
                namespaces.become_root()
            if "mnt" in kinds:
                chroot.make_private()
            answer = (True, function(*arguments))
        except BaseException as error:
            answer = (False, error)
        finally:
            os.write(writer, pickle.dumps(answer))
            os._exit(0)
    os.close(writer)
    os.close(inner)
    if os.read(outer, 1) and "user" in kinds:
        namespaces.write_map(child, [(0, os.geteuid(), 1)], [(0, os.getegid(), 1)])
    os.write(ready, b"g")
    with open(reader, "rb") as pipe:
        good, value = pickle.loads(pipe.read())
    os.waitpid(child, 0)
    for fd in (go, ready, outer):
        os.close(fd)
    if not good:
        raise value
    return value


def in_a_child(function: Callable[..., Any], *arguments: Any) -> Any:
    """Fork once more, for calls that cannot be undone (chroot) or count for children only."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        answer: tuple[bool, Any]
        try:
            answer = (True, function(*arguments))
        except BaseException as error:
            answer = (False, error)
        os.write(writer, pickle.dumps(answer))
        os._exit(0)
    os.close(writer)
    with open(reader, "rb") as pipe:
        good, value = pickle.loads(pipe.read())
    os.waitpid(child, 0)
    if not good:
        raise value
    return value
