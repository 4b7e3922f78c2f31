"""`mycontainer bench`: measured end to end, saved, shown, compared; interrupted, killed, and nothing left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from mycontainer.bench import cgroup, compare, numbers, report, scratch, world
from mycontainer.bench.observe import descendants
from mycontainer.bench.run import Failure, Run, Sample
from mycontainer.bench.subjects import ALL
from mycontainer.cli import bench
from mycontainer.errors import ContainerError
from needs import needs_root

BENCH = [sys.executable, "-m", "mycontainer.cli.main", "bench"]
HEAVY = ("crun", "runc", "lxc", "nspawn", "podman", "docker")
PLAIN = "process,unshare,ours-cli,ours-api"


@pytest.fixture(autouse=True)
def _readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The benchmark's files lie where root of a container can walk to."""
    for place in (tmp_path, *list(tmp_path.parents)[:3]):
        if place.stat().st_uid == os.geteuid() and "pytest" in str(place):
            place.chmod(0o755)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def run_bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*BENCH, *arguments], capture_output=True, text=True, timeout=100)


def started(output: Path) -> subprocess.Popen[str]:
    """A benchmark that would take long, after some 20 starts: that is more than its warm-up."""
    command = [*BENCH, "startup", f"--output={output}", "--rounds=100000", "--subjects=process,unshare"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    end, seen = time.monotonic() + 60, set[int]()
    while len(seen) < 25:
        seen |= descendants(process.pid)
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "it does not get to measuring"
    return process


def everybody(process: subprocess.Popen[str]) -> list[int]:
    """The runner, init, the worker and all below, the oldest first."""
    return sorted(descendants(process.pid) - {process.pid})


def lives(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def await_end(pids: list[int]) -> None:
    end = time.monotonic() + 20
    while left := list(filter(lives, pids)):
        assert time.monotonic() < end, [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in left]
        time.sleep(0.02)


def quick_run(**values: list[float]) -> Run:
    run = Run("startup", machine={"cpu": "x"})
    for name, samples in values.items():
        run.subjects[name] = {"label": name, "temperature": "cold", "differences": []}
        run.samples += [Sample(name, "byte", value, "s", number, 0.0) for number, value in enumerate(samples)]
    return run


# ---- measured, end to end --------------------------------------------------------------------------------


def test_a_run_is_measured_shown_and_saved_with_every_sample(tmp_path: Path) -> None:
    output = tmp_path / "run.json"
    done = run_bench("startup", "--subjects", PLAIN, "--quick", "--rounds", "3", "--output", str(output))
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no progress where nobody looks
    assert str(output) in done.stdout
    run = Run.load(output)
    assert run.failures == []
    for name in PLAIN.split(","):
        for series in ("byte", "page"):
            assert len(run.values(name, series)) == 3, (name, series)
    assert len(run.values("process-again", "aa-byte")) == 3
    assert "process-again" not in run.subjects
    assert {"kernel", "cpus", "memory", "load"} <= set(run.machine)
    assert numbers.median(run.values("ours-cli", "byte")) > numbers.median(run.values("process", "byte"))
    assert list(tmp_path.iterdir()) in ([output], [output, output.with_suffix(".png")],
                                        [output.with_suffix(".png"), output])


@needs_root
def test_the_engines_that_are_here_really_start_and_stop(tmp_path: Path) -> None:
    """All of them, through the command, which gives each what it needs; what is missing says why."""
    output = tmp_path / "run.json"
    names = ",".join(("process", *HEAVY))
    done = run_bench("startup", "--subjects", names, "--quick", "--rounds", "1", "--output", str(output))
    assert done.returncode == 0, done.stderr
    run = Run.load(output)
    assert {*run.subjects, *run.missing} == {"process", *HEAVY}
    # Podman 4.3 now and then loses the output of a command that ends at once: a failure, and not timed.
    assert {one.subject for one in run.failures} <= {"podman"}
    for name, lack in run.missing.items():
        assert lack["reason"].startswith("no "), (name, lack)  # not installed, and nothing else
    for name in run.subjects:
        assert run.values(name, "page"), name
        assert run.values(name, "byte") or name == "podman", name
        assert run.subjects[name]["versions"]
    if {"crun", "runc"} <= set(run.subjects):
        assert run.subjects["crun"]["inside"] == run.subjects["runc"]["inside"]  # equal work


def test_the_list_has_everybody(tmp_path: Path) -> None:
    done = run_bench("list")
    assert done.returncode == 0, done.stderr
    assert [row.split()[0] for row in done.stdout.splitlines()[1:] if row[:1].strip()] == list(ALL)


# ---- interrupted, and killed -----------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_keeps_what_was_measured(number: int, tmp_path: Path) -> None:
    output = tmp_path / "run.json"
    process = started(output)
    pids = everybody(process)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    run = Run.load(output)
    assert run.notes == ["interrupted"]
    assert run.values("process", "byte")
    assert "interrupted" in out
    await_end(pids)
    assert not list(tmp_path.glob("mycontainer-bench-*"))


@pytest.mark.parametrize("victim", ["outside", "init", "worker"])
def test_after_kill_9_nothing_runs_and_the_next_start_sweeps(victim: str, tmp_path: Path) -> None:
    process = started(tmp_path / "run.json")
    pids = everybody(process)
    _, init, worker, *_ = pids
    os.kill({"outside": process.pid, "init": init, "worker": worker}[victim], signal.SIGKILL)
    process.communicate(timeout=30)
    assert process.returncode != 0
    await_end(pids)
    with scratch.directory() as place:  # what the next start does first
        cgroup.sweep()
        assert list(tmp_path.glob("mycontainer-bench-*")) == [place]


def test_what_the_work_returns_or_dies_of_is_the_exit_code() -> None:
    assert world.run(lambda: 7) == 7

    def die() -> int:
        os.kill(os.getpid(), signal.SIGKILL)
        return 0

    assert world.run(die) == 128 + signal.SIGKILL


@needs_root
def test_root_measures_in_a_place_of_its_own() -> None:
    kinds = ("mnt", "pid", "net", "ipc")
    outside = {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in kinds}

    def look() -> int:
        same = [kind for kind in kinds if os.readlink(f"/proc/self/ns/{kind}") == outside[kind]]
        ours = all("/mycontainer/bench-" in row for row in Path("/proc/self/cgroup").read_text().splitlines()
                   if not row.startswith("0::"))
        return 0 if not same and not os.listdir("/run") and ours else 1

    assert world.run(look) == 0


# ---- tables, and two runs --------------------------------------------------------------------------------


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    run = quick_run(process=[0.001, 0.002])
    run.samples.append(Sample("process", "pss", 4096.0, "bytes", 1, 2.5, {"running": 100}))
    run.failures.append(Failure("runc", "byte", "it died", 3))
    run.missing["lxc"] = {"reason": "no lxc-start", "cure": "apt install lxc"}
    run.save(tmp_path / "run.json")
    assert Run.load(tmp_path / "run.json") == run
    assert list(tmp_path.iterdir()) == [tmp_path / "run.json"]


def test_the_table_shows_what_the_samples_say(tmp_path: Path) -> None:
    run = quick_run(process=[0.001] * 20, slow=[0.010] * 19 + [0.5])
    run.samples += [Sample("process-again", "aa-byte", 0.00102, "s", 1, 0.0)] * 20
    run.failures += [Failure("slow", "byte", "it died", 1)] * 2
    run.missing["lxc"] = {"reason": "no lxc-start", "cure": "apt install lxc"}
    run.save(tmp_path / "run.json")
    shown = run_bench("show", str(tmp_path / "run.json"))
    assert shown.returncode == 0, shown.stderr
    row = next(row for row in shown.stdout.splitlines() if row.split()[:1] == ["slow"])
    assert row.split()[1:] == ["20", "10", "ms", "34.5", "ms", "10", "10", "–", "10"]
    assert "a difference of less than 2% cannot be told from none" in " ".join(shown.stdout.split())
    assert "differs from itself" in shown.stdout
    assert "lxc: no lxc-start → apt install lxc" in shown.stdout
    assert "slow, byte: it died (2 times)" in shown.stdout


@pytest.mark.parametrize(("value", "unit", "words"), [
    (0.0123, "s", "12.3 ms"), (0.9999, "s", "1 s"), (83.0, "s", "83 s"), (5e-6, "s", "5 µs"),
    (0.9996e-3, "s", "1 ms"), (1 << 20, "bytes", "1 MiB"), (12, "bytes", "12 B"),
    (1234.0, "count", "1234"), (12, "1/s", "12 1/s")])
def test_amounts_are_words(value: float, unit: str, words: str) -> None:
    assert report.amount(value, unit) == words


def test_two_runs_differ_or_cannot_be_told_apart() -> None:
    steady = [1.0, 1.01, 0.99, 1.0, 1.02, 0.98] * 4
    before = quick_run(process=steady, same=steady, faster=steady, few=[1.0])
    after = quick_run(process=steady, same=steady[::-1], faster=[value / 2 for value in steady], few=[9.0],
                      only_here=steady)
    verdicts = {row.subject: row.verdict for row in compare.compare(before, after)}
    assert verdicts == {"process": "not different", "same": "not different",
                        "faster": "less", "few": "too few samples"}
    half = next(row for row in compare.compare(before, after) if row.subject == "faster").ratio
    assert half.low <= 0.5 <= half.high


def test_a_difference_that_an_a_a_run_shows_too_is_none() -> None:
    """Both runs' own fault of 20 % hides a change of 10 %."""
    steady = [1.0, 1.01, 0.99, 1.0, 1.02, 0.98] * 4
    runs = [quick_run(process=steady, it=[factor * value for value in steady]) for factor in (1.0, 1.1)]
    assert compare.compare(*runs)[1].verdict == "more"
    for run in runs:
        run.samples += [Sample("process-again", "aa-byte", 1.2 * value, "s", 1, 0.0) for value in steady]
    assert compare.compare(*runs)[1].verdict == "not different"


def test_runs_of_other_questions_and_machines_are_told(tmp_path: Path) -> None:
    before, after = quick_run(process=[1.0] * 6), quick_run(process=[1.0] * 6)
    after.machine["cpu"] = "y"
    assert any("cpu" in line for line in compare.warnings(before, after))
    after.question = "memory"
    with pytest.raises(ContainerError, match="cannot compare startup with memory"):
        compare.compare(before, after)
    for name, run in (("a", before), ("b", before)):
        run.save(tmp_path / f"{name}.json")
    done = run_bench("compare", f"{tmp_path}/a.json", f"{tmp_path}/b.json")
    assert done.returncode == 0, done.stderr
    assert "not different" in done.stdout


# ---- the command line's errors ---------------------------------------------------------------------------


@pytest.mark.parametrize(("arguments", "words"), [
    (["strtup"], "Did you mean: mycontainer bench startup"),
    (["startup", "now"], "takes no more words"),
    (["startup", "--subjects", "dokcer"], "no such subject: dokcer"),
    (["startup", "--rounds", "0"], "not a number of rounds: 0"),
    (["startup", "--minutes", "x"], "not a number of minutes: x"),
    (["startup", "--quick", "--full"], "cannot be both"),
    (["startup", "--output", "/nowhere/run.json"], "cannot write to /nowhere"),
    (["startup", "--output", "run.txt"], "not the name of a JSON file"),
    (["startup", "--fast"], "no such option: --fast"),
    (["compare", "one.json"], "takes two files"),
    (["show", "/nowhere.json"], "cannot read /nowhere.json"),
    (["show", "/etc/passwd"], "not a file of mycontainer bench"),
])
def test_an_error_is_a_line_and_a_hint(arguments: list[str], words: str) -> None:
    done = run_bench(*arguments)
    assert done.returncode == 125
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("content", ["[]", "{}", '{"format": 1}', '{"format": 9}', "{", '{"samples":3}'])
def test_no_file_makes_it_fall_over(content: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(ContainerError, match="not a file of mycontainer bench"):
        bench.loaded(str(tmp_path / "run.json"))


def test_options_stand_before_and_after_the_question() -> None:
    given, words = bench.parse(["--quick", "startup", "--subjects", "process"])
    assert (given, words) == ({"quick": [""], "subjects": ["process"]}, ["startup"])


def test_without_a_question_there_is_help() -> None:
    done = run_bench()
    assert done.returncode == 0
    assert "startup" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_where_rich_is_missing_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "find_spec", lambda name: None)
    with pytest.raises(ContainerError) as error:
        bench.main(["startup"])
    assert "mycontainer[bench]" in error.value.hint


def test_nobody_else_pays_for_it() -> None:
    """The help, and a container's start, load nothing of it."""
    script = ("import sys, mycontainer.cli.run; from mycontainer.cli.main import main; main(['--help'])\n"
              "print(*[name for name in sys.modules if 'bench' in name or 'rich' in name], file=sys.stderr)")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stderr.strip() == ""


def test_json_is_what_others_can_read(tmp_path: Path) -> None:
    quick_run(process=[0.1]).save(tmp_path / "run.json")
    plain: dict[str, Any] = json.loads((tmp_path / "run.json").read_text())
    assert plain["format"] == 1
    assert plain["samples"][0]["value"] == 0.1
