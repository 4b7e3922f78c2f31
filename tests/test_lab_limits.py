"""The lab's limits: which way is taken, and that a refusal leads to the next."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mycontainer.lab import limits


def fake_busctl(directory: Path, code: int) -> Path:
    program = directory / "busctl"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {directory}/asked\nexit {code}\n')
    program.chmod(0o755)
    return directory / "asked"


@pytest.fixture
def systemd(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine that seems to have systemd; `busctl` is to be put into the directory."""
    really = os.path.isdir
    monkeypatch.setattr(os.path, "isdir", lambda path: path == "/run/systemd/system" or really(path))
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return tmp_path


def test_the_scope_is_asked_for_with_its_limits(systemd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = fake_busctl(systemd, 0)
    scope = systemd / "scope"
    scope.mkdir()
    (scope / "outside").mkdir()
    (scope / "outside" / "cgroup.procs").touch()
    monkeypatch.setattr(limits, "_wait_for_scope", lambda unit: str(scope))
    monkeypatch.setattr(os, "mkdir", lambda path: None)  # the kernel makes the file in it
    assert limits.enter_scope("mycontainer-lab-1.scope") == str(scope)
    words = asked.read_text().split("\n")
    assert words[words.index("PIDs"):][:4] == ["PIDs", "au", "1", str(os.getpid())]
    assert words[words.index("MemoryMax") + 2] == str(limits.memory())
    assert words[words.index("TasksMax") + 2] == str(limits.PROCESSES)
    signature = words[words.index("ssa(sv)a(sa(sv))"):]
    assert signature[1:4] == ["mycontainer-lab-1.scope", "fail", "4"]
    assert (scope / "outside" / "cgroup.procs").read_text() == str(os.getpid())


def test_a_refusal_of_systemd_is_no_failure(systemd: Path) -> None:
    fake_busctl(systemd, 1)
    assert limits.enter_scope("mycontainer-lab-1.scope") is None


def test_a_systemd_that_promises_and_does_nothing(systemd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_busctl(systemd, 0)
    real = limits._wait_for_scope
    monkeypatch.setattr(limits, "_wait_for_scope", lambda unit: real(unit, 0.05))
    assert limits.enter_scope("mycontainer-lab-1.scope") is None


def test_without_cgroups_rlimits_take_their_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(limits, "CGROUPS", str(tmp_path))
    one = limits.Limits("lab-test")
    one.prepare()
    assert one.in_force == {"memory": "rlimit, each process", "processes": "rlimit"}
    assert one.directories == []
    assert one.remove()


def test_a_half_refused_cgroup_is_filled_up_by_an_rlimit(monkeypatch: pytest.MonkeyPatch,
                                                         tmp_path: Path) -> None:
    directory = tmp_path / "pids" / "mycontainer" / "lab-test"
    directory.mkdir(parents=True)
    (directory / "pids.max").touch()
    one = limits.Limits("lab-test")
    monkeypatch.setattr(one, "_places", lambda: iter([
        (str(directory), "pids.max", "processes"), ("/proc/nowhere", "memory.limit_in_bytes", "memory")]))
    one.prepare()
    assert one.in_force == {"memory": "rlimit, each process", "processes": "cgroup"}
    assert (directory / "pids.max").read_text() == str(limits.PROCESSES)


def test_our_parent_goes_with_the_last_lab(tmp_path: Path) -> None:
    first, second = (tmp_path / "mycontainer" / name for name in ("lab-1", "lab-2"))
    (first / "made by the learner" / "deeper").mkdir(parents=True)
    second.mkdir()
    assert limits.remove([str(first)])
    assert second.exists()
    assert limits.remove([str(second)])
    assert not (tmp_path / "mycontainer").exists()
    assert tmp_path.exists()
