"""The article's sentences on containers and virtual machines, held against what was measured.

A verdict is one of three: it holds here, it does not, or this measurement cannot tell. A machine whose
every instruction is emulated (TCG) is slower and larger than one that the CPU helps to run (KVM). So its
numbers are an upper bound: they can refute "a VM takes seconds", and never prove it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape
from typing import NamedTuple

from mycontainer.bench import density as density_question
from mycontainer.bench import memory as memory_question
from mycontainer.bench import numbers
from mycontainer.bench.run import Run
from mycontainer.bench.subject import CONTAINER, MACHINE
from mycontainer.lab import style
from mycontainer.lab.display import show

HOLDS, FAILS, OPEN = "holds", "does not hold", "cannot tell"
SIGNS = {HOLDS: "✓", FAILS: "✗", OPEN: "?"}
SECONDS = 2.0             # "several seconds": at least this
MANY = 10.0               # "significant": at least so many times as much as a container
HUNDREDS, TENS = 100, 10  # "some ten": not more than three times that
EMULATED = "emulated (TCG), so this is an upper bound: with KVM it is less"
ALONE = "unshare"         # no container by itself: it keeps the machine's root directory
NO_MACHINE = "no virtual machine was measured: mycontainer bench prepare"


class Claim(NamedTuple):
    """A sentence, the verdict, by which factor, and what that rests on."""

    sentence: str
    verdict: str
    factor: str
    because: str


def article(startup: Run, memory: Run | None = None, density: Run | None = None) -> None:
    """Show the sentences with their verdicts, from these runs."""
    found = list(claims(startup, memory, density))
    table = [["", "the article says", "here", "factor", "because"],
             *([SIGNS[one.verdict], one.sentence, one.verdict, one.factor, one.because] for one in found)]
    show(style.columns(table), f'{style.CSS}<div class="mc">{_table(found)}</div>')


def _table(found: Iterable[Claim]) -> str:
    heads = (("the article says", 27), ("here", 15), ("factor", 14), ("because", 44))  # % of the width
    rows = "".join(f"<tr>{''.join(map(_cell, cells))}</tr>" for cells in (
        (escape(one.sentence), f"<b>{SIGNS[one.verdict]}&nbsp;{one.verdict.replace(' ', '&nbsp;')}</b>",
         f'<span style="white-space:nowrap">{escape(one.factor)}</span>', escape(one.because))
        for one in found))
    head = "".join(_cell(f"<b>{words}</b>", f";width:{width}%") for words, width in heads)
    return f"<table><tr>{head}</tr>{rows}</table>"


def _cell(inner: str, more: str = "") -> str:
    """A notebook would set a table's cells flush right."""
    return f'<td style="text-align:left;vertical-align:top{more}">{inner}</td>'


def claims(startup: Run, memory: Run | None = None, density: Run | None = None) -> Iterator[Claim]:
    """Each sentence that can be measured, in the order of the article."""
    yield more_than_a_process(startup)
    yield less_than_a_machine(startup)
    yield from takes_seconds(startup)
    if memory:
        yield takes_memory(memory)
    if density:
        yield from so_many(density)


def more_than_a_process(run: Run) -> Claim:
    """A container is "more than a process"."""
    sentence = "A container is more than a process …"
    ours, base = fastest(run, CONTAINER), run.values("process", "byte")
    if not ours or not base:
        return Claim(sentence, OPEN, "", "no container was measured")
    ratio = numbers.ratio(run.values(ours, "byte"), base)
    same = run.values("process-again", "aa-byte")
    visible = numbers.visible(base, same) if same else 0.0
    verdict = HOLDS if ratio.value > 1 + visible and ratio.low > 1 else OPEN
    return Claim(sentence, verdict, times(ratio.value),
                 f"time to the first word, {label(run, ours)} against a plain process; this machine cannot "
                 f"tell less than {100 * visible:.0f} % apart")


def less_than_a_machine(run: Run) -> Claim:
    """… and "less than a VM"."""
    sentence = "… and less than a virtual machine"
    ours, machine = fastest(run, CONTAINER), fastest(run, MACHINE)
    if not ours or not machine:
        return Claim(sentence, OPEN, "", NO_MACHINE)
    ratio = numbers.ratio(run.values(machine, "byte"), run.values(ours, "byte"))
    what = f"time to the first word, {label(run, machine)} against {label(run, ours)}"
    if accelerator(run, machine) == "KVM":
        return Claim(sentence, HOLDS if ratio.low > 1 else FAILS, times(ratio.value), what)
    return Claim(sentence, OPEN, f"at most {times(ratio.value)}", f"{what}; {EMULATED}")


