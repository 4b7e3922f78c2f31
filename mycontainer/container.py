"""A container, first version: an ordinary process, wrapped.

Three processes take part, and a comment at each fork says which one goes on:

    outside          the caller: writes the id maps, waits, ends the others if it must
    └── the runner   in the new namespaces, but with a pid out here (unshare moves only children to a new
        │            PID namespace); it stays to tell how PID 1 ended
        └── PID 1    in all of them: builds its root directory, then becomes the command
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress

from mycontainer import chroot, namespaces, syscalls
from mycontainer.cgroups import Cgroup
from mycontainer.errors import EXIT_OURS, ContainerError, explain, explain_exec
from mycontainer.namespaces import IdMap

KINDS = ("user", "cgroup", "ipc", "uts", "net", "pid", "mnt")  # time is for those who ask for it
Volume = tuple[str, str, bool]  # (our path, path inside, read-only)
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root"}

# What the three tell each other, over two pipes. When the command runs, exec has closed the last end.
UNSHARED = "unshared"  # runner to outside: the namespaces are made, write the maps
MAPPED = b"m"          # outside to runner: done
BORN = "born"          # runner to outside: PID 1 has this pid on your side
GO = b"g"              # outside to both: I hold a pidfd of it, go on
FAILED = "failed"      # runner or PID 1 to outside: exit code, what, reason, hint


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


def run(argv: Sequence[str], root: str | None = None, **how: object) -> int:
    """Run a command in a container to its end, as `start` does. Returns the exit code."""
    return start(argv, root, **how).wait()  # type: ignore[arg-type]


def start(argv: Sequence[str], root: str | None = None, *, kinds: Iterable[str] = KINDS,
          unpack: Callable[[str], object] | None = None, volumes: Iterable[Volume] = (),
          hostname: str = "mycontainer", env: Mapping[str, str] = ENVIRONMENT, workdir: str = "/",
          uid_map: IdMap | None = None, gid_map: IdMap | None = None,
          cgroup: Cgroup | None = None) -> Process:
    """Start a command in namespaces of its own, and in ``cgroup`` if there is one.

    ``root`` becomes ``/`` (None: keep ours). With ``unpack`` it is only a place to mount a fresh tmpfs, which
    ``unpack(root)`` fills and which vanishes with the container. The maps are as `namespaces.write_map` takes
    them (None: only ourselves, as root). Raises ContainerError with a shell's exit code for it.
    """
    kinds = tuple(kinds)
    if root is not None and "mnt" not in kinds:
        raise ContainerError("cannot change the root", "that needs a mount namespace of its own")

    def become_the_command() -> None:
        os.setsid()  # out of the caller's terminal session, or we could type into it (TIOCSTI)
        os.umask(0o022)
        if "uts" in kinds:
            syscalls.sethostname(hostname)
        if "net" in kinds:
            namespaces.raise_loopback()
        if "mnt" in kinds:
            chroot.make_private()
        if root is not None:
            if unpack:
                syscalls.mount("tmpfs", root, "tmpfs", syscalls.MS_NODEV, "mode=755")
                unpack(root)
            chroot.furnish(root, own_pids="pid" in kinds, own_net="net" in kinds)
            for source, path, readonly in volumes:
                chroot.bind(source, root, path, readonly)
            chroot.pivot(root)
        elif {"mnt", "pid"} <= {*kinds}:
            chroot.mount_proc("/")
        syscalls.chdir(workdir)
        execute(argv, env)

    return spawn(become_the_command, kinds, uid_map or [(0, os.geteuid(), 1)],
                 gid_map or [(0, os.getegid(), 1)], cgroup)


def execute(argv: Sequence[str], env: Mapping[str, str]) -> None:
    """Become the command, found in the PATH of ``env``. An import now would load a file of the image."""
    for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)  # Python ignores the first two, a command expects them
    syscalls.close_range(3, 0x7FFFFFFF, syscalls.CLOSE_RANGE_CLOEXEC)
    name, failure, exists = argv[0], OSError(2, ""), False
    for directory in [""] if "/" in name else env.get("PATH", "").split(":"):
        path = f"{directory}/{name}" if directory else name
        try:
            os.execve(path, tuple(argv), dict(env))
        except OSError as error:
            if os.path.lexists(path):
                failure, exists = error, True
    raise explain_exec(name, failure, exists)


def spawn(inside: Callable[[], None], kinds: Sequence[str], uid_map: IdMap, gid_map: IdMap,
          cgroup: Cgroup | None = None) -> Process:
    """Fork the runner and PID 1, which calls ``inside``; returns when that has become a command."""
    orders, order = os.pipe()
    news, tell = os.pipe()
    runner = os.fork()
    if runner == 0:  # the runner
        os.setpgid(0, 0)  # what is sent to the caller's group, as Ctrl-C is, is the caller's to pass on
        os.close(order)  # so that the death of the outside ends our waiting for it
        _to_the_end(tell, lambda: _runner(inside, kinds, orders, tell))
    os.close(orders)
    os.close(tell)
    process = None
    try:
        with open(news, errors="surrogateescape") as lines:
            for word, *rest in (line.rstrip("\n").split("\t") for line in lines):
                if word == UNSHARED:
                    if "user" in kinds:
                        namespaces.write_map(runner, uid_map, gid_map)
                    os.write(order, MAPPED)
                elif word == BORN:
                    process = Process(int(rest[0]), runner)
                    if cgroup:
                        cgroup.join(process.pid)  # by us: out here the others are nobody, who may not
                    os.write(order, GO + GO)
                else:
                    raise ContainerError(rest[1], rest[2], rest[3], int(rest[0]))
        if process is None:
            raise ContainerError("cannot start the container", "somebody killed it on the way")
        os.close(order)
        return process
    except BaseException:
        os.kill(runner, signal.SIGTERM)
        os.close(order)  # before we wait for them, who may be waiting for a word of ours
        process.wait() if process else os.waitpid(runner, 0)
        raise


def _runner(inside: Callable[[], None], kinds: Sequence[str], orders: int, tell: int) -> int:
    """Make the namespaces, fork PID 1 into them; returns how it ended."""
    namespaces.create({*kinds} - {"cgroup"})
    _say(tell, UNSHARED)
    _await(orders, MAPPED)
    if "user" in kinds:
        namespaces.become_root()
    child = os.fork()
    if child == 0:  # PID 1
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        _await(orders, GO)
        namespaces.create({"cgroup"} & {*kinds})  # only here: where we are now becomes its root
        _to_the_end(tell, inside)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGKILL))
    # When the caller dies, so do we, by a signal that lets us take PID 1 along: its own parent-death signal
    # is lost as soon as it changes its user (prctl(2)). Set after become_root, for the same reason.
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGTERM)
    _say(tell, BORN, str(child))
    _await(orders, GO)
    syscalls.close_range(3, 0x7FFFFFFF, 0)  # a pipe of the caller's that we kept would never see its end
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code if code >= 0 else 128 - code


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
