"""Run a function in a process of its own: `run`, the decorator `child`, and `sh` for programs.

A notebook kernel has threads and must live on, so no cell may call unshare(2), chroot(2) or fork(2) in
it. `run` therefore ships the function (cloudpickle) to a fresh interpreter with one thread::

    the notebook's kernel          never touched
      └─ the keeper                adopts every orphan below it (PR_SET_CHILD_SUBREAPER), ends them all
           └─ the worker           calls the function; its output comes back through pipes
                └─ whatever the function forks

The keeper sleeps until the worker has ended, or until the *lifeline* breaks: a pipe whose other end only
the kernel holds, so a time-out, an interrupt and a SIGKILL of the kernel all look the same to it.

Nothing is imported once the root directory has changed: what Python would find then is a file of the
image, and it would run with all our rights.
"""

from __future__ import annotations

import errno
import functools
import inspect
import io
import linecache
import os
import pickle
import selectors
import shutil
import signal
import struct
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import CodeType, TracebackType
from typing import Any, NoReturn

from mycontainer import syscalls
from mycontainer.lab.result import Failure, Result

PR_SET_CHILD_SUBREAPER = 36
OUTPUT_LIMIT = 1 << 20  # bytes that we keep of each stream; the rest is counted and dropped
VALUE_LIMIT = 1 << 26   # bytes of a pickled return value
TIMEOUT = 20.0          # seconds
GRACE = 5.0             # seconds that the keeper has to end everything, before it is ended itself

_BOOT = """
import os, pickle, sys
payload, result, status, lifeline = map(int, sys.argv[1:])
with open(payload, "rb") as file:
    sys.path[:], lines, body = pickle.load(file)
from mycontainer.lab.child import _keep
_keep(body, lines, result, status, lifeline)
"""


class LabGone(Exception):
    """No program can be started: somebody has deleted what programs need to start."""

    def __str__(self) -> str:
        return "The programs of this lab are gone: Kernel → Restart Kernel."

    def _render_traceback_(self) -> list[str]:
        return [str(self)]  # all that a notebook shows of it


def run(function: Callable[..., Any], *args: Any, timeout: float = TIMEOUT, show: bool = False,
        **kwargs: Any) -> Result:
    """Call ``function(*args, **kwargs)`` in a process of its own and wait for it.

    ``timeout`` in seconds: after it the function and everything that it started is killed. ``show``
    prints its output. Returns a `Result`; an exception of the function is told in ``result.stderr`` and
    ``result.error`` and is not raised here. Raises TypeError if the function cannot be shipped.
    """
    result = _Running(_ship(function, args, kwargs)).wait(timeout)
    return result.show() if show else result


def child(function: Callable[..., Any]) -> Callable[..., Result]:
    """A decorator: each call of the function runs it in a process of its own and prints its output."""
    @functools.wraps(function)
    def in_a_child(*args: Any, **kwargs: Any) -> Result:
        return run(function, *args, show=True, **kwargs)
    return in_a_child


def sh(command: str | Sequence[str], *, timeout: float = TIMEOUT, show: bool = False) -> Result:
    """Run a program: a line for ``/bin/sh`` or a list of arguments. ``show`` prints its output.

    Returns a `Result`: exit code 127 means that there is no such program, 126 that it cannot be run.
    Inside a function that `run` runs, the program is a child of that function and shares its world.
    """
    argv = ["/bin/sh", "-c", command] if isinstance(command, str) else [str(part) for part in command]
    if not _in_worker:
        return run(_become, argv, timeout=timeout, show=show)
    pipe = subprocess.PIPE
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, timeout=timeout)
    except OSError as error:
        return Result(*_cannot_run(argv, error))
    result = _result(done.returncode, done.stdout, done.stderr)
    return result.show() if show else result


def _become(argv: list[str]) -> NoReturn:
    """Replace this process by a program."""
    try:
        os.execvp(argv[0], argv)
    except OSError as error:
        code, _, _, message = _cannot_run(argv, error)
        sys.stderr.write(message)
        sys.exit(code)


def _cannot_run(argv: list[str], error: OSError) -> tuple[int, None, str, str]:
    reason = error.strerror
    if "/" not in argv[0] and not shutil.which(argv[0]):  # a closed directory in PATH says something else
        reason = os.strerror(errno.ENOENT)
    code = 127 if reason == os.strerror(errno.ENOENT) else 126
    return code, None, "", f"cannot run {argv[0]}: {reason}\n"


# ── outside: the process that asks ───────────────────────────────────────────────────────────────────

