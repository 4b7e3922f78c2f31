"""Chapter 10 in the lab: what measures, what judges the article's sentences, what one can play with."""

from __future__ import annotations

import importlib.util
import json
import statistics
from typing import Any

import pytest

pytest.importorskip("ipywidgets", reason="needs the Python module ipywidgets")

from mycontainer.bench.reference import questions, reference, references
from mycontainer.bench.run import Run, Sample
from mycontainer.errors import ContainerError
from mycontainer.lab import bench_view, claims, measuring
from mycontainer.lab.claims import FAILS, HOLDS, OPEN
from needs import needs_module, needs_userns


def a_run(question: str = "startup", **medians: float) -> Run:
    """A run with eleven samples of each subject around a median; a name that ends in KVM or TCG is a VM."""
    run = Run(question, machine={"memory": 16_000_000_000})
    for words, value in medians.items():
        name, _, driver = words.partition("__")
        name = name.replace("_", "-")
        kind = "machine" if driver else "process" if name == "process" else "container"
        if name != "process-again":
            run.subjects[name] = {"label": f"the {name}", "kind": kind, "temperature": "cold",
                                  "versions": {"accelerator": driver} if driver else {}}
        series, unit = ("aa-byte" if name == "process-again" else "byte", "s") if question == "startup" \
            else ("count", "count")
        run.samples += [Sample(name, series, value * (1 + part / 100), unit, part, 0.0)
                        for part in range(-5, 6)]
    return run


def verdicts(*runs: Run) -> dict[str, claims.Claim]:
    return {one.sentence: one for one in claims.claims(*runs)}


# ── the article's sentences ──────────────────────────────────────────────────────────────────────────

MORE, LESS = "A container is more than a process …", "… and less than a virtual machine"
SMALLEST = "A VM takes several seconds to start: the smallest"
WHOLE = "A VM takes several seconds to start: a whole Debian"


def test_with_kvm_the_sentences_hold_or_do_not() -> None:
    found = verdicts(a_run(process=0.001, process_again=0.001, crun=0.005, vm_micro__KVM=0.3,
                           vm_debian__KVM=6))
    assert [found[one].verdict for one in (MORE, LESS, SMALLEST, WHOLE)] == [HOLDS, HOLDS, FAILS, HOLDS]
    assert found[MORE].factor == "×5.0"
    assert found[LESS].factor == "×60"
    assert found[WHOLE].factor == "6.0 s"


def test_an_emulated_machine_proves_no_sentence() -> None:
    found = verdicts(a_run(process=0.001, process_again=0.001, crun=0.005, vm_micro__TCG=3,
                           vm_debian__TCG=12))
    assert [found[one].verdict for one in (LESS, SMALLEST, WHOLE)] == [OPEN, OPEN, OPEN]
    assert all("at most" in found[one].factor for one in (LESS, SMALLEST, WHOLE))
    assert "upper bound" in found[WHOLE].because


def test_an_emulated_machine_may_refute_one() -> None:
    found = verdicts(a_run(process=0.001, crun=0.005, vm_micro__TCG=1.3))
    assert found[SMALLEST].verdict == FAILS
    assert "with KVM it is less still" in found[SMALLEST].because


def test_what_chance_may_have_made_is_no_difference() -> None:
    noisy = a_run(process=0.001, process_again=0.0015, crun=0.0012)
    assert verdicts(noisy)[MORE].verdict == OPEN
    assert "cannot tell less than 5" in verdicts(noisy)[MORE].because


def test_where_no_machine_was_measured_it_says_how_to_get_one() -> None:
    found = verdicts(a_run(process=0.001, crun=0.005))
    assert found[LESS].verdict == found[WHOLE].verdict == OPEN
    assert "mycontainer bench prepare" in found[LESS].because


def test_unshare_alone_is_no_container() -> None:
    assert claims.fastest(a_run(process=0.001, unshare=0.002, crun=0.005), "container") == "crun"


def memory_run(**costs: tuple[float, str]) -> Run:
    """A memory run in which one more of each costs so many MB."""
    run = Run("memory")
    for words, (megabytes, driver) in costs.items():
        name = words.replace("_", "-")
        run.subjects[name] = {"label": name, "kind": "machine" if driver else "container",
                              "versions": {"accelerator": driver} if driver else {}}
        for number in range(3):
            for count in (0, 1, 5):
                for part in ("pss", "kernel", "files"):
                    value = 1e6 * megabytes * count if part == "pss" else 0.0
                    labels = {"part": part, "running": count, "how": "machine"}
                    run.samples.append(Sample(name, "idle", value, "bytes", number, 0.0, labels))
    return run


@pytest.mark.parametrize(("driver", "megabytes", "verdict"),
                         [("KVM", 150, HOLDS), ("KVM", 4, FAILS), ("TCG", 150, OPEN), ("TCG", 4, FAILS)])
def test_memory_is_compared_with_the_cheapest_container(driver: str, megabytes: float, verdict: str) -> None:
    run = memory_run(crun=(1.0, ""), ours_cli=(9.0, ""), vm_micro=(megabytes, driver))
    claim = claims.takes_memory(run)
    assert claim.verdict == verdict
    assert claim.factor.endswith(f"×{megabytes if megabytes > 9 else float(megabytes)}")


def test_how_many_ran_and_how_many_would_fit_are_both_told() -> None:
    run = a_run("density", crun=500, unshare=900, vm_debian__KVM=8)
    many, few = claims.so_many(run)
    assert (many.verdict, few.verdict) == (HOLDS, HOLDS)
    assert "ran at once" in many.because
    assert "unshare" not in many.because
    assert next(claims.so_many(a_run("density", crun=40))).verdict == FAILS
    failed = list(claims.so_many(a_run("density", crun=500, vm_micro__TCG=0)))[1]
    assert (failed.verdict, failed.factor) == (OPEN, ""), "a machine that never came up is none that fits"


