"""The benchmark's figures: every sample is drawn, and what a reader must know stands on them."""

from __future__ import annotations

import functools
import random
import re
import statistics
import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import Any

import pytest

from mycontainer.bench import anatomy, density, memory, numbers, overhead
from mycontainer.bench.run import Failure, Run, Sample
from needs import needs_module

matplotlib = pytest.importorskip("matplotlib", reason="needs the Python module matplotlib")
from matplotlib.collections import PathCollection  # noqa: E402
from matplotlib.colors import to_rgb  # noqa: E402
from matplotlib.text import Text  # noqa: E402

from mycontainer.bench import plot_style, plots, verdicts  # noqa: E402

pytestmark = needs_module("matplotlib")


def open_the_fonts() -> None:
    """matplotlib keeps a font open that it has used once: before a test begins, so that none leaks it."""
    with matplotlib.rc_context(plot_style.RC):
        figure = plot_style.Drawing()
        for weight in ("normal", "bold"):
            figure.text(0.5, 0.5, "×", fontweight=weight)
        figure.png()


open_the_fonts()

# name: label, kind, temperature, seconds, differences
SUBJECTS: dict[str, tuple[str, str, str, float, list[str]]] = {
    "process": ("plain process", "process", "cold", 0.001, []),
    "crun": ("crun", "container", "cold", 0.006, []),
    "runc": ("runc", "container", "cold", 0.016, []),
    "ours-cli": ("mycontainer run", "container", "cold", 0.012, []),
    "ours-api": ("mycontainer from Python", "container", "warm", 0.008, ["warm: a Python runs already"]),
    "docker": ("Docker", "container", "warm", 0.2, ["a bridge of its own"]),
    "vm-micro": ("VM, minimal, TCG (emulated)", "machine", "cold", 1.5, ["a kernel of its own"]),
}


def blank(question: str) -> Run:
    run = Run(question, machine={"cpu": "A CPU", "cpus": 2, "kernel": "6.1", "architecture": "x86_64"})
    for name, (label, kind, temperature, _, differences) in SUBJECTS.items():
        run.subjects[name] = {"label": label, "kind": kind, "temperature": temperature, "network": "host",
                              "differences": differences}
    run.missing["firecracker"] = {"reason": "no such program", "cure": "fetch it from its releases"}
    run.failures.append(Failure("vm-micro", "byte", "it hung at the clock", 3))
    return run


def each(run: Run, take: Callable[[str, float, random.Random], None]) -> Run:
    lot = random.Random(5)
    for name, (_, _, _, seconds, _) in SUBJECTS.items():
        take(name, seconds, lot)
    return run


def startup(count: int = 24) -> Run:
    run = blank("startup")

    def take(name: str, seconds: float, lot: random.Random) -> None:
        for series in ("byte", "page"):
            for number in range(count):
                run.samples.append(Sample(name, series, seconds * lot.lognormvariate(0, 0.05), "s", number,
                                          0))
                if name == "process":
                    again = seconds * lot.lognormvariate(0, 0.05)
                    run.samples.append(Sample("process-again", f"aa-{series}", again, "s", number, 0))

    return each(run, take)


def of_memory() -> Run:
    run = blank("memory")

    def take(name: str, seconds: float, lot: random.Random) -> None:
        for series in memory.TASKS:
            for number in range(3):
                for running in (0, 1, 5):
                    for part, size in (("pss", 1e8 * seconds), ("kernel", 1e5), ("files", 0)):
                        value = running * size * lot.uniform(0.95, 1.05)
                        run.samples.append(Sample(name, series, value, "bytes", number, 0,
                                                  {"part": part, "running": running, "how": "machine"}))
    return each(run, take)


def of_density() -> Run:
    run = blank("density")
    run.settings = {"limits": density.Budget(20, 3, 1 << 30, 5.0, 9.0)._asdict(), "reserve": 1 << 31}

    def take(name: str, seconds: float, lot: random.Random) -> None:
        for running in range(21):
            left = 1e10 - 1e9 * seconds * running
            run.samples.append(Sample(name, "available", left, "bytes", 0, 0, {"running": running}))
            if running < 20:
                run.samples.append(Sample(name, "start", seconds * lot.uniform(1, 2), "s", 0, 0,
                                          {"running": running}))
        run.samples.append(Sample(name, "count", 20, "count", 0, 0, {"stopped_by": "cap"}))
    return each(run, take)


