"""lab.trace against strace by hand, and lab.source against the files."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mycontainer import chroot, lab, syscalls
from mycontainer.lab.trace import NOT_HERE, traced
from needs import needs_module, needs_tool, needs_userns

pytestmark = [needs_module("cloudpickle")]
PATHS = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
with_strace = needs_tool("strace", "strace")


def work() -> None:
    syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS | syscalls.CLONE_NEWUTS |
                     syscalls.CLONE_NEWPID)
    syscalls.sethostname("box, (inside)")
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    if os.fork() == 0:  # PID 1, whose pid in the parent's namespace is another than strace's
        try:
            syscalls.mount("proc", "/no/where", "proc", syscalls.MS_NOSUID)
        except FileNotFoundError:
            pass
        if os.fork() == 0:
            syscalls.chdir("/tmp")
            os._exit(0)
        os.wait()
        os.execvp("true", ["true"])
    os.wait()


EXPECTED = """\
unshare(CLONE_NEWNS|CLONE_NEWUTS|CLONE_NEWUSER|CLONE_NEWPID)
sethostname("box, (inside)", 13)
mount(NULL, "/", NULL, MS_REC|MS_PRIVATE, NULL)
clone(SIGCHLD) = child 1
child 1:
    mount("proc", "/no/where", "proc", MS_NOSUID, NULL) = ENOENT: No such file or directory
    clone(SIGCHLD) = child 1.1
    execve("/TRUE", ["true"])
    child 1.1:
        chdir("/tmp")"""


@needs_userns
@with_strace
def test_the_list_is_the_same_each_time() -> None:
    for _ in range(3):
        text = re.sub(r'"[^"]*/true"', '"/TRUE"', "\n".join(traced(work)))
        assert text == EXPECTED


@needs_userns
@with_strace
def test_it_lists_what_strace_lists(tmp_path: Path) -> None:
    """The oracle: the same function under plain strace, interpreter and all."""
    calls = "unshare,sethostname,mount,chdir"
    script = (f"import sys; sys.path[:0] = {PATHS!r}; import test_kit_trace; "
              "print('from here on', flush=True); test_kit_trace.work()")
    subprocess.run(["strace", "-f", "-qq", "-e", f"trace=write,{calls}", "-e", "signal=none",
                    "-o", tmp_path / "log", sys.executable, "-c", script], check=True, timeout=60)
    text = (tmp_path / "log").read_text().partition("from here on")[2]
    theirs = sorted(call for call in re.findall(r"(\w+\(.*?\)) += ", text) if not call.startswith("write"))
    ours = sorted(line.strip().partition(" = ")[0] for line in traced(work, calls=calls.split(","))
                  if not line.strip().startswith("child"))
    assert ours == theirs
    assert len(ours) == 5


@needs_userns
@with_strace
def test_a_failure_is_shown_with_its_likely_cause_and_names_replace(tmp_path: Path) -> None:
    def pivot(root: str) -> None:
        syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)
        syscalls.pivot_root(root, root)

    text = "\n".join(traced(pivot, str(tmp_path), names={str(tmp_path): "ROOT"}))
    assert 'pivot_root("ROOT", "ROOT") = EINVAL: Invalid argument\n' in text
    assert "The new root is not a mount point" in text
    assert "the function raised OSError" in text
    assert str(tmp_path) not in text


@with_strace
def test_only_the_function_is_watched(capsys: Any) -> None:
    lab.trace(lambda: None)
    assert capsys.readouterr().out == "no such system calls\n"
    assert traced(lambda: os.getppid(), calls=["getppid"])[0].startswith("getppid() = ")


def test_without_strace_one_line_says_so(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    lab.trace(work)
    assert capsys.readouterr().out == NOT_HERE + "\n"


def test_source_is_the_files_own(capsys: Any) -> None:
    lab.source(chroot.enter)
    title, _, code = capsys.readouterr().out.partition("\n\n")
    assert re.fullmatch(r"mycontainer/chroot\.py, \d+ lines", title)
    assert code.rstrip("\n") in Path(chroot.__file__).read_text()
    assert int(title.split()[1]) == len(code.rstrip("\n").splitlines())
    assert code.startswith("def enter(")