def takes_seconds(run: Run) -> Iterator[Claim]:
    """A VM "takes several seconds to start": the smallest, and a whole Debian."""
    for name, what in (("vm-micro", "the smallest"), ("vm-debian", "a whole Debian")):
        values, sentence = run.values(name, "byte"), f"A VM takes several seconds to start: {what}"
        if not values:
            yield Claim(sentence, OPEN, "", NO_MACHINE)
            continue
        took = numbers.median(values)
        because = f"its first word came after {took:.1f} s"
        if took < SECONDS:
            yield Claim(sentence, FAILS, f"{took:.1f} s", because + (
                "; emulated (TCG), and with KVM it is less still" if accelerator(run, name) != "KVM" else ""))
        elif accelerator(run, name) == "KVM":
            yield Claim(sentence, HOLDS, f"{took:.1f} s", because)
        else:
            yield Claim(sentence, OPEN, f"at most {took:.1f} s", f"{because}; {EMULATED}")


def takes_memory(run: Run) -> Claim:
    """… and "uses a significant amount of memory"."""
    sentence = "A VM uses a significant amount of memory"
    costs = {name: numbers.median(cost) for name in run.subjects
             if (cost := memory_question.total(run, name, "idle"))}
    machine, ours = (min((name for name in costs if run.subjects[name].get("kind") == kind and name != ALONE),
                         key=lambda name: costs[name], default="") for kind in (MACHINE, CONTAINER))
    if not machine or not ours or not costs[ours]:
        return Claim(sentence, OPEN, "", NO_MACHINE)
    factor = costs[machine] / costs[ours]
    because = (f"one more of {label(run, machine)}: {costs[machine] / 1e6:.0f} MB; of {label(run, ours)}: "
               f"{costs[ours] / 1e6:.1f} MB")
    if accelerator(run, machine) == "KVM" or factor < MANY:
        return Claim(sentence, HOLDS if factor >= MANY else FAILS, times(factor), because)
    return Claim(sentence, OPEN, f"at most {times(factor)}", f"{because}; {EMULATED}")


def so_many(run: Run) -> Iterator[Claim]:
    """ "Some ten VMs, but tens or hundreds of containers, on one host"."""
    for kind, sentence in ((CONTAINER, "Tens or hundreds of containers run on one host"),
                           (MACHINE, "… but only some ten VMs")):
        ran = {name: int(count[-1]) for name, facts in run.subjects.items() if facts.get("kind") == kind
               and name != ALONE and (count := run.values(name, "count")) and count[-1] > 1}
        if not ran:
            yield Claim(sentence, OPEN, "", NO_MACHINE if kind == MACHINE else "no container was measured")
            continue
        memory = float(run.machine.get("memory") or 0)
        fit = {name: max(ran[name], density_question.would_fit(run, name, memory)) for name in ran}
        best = max(fit, key=lambda name: fit[name])
        told = (f"{ran[best]} of {label(run, best)} ran at once; at their price {fit[best]:,} would fit into "
                f"the {memory / 1e9:.0f} GB of that machine")
        if kind == CONTAINER:
            yield Claim(sentence, HOLDS if fit[best] >= HUNDREDS else FAILS, f"{fit[best]:,}", told)
        elif fit[best] > 3 * TENS:
            yield Claim(sentence, FAILS, f"{fit[best]:,}", told)
        elif accelerator(run, best) == "KVM":
            yield Claim(sentence, HOLDS, f"{fit[best]:,}", told)
        else:
            yield Claim(sentence, OPEN, f"at least {fit[best]:,}",
                        f"{told}; emulated (TCG): with KVM more fit")


# ── who is who ───────────────────────────────────────────────────────────────────────────────────────

def fastest(run: Run, kind: str) -> str:
    """The subject of this kind, cold if one is, that says its first word soonest; empty if none does."""
    found = [name for name, facts in run.subjects.items()
             if facts.get("kind") == kind and name != ALONE and run.values(name, "byte")]
    cold = [name for name in found if run.subjects[name].get("temperature", "cold") == "cold"]
    return min(cold or found, key=lambda name: numbers.median(run.values(name, "byte")), default="")


def label(run: Run, name: str) -> str:
    """What a reader calls a subject."""
    return str(run.subjects.get(name, {}).get("label", name))


def accelerator(run: Run, name: str) -> str:
    """What drives a virtual machine: "KVM" or "TCG"; empty for anything else."""
    facts = run.subjects.get(name, {})
    if facts.get("kind") != MACHINE:
        return ""
    return "KVM" if str(facts.get("versions", {}).get("accelerator", "")).startswith("KVM") else "TCG"


def times(ratio: float) -> str:
    """"×1.4", "×45"."""
    return f"×{ratio:.1f}" if ratio < 10 else f"×{ratio:.0f}"
