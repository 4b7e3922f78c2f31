"""The supervisor: the process that stays with a detached container, until its end.

    the caller           `mycontainer run -d`: waits until the command runs, and goes home
    └── (in between)     leaves the caller's session and ends, so that nobody has to wait for us
        └── the supervisor   writes the log and the exit code, removes the cgroup
            └── the runner       see spawn.py, as for any container
                └── PID 1

One for each container. When it is killed, the runner hears of it and takes PID 1 along; state.py tells
what is left to clear up then. man 3 daemon.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Callable
from contextlib import suppress

from mycontainer import syscalls
from mycontainer.engine import log
from mycontainer.engine.state import Record
from mycontainer.errors import ContainerError, explain
from mycontainer.spawn import Process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import FrameType

RUNS = b"runs"  # what the caller hears; otherwise exit code, what, reason and hint of an error
PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


def detach(record: Record, start: Callable[[], Process]) -> None:
    """Start a container under a supervisor of its own, and return when its command runs.

    ``start`` is called there, and tells the record what runs. Raises the ContainerError that it met.
    """
    hear, tell = os.pipe()
    child = os.fork()
    if child == 0:  # outside, in between
        try:
            os.setsid()
            if os.fork() == 0:  # outside, the supervisor
                _supervise(record, start, tell)
        finally:
            os._exit(0)
    os.close(tell)
    record.let_go()
    os.waitpid(child, 0)
    said = os.read(hear, select.PIPE_BUF)  # one write is one read; an end of file if it was killed before
    os.close(hear)
    if said != RUNS:
        code, what, reason, hint = [*said.decode(errors="surrogateescape").split("\t"), "", "", ""][:4]
        if not what:
            raise ContainerError("cannot start the container", "somebody killed its supervisor")
        raise ContainerError(what, reason, hint, int(code))


def _supervise(record: Record, start: Callable[[], Process], tell: int) -> None:
    process: Process | None = None
    ourselves = os.getpid()

    def pass_on(number: int, _: FrameType | None) -> None:
        if process and os.getpid() == ourselves:  # not in a child that we have just forked
            process.kill(number)

    for number in PASSED_ON:  # a handler and not SIG_IGN, which would outlive exec in the container
        signal.signal(number, pass_on)
    try:
        sources = _arrange_descriptors(record.lock, tell)
        writer = log.Writer(record.path)
        process = start()
        _let_go_of_output()
    except BaseException as error:
        record.remove()
        _tell_failure(tell, error)
        return
    with suppress(OSError):  # the caller may be gone: the container runs, and is listed
        os.write(tell, RUNS)
    os.close(tell)
    writer.collect(sources, os.pidfd_open(process.runner))
    record.ended(process.wait())


def _arrange_descriptors(*kept: int) -> dict[int, bytes]:
    """No input, pipes for the output, and of what the caller had open only ``kept``.

    Returns our ends of the pipes: descriptor to the name of its stream.
    """
    os.chdir("/")  # or the caller's directory could not be unmounted
    nothing = os.open(os.devnull, os.O_RDWR)
    (out, to_out), (err, to_err) = os.pipe(), os.pipe()
    for at, fd in enumerate((nothing, to_out, to_err)):
        os.dup2(fd, at)
    before = 2
    for fd in sorted((*kept, out, err)):
        if fd > before + 1:
            syscalls.close_range(before + 1, fd - 1, 0)
        before = fd
    syscalls.close_range(before + 1, 0x7FFFFFFF, 0)
    return {out: log.STDOUT, err: log.STDERR}


def _let_go_of_output() -> None:
    """Close our copies of the container's output: as long as they are open, it does not end for us."""
    nothing = os.open(os.devnull, os.O_RDWR)
    for at in (1, 2):
        os.dup2(nothing, at)
    os.close(nothing)


def _tell_failure(tell: int, error: BaseException) -> None:
    told = error if isinstance(error, ContainerError) else explain("cannot start the container", error)
    words = (str(told.exit_code), told.what, told.reason, told.hint)
    with suppress(OSError):
        text = "\t".join(" ".join(word.split()) for word in words).encode(errors="surrogateescape")
        os.write(tell, text[:select.PIPE_BUF])
