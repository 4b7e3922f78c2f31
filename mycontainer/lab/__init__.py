"""The lab: what a notebook needs to try container code safely. ``from mycontainer import lab``.

Names are looked up when first used, so that importing the lab costs nothing and drags nothing in.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mycontainer.lab.bench_view import bench_explorer as bench_explorer
    from mycontainer.lab.check import check as check
    from mycontainer.lab.child import child as child
    from mycontainer.lab.child import run as run
    from mycontainer.lab.child import sh as sh
    from mycontainer.lab.claims import article as article
    from mycontainer.lab.dissolve import Specimen as Specimen
    from mycontainer.lab.dissolve import dissolve as dissolve
    from mycontainer.lab.explorer import layer_explorer as layer_explorer
    from mycontainer.lab.figures import mount_tree as mount_tree
    from mycontainer.lab.figures import mountinfo as mountinfo
    from mycontainer.lab.figures import namespace_figure as namespace_figure
    from mycontainer.lab.figures import process_tree as process_tree
    from mycontainer.lab.figures import three_numbers as three_numbers
    from mycontainer.lab.gauge import gauge as gauge
    from mycontainer.lab.hints import hint as hint
    from mycontainer.lab.hints import solution as solution
    from mycontainer.lab.limit_figures import comb_figure as comb_figure
    from mycontainer.lab.limit_figures import pressure_figure as pressure_figure
    from mycontainer.lab.limited import cgroups_here as cgroups_here
    from mycontainer.lab.limited import with_cgroups as with_cgroups
    from mycontainer.lab.measuring import measure as measure
    from mycontainer.lab.measuring import plot as plot
    from mycontainer.lab.measuring import reference as reference
    from mycontainer.lab.predict import predict as predict
    from mycontainer.lab.predict import reveal as reveal
    from mycontainer.lab.progress import mine as mine
    from mycontainer.lab.progress import progress as progress
    from mycontainer.lab.progress import reset as reset
    from mycontainer.lab.publish import publish as publish
    from mycontainer.lab.source import source as source
    from mycontainer.lab.space import space_figure as space_figure
    from mycontainer.lab.trace import trace as trace
    from mycontainer.lab.widgets import dissolving_container as dissolving_container
    from mycontainer.lab.widgets import doctor_widget as doctor_widget
    from mycontainer.lab.widgets import namespace_explorer as namespace_explorer

_HOME = {  # name: the module that it lives in
    "run": "child", "child": "child", "sh": "child",
    "check": "check", "hint": "hints", "solution": "hints",
    "predict": "predict", "reveal": "predict",
    "progress": "progress", "reset": "progress", "mine": "progress",
    "publish": "publish",
    "trace": "trace",
    "source": "source",
    "namespace_figure": "figures", "mount_tree": "figures", "mountinfo": "figures",
    "three_numbers": "figures", "process_tree": "figures",
    "cgroups_here": "limited", "with_cgroups": "limited", "gauge": "gauge",
    "comb_figure": "limit_figures", "pressure_figure": "limit_figures",
    "measure": "measuring", "reference": "measuring", "plot": "measuring", "article": "claims",
    "bench_explorer": "bench_view",
    "dissolve": "dissolve", "Specimen": "dissolve",
    "layer_explorer": "explorer", "space_figure": "space",
    "dissolving_container": "widgets", "namespace_explorer": "widgets", "doctor_widget": "widgets",
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