def _ship(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    """Everything that the worker needs, as bytes: where modules are, the source lines, the call itself."""
    import cloudpickle

    try:
        body = cloudpickle.dumps((function, args, kwargs))
    except Exception as error:
        name = getattr(function, "__name__", repr(function))
        raise TypeError(f"cannot send {name} to a child process: {error}\n"
                        "It uses something that lives in this process only: make that inside it.") from None
    paths = [os.path.abspath(path) for path in sys.path]
    return pickle.dumps((paths, _source_lines(), body))


def _source_lines() -> dict[str, list[str]]:
    """The source of notebook cells, which is in no file: for the learner's tracebacks."""
    return {name: entry[2] for name, entry in list(linecache.cache.items())
            if len(entry) == 4 and _is_cell(name)}


class _Running:
    """A keeper with its worker, and what came back from them so far."""

    def __init__(self, payload: bytes) -> None:
        self.streams: dict[str, bytearray] = {}
        self.dropped = {"stdout": 0, "stderr": 0}
        result, result_end = os.pipe()
        status, status_end = os.pipe()
        lifeline, self.lifeline = os.pipe()
        file = os.memfd_create("function")
        theirs = (file, result_end, status_end, lifeline)
        try:
            with open(file, "wb", closefd=False) as memory:
                memory.write(payload)
            os.lseek(file, 0, os.SEEK_SET)  # the reader shares our position
            self.keeper = subprocess.Popen(
                [sys.executable, "-c", _BOOT, *map(str, theirs)], stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=theirs, start_new_session=True)
        except BaseException as problem:
            for fd in (result, status, self.lifeline):
                os.close(fd)
            if isinstance(problem, FileNotFoundError):  # not our own interpreter, or not its loader
                raise LabGone from None
            raise
        finally:
            for fd in theirs:
                os.close(fd)
        self.files: dict[str, Any] = {
            "result": os.fdopen(result, "rb", 0), "status": os.fdopen(status, "rb", 0),
            "stdout": self.keeper.stdout, "stderr": self.keeper.stderr}

    def wait(self, timeout: float) -> Result:
        """Until the keeper says that all is over, at most ``timeout`` seconds and a short grace."""
        late = False
        try:
            with selectors.DefaultSelector() as selector:
                for name, file in self.files.items():
                    os.set_blocking(file.fileno(), False)
                    selector.register(file, selectors.EVENT_READ, name)
                if late := not self._collect(selector, time.monotonic() + timeout):
                    self._cut()
                    self._collect(selector, time.monotonic() + GRACE)
        finally:
            self._cut()
            try:
                self.keeper.wait(GRACE)
            except subprocess.TimeoutExpired:
                self.keeper.kill()
                self.keeper.wait()
            for file in self.files.values():
                file.close()
        return self._judge(timeout if late else None)

    def _cut(self) -> None:
        """Break the lifeline: the keeper ends everything."""
        if self.lifeline >= 0:
            os.close(self.lifeline)
            self.lifeline = -1

    def _collect(self, selector: selectors.BaseSelector, deadline: float) -> bool:
        """Read all four pipes until the status came and they are empty; False if time ran out."""
        while selector.get_map():
            over = "status" in self.streams
            ready = selector.select(0 if over else max(0.0, deadline - time.monotonic()))
            for key, _ in ready:
                data = os.read(key.fd, 1 << 16)
                self._keep(key.data, data)
                if not data:
                    selector.unregister(key.fileobj)
                    if key.data == "status":
                        self.streams.setdefault("status", bytearray())
            if not ready:
                return over
        return True

    def _keep(self, name: str, data: bytes) -> None:
        kept = self.streams.setdefault(name, bytearray()) if data else bytearray()
        limit = OUTPUT_LIMIT if name in self.dropped else VALUE_LIMIT
        room = max(0, limit - len(kept))
        kept += data[:room]
        if name in self.dropped:
            self.dropped[name] += len(data) - len(data[:room])

    def _text(self, name: str) -> bytes:
        text = bytes(self.streams.get(name, b""))
        if more := self.dropped[name]:
            text += f"\n[{more} more bytes were not kept]\n".encode()
        return text

    def _judge(self, late: float | None) -> Result:
        """Put the pieces together."""
        status = bytes(self.streams.get("status", b""))
        value, error = None, None
        code = os.waitstatus_to_exitcode(struct.unpack("<i", status)[0]) if len(status) == 4 else -9
        if sent := self.streams.get("result"):
            try:
                value, error = pickle.loads(sent)
            except Exception as problem:
                code, error = 1, Failure("TypeError", f"the return value cannot be read here: {problem}")
        if late is not None:
            code, error = -9, Failure("TimeoutError", f"not finished after {late:g} seconds: ended")
        elif len(status) != 4 and error is None:
            error = Failure("ChildProcessError", "the process that watched over the function was killed")
        return _result(code, self._text("stdout"), self._text("stderr"), value, error)


def _result(code: int, stdout: bytes, stderr: bytes, value: Any = None,
            error: Failure | None = None) -> Result:
    """``code`` as subprocess has it: minus the signal's number if one ended the process."""
    return Result(128 - code if code < 0 else code, -code if code < 0 else None,
                  stdout.decode(errors="replace"), stderr.decode(errors="replace"), value, error)


# ── the keeper: adopts, waits, ends ──────────────────────────────────────────────────────────────────

def _keep(body: bytes, lines: dict[str, list[str]], result: int, status: int, lifeline: int) -> NoReturn:
    """The life of the keeper, from its first line to its exit."""
    syscalls.prctl(PR_SET_CHILD_SUBREAPER, 1)
    _prepare(lines)
    keeper = os.getpid()
    worker = os.fork()
    if worker == 0:  # the worker: in the world of the caller until the function changes that
        os.setpgid(0, 0)  # so that kill(0, …) in the function does not meet the keeper
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != keeper:
            os._exit(1)
        os.close(status)
        os.close(lifeline)
        _work(body, result)
    for fd in (1, 2, result):
        os.close(fd)
    pidfd = os.pidfd_open(worker)
    with selectors.DefaultSelector() as selector:
        selector.register(pidfd, selectors.EVENT_READ)
        selector.register(lifeline, selectors.EVENT_READ)
        selector.select()
    with suppress(ProcessLookupError):
        os.kill(worker, signal.SIGKILL)  # ended already, unless the lifeline broke
    ended = os.waitpid(worker, 0)[1]
    end_descendants()
    with suppress(BrokenPipeError):
        os.write(status, struct.pack("<i", ended))
    os._exit(0)


def end_descendants() -> None:
    """Kill every process below this one, and wait for each.

    This process must be a subreaper, so that whoever loses its parent becomes our child: setsid(2) and
    double forks do not help against that. Init of a PID namespace takes all of its processes along.
    """
    while True:
        for pid in descendants(os.getpid()):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT | os.WNOHANG)
            time.sleep(0.002)
        except ChildProcessError:
            return


