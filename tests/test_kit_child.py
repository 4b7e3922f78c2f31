"""lab.run, @lab.child and lab.sh: a function in a process of its own, and nothing left of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mycontainer import lab, syscalls
from needs import needs_module, needs_userns

pytestmark = needs_module("cloudpickle")
IN_A_WORLD = syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


def gone(pid: int, seconds: float = 5.0) -> bool:
    end = time.monotonic() + seconds
    while alive(pid) and time.monotonic() < end:
        time.sleep(0.01)
    return not alive(pid)


def into_an_empty_root(root: str) -> None:
    """Root of a user namespace, in an empty root directory that is all there is."""
    syscalls.unshare(IN_A_WORLD)
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    syscalls.mount("tmpfs", root, "tmpfs")
    syscalls.chdir(root)
    syscalls.pivot_root(".", ".")
    syscalls.umount2(".", syscalls.MNT_DETACH)


# ── results ──────────────────────────────────────────────────────────────────────────────────────────

def test_value_and_output_come_back() -> None:
    def work(a: int, b: int = 0) -> dict[str, int]:
        print("out", a)
        print("err", b, file=sys.stderr)
        return {"sum": a + b, "pid": os.getpid()}

    result = lab.run(work, 2, b=3)
    assert result
    assert (result.exit_code, result.signal, result.error) == (0, None, None)
    assert (result.stdout, result.stderr, result.value["sum"]) == ("out 2\n", "err 3\n", 5)
    assert result.value["pid"] != os.getpid()


def test_the_worker_has_one_thread_and_reads_nothing() -> None:
    threads, read = lab.run(lambda: (len(os.listdir("/proc/self/task")), sys.stdin.read())).value
    assert (threads, read) == (1, "")


def test_no_descriptor_of_the_caller_is_in_there() -> None:
    secret = os.open("/etc/passwd", os.O_RDONLY)
    os.set_inheritable(secret, True)
    try:
        links = lab.run(lambda: [os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
                                 if os.path.exists(f"/proc/self/fd/{fd}")]).value
    finally:
        os.close(secret)
    assert "/etc/passwd" not in links


@pytest.mark.parametrize(("end", "code", "number"), [
    (lambda: sys.exit(3), 3, None), (lambda: sys.exit(), 0, None), (lambda: sys.exit("no"), 1, None),
    (lambda: os._exit(7), 7, None), (lambda: os.kill(os.getpid(), signal.SIGTERM), 143, 15),
    (lambda: os.abort(), 134, 6)])
def test_exit_codes_are_a_shells(end: Callable[[], Any], code: int, number: int | None) -> None:
    result = lab.run(end)
    assert (result.exit_code, result.signal) == (code, number)
    assert not result or code == 0


def test_the_repr_is_short_and_does_not_vary() -> None:
    def work() -> int:
        print(os.getpid())
        return 3

    assert repr(lab.run(work)) == "Result(exit_code=0, stdout=<1 line>, value=3)"
    assert repr(lab.sh("kill -9 $$")) == "Result(exit_code=137, signal=SIGKILL)"
    assert repr(lab.run(lambda: 1 / 0)) == "Result(exit_code=1, stderr=<4 lines>, error=ZeroDivisionError)"


def test_child_prints_and_returns(capsys: pytest.CaptureFixture[str]) -> None:
    @lab.child
    def greet(name: str) -> int:
        """Says hello."""
        print("to stderr first", file=sys.stderr)
        print("hello", name)
        return 1

    assert greet("you").value == 1
    assert greet.__doc__ == "Says hello."
    written = capsys.readouterr()
    assert (written.out, written.err) == ("hello you\n", "to stderr first\n")


def test_what_cannot_be_shipped_is_said() -> None:
    lock = threading.Lock()
    with pytest.raises(TypeError, match="cannot send"):
        lab.run(lambda: lock)
    result = lab.run(lambda: (n for n in range(3)))
    assert result.error is not None
    assert "a generator) cannot be sent back" in result.error.message
    assert result.exit_code == 1


def test_output_is_bounded() -> None:
    def pour() -> str:
        for _ in range(300):
            os.write(1, b"x" * 65536)
        return "through"

    result = lab.run(pour)
    assert result.value == "through"
    assert len(result.stdout) < (1 << 20) + 100
    assert result.stdout.rstrip().endswith("18612224 more bytes were not kept]")


def test_a_large_value_comes_through() -> None:
    assert lab.run(lambda: b"x" * (8 << 20)).value == b"x" * (8 << 20)
    too_large = lab.run(lambda: bytes(65 << 20))
    assert too_large.error is not None
    assert "more than 64 MiB" in too_large.error.message


def test_many_at_once_do_not_mix() -> None:
    results: dict[int, Any] = {}

    def one(n: int) -> None:
        results[n] = lab.run(lambda: print(n) or n)  # type: ignore[func-returns-value]

    threads = [threading.Thread(target=one, args=(n,)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {n: (r.value, r.stdout) for n, r in results.items()} == {n: (n, f"{n}\n") for n in range(6)}


# ── failures ─────────────────────────────────────────────────────────────────────────────────────────

@needs_userns
def test_a_failure_shows_the_learners_lines_and_the_likely_cause() -> None:
    def work() -> None:
        syscalls.unshare(IN_A_WORLD)
        syscalls.pivot_root("/nowhere", "/")

    result = lab.run(work)
    assert "pivot_root(\"/nowhere\"" in result.stderr.splitlines()[-1]
    assert "in work\n    syscalls.pivot_root" in result.stderr
    assert "syscalls.py" not in result.stderr
    assert "lab/child.py" not in result.stderr
    assert result.error is not None
    assert (result.error.kind, result.error.errno) == ("FileNotFoundError", 2)
    denied = lab.run(lambda: syscalls.setns(os.open("/proc/self/ns/user", os.O_RDONLY)))
    assert denied.error is not None
    assert "Already in that user namespace" in denied.error.notes[0]
    assert "Already in that user namespace" in denied.stderr


@needs_userns
def test_a_failure_in_an_empty_root_is_told_in_full(tmp_path: Path) -> None:
    def work(root: str) -> None:
        into_an_empty_root(root)
        print(sorted(os.listdir("/")))
        os.environ["é"]

    result = lab.run(work, str(tmp_path))
    assert result.stdout == "[]\n"
    assert 'os.environ["é"]' in result.stderr
    assert result.stderr.endswith("KeyError: 'é'\n")


@needs_userns
def test_nothing_is_imported_from_another_root(tmp_path: Path) -> None:
    """A module that the image plants where ours would be must not run."""
    root = tmp_path / "root"
    library = os.path.dirname(os.__file__)
    (root / library.lstrip("/")).mkdir(parents=True)
    for name in ("traceback", "wave", "encodings", "linecache"):
        (root / library.lstrip("/") / f"{name}.py").write_text("import os; os.write(1, b'PLANTED')\n")

    def work(root: str) -> None:
        syscalls.unshare(IN_A_WORLD)
        os.chroot(root)
        os.chdir("/")
        print("é".encode("latin-1"))
        import wave  # noqa: F401

    result = lab.run(work, str(root))
    assert "PLANTED" not in result.stdout + result.stderr
    assert result.error is not None
    assert "the root directory has changed" in result.error.message


def test_chained_failures_are_told_in_order() -> None:
    def work() -> None:
        try:
            os.environ["FIRST"]
        except KeyError as error:
            raise ValueError("second") from error

    lines = lab.run(work).stderr
    assert lines.index("KeyError: 'FIRST'") < lines.index("then:") < lines.index("ValueError: second")


# ── forks ────────────────────────────────────────────────────────────────────────────────────────────

def forks(leave: Callable[[], Any], flags: int = 0) -> Any:
    """A function that forks; the child does ``leave()`` and the parent tells how it ended."""
    def work() -> tuple[int, int]:
        print("before", end=" ")
        if flags:
            syscalls.unshare(flags)
        pid = os.fork()
        if pid == 0:
            print("in the child", os.getpid() == 1)
            leave()
            return 0, 0
        return pid, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return work


@pytest.mark.parametrize("flags", [0, pytest.param(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWPID,
                                                   marks=needs_userns)], ids=["same pids", "as pid 1"])
def test_a_forked_child_that_raises_ends_there(flags: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)  # or there is no buffer that both could write
    result = lab.run(forks(lambda: 1 / 0, flags))
    assert result.value[1] == 1
    assert result.stdout == f"before in the child {flags > 0}\n", "written once, by one process"
    assert result.stderr.count("ZeroDivisionError") == 1
    assert result.exit_code == 0


@pytest.mark.parametrize("flags", [0, pytest.param(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWPID,
                                                   marks=needs_userns)], ids=["same pids", "as pid 1"])
def test_a_forked_child_that_returns_ends_there(flags: int) -> None:
    result = lab.run(forks(lambda: None, flags))
    assert result.value[1] == 1
    assert "end it with os._exit()" in result.stderr


def test_a_forked_child_may_exit_as_it_likes() -> None:
    assert lab.run(forks(lambda: sys.exit(5))).value[1] == 5
    assert lab.run(forks(lambda: os._exit(6))).value[1] == 6


# ── the end ──────────────────────────────────────────────────────────────────────────────────────────

def report(path: str) -> None:
    """Write down the pid that this process has on the test's side (where /proc is mounted for)."""
    with open(path, "a") as file:
        file.write(f"{os.readlink('/proc/self')}\n")


