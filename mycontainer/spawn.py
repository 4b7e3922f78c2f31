"""How a container's first process comes to be.

Three processes take part, and a comment at each fork says which one goes on:

    outside          the caller: writes the id maps, waits, ends the others if it must
    └── the runner   in the new namespaces, but with a pid out here (unshare moves only children to a new
        │            PID namespace); it stays to tell how PID 1 ended
        └── PID 1    in all of them: builds its root directory, then becomes the command
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from mycontainer import namespaces, syscalls
from mycontainer.errors import EXIT_OURS, ContainerError, explain, explain_exec
from mycontainer.namespaces import IdMap

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# What the three tell each other, over two pipes. When the command runs, exec has closed the last end.
UNSHARED = "unshared"  # runner to outside: the namespaces are made, write the maps
MAPPED = b"m"          # outside to runner: done
BORN = "born"          # runner to outside: PID 1 has this pid on your side
GO = b"g"              # outside to both: I hold a pidfd of it, go on
FAILED = "failed"      # runner or PID 1 to outside: exit code, what, reason, hint
NOTHING: Mapping[str, Callable[[int], object]] = {}
_ends: list[int] = []  # in PID 1: its ends of the two


class Process:
    """A container that runs: ``pid`` is its PID 1 as seen from here."""

    def __init__(self, pid: int, runner: int) -> None:
        self.pid, self.runner, self.pidfd = pid, runner, os.pidfd_open(pid)
        self.at_end: Callable[[], object] = lambda: None  # what `wait` does last: to remove a cgroup, ...

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Signal PID 1. A pidfd never hits a stranger to whom the same pid was given later."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.pidfd, number)

    def wait(self) -> int:
        """Wait for the end and return the exit code: 128 + N if signal N ended it."""
        try:
            code = os.waitstatus_to_exitcode(os.waitpid(self.runner, 0)[1])
        finally:  # also when we are interrupted, or somebody killed the runner
            self.kill()
            self.at_end()
        os.close(self.pidfd)
        return code if code >= 0 else 128 - code


def spawn(inside: Callable[[], None], kinds: Sequence[str], uid_map: IdMap, gid_map: IdMap,
          outside: Callable[[int], None] = lambda pid: None, *, first: Callable[[], object] = lambda: None,
          meetings: Mapping[str, Callable[[int], object]] = NOTHING) -> Process:
    """Fork the runner and PID 1, which calls ``inside``; returns when that is a command, or has ended.

    The *thread* that calls us is their parent: they end with it (man 2 prctl, PR_SET_PDEATHSIG). When PID 1
    waits in its namespaces, we call ``outside`` with its pid: to put it into a cgroup, or to plug in its
    network. Out here the others are nobody, who may not. ``first`` is the runner's, for namespaces to join,
    and ``meetings`` are more that we do out here: when `UNSHARED`, and at each word that PID 1 says (`meet`).
    """
    orders, order = os.pipe()
    news, tell = os.pipe()
    runner = os.fork()
    if runner == 0:  # the runner
        _to_the_end(tell, lambda: _runner(inside, kinds, first, orders, order, tell))
    os.close(orders)
    os.close(tell)
    process = None
    try:
        with open(news, errors="surrogateescape") as lines:
            for word, *rest in (line.rstrip("\n").split("\t") for line in lines):
                if word == UNSHARED:
                    if "user" in kinds:
                        namespaces.write_map(runner, uid_map, gid_map)
                    meetings.get(word, int)(runner)
                    os.write(order, MAPPED)
                elif word == BORN:
                    process = Process(int(rest[0]), runner)
                    outside(process.pid)
                    os.write(order, GO + GO)
                elif process and word in meetings:
                    meetings[word](process.pid)
                    os.write(order, GO)
                else:
                    raise ContainerError(rest[1], rest[2], rest[3], int(rest[0]))
        if process is None:
            raise ContainerError("cannot start the container", "somebody killed it on the way")
    except BaseException:
        os.close(order)  # whoever waits for an order will not get it, and ends
        os.kill(runner, signal.SIGTERM)
        process.wait() if process else os.waitpid(runner, 0)
        raise
    os.close(order)
    return process


def _runner(inside: Callable[[], None], kinds: Sequence[str], first: Callable[[], object],
            orders: int, order: int, tell: int) -> int:
    """Make the namespaces, fork PID 1 into them; returns how it ended."""
    os.setpgid(0, 0)  # what is sent to the caller's group, as Ctrl-C is, is the caller's to pass on
    os.close(order)  # so that the death of the outside ends our waiting for it
    first()
    namespaces.create({*kinds} - {"cgroup"})
    _say(tell, UNSHARED)
    _await(orders, MAPPED)
    if "user" in kinds:
        namespaces.become_root()
    child = os.fork()
    if child == 0:  # PID 1
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        _await(orders, GO)
        if "cgroup" in kinds:  # only here: where we are now becomes its root
            namespaces.create(["cgroup"])
        _ends[:] = orders, tell
        _to_the_end(tell, inside)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGKILL))
    # When the caller dies, so do we, by a signal that lets us take PID 1 along: changing its user, or ours
    # in become_root, loses a parent-death signal (prctl(2)). Both of us killed at once: chapter 7.
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGTERM)
    _say(tell, BORN, str(child))
    _await(orders, GO)
    syscalls.close_range(3, 0x7FFFFFFF, 0)  # a pipe of the caller's that we kept would never see its end
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code if code >= 0 else 128 - code


def meet(word: str) -> None:
    """In PID 1: say that we are there, and wait until the outside has done its part."""
    orders, tell = _ends
    _say(tell, word)
    _await(orders, GO)


def _to_the_end(tell: int, work: Callable[[], int | None]) -> None:
    """Run what a forked child is for, and leave: nothing of the caller may go on in it."""
    code = EXIT_OURS
    try:
        code = work() or 0
    except BaseException as error:
        told = error if isinstance(error, ContainerError) else explain("cannot start the container", error)
        _say(tell, FAILED, str(told.exit_code), told.what, told.reason, told.hint)
    finally:
        os._exit(code)


def _say(tell: int, *words: str) -> None:
    os.write(tell, os.fsencode("\t".join(" ".join(word.split()) for word in words) + "\n"))


def _await(orders: int, word: bytes) -> None:
    if os.read(orders, 1) != word:
        raise ContainerError("cannot start the container", "the caller is gone")


def execute(argv: Sequence[str], env: Mapping[str, str], kept: int = 3, admin: bool = False) -> None:
    """Become the command, found in the PATH of ``env``. An import now would load a file of the image."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM):  # Python changed these
        signal.signal(number, signal.SIG_DFL)
    syscalls.close_range(kept, 0x7FFFFFFF, syscalls.CLOSE_RANGE_CLOEXEC)
    if not admin:  # root of a user namespace may undo the mounts made in it: a read-only volume would be none
        syscalls.prctl(syscalls.PR_CAPBSET_DROP, syscalls.CAP_SYS_ADMIN)
    name, failure, exists = argv[0], OSError(2, ""), False
    for directory in [""] if "/" in name else env.get("PATH", PATH).split(":"):
        path = f"{directory}/{name}" if directory else name
        try:
            os.execve(path, tuple(argv), dict(env))
        except OSError as error:
            if os.path.lexists(path):
                failure, exists = error, True
    raise explain_exec(name, failure, exists)
