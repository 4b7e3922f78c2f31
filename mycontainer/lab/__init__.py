"""The lab: what a notebook needs to try container code safely. ``from mycontainer import lab``.

Names are looked up when first used, so that importing the lab costs nothing and drags nothing in.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mycontainer.lab.check import check as check
    from mycontainer.lab.child import child as child
    from mycontainer.lab.child import run as run
    from mycontainer.lab.child import sh as sh
    from mycontainer.lab.hints import hint as hint
    from mycontainer.lab.hints import solution as solution
    from mycontainer.lab.predict import predict as predict
    from mycontainer.lab.predict import reveal as reveal
    from mycontainer.lab.progress import mine as mine
    from mycontainer.lab.progress import progress as progress
    from mycontainer.lab.progress import reset as reset
    from mycontainer.lab.source import source as source
    from mycontainer.lab.trace import trace as trace

_HOME = {  # name: the module that it lives in
    "run": "child", "child": "child", "sh": "child",
    "check": "check", "hint": "hints", "solution": "hints",
    "predict": "predict", "reveal": "predict",
    "progress": "progress", "reset": "progress", "mine": "progress",
    "trace": "trace",
    "source": "source",
}


class _Lab(ModuleType):
    """Keeps ``lab.check`` the function, where the import system would put the module check.py."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)

    def __reduce__(self) -> Any:  # so that a function may say lab.sh when it runs in a child
        return import_module, (self.__name__,)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME})


sys.modules[__name__].__class__ = _Lab
