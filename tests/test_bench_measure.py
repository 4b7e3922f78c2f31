"""How it is measured: in turns, warmed up, within the time; and what becomes of those that fail."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from bench_doubles import Double, dies
from mycontainer.bench import equal, measure, scratch
from mycontainer.bench.measure import Settings, interleaved
from mycontainer.bench.run import Run, Sample
from mycontainer.bench.subject import Missing, Subject, hello
from mycontainer.bench.turns import PATIENCE, allot, merged, schedule


def once(subject: Subject, number: int) -> Iterable[Sample]:
    instance = subject.start(hello())
    try:
        yield Sample(subject.name, "byte", instance.ready(1) / 1e9, "s", number, 0.0)
    finally:
        instance.stop()


def measured(*subjects: Subject, **how: Any) -> Run:
    run = Run("startup")
    interleaved(subjects, Settings(rounds=10)._replace(**how), once, run, series="byte")
    return run


# ---- order, warm-up, time --------------------------------------------------------------------------------


def test_samples_are_taken_in_turns_and_each_round_in_another_order() -> None:
    run = measured(*map(Double, "abcd"), rounds=20)
    rounds = [tuple(one.subject for one in run.samples if one.round == number) for number in range(1, 21)]
    assert all(sorted(order) == list("abcd") for order in rounds)
    assert len(set(rounds)) > 5
    assert [one.round for one in run.samples] == sorted(one.round for one in run.samples)


def test_the_order_is_that_of_the_seed() -> None:
    orders = [[one.subject for one in measured(*map(Double, "abcd"), seed=seed).samples]
              for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]


def test_warm_up_rounds_are_made_and_dropped() -> None:
    subject = Double("a")
    run = measured(subject, rounds=5, warmup=3)
    assert subject.starts == 8
    assert len(run.samples) == 5
    assert min(one.round for one in run.samples) == 1


def test_dear_subjects_get_fewer_rounds_and_those_are_spread() -> None:
    cheap, dear = Double("cheap"), Double("dear", cost=0.05)
    run = measured(cheap, dear, rounds=40, warmup=1, budget=0.5)
    counts = Counter(one.subject for one in run.samples)
    assert counts["cheap"] == 40
    assert 2 <= counts["dear"] <= 10
    gaps = [after - before for before, after in
            pairwise(one.round for one in run.samples if one.subject == "dear")]
    assert max(gaps) - min(gaps) <= 1


def test_who_is_too_dear_for_a_second_time_is_shown_once_and_that_is_said() -> None:
    run = measured(Double("cheap"), Double("vm", cost=1.0, kind="machine"), rounds=3, budget=1.5)
    assert run.values("vm", "byte") == [1.0]
    assert len(run.values("cheap", "byte")) == 3
    assert run.notes == ["byte: started once and not warmed up, for want of time: vm"]


def test_a_machine_comes_in_the_midst_of_the_others() -> None:
    run = measured(Double("cheap"), Double("vm", cost=0.01, kind="machine"), rounds=6, budget=1.0)
    order = [one.subject for one in run.samples]
    assert order.count("vm") == order.count("cheap") == 6
    assert order[:3] == ["cheap"] * 3
    assert "cheap" in order[order.index("vm"):]


def test_dear_machines_leave_half_of_the_time_to_the_others() -> None:
    """And when it is up, no other machine is begun."""
    first, second = (Double(name, cost=0.4, kind="machine") for name in ("vm-1", "vm-2"))
    run = measured(Double("light", cost=0.01), first, second, rounds=100, warmup=1, budget=0.5)
    assert 5 < len(run.values("light", "byte")) <= 26
    assert (first.starts, second.starts) == (1, 0)
    assert "byte: no time was left for vm-2" in run.notes


def test_it_ends_when_the_time_is_up_though_all_became_slower() -> None:
    slow = Double("slow")

    def later(start: int) -> None:
        slow.cost = 0.05 if start > 3 else 0.0

    slow.fails = later
    began = time.monotonic()
    run = measured(slow, rounds=1000, warmup=1, budget=0.3)
    assert time.monotonic() - began < 1
    assert any("time was up" in note for note in run.notes)


def test_turns_are_merged_evenly() -> None:
    light, dear = Double("light"), Double("dear")
    plan = merged([(number, light) for number in range(8)], [(number, dear) for number in range(2)])
    assert [subject.name for _, subject in plan].index("dear") in (2, 3)
    assert len(plan) == 10


def test_shares_of_the_time_are_equal_and_used_up() -> None:
    a, b, c = map(Double, "abc")
    assert allot({a: 0.01, b: 1.0, c: 2.0}, rounds=100, budget=21) == {a: 100, b: 10, c: 5}
    assert allot({a: 5.0}, rounds=100, budget=1) == {a: 0}
    assert allot({}, rounds=100, budget=1) == {}


def test_a_schedule_has_every_turn_once() -> None:
    a, b, c = map(Double, "abc")
    plan = schedule({a: 7, b: 3, c: 1}, random.Random(0))
    assert Counter(subject for _, subject in plan) == {a: 7, b: 3, c: 1}


# ---- failures --------------------------------------------------------------------------------------------


def test_a_dying_subject_is_reported_not_timed_and_stops_nobody() -> None:
    run = measured(Double("good"), Double("bad", fails=dies), rounds=5)
    assert len(run.values("good", "byte")) == 5
    assert run.values("bad", "byte") == []
    assert {(one.subject, one.series, one.why) for one in run.failures} == {("bad", "byte", "it died")}


def test_after_three_failures_in_a_row_it_is_not_tried_again() -> None:
    bad = Double("bad", fails=dies)
    run = measured(Double("good"), bad, rounds=50)
    assert bad.starts == PATIENCE == len(run.failures)
    assert any("bad" in note for note in run.notes)


def test_a_failure_now_and_then_costs_only_its_own_sample() -> None:
    def at_times(start: int) -> None:
        if start % 4 == 0:
            dies(start)

    run = measured(Double("moody", fails=at_times), rounds=20, warmup=1)
    assert len(run.values("moody", "byte")) + len(run.failures) == 20
    assert len(run.failures) == 5


def test_ctrl_c_keeps_what_was_measured() -> None:
    def interrupted(start: int) -> None:
        if start == 7:
            raise KeyboardInterrupt

    subject = Double("a", fails=interrupted)
    run = measured(subject, rounds=20, warmup=1)
    assert len(run.values("a", "byte")) == 5
    assert run.notes == ["interrupted"]


# ---- preparing, and clearing up --------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _in_a_place_of_our_own(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(equal, "comparable", lambda subjects: [])  # these doubles start no program


def test_all_that_was_prepared_is_closed_whatever_happens() -> None:
    class Odd(Double):
        def close(self) -> None:
            super().close()
            raise OSError("busy")

    subjects = [Double("a"), Odd("b"), Double("c")]
    run = Run("startup")
    with pytest.raises(ZeroDivisionError), measure.prepared(subjects, run):
        raise ZeroDivisionError
    assert [subject.diary for subject in subjects] == [["prepared", "closed"]] * 3
    assert run.notes == ["b: cannot clean up: busy"]


def test_who_is_missing_is_told_with_the_cure_and_not_prepared() -> None:
    absent, run = Double("absent", lack=Missing("no absent", "apt install absent")), Run("startup")
    with measure.prepared([absent, Double("here")], run) as ready:
        assert [subject.name for subject in ready] == ["here"]
    assert run.missing == {"absent": {"reason": "no absent", "cure": "apt install absent"}}
    assert absent.diary == []
    assert list(run.subjects) == ["here"]


def test_who_cannot_be_prepared_is_missing_and_closed() -> None:
    class Broken(Double):
        def prepare(self, scratch: Path) -> None:
            raise OSError("no space left")

    broken, run = Broken("broken"), Run("startup")
    with measure.prepared([broken], run) as ready:
        assert ready == []
    assert run.missing["broken"]["reason"] == "cannot be prepared: no space left"
    assert broken.diary == ["closed"]


def test_the_directory_is_gone_afterwards_and_leftovers_of_the_dead_are_swept() -> None:
    with scratch.directory() as dead:
        pass
    dead.mkdir()  # as after kill -9: nobody holds its lock
    (dead / "file").touch()
    with scratch.directory() as place:
        assert not dead.exists()
        with scratch.directory() as other:
            assert other != place
        assert place.exists()  # its owner lives: another's sweep leaves it alone
    assert not place.exists()
