"""`mycontainer demo`: the two views are of one process, and nothing is left of it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mycontainer.cli import demo
from mycontainer.errors import ContainerError
from needs import needs_userns


@needs_userns
def test_both_views_of_one_process() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mycontainer.cli.demo"],
        capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    rows = {line[:20].strip(): line[20:].split() for line in done.stdout.splitlines()}
    pid = int(rows["process id"][1])
    assert (rows["process id"][0], rows["user id"][0], rows["network devices"][0]) == ("1", "0", "lo")
    assert rows["host name"][1] == os.uname().nodename != rows["host name"][0]
    assert int(rows["processes in sight"][0]) < 5 < int(rows["processes in sight"][1])
    assert rows["kernel"] == [os.uname().release, os.uname().release, "the", "same"]
    assert "Namespaces of its own: user, cgroup, ipc, uts, net, pid, mnt." in done.stdout
    assert f"(exit code 0), and process {pid} is gone." in done.stdout


def test_what_it_says_to_try_works_as_typed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.chdir(Path(sys.prefix).parent)
    assert demo.our_command() == f"{Path(sys.prefix).name}/bin/mycontainer"
    monkeypatch.setattr(shutil, "which", lambda _: "/bin/mycontainer")
    assert demo.our_command() == "mycontainer"


def test_a_container_that_ends_too_early_is_one_clear_line() -> None:
    with pytest.raises(ContainerError, match=r"^cannot look inside: the container ended too early$"):
        demo.view_from_inside(iter(["process id=1\n"]))


def test_what_does_not_fit_is_cut_and_said_to_be() -> None:
    lines = demo.table({"files": "x" * 99, "kernel": "6.1"}, {"files": "y", "kernel": "6.1"}).splitlines()
    assert re.search(r"x{30,} … +y$", lines[1])
    assert lines[2].endswith("the same")
    assert not lines[1].endswith("the same")


def test_it_takes_no_arguments() -> None:
    assert demo.main(["--help"]) == 0
    assert demo.main(["nonsense"]) == 125