def runaways(path: str, wait: bool) -> None:
    """Children of every sort that want to outlive us: plain, own session, twice forked, stubborn."""
    report(path)
    for sort in ("plain", "session", "twice", "stubborn"):
        if os.fork() == 0:
            if sort in ("session", "twice"):
                os.setsid()
            if sort == "twice" and os.fork():
                os._exit(0)
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
            report(path)
            while True:
                time.sleep(100)
    while len(Path(path).read_text().split()) < 5 or wait:
        time.sleep(0.01)


def pids_in(path: Path, count: int) -> list[int]:
    end = time.monotonic() + 10
    while not path.exists() or len(path.read_text().split()) < count:
        assert time.monotonic() < end, "they did not start"
        time.sleep(0.01)
    return [int(pid) for pid in path.read_text().split()]


@pytest.mark.parametrize("wait", [False, True], ids=["returned", "timed out"])
def test_nothing_outlives_the_call(tmp_path: Path, wait: bool) -> None:
    result = lab.run(runaways, str(tmp_path / "pids"), wait, timeout=1.5 if wait else 20)
    pids = pids_in(tmp_path / "pids", 5)
    assert not any(alive(pid) for pid in pids)
    assert (result.error.kind if result.error else None) == ("TimeoutError" if wait else None)
    assert (result.exit_code, result.signal) == ((137, 9) if wait else (0, None))


