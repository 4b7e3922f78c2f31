"""What chapter 3 stands on: cells that need cgroups, with and without them; its drawings; its gauge."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from mycontainer import cgroups
from mycontainer.lab import gauge as gauge_function
from mycontainer.lab import hogs, limited
from mycontainer.lab.limit_figures import comb_figure, pressure_figure, shares, waiting
from needs import needs_cgroups, needs_module, needs_userns, needs_v1, needs_v2

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / limited.CHAPTER


def code_cells() -> list[dict[str, Any]]:
    return [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]


# ---- without cgroups: what was recorded


def make_two() -> int:
    """Leave two cgroups behind."""
    for name in ("left", "right"):
        group = cgroups.create(f"test-{name}")
        group.limit_processes(5)
    print("made")
    return 2


@needs_v1
def test_where_there_are_none_it_shows_what_was_recorded(capsys: pytest.CaptureFixture[str]) -> None:
    limited.refusal.cache_clear()
    assert "no cgroup version 2" in limited.refusal()

    @limited.with_cgroups
    def a_hog() -> None:
        raise AssertionError("nobody runs this")

    result = a_hog()
    assert result.value is None
    printed = capsys.readouterr().out
    assert printed.startswith(limited.NOT_HERE)
    assert "exit code 137 is 128 + SIGKILL" in printed


@needs_v1
def test_a_figure_of_nothing_is_the_recorded_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert comb_figure(None) is None
    assert "50 ms of every 100 ms" in capsys.readouterr().out
    assert pressure_figure(None, 1, 2) is None
    assert "Pressure rises before the kill" in capsys.readouterr().out


def test_the_package_without_the_course_says_where_to_look(monkeypatch: pytest.MonkeyPatch,
                                                           capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(limited, "CHAPTER", "nothing.ipynb")
    limited.replay("def a_hog(")
    assert "see notebooks/nothing.ipynb" in capsys.readouterr().out


def test_every_cell_that_needs_cgroups_has_a_recording_without_an_error() -> None:
    names = 0
    for cell in code_cells():
        source = "".join(cell["source"])
        if "@lab.with_cgroups" in source or "lab.comb_figure" in source or "lab.pressure_figure" in source:
            names += 1
            kinds = {output["output_type"] for output in cell["outputs"]}
            assert kinds, f"{cell['id']} has no output: run the notebook where there is version 2"
            assert "error" not in kinds
            assert limited.NOT_HERE not in json.dumps(cell["outputs"]), "recorded where there are no cgroups"
    assert names > 12


# ---- with them


@needs_v2
@needs_cgroups
@needs_userns
def test_what_a_function_leaves_is_removed(capsys: pytest.CaptureFixture[str]) -> None:
    before = set(limited.below(cgroups.home()))
    assert limited.with_cgroups(make_two)().value == 2
    assert capsys.readouterr().out == "made\n"
    assert set(limited.below(cgroups.home())) == before


@needs_v2
@needs_cgroups
@needs_module("ipywidgets")
def test_the_gauge_shows_a_hog_and_takes_it_away() -> None:
    live = gauge_function()
    one = live.parts["gauge"]
    try:
        one.start("sleep")
        end = time.monotonic() + 60
        while int(one.group.read("pids.current")) < 1 and time.monotonic() < end:
            time.sleep(0.1)
        assert "processes: 1 of 16" in str(live)
    finally:
        live.parts["close"]()
    assert not one.group.has("cgroup.procs")
    assert "removed" in live.parts["shown"].value


@needs_v1
@needs_module("ipywidgets")
def test_without_cgroups_the_gauge_says_why() -> None:
    assert str(gauge_function()).startswith("no gauge here: there is no cgroup version 2")


# ---- drawings


def test_teeth_are_shares_of_five_milliseconds() -> None:
    assert shares([(0.0, 0.005), (0.0075, 0.0125)], 0.02) == pytest.approx([1, 0.5, 0.5, 0])


def test_the_comb_says_in_words_what_it_draws() -> None:
    drawing = comb_figure({"no limit": [(0.0, 0.1)], "half": [(0.0, 0.05)]}, seconds=0.1)
    assert "no limit  " + "#" * 20 in str(drawing)
    assert "half      " + "#" * 10 + "." * 10 in str(drawing)


def test_pressure_is_the_share_of_the_time_in_between() -> None:
    samples = [(0.0, 1 << 20, 0.0), (0.1, 2 << 20, 0.0), (0.2, 3 << 20, 50_000.0)]
    assert [share for _, share in waiting(samples)] == pytest.approx([0, 0, 0.5])
    words = str(pressure_figure(samples, 2 << 20, 3 << 20))
    assert words.splitlines()[-1].split() == ["0.2", "3", "50"]


def test_a_busy_program_runs_in_few_stretches() -> None:
    stretches = hogs.stretches(0.1, pause=1.0)
    assert len(stretches) == 1
    assert stretches[0][1] - stretches[0][0] >= 0.1


def test_a_request_takes_its_time_on_a_cpu() -> None:
    took = hogs.requests(5, 0.01)
    assert sum(took) >= 0.04  # in an emulated machine its two clocks differ by a millisecond or two
    assert min(took) >= 0.005