def descendants(pid: int) -> list[int]:
    """All processes below ``pid``, nearest first, from the parents that /proc tells."""
    children: dict[int, list[int]] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
            parent = int(file.read().rpartition(b")")[2].split()[1])
            children.setdefault(parent, []).append(int(name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found[1:]


# ── the worker: one function, one thread, no imports once the root has changed ───────────────────────

_in_worker = False
_forked = False  # this process was forked by the function: it is not the worker itself


def _note_fork() -> None:
    global _forked
    _forked = _in_worker


os.register_at_fork(after_in_child=_note_fork)


class _RootGuard:
    """An import hook that refuses to load code from a root directory that is not the first one."""

    def __init__(self) -> None:
        self.root = self._here()

    @staticmethod
    def _here() -> tuple[int, int]:
        found = os.stat("/")
        return found.st_dev, found.st_ino

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name not in sys.builtin_module_names and self._here() != self.root:
            raise ImportError(f"not importing {name!r}: the root directory has changed, so this would load "
                              "code from inside the new root. Import it before.", name=name)


def _prepare(lines: dict[str, list[str]]) -> None:
    """Load whatever may be needed later, while the root is still the one we trust."""
    import cloudpickle

    for name in ("encodings.ascii", "encodings.latin_1", "tokenize"):  # what a traceback may ask for
        __import__(name)
    for name in ("chroot", "namespaces", "container"):  # and what a function may have named as a string
        with suppress(ImportError):
            __import__(f"mycontainer.{name}")
    cloudpickle.dumps((lambda: lines, Failure("", "")))  # its own late imports
    for name, text in lines.items():
        remember_source(name, text)
    sys.meta_path.insert(0, _RootGuard())  # type: ignore[arg-type]


def remember_source(name: str, lines: list[str]) -> None:
    """Let tracebacks show these lines; the None in it means: never compare them with a file."""
    linecache.cache[name] = (sum(map(len, lines)), None, lines, name)


def load(body: bytes) -> Any:
    """Unpack what `cloudpickle` packed, and remember the source of each function in it."""
    unpacked = pickle.loads(body)
    for part in unpacked if isinstance(unpacked, tuple) else (unpacked,):
        code = getattr(inspect.unwrap(part), "__code__", None) if callable(part) else None
        if code and (lines := linecache.getlines(code.co_filename)):
            remember_source(code.co_filename, lines)
    return unpacked


def _work(body: bytes, result: int) -> NoReturn:
    """Call the function and send its value or its failure; exits, never returns."""
    global _in_worker, _forked
    import cloudpickle

    _in_worker, _forked = True, False
    os.environ.pop("MYCONTAINER_LAB_FD", None)  # a number that means nothing in this process
    os.register_at_fork(before=_flush)  # or both would write what is still in the buffer
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)

    def call() -> Any:
        function, args, kwargs = load(body)
        return function(*args, **kwargs)

    code, value, error = attempt(call)
    try:
        sent = cloudpickle.dumps((value, error))
        if len(sent) > VALUE_LIMIT:
            raise ValueError(f"more than {VALUE_LIMIT >> 20} MiB")
    except Exception as problem:
        kind = type(value).__name__
        error = Failure("TypeError", f"the return value (a {kind}) cannot be sent back: {problem}")
        sys.stderr.write(f"{error}\n")
        code, sent = 1, cloudpickle.dumps((None, error))
    _flush()
    with open(result, "wb") as pipe:
        pipe.write(sent)
    os._exit(code)


def begin() -> None:
    """This process is now the one whose function counts: for a fork that takes a worker's place."""
    global _forked
    _forked = False


def attempt(call: Callable[[], Any], quiet: tuple[type[BaseException], ...] = ()
            ) -> tuple[int, Any, Failure | None]:
    """Call it; returns exit code, value and failure. A failure's traceback goes to standard error.

    Of a failure that is one of ``quiet`` nothing is written.

    A process that the function forked does not come back from here: it has no business with what
    follows, so it ends, with exit code 1 and a word on why.
    """
    code, value, error = 0, None, None
    try:
        value = call()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
    except BaseException as problem:
        code, error = 1, failure(problem)
        if not isinstance(problem, quiet):
            sys.stderr.write(error.told)
    else:
        if _forked:
            code = 1
            sys.stderr.write("A forked child came back from the function, as its parent will too: "
                             "end it with os._exit() or an exec.\n")
    if _forked:
        _flush()
        os._exit(code & 0xFF)
    return code & 0xFF, value, error


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()


# ── telling a failure: the learner's lines, not ours ─────────────────────────────────────────────────

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
_LIBRARY = os.path.dirname(os.path.abspath(os.__file__)) + os.sep


def failure(problem: BaseException) -> Failure:
    """The exception as plain data."""
    number = problem.errno if isinstance(problem, OSError) else None
    return Failure(type(problem).__name__, str(problem), number, tuple(getattr(problem, "__notes__", ())),
                   tell(problem))


def tell(problem: BaseException) -> str:
    """A traceback that shows the learner's own lines, and of our code nothing but what it says."""
    text = ""
    before = problem.__cause__ or (None if problem.__suppress_context__ else problem.__context__)
    if before is not None:
        text = tell(before) + "\nthen:\n"
    frames = _frames(problem.__traceback__)
    if frames:
        text += "Traceback (most recent call last):\n"
    for code, number in frames:
        text += f"  {_place(code.co_filename)}, line {number}, in {code.co_name}\n"
        entry = linecache.cache.get(code.co_filename, ())  # not from files: the root may be another now
        if len(entry) == 4 and number <= len(entry[2]):
            text += f"    {entry[2][number - 1].strip()}\n"
    return text + "".join(traceback.TracebackException(type(problem), problem, None).format_exception_only())


def _frames(trace: TracebackType | None) -> list[tuple[CodeType, int]]:
    every = []
    while trace is not None:
        every.append((trace.tb_frame.f_code, trace.tb_lineno))
        trace = trace.tb_next
    learners = [frame for frame in every if _is_learners(frame[0].co_filename)]
    return learners or [frame for frame in every if "/lab/" not in frame[0].co_filename]


def _is_cell(name: str) -> bool:
    return name.startswith("<ipython-input-") or "/ipykernel_" in name


def _is_learners(name: str) -> bool:
    return not (is_ours(name) or name.startswith((_PACKAGE, _LIBRARY, "<frozen")) or "-packages/" in name)


def is_ours(name: str) -> bool:
    """Whether code from this file is the project's; wrong solutions, which exercises hold, are not."""
    return name.startswith(_PACKAGE) and not name.startswith(_PACKAGE + "lab/exercises/")


def _place(name: str) -> str:
    if _is_cell(name):
        return "your cell"
    return os.path.relpath(name, os.path.dirname(_PACKAGE[:-1])) if name.startswith(_PACKAGE) else name
