"""The benchmark, as a notebook asks for it: measured by a process of its own, never by the kernel.

What was measured elsewhere is asked for in the same words (`reference`), so that both can be laid side by
side.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING

from mycontainer.errors import ContainerError
from mycontainer.lab.child import run

if TYPE_CHECKING:
    from mycontainer.bench.plot_style import Drawing
    from mycontainer.bench.run import Run

# What may be there in a lab, the lightest first. Not a virtual machine: in a lab there is no KVM.
LIGHT = ("process", "chroot", "unshare", "bubblewrap", "crun", "runc", "ours-api", "ours-cli")


def measure(question: str, subjects: Iterable[str] = LIGHT, *, rounds: int = 10,
            seconds: float = 12.0) -> Run:
    """Ask one of the benchmark's questions here and now: "startup", "memory", ...

    ``subjects`` are names; those that this machine has not are noted in the `Run`, not measured. At most
    ``rounds`` samples each; a series takes at most some ``seconds``. Raises ContainerError if nothing could
    be measured.
    """
    done = run(_measure, question, list(subjects), rounds, seconds, timeout=60 + 4 * seconds)
    if done.error or done.value is None:
        raise ContainerError(f"cannot measure {question}", str(done.error or done.stderr.strip()))
    measured: Run = done.value
    if not measured.samples:
        reasons = [f"{name}: {gap['reason']}" for name, gap in measured.missing.items()]
        raise ContainerError(f"cannot measure {question}", "; ".join(reasons) or "every start failed",
                             "What is missing: mycontainer doctor")
    return measured


def _measure(question: str, names: list[str], rounds: int, seconds: float) -> Run:
    """The same, in the process that does it."""
    from mycontainer.bench import subjects
    from mycontainer.bench.measure import Settings

    module = import_module(f"mycontainer.bench.{question}")
    settings = Settings(rounds=rounds, warmup=1, deadline=20.0, budget=seconds, quick=True)
    found: Run = module.measure(subjects.named(names), settings)
    return found


def reference(question: str = "startup") -> Run:
    """What was measured on another machine, with virtual machines, and comes with the course."""
    from mycontainer.bench.reference import reference

    return reference(question)


def plot(measured: Run, *others: Run) -> Drawing:
    """The figure of a run; further runs of the same question are laid beside it, each with its machine."""
    from mycontainer.bench import plots

    return plots.draw(measured, *others)