def test_the_table_says_it_in_words_and_in_html(capsys: pytest.CaptureFixture[str]) -> None:
    claims.article(a_run(process=0.001, crun=0.005, vm_micro__TCG=1.3))
    said = capsys.readouterr().out
    assert "✗  A VM takes several seconds to start: the smallest" in said
    assert "does not hold" in said


# ── the view ─────────────────────────────────────────────────────────────────────────────────────────

def test_the_view_offers_what_was_measured_and_follows_each_choice() -> None:
    startup = a_run(process=0.001, crun=0.005, vm_micro__TCG=1.3)
    view = bench_view.bench_explorer(here=startup, memory=memory_run(crun=(1.0, ""), vm_micro=(150.0, "TCG")))
    metric, subjects, scale = (view.parts[name] for name in ("metric", "subjects", "scale"))
    assert [value for _, value in metric.options] == [("startup", "byte"), ("memory", "idle")]
    assert subjects.value == ("process", "crun", "vm-micro")
    assert "Emulated (TCG), not what a VM costs" in str(view)
    assert "Emulated (TCG)" in view.parts["shown"].value

    subjects.value = ("crun",)
    assert "the crun" in str(view)
    assert "process" not in str(view)
    assert "Emulated" not in view.parts["shown"].value
    before = view.parts["shown"].value
    scale.value = bench_view.LINEAR
    assert view.parts["shown"].value != before

    metric.value = ("memory", "idle")
    assert subjects.value == ("crun",), "the choice is kept"
    assert "1 MB" in str(view)
    subjects.value = ()
    assert str(view) == bench_view.NO_CHOICE
    assert bench_view.NO_CHOICE in view.parts["shown"].value


def test_numbers_in_the_view_are_those_of_the_samples() -> None:
    run = a_run(crun=0.005)
    (row,) = bench_view.rows({"here": run}, ("startup", "byte"), ["crun"])
    assert bench_view.amount(statistics.median(row.values), row.unit) in str(
        bench_view.drawing([row], ("startup", "byte"), log=True))
    assert len(row.values) == 11
    assert bench_view.drawing([row], ("startup", "byte"), log=True).svg.count("<rect x=") >= 11


def test_of_several_runs_each_row_says_whose_it_is() -> None:
    one, other = a_run(crun=0.005), a_run(crun=0.009)
    found = bench_view.rows({"here": one, "there": other}, ("startup", "byte"), ["crun"])
    assert [row.words for row in found] == ["the crun · here", "the crun · there"]


@pytest.mark.parametrize(("low", "high", "log"), [(0.0007, 13, True), (0.9, 1.4, True), (0, 0.004, False),
                                                  (0, 112, False), (2e5, 3e8, True)])
def test_ticks_are_few_and_lie_inside(low: float, high: float, log: bool) -> None:
    found = bench_view.ticks(low, high, log)
    assert 1 <= len(found) <= 12
    assert all(low <= tick <= high for tick in found)


@pytest.mark.parametrize(("value", "unit", "words"), [
    (0.0042, "s", "4.2 ms"), (1.0, "s", "1 s"), (12.0, "s", "12 s"), (49e3, "bytes", "49 kB"),
    (120, "count", "120"), (0, "s", "0 s")])
def test_amounts_have_two_digits_that_count(value: float, unit: str, words: str) -> None:
    assert bench_view.amount(value, unit) == words


# ── what measures ────────────────────────────────────────────────────────────────────────────────────

def test_the_courses_own_runs_are_whole_and_name_no_place_or_person() -> None:
    assert {"startup", "memory", "density"} <= set(questions())
    for question in questions():
        for run in references(question):
            assert run.question == question
            assert run.samples
            assert all(one.subject.removesuffix("-again") in run.subjects for one in run.samples)
            text = json.dumps([run.machine, run.missing, run.notes, [one.why for one in run.failures]])
            assert "/home/" not in text
            assert "/tmp/" not in text


def test_an_unknown_question_says_which_there_are() -> None:
    with pytest.raises(ContainerError, match=r"there are .*startup"):
        reference("speed")


@needs_userns
@needs_module("cloudpickle")
def test_a_notebook_measures_in_a_process_of_its_own() -> None:
    run = measuring.measure("startup", ["process", "unshare"], rounds=3, seconds=1)
    assert {"process", "unshare"} == set(run.subjects)
    assert len(run.values("process", "byte")) == 3
    assert run.values("process-again", "aa-byte")


@needs_module("cloudpickle")
def test_nothing_measured_is_an_error_that_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = Run("startup", missing={"process": {"reason": "no static busybox", "cure": ""}})
    done: Any = type("Done", (), {"error": None, "value": nothing, "stderr": ""})
    monkeypatch.setattr(measuring, "run", lambda *args, **kwargs: done)
    with pytest.raises(ContainerError, match="process: no static busybox"):
        measuring.measure("startup", ["process"])
    monkeypatch.undo()
    with pytest.raises(ContainerError, match="no such subject"):
        measuring.measure("startup", ["prozess"])


def test_plots_are_there_for_what_is_recorded() -> None:
    if not importlib.util.find_spec("matplotlib"):
        pytest.skip("needs the Python module matplotlib")
    drawn = measuring.plot(reference("startup"))
    assert "plain process" in drawn.words
