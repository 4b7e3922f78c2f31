"""Every exercise is proven both ways: what is right passes, and whatever is not right does not.

Whoever adds an exercise to ``mycontainer/lab/exercises/`` adds nothing here.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any

import pytest

from kit_mutants import mutants
from mycontainer import lab
from mycontainer.lab import exercises
from mycontainer.lab.check import CANNOT, OPEN, OURS, SOLVED, WRONG, Verdict, judge
from mycontainer.lab.exercise import Exercise, Wrong, from_source, source_of
from needs import (
    first_lane,
    needs_cgroups,
    needs_module,
    needs_userns,
    needs_v1,
    needs_v2,
    second_lane,
)

pytestmark = [needs_userns, needs_module("cloudpickle")]

exercises.add("demo", "kit_demo")  # the machinery is proven even where the course has no exercise yet
ALL = exercises.every_exercise()
HURRY = 0.2  # of the usual patience, where we know that what the probe waits for will not come


def case(exercise: Exercise, *more: Any, id: str = "") -> Any:
    """A parameter of a test; one whose check makes cgroups is tried where there is version 2."""
    marks = [needs_v2, needs_cgroups] if exercise.cgroups else []
    return pytest.param(exercise, *more, id=id or exercise.id, marks=marks)


every = pytest.mark.parametrize("exercise", [case(exercise) for exercise in ALL])
# The first of each chapter: for what is the check's own doing, and the same for all.
one_a_chapter = pytest.mark.parametrize("exercise", [
    case(next(group)) for _, group in itertools.groupby(ALL, key=lambda one: one.id.partition(".")[0])])


def is_function(exercise: Exercise) -> bool:
    return callable(exercise.reference_function()) and hasattr(exercise.reference_function(), "__code__")


def retyped(exercise: Exercise, source: str = "") -> Callable[..., Any]:
    """The reference as a learner would have it: typed into a cell, with the names that it uses."""
    reference = exercise.reference_function()
    if not is_function(exercise):
        return reference
    world = {**reference.__globals__, "__name__": "learner"}
    world.pop(reference.__name__, None)
    source = source or source_of(reference)
    solution: Callable[..., Any] = from_source(source, reference.__name__, world=world)
    return solution


def damages(exercise: Exercise) -> list[tuple[str, str]]:
    return list(mutants(source_of(exercise.reference_function()))) if is_function(exercise) else []


@every
def test_the_reference_passes(exercise: Exercise) -> None:
    verdict = judge(exercise.id, retyped(exercise))
    assert verdict.state == SOLVED, str(verdict)


@every
def test_the_stub_is_not_solved_yet(exercise: Exercise) -> None:
    verdict = judge(exercise.id, from_source(exercise.stub))
    assert verdict.state == OPEN, str(verdict)
    assert f"{exercise.id} is not solved yet" in str(verdict)
    again = judge(exercise.id, from_source(exercise.stub))
    assert str(again) == str(verdict), "committed notebooks hold this text, so it must not vary"


WRONGS = [case(exercise, wrong, id=f"{exercise.id}-{number}")
          for exercise in ALL for number, wrong in enumerate(exercise.wrong)]


@second_lane
@pytest.mark.parametrize(("exercise", "wrong"), WRONGS)
def test_a_wrong_solution_gets_its_own_message(exercise: Exercise, wrong: Wrong) -> None:
    solution = from_source(wrong.solution) if isinstance(wrong.solution, str) else wrong.solution
    verdict = judge(exercise.id, solution)
    assert verdict.state == WRONG, str(verdict)
    assert wrong.says in str(verdict)
    others = [other.says for other in exercise.wrong if other is not wrong and other.says in str(verdict)]
    assert not others, f"also says what another mistake should hear: {others}\n{verdict}"
    assert "mycontainer/lab/" not in str(verdict), "a traceback of ours"


@every
def test_it_declares_what_a_learner_and_a_teacher_need(exercise: Exercise) -> None:
    assert 1 <= exercise.difficulty <= 5
    assert exercise.minutes > 0
    assert exercise.lines > 0
    assert exercise.hints
    assert exercise.title
    assert exercise.fast_track
    assert 2 <= len(exercise.wrong) <= 8
    assert len({wrong.says for wrong in exercise.wrong}) == len(exercise.wrong)


DAMAGED = [case(exercise, what, source, id=f"{exercise.id}-{what}")
           for exercise in ALL for what, source in damages(exercise)]


@first_lane
@pytest.mark.parametrize(("exercise", "what", "source"), DAMAGED)
def test_the_reference_with_anything_missing_fails(exercise: Exercise, what: str, source: str) -> None:
    excused = what in exercise.equivalent_mutants
    verdict = judge(exercise.id, retyped(exercise, source), 1 if excused else HURRY)
    if excused:
        assert verdict.state == SOLVED, f"it is noticed after all: take it off equivalent_mutants\n{verdict}"
        return
    assert verdict.state in (WRONG, OPEN), f"{what}: not noticed\n{source}\n{verdict}"


@needs_v1
def test_where_there_are_no_cgroups_the_check_says_so() -> None:
    verdict = judge("cgroups.cap_memory", retyped(exercises.find("cgroups.cap_memory")))
    assert verdict.state == CANNOT
    assert "its check makes cgroups, and this lab cannot: there is no cgroup version 2" in str(verdict)


def test_a_write_that_failed_unheard_is_the_likely_cause_too() -> None:
    solution = from_source("""
        def my_map_me(uid, gid):
            own = os.getuid()
            syscalls.unshare(syscalls.CLONE_NEWUSER)
            open("/proc/self/uid_map", "w").write(f"{uid} {own} 1")
            open("/proc/self/gid_map", "w").write("0 4000000000 1")  # refused, and Python says nothing
        """)
    assert "nobody heard" in str(judge("namespaces.map_me", solution))


def test_who_calls_a_function_of_ours_hears_which_and_what_to_write_instead() -> None:
    solution = from_source("""
        def my_cage(root):
            syscalls.unshare(syscalls.CLONE_NEWNS)
            chroot.make_private()
        """)
    verdict = judge("chroot.cage", solution)
    assert verdict.state == OURS
    assert "our function chroot.make_private" in str(verdict)
    assert "It calls syscalls.mount. Write that out yourself" in str(verdict)


@every
def test_excuses_name_real_mutants(exercise: Exercise) -> None:
    assert set(exercise.equivalent_mutants) <= {what for what, _ in damages(exercise)}
    assert all(exercise.equivalent_mutants.values())


# ── cheating ─────────────────────────────────────────────────────────────────────────────────────────

@first_lane
@every
def test_our_own_function_is_not_yours(exercise: Exercise) -> None:
    if not is_function(exercise):
        pytest.skip("its solution is a value, not a function")
    ours = exercise.reference_function()

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return ours(*args, **kwargs)

    for cheat in (ours, wrapped, functools.partial(ours)):
        verdict = judge(exercise.id, cheat, HURRY)
        assert verdict.state in (OURS, WRONG), str(verdict)
    assert judge(exercise.id, wrapped, HURRY).state == OURS or "fork" in source_of(ours)


class Yes:
    """Equal to everything."""

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0


def says_what_we_want_to_hear(*args: Any, **kwargs: Any) -> None:
    print("✓ solved", *args, *kwargs.values(), True, 1, 0, "root")


def is_equal_to_everything(*_: Any, **__: Any) -> Any:
    return Yes()


def ends_with_success(*_: Any, **__: Any) -> None:
    import os
    os._exit(0)


def disarms_the_check(*_: Any, **__: Any) -> None:
    from mycontainer.lab import probe

    for name in ("expect", "fail"):
        setattr(probe, name, lambda *args, **kwargs: None)
        setattr(probe.Probe, name, staticmethod(lambda *args, **kwargs: None))
    for kind in (probe.Process, probe.Child):
        kind.__eq__ = lambda self, other: True  # type: ignore[method-assign, assignment]


@first_lane
@pytest.mark.parametrize("cheat", [says_what_we_want_to_hear, is_equal_to_everything, ends_with_success],
                         ids=lambda one: one.__name__)
@every
def test_pretending_does_not_pass(exercise: Exercise, cheat: Callable[..., Any]) -> None:
    verdict = judge(exercise.id, cheat, HURRY)
    assert verdict.state in (WRONG, OPEN), str(verdict)


@first_lane
@one_a_chapter
def test_disarming_the_check_does_not_pass(exercise: Exercise) -> None:
    verdict = judge(exercise.id, disarms_the_check, HURRY)
    assert verdict.state in (WRONG, OPEN), str(verdict)


@first_lane
@one_a_chapter
def test_patching_the_check_in_the_notebook_does_not_solve(exercise: Exercise,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    from mycontainer.lab import probe
    from mycontainer.lab.progress import solved

    lab.reset(exercise.id)
    monkeypatch.setattr(probe, "expect", lambda *args, **kwargs: None)
    monkeypatch.setattr(probe.Probe, "expect", staticmethod(lambda *args, **kwargs: None))
    monkeypatch.setattr(probe.Probe, "fail", staticmethod(lambda *args, **kwargs: None))
    monkeypatch.setattr(type(exercise), "probe", lambda *args: None, raising=False)
    verdict = lab.check(exercise.id, says_what_we_want_to_hear, quiet=True)
    assert isinstance(verdict, Verdict)
    assert verdict.state in (WRONG, OPEN)
    monkeypatch.setattr(lab, "check", lambda *args: print("✓"))
    lab.check(exercise.id, says_what_we_want_to_hear)
    assert exercise.id not in solved()