@needs_userns
def test_other_pid_namespaces_are_taken_along(tmp_path: Path) -> None:
    def work(path: str) -> None:
        syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWPID)
        if os.fork() == 0:  # PID 1
            for _ in range(2):
                if os.fork() == 0:
                    os.setsid()
                    report(path)
                    time.sleep(1000)
            report(path)
            time.sleep(1000)
        while len(Path(path).read_text().split() if os.path.exists(path) else []) < 3:
            time.sleep(0.01)

    assert lab.run(work, str(tmp_path / "pids")).exit_code == 0
    assert not any(alive(pid) for pid in pids_in(tmp_path / "pids", 3))


def test_killing_the_notebook_kernel_leaves_nothing(tmp_path: Path) -> None:
    script = f"""
        import sys
        sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parent.parent)]!r}
        import test_kit_child
        from mycontainer import lab
        lab.run(test_kit_child.runaways, {str(tmp_path / 'pids')!r}, True, timeout=100)
    """
    kernel = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)])
    pids = pids_in(tmp_path / "pids", 5)
    assert all(alive(pid) for pid in pids)
    kernel.kill()
    kernel.wait()
    assert all(gone(pid) for pid in pids)


def test_an_interrupt_ends_the_child(tmp_path: Path) -> None:
    threading.Timer(1.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        lab.run(runaways, str(tmp_path / "pids"), True, timeout=100)
    assert not any(alive(pid) for pid in pids_in(tmp_path / "pids", 5))


def test_signals_to_the_own_group_stay_in_there() -> None:
    result = lab.run(lambda: os.kill(0, signal.SIGKILL))
    assert (result.exit_code, result.signal, result.error) == (137, 9, None)


def test_killing_the_keeper_is_told() -> None:
    result = lab.run(lambda: os.kill(os.getppid(), signal.SIGKILL) or time.sleep(5))  # type: ignore[func-returns-value]
    assert result.error is not None
    assert result.error.kind == "ChildProcessError"


# ── programs ─────────────────────────────────────────────────────────────────────────────────────────

def test_programs_run_from_a_line_or_a_list() -> None:
    assert lab.sh("echo $((1 + 2)); exit 4").stdout == "3\n"
    assert lab.sh("exit 4").exit_code == 4
    assert lab.sh(["echo", "$HOME; a b"]).stdout == "$HOME; a b\n"


def test_programs_that_cannot_run_have_a_shells_codes(tmp_path: Path) -> None:
    missing = lab.sh(["no-such-program"])
    assert missing.exit_code == 127
    assert missing.stderr == "cannot run no-such-program: No such file or directory\n"
    (tmp_path / "plain").write_text("")
    assert lab.sh([str(tmp_path / "plain")]).exit_code == 126


@needs_userns
def test_inside_a_function_sh_shares_its_world() -> None:
    def work() -> tuple[str, int]:
        syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWUTS)
        syscalls.sethostname("box")
        return lab.sh("uname -n").stdout, lab.sh(["nope"]).exit_code

    assert lab.run(work).value == ("box\n", 127)


def test_sh_times_out() -> None:
    started = time.monotonic()
    result = lab.sh("sleep 100 & sleep 100", timeout=0.5)
    assert result.error is not None
    assert time.monotonic() - started < 4
