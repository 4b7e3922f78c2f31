"""What an exercise and a prediction are: plain data. How to write one is told in check.py."""

from __future__ import annotations

import inspect
import math
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import CodeType, FunctionType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mycontainer.lab.probe import Probe

LEARNER = "learner"  # the module of what a learner wrote, once it is brought back from its source


@dataclass(frozen=True)
class Wrong:
    """A wrong solution that learners really hand in, and what the check must tell them.

    ``solution`` is a function or, better to read, its source. ``says`` is a piece of the message that no
    other wrong solution of this exercise gets.
    """

    solution: str | Callable[..., Any]
    says: str


@dataclass(frozen=True)
class Exercise:
    """One task for the learner, and everything that is needed to judge, help and prove it.

    ``id`` is "chapter.name"; ``difficulty`` 1 (a win in a minute) to 5; ``minutes`` and ``lines`` are what
    a learner needs. ``syscalls`` are those that a solution makes. ``reference`` is a function or its
    dotted name. ``stub`` is the source of what the notebook gives the learner to fill in. ``probe`` looks
    at what a solution does. ``fast_track`` is the task for those with two minutes. Further functions of
    the core that would give the answer away go to ``forbid``. ``equivalent_mutants`` maps a change of the
    reference that changes nothing one can see (as the test prints it) to the reason why. ``cgroups``: it can
    be tried only where the lab may make some (version 2).
    """

    id: str
    title: str
    difficulty: int
    minutes: int
    lines: int
    syscalls: tuple[str, ...]
    hints: tuple[str, ...]
    reference: str | Callable[..., Any]
    stub: str
    probe: Callable[[Probe], None]
    wrong: tuple[Wrong, ...]
    fast_track: str
    forbid: tuple[str, ...] = ()
    equivalent_mutants: Mapping[str, str] = field(default_factory=dict)
    cgroups: bool = False

    @property
    def chapter(self) -> str:
        """The part before the dot."""
        return self.id.partition(".")[0]

    def reference_function(self) -> Callable[..., Any]:
        """The solution that we have ourselves."""
        return dotted(self.reference) if isinstance(self.reference, str) else self.reference

    def ours(self) -> list[Callable[..., Any]]:
        """Our functions that would give a solution away."""
        return [inspect.unwrap(one) for one in (self.reference_function(), *map(dotted, self.forbid))]


@dataclass(frozen=True)
class Prediction:
    """A question before a surprising run.

    ``choices`` maps a letter to the answer's text, ``answer`` is the right letter, ``why`` explains it.
    ``misconceptions`` maps each wrong letter to what one must believe to choose it, and where that fails.
    """

    id: str
    question: str
    choices: Mapping[str, str]
    answer: str
    why: str
    misconceptions: Mapping[str, str]


def dotted(name: str) -> Any:
    """The object with this name: "mycontainer.chroot.enter", "mycontainer.cgroups.Cgroup.join"."""
    home, _, attribute = name.rpartition(".")
    try:
        return getattr(import_module(home), attribute)
    except ModuleNotFoundError:  # the home of a method is a class
        return getattr(dotted(home), attribute)


def name_of(function: Any) -> str:
    """A function's name as learners write it: "chroot.enter"."""
    return f"{function.__module__.rpartition('.')[2]}.{function.__name__}"


def source_of(function: Callable[..., Any]) -> str:
    """A function's source, not indented."""
    return textwrap.dedent(inspect.getsource(function))


def learners_world() -> dict[str, Any]:
    """The names that a notebook's first cell brings."""
    import socket
    import struct
    import time

    from mycontainer import cgroups, chroot, lab, layers, namespaces, network, syscalls
    from mycontainer.lab import wires

    return {"__name__": LEARNER, "os": os, "sys": sys, "subprocess": subprocess, "math": math,
            "signal": signal, "socket": socket, "struct": struct, "time": time, "Path": Path, "lab": lab,
            "wires": wires, "syscalls": syscalls, "chroot": chroot, "namespaces": namespaces,
            "cgroups": cgroups, "layers": layers, "network": network}


def from_source(source: str, name: str = "", file: str = "<solution>",
                world: Mapping[str, Any] | None = None) -> Any:
    """What this source defines last, or under ``name``: as if the learner had typed it into a cell."""
    source = textwrap.dedent(source)
    names = dict(learners_world() if world is None else world)
    before = dict(names)
    exec(compile(source, file, "exec"), names)
    new = [key for key, value in names.items() if before.get(key) is not value and key != "__builtins__"]
    return names[name or new[-1]]


def is_the_stub(function: Any, stub: str) -> bool:
    """Whether it compiles to what the learner was given."""
    if not isinstance(function, FunctionType):
        return False
    return _substance(function.__code__) == _substance(from_source(stub).__code__)


def _substance(code: CodeType) -> tuple[object, ...]:
    consts = [_substance(one) if isinstance(one, CodeType) else one for one in code.co_consts]
    doc = consts[0] if consts and isinstance(consts[0], str) else None  # what it says, it does not do
    return code.co_code, code.co_names, [one for one in consts if one != doc]
