"""What a function asks of the kernel: its system calls, watched by strace(1), in a list one can read.

strace is attached to a process that then does nothing but call the function, so the interpreter's own
start is not in the list. Each process writes a file of its own (-ff), which keeps its calls in order; the
files are shown one after the other, so the list does not depend on who was faster.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mycontainer import syscalls
from mycontainer.errors import likely_cause
from mycontainer.lab.child import TIMEOUT, attempt, begin, load, run
from mycontainer.lab.display import show
from mycontainer.lab.result import Result

PR_SET_PTRACER = 0x59616D61  # the letters "Yama": the security module that asks for it
PR_SET_PTRACER_ANY = -1

# What a container is made of. The ? lets strace skip what it, or this architecture, does not know.
CALLS = ("unshare", "setns", "clone", "clone3", "fork", "vfork", "execve",
         "mount", "umount2", "pivot_root", "chroot", "chdir", "fchdir", "sethostname", "mknod", "mknodat",
         "openat2", "open_tree", "move_mount", "mount_setattr", "symlink", "symlinkat",
         "setuid", "setgid", "setgroups", "setresuid", "setresgid")
NOT_HERE = "strace is not installed here, so there is no list of system calls (Debian package: strace)."


def trace(function: Callable[..., Any], *args: Any, calls: Iterable[str] | None = None,
          names: Mapping[str, str] | None = None, **kwargs: Any) -> None:
    """Run a function in a process of its own and show which system calls it made.

    ``calls`` are the ones to show (`CALLS`: those that containers are made of). ``names`` replaces texts
    that differ from run to run, as ``{root: "ROOT"}``. Pids are shown as "child 1", pointers not at all.
    """
    lines = traced(function, *args, calls=calls, names=names, **kwargs)
    show("\n".join(lines) if lines else "no such system calls")


def traced(function: Callable[..., Any], *args: Any, calls: Iterable[str] | None = None,
           names: Mapping[str, str] | None = None, **kwargs: Any) -> list[str]:
    """The lines that `trace` shows."""
    import cloudpickle

    if not shutil.which("strace"):
        return [NOT_HERE]
    wanted = set(CALLS if calls is None else calls)
    watched = ",".join(f"?{name}" for name in sorted({*wanted, *_FORKS}))  # forks tell whose child is whose
    result = run(_watch, cloudpickle.dumps((function, args, kwargs)), watched, timeout=TIMEOUT)
    if not isinstance(result.value, dict):
        return [f"strace cannot watch here: {_reason(result)}"]
    lines = _Listing(wanted, result.value["first"], result.value["files"]).lines()
    if trouble := result.value["error"]:
        lines.append(f"the function raised {trouble}")
    for text, name in (names or {}).items():
        lines = [line.replace(text, name) for line in lines]
    return lines


def _reason(result: Result) -> str:
    return str(result.error or "") or (result.stderr.strip().splitlines() or ["no reason given"])[-1]


# ── in a process of its own: the function, with strace beside it ─────────────────────────────────────

def _watch(body: bytes, watched: str) -> dict[str, Any]:
    """Fork the function's process, attach strace to it, let it go, and collect what strace wrote."""
    go, go_end = os.pipe()
    outcome, outcome_end = os.pipe()
    with tempfile.TemporaryDirectory() as directory:
        target = os.fork()
        if target == 0:  # the function's process: waits until it is watched
            begin()
            with suppress(OSError):  # where Yama does not ask for it
                syscalls.prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY)
            _be_watched(body, go, outcome_end)
        os.close(outcome_end)
        os.read(outcome, 1)  # it has loaded the function, and what that imports is not watched
        strace = os.fork()
        if strace == 0:  # strace, a sibling of what it watches
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            os.execvp("strace", ["strace", "-ff", "-ttt", "-q", "-s", "200", "--decode-pids=pidns",
                                 "-e", f"trace={watched}", "-e", "signal=none",
                                 "-o", f"{directory}/calls", "-p", str(target)])
        _until_watched(target, strace)
        os.write(go_end, b"g")
        with open(outcome) as pipe:
            error = pipe.read()
        os.waitpid(target, 0)
        _let_finish(strace)
        files = {int(path.suffix[1:]): path.read_text(errors="replace") for path in Path(directory).iterdir()}
    return {"first": target, "files": files, "error": error}


def _be_watched(body: bytes, go: int, outcome: int) -> None:
    function, args, kwargs = load(body)
    os.write(outcome, b"r")
    os.read(go, 1)
    _, _, error = attempt(lambda: function(*args, **kwargs), quiet=(Exception,))
    if error:
        os.write(outcome, str(error).encode())
    os._exit(0)


def _until_watched(target: int, strace: int) -> None:
    """Until the kernel says that strace has attached; ChildProcessError if it gives up instead."""
    while True:
        with open(f"/proc/{target}/status") as status:
            if f"TracerPid:\t{strace}\n" in status.read():
                return
        if os.waitpid(strace, os.WNOHANG)[0]:
            os.kill(target, signal.SIGKILL)
            raise ChildProcessError("it could not attach (ptrace is refused)")
        time.sleep(0.002)