def of_scale() -> Run:
    run = blank("scale")

    def take(name: str, seconds: float, lot: random.Random) -> None:
        for series, label, counts in (("running", "running", (0, 1, 10)), ("starters", "starters", (1, 4))):
            for at in counts:
                for number in range(5):
                    value = seconds * (1 + at / 10) * lot.uniform(0.9, 1.1)
                    run.samples.append(Sample(name, series, value, "s", number, 0, {label: at}))
    return each(run, take)


def of_overhead() -> Run:
    run = blank("overhead")

    def take(name: str, seconds: float, lot: random.Random) -> None:
        for work in overhead.EVERYTHING:
            slow = 20 if name.startswith("vm") else 1.6 if (name, work) == ("docker", "syscall") else 1
            for number in range(8):
                for clock in ("inside", "outside")[work == "page":]:
                    labels = {"clock": clock, "work": 100}
                    value = 1e-3 * slow * lot.uniform(0.98, 1.02)
                    run.samples.append(Sample(name, work, value, "s", number, 0, labels))
                    if name == "process":
                        again = 1e-3 * lot.uniform(0.98, 1.02)
                        run.samples.append(Sample("process-again", f"aa-{work}", again, "s", number, 0,
                                                  labels))
    return each(run, take)


def of_layers() -> Run:
    run = Run("layers", settings={"layer": {"tar": 1e8, "blob": 3e7, "entries": 2000, "file_system": "ext4"}})
    run.missing["umoci"] = {"reason": "no umoci", "cure": "apt install umoci"}
    for name, label, seconds in (("tar", "tar", 1.0), ("ours-store", "mycontainer", 0.7),
                                 ("skopeo", "skopeo copy", 0.5)):
        run.subjects[name] = {"label": label, "kind": "tool", "temperature": "cold", "differences": []}
        for number in range(6):
            run.samples.append(Sample(name, "unpack", seconds + number / 100, "s", number, 0, {"tar": 1e8}))
            run.samples.append(Sample(name, "space", 1.1e8, "bytes", number, 0, {"tar": 1e8}))
    return run


def of_anatomy() -> Run:
    run = blank("anatomy")

    def take(name: str, seconds: float, lot: random.Random) -> None:
        for number in range(5):
            total, begin = seconds * lot.uniform(0.9, 1.1), 0.0
            names = (["Python starts", "new namespaces", "forks and pipes between", "pivot_root"]
                     if name == "ours-cli"
                     else [anatomy.FIRMWARE, "the kernel boots"] if name == "vm-micro" else [anatomy.WHOLE])
            run.samples.append(Sample(name, "total", total, "s", number, 0))
            for order, step in enumerate(names):
                run.samples.append(Sample(name, "step", total / len(names), "s", number, 0, {
                    "step": step,
                    "begin": begin, "order": order, "who": 0, "chapter": order if name == "ours-cli" else 0}))
                begin += total / len(names)
    return each(run, take)


ALL: dict[str, Callable[[], Run]] = {
    "startup": startup, "memory": of_memory, "density": of_density, "scale": of_scale,
    "overhead": of_overhead,
    "layers": of_layers, "anatomy": of_anatomy}


@functools.cache
def picture(question: str) -> Any:
    """The figure of the usual run of a question, drawn once."""
    return plots.draw(ALL[question]())


@pytest.fixture(autouse=True)
def _quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the resamples is enough to see that they are used."""
    monkeypatch.setattr(numbers, "RESAMPLES", 200)


def texts(figure: Any) -> str:
    return "\n".join(one.get_text() for one in figure.findobj(Text) if one.get_visible())


def flat(text: str) -> str:
    """Without line breaks: a footer is wrapped where it happens to end."""
    return " ".join(text.split())


def drawn(figure: Any, beginning: str) -> list[tuple[float, float]]:
    """The points of all groups of marks whose id begins so."""
    return [tuple(point) for group in figure.findobj(PathCollection)
            if (group.get_gid() or "").startswith(f"samples {beginning}") for point in group.get_offsets()]


# ---- what is on it -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("question", plots.FIGURES)
def test_each_figure_says_what_a_reader_must_know(question: str) -> None:
    run = ALL[question]()
    figure = picture(question)
    for told in (flat(texts(figure)), flat(figure.words)):
        for name, gap in run.missing.items():
            assert f"{name} ({gap['reason']}; {gap['cure']})" in told
        for facts in run.subjects.values():
            assert all(difference in told for difference in facts["differences"])
            assert facts["label"] in told
        assert "A/A" in told
        if run.failures:
            assert "it hung at the clock" in told
        if any(facts["kind"] == "machine" for facts in run.subjects.values()):
            assert "TCG" in told
            assert "emulated, there is no KVM" in told


@pytest.mark.parametrize("question", plots.FIGURES)
def test_no_word_lies_outside_of_the_paper(question: str) -> None:
    figure = picture(question)
    with matplotlib.rc_context(plot_style.RC):
        figure.canvas.draw()
        paper, renderer = figure.bbox, figure.canvas.get_renderer()
        words = [*figure.texts,
                 *(one for axes in figure.axes for one in [*axes.texts, *axes.get_yticklabels()]),
                 *(one for legend in figure.legends for one in legend.get_texts())]
        for one in words:
            box = one.get_window_extent(renderer)
            if one.get_text() and box.y0 >= 0:  # an axis keeps labels for ticks that it does not show
                assert paper.x0 <= box.x0, one.get_text()
                assert box.x1 <= paper.x1, one.get_text()
                assert box.y1 <= paper.y1, one.get_text()
        assert all(one.get_window_extent(renderer).y0 >= 0 for one in figure.texts)


@pytest.mark.parametrize("question", plots.FIGURES)
def test_a_run_without_a_sample_says_so(question: str) -> None:
    figure = plots.draw(blank(question))
    assert "Nothing was measured" in texts(figure)
    assert "firecracker" in texts(figure)


def test_an_unknown_question_is_refused() -> None:
    with pytest.raises(ValueError, match="nobody knows"):
        plots.draw(Run("weather"))
    with pytest.raises(ValueError, match="different questions"):
        plots.draw(startup(), of_scale())


# ---- startup -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SUBJECTS)
def test_every_sample_of_a_start_is_drawn(name: str) -> None:
    run = startup()
    points = sorted(x for x, _ in drawn(picture("startup"), plot_style.label(run, name)))
    taken = sorted(one.value for one in run.samples if one.subject == name)
    assert points == pytest.approx(taken)
    assert len(set(points)) == len(taken) == 48


def test_a_sample_that_is_dropped_is_missed() -> None:
    run = startup()
    before = len(drawn(plots.draw(run), "crun"))
    run.samples.remove(next(one for one in run.samples if one.subject == "crun"))
    assert len(drawn(plots.draw(run), "crun")) == before - 1


def test_cold_and_warm_are_kept_apart() -> None:
    figure = picture("startup")
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert len(titles) == 4
    for axes in figure.axes:
        labels = {one.get_text() for one in axes.get_yticklabels()}
        if axes.get_title(loc="left").startswith("Warm"):
            assert labels == {"Docker", "mycontainer from Python"}
        else:
            assert not labels & {"Docker", "mycontainer from Python"}
            assert "crun" in labels
        assert axes.get_xscale() == "log"


def test_the_medians_and_ratios_are_those_of_the_samples() -> None:
    run = startup()
    text = texts(picture("startup"))
    middle = {name: statistics.median(run.values(name, "byte")) for name in SUBJECTS}
    for name, value in middle.items():
        assert plot_style.seconds(value) in text
        if name != "process":
            assert plot_style.times(value / middle["process"]) in text


def test_who_is_ahead_of_ours_is_said() -> None:
    run = startup()
    told = verdicts.ahead(run, "byte", "cold")
    ratio = statistics.median(run.values("ours-cli", "byte")) / statistics.median(run.values("crun", "byte"))
    assert told == f"Faster than mycontainer run: crun {plot_style.times(ratio)}."
    assert told in texts(picture("startup"))
    assert verdicts.ahead(run, "byte", "warm") == \
        "No warm peer measured is faster than mycontainer from Python."


def test_who_is_too_near_is_not_called_slower() -> None:
    run = startup()
    twin = [Sample("runc", one.series, one.value * 1.001, "s", one.round, 0) for one in run.samples
            if one.subject == "ours-cli"]
    run.samples = [one for one in run.samples if one.subject != "runc"] + twin
    assert "Too near, or too few samples, to tell: runc." in verdicts.ahead(run, "byte", "cold")


def test_few_samples_are_not_believed() -> None:
    run = startup(2)
    assert verdicts.visible(run) >= 1
    for one in [one for one in run.samples if one.subject == "runc"]:
        run.samples[run.samples.index(one)] = Sample("runc", one.series, 0.009, "s", one.round, 0)
    told = verdicts.ahead(run, "byte", "cold")
    assert "runc" in told.partition("to tell:")[2]  # a quarter faster, by two samples
    text = texts(plots.draw(run))
    assert "(of 2)" in text
    assert "…" not in text


def test_the_smallest_difference_is_recomputed_from_the_twin() -> None:
    run = startup()
    seen = verdicts.visible(run)
    assert 0 < seen < 0.2
    assert f"cannot tell {plot_style.percent(seen)} apart" in texts(picture("startup"))
    run.samples = [one for one in run.samples if not one.series.startswith("aa-")]
    assert verdicts.visible(run) == 0
    assert "No A/A run" in texts(plots.draw(run))


def test_two_runs_lie_beside_one_another() -> None:
    other = startup(5)
    other.machine["cpu"] = "Another CPU"
    figure = plots.draw(startup(), other)
    told = texts(figure)
    assert "A: 2 × A CPU" in told
    assert "B: 2 × Another CPU" in told
    assert len(drawn(figure, "crun (B)")) == 10
    assert len(drawn(figure, "crun (A)")) == 48


# ---- the others --------------------------------------------------------------------------------------------


def test_every_sample_of_the_other_questions_is_drawn() -> None:
    run = of_scale()
    assert len(drawn(picture("scale"), "crun")) == len([one for one in run.samples if one.subject == "crun"])
    run = of_overhead()
    inside = [one for one in run.samples if one.subject == "crun"
              and (one.labels["clock"] == "inside" or one.series == "page")]
    assert len(drawn(picture("overhead"), "crun")) == len(inside)
    run = of_layers()
    assert len(drawn(picture("layers"), "tar")) == 12
    run = of_density()
    assert len(drawn(picture("density"), "crun")) == 40
    run = of_memory()
    assert len(drawn(picture("memory"), "crun")) == 6
    run = of_anatomy()
    assert len(drawn(picture("anatomy"), "ours-cli")) == 5 + 4 * 5


def test_work_that_costs_more_inside_is_told_from_noise() -> None:
    run = of_overhead()
    told = picture("overhead").words
    row = next(line for line in told.splitlines() if line.startswith("system calls:"))
    slow = statistics.median(overhead.unit_times(run, "docker", "syscall"))
    usual = statistics.median(overhead.unit_times(run, "process", "syscall"))
    assert f"Docker {plot_style.times(slow / usual)}," in row
    assert re.search(r"crun ×(1\.0|0\.9)\d \(no clear difference\)", row)


def test_what_one_more_costs_is_on_the_figure() -> None:
    run = of_memory()
    expected = statistics.median(memory.total(run, "ours-cli", "idle"))
    assert f"mycontainer run: median {plot_style.size(expected)}" in picture("memory").words


# ---- how it looks ------------------------------------------------------------------------------------------


def test_the_picture_is_the_same_each_time_and_has_its_words() -> None:
    first, second = plots.draw(of_layers()), plots.draw(of_layers())
    assert first.svg() == second.svg()
    root = ET.fromstring(first.svg())
    assert root.attrib["role"] == "img"
    assert "mycontainer: median" in root.attrib["aria-label"]
    bundle = first._repr_mimebundle_()
    assert "mycontainer: median" in bundle["text/html"]
    assert first.png().startswith(b"\x89PNG")


def test_kinds_are_told_apart_without_colour() -> None:
    looks = [plot_style.LOOKS[kind] for kind in ("process", "container", "machine", "ours")]
    assert len({one.mark for one in looks}) == len(looks)
    light = sorted(0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in (to_rgb(one.ink) for one in looks))
    assert light[-1] - light[0] > 0.3
    run = startup()
    assert not plot_style.look(run, "vm-micro").full
    assert plot_style.look(run, "crun").full


def test_units_are_what_a_person_says() -> None:
    assert [plot_style.seconds(value) for value in (0.0042, 1.31, 13, 0.99999, 4e-7)] == \
        ["4.2 ms", "1.3 s", "13 s", "1.0 s", "400 ns"]
    assert [plot_style.size(value) for value in (49_000, 2.17e8, 9.4e6)] == ["49 kB", "217 MB", "9.4 MB"]
    assert plot_style.tick(0.01, plot_style.seconds) == "10 ms"
    assert plot_style.tick(1.0, plot_style.seconds) == "1 s"