def _let_finish(strace: int, seconds: float = 1.0) -> None:
    """strace ends with the last process that it watches; one that lives on is not waited for."""
    deadline = time.monotonic() + seconds
    while not os.waitpid(strace, os.WNOHANG)[0]:
        if time.monotonic() > deadline:
            os.kill(strace, signal.SIGTERM)
            os.waitpid(strace, 0)
            return
        time.sleep(0.002)


# ── from strace's lines to ours ──────────────────────────────────────────────────────────────────────

_LINE = re.compile(r"^(?P<time>\d+\.\d+) (?P<call>\w+)\((?P<arguments>.*)\)\s+= (?P<result>.*)$")
_FORKS = ("clone", "clone3", "fork", "vfork")
_BOOKKEEPING = ("CLONE_CHILD_CLEARTID", "CLONE_CHILD_SETTID", "CLONE_PARENT_SETTID")  # the C library's


class _Listing:
    """The calls of a process, and below it those of its children in the order in which they were born."""

    def __init__(self, wanted: set[str], first: int, files: dict[int, str]) -> None:
        self.wanted, self.first, self.files = wanted, first, files
        self.orphans = sorted((pid for pid in files if pid != first), key=lambda pid: files[pid][:30])

    def lines(self) -> list[str]:
        return self._of(self.first, "")

    def _of(self, pid: int, role: str) -> list[str]:
        shown: list[str] = []
        born: list[tuple[int, str]] = []
        for line in self.files.get(pid, "").splitlines():
            match = _LINE.match(line)
            if not match:
                continue
            call, arguments, result = match["call"], match["arguments"], match["result"]
            if call in _FORKS and result.split()[0].isdigit():
                number = f"{role}.{len(born) + 1}" if role else str(len(born) + 1)
                born.append((self._adopt(result, match["time"]), number))
                result = f"child {number}"
            if call == "execve" and shown and _is_search(shown[-1], arguments):
                shown.pop()
            if call in self.wanted:
                shown.append(_tidy(call, arguments, result))
        for child, number in born:
            below = self._of(child, number)
            if below:
                shown += [f"child {number}:", *(f"    {line}" for line in below)]
        return shown

    def _adopt(self, result: str, time: str) -> int:
        """The child's pid as strace sees it: fork returns it as the parent's PID namespace does."""
        told = re.search(r"(\d+) in strace's PID NS", result)
        pid = int(told[1] if told else result.split()[0])
        if pid not in self.orphans:  # strace could not tell: the next that was born after the call
            pid = next((one for one in self.orphans if self.files[one][:len(time)] >= time), 0)
        if pid:
            self.orphans.remove(pid)
        return pid


def _tidy(call: str, arguments: str, result: str) -> str:
    """One line: no pointers, no bookkeeping, the errno with its meaning."""
    parts = [part for part in _split(arguments) if not _is_noise(part)]
    if call in _FORKS:
        flags = next((part for part in parts if "SIGCHLD" in part or "CLONE_" in part), "")
        parts = ["|".join(flag for flag in re.findall(r"\w+", flags.partition("=")[2] or flags)
                          if flag not in _BOOKKEEPING)]
        call = "clone" if call == "clone3" else call
    text = f"{call}({', '.join(part for part in parts if part)})"
    failed = re.match(r"-1 (E\w+) \((.*)\)", result)
    if failed:
        return f"{text} = {failed[1]}: {failed[2]}{_because(call, failed[1])}"
    return text if result.split()[0] in ("0", "?") else f"{text} = {result.partition(' (')[0]}"


def _because(call: str, name: str) -> str:
    import errno

    cause = likely_cause(call, getattr(errno, name, 0))
    return f"\n      {cause}" if cause else ""


def _is_noise(part: str) -> bool:
    pointer = re.search(r"(^|=)0x[0-9a-f]{6,}", part)
    return bool(pointer) or part.endswith("vars */") or part == "child_stack=NULL"


def _is_search(before: str, arguments: str) -> bool:
    """Whether the exec before this one was the same program, looked for in another directory of PATH."""
    missed = re.match(r'execve\("(?:.*/)?([^/"]+)", .* = (?:ENOENT|EACCES)', before)
    return bool(missed) and f'/{missed[1]}"' in _split(arguments)[0]  # type: ignore[index]


def _split(arguments: str) -> list[str]:
    """At the commas that are outside of quotes and brackets."""
    parts, depth, quoted, escaped = [""], 0, False, False
    for letter in arguments:
        if letter == '"' and not escaped:
            quoted = not quoted
        escaped = letter == "\\" and not escaped
        depth += 0 if quoted else (letter in "[{(") - (letter in "]})")
        if letter == "," and not quoted and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]
