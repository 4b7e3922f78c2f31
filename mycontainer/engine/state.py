"""Which containers there are: a directory for each, locked by whoever looks after it.

    containers/ID/          locked while its keeper lives: `mycontainer run`, or a supervisor
        end                 how it ended: "-" until then; later its exit code, and when
        state.json          what it is and where it runs; there as soon as its command runs
        log, log.1          what a detached one has written (log.py)
    names/NAME -> ID        a symlink, which only one can make

A lock ends with its process, however that ends: a directory that can be locked and does not say how its
container ended belongs to a keeper that was killed. Whoever comes next clears up (`sweep`).

It lies in the runtime directory, for a container does not outlive the kernel it runs on; nor does its root,
a tmpfs. Where that directory does outlive a reboot, no lock does. Nothing is synced to the disk: it is other
processes that have to see all or nothing of a file, and for that rename(2) is enough. man 2 flock.
"""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from mycontainer import paths
from mycontainer.errors import ContainerError, explain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

ALPHANUMERIC = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
LONGEST_NAME = 200           # it is the name of a file, which has at most 255 bytes
RUNNING, REMOVE = "-", "rm"  # words in the file `end`
UNKNOWN = "unknown"          # instead of an exit code that nobody saw
EXIT_FAILED = 1              # what a verb ends with that fails, as Docker's do


class NotRunning(ContainerError):
    """There is no process 1 that could be signalled."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} is not running", exit_code=EXIT_FAILED)


class Record:
    """The container that we look after ourselves: reserved, then running, then ended."""

    def __init__(self, path: str, name: str, lock: int, remove_at_end: bool) -> None:
        self.id, self.path, self.name, self.created = os.path.basename(path), path, name, time.time()
        self.lock, self.remove_at_end = lock, remove_at_end

    def runs(self, pid: int, **facts: Any) -> None:
        """Tell what runs as ``pid``. The facts are what `Container` reads, as values of JSON's types."""
        facts |= {"id": self.id, "name": self.name, "created": self.created, "pid": pid,
                  "pid_started": started(pid), "place": place(), "keeper": os.getpid()}
        new = f"{self.path}/state.json.new"
        with open(new, "w") as file:
            file.write(to_json(facts))
        os.rename(new, f"{self.path}/state.json")

    def ended(self, code: int | str) -> None:
        """Tell how it ended, and remove it if that was asked for. Who waits for our lock reads it then."""
        _write_end(self.path, code, self.remove_at_end)
        if self.remove_at_end:
            self.remove()
        self.let_go()

    def remove(self) -> None:
        """Forget the container; its name is free again."""
        with _everything_locked():
            _remove(self.path, self.name)
        self.let_go()

    def let_go(self) -> None:
        """Close our copy of the lock. It stays locked if a child that we forked has another."""
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1


class Container:
    """A container as others see it. What they ask of it fails with a ContainerError that names it."""

    def __init__(self, path: str, facts: Mapping[str, Any]) -> None:
        self.id, self.path = os.path.basename(path), path
        self.name: str = facts.get("name", self.id[:12])
        self.image: str = facts.get("image", "")
        self.command: list[str] = facts.get("command", [])
        self.env: dict[str, str] = facts.get("env", {})  # what was asked for on top of the usual
        self.hostname: str = facts.get("hostname", "")
        self.workdir: str = facts.get("workdir", "/")
        self.ports: str = facts.get("ports", "")
        self.created: float = facts.get("created", 0.0)  # seconds since 1970
        self.pid: int = facts.get("pid", 0)              # PID 1 of the container, as seen out here
        self._pid_started: int = facts.get("pid_started", 0)
        self._place: str = facts.get("place", "")

    @property
    def alive(self) -> bool:
        """Does it run? Then somebody holds its lock."""
        return _locked(self.path)

    @property
    def end(self) -> tuple[int | str, float] | None:
        """Exit code, or `UNKNOWN`, and when it ended; None if it has not, or was removed."""
        return _parse_end(_read(f"{self.path}/end"))

    def signal(self, number: int) -> None:
        """Send a signal to PID 1: through a pidfd, and only if it is still the process that we mean."""
        pidfd = self.pidfd()
        try:
            signal.pidfd_send_signal(pidfd, number)
        except ProcessLookupError:  # it ended this very moment
            raise NotRunning(self.name) from None
        except PermissionError as error:
            raise explain(f"cannot signal {self.name}", error) from error
        finally:
            os.close(pidfd)

    def pidfd(self) -> int:
        """A descriptor of PID 1. man 2 pidfd_open."""
        if not self.alive:
            raise NotRunning(self.name)
        if self._place != place():
            raise ContainerError(f"cannot reach {self.name}", "it was started in another PID namespace",
                                 exit_code=EXIT_FAILED)
        try:
            pidfd = os.pidfd_open(self.pid)
        except (OSError, ValueError):
            raise NotRunning(self.name) from None
        if started(self.pid) != self._pid_started:  # the pid was given away again before we had it in hand
            os.close(pidfd)
            raise NotRunning(self.name)
        return pidfd

    def ignores(self, number: int) -> bool:
        """Would the kernel drop this signal? PID 1 gets only those that it has a handler for, or blocks."""
        try:
            with open(f"/proc/{self.pid}/status") as file:
                masks = dict(line.split() for line in file if line.startswith(("SigBlk", "SigCgt")))
        except OSError:
            return False
        return not any(int(mask, 16) >> (number - 1) & 1 for mask in masks.values())

    def wait(self, seconds: float | None = None) -> int | str | None:
        """Wait for its end; returns the exit code (or `UNKNOWN`), None if it still runs after ``seconds``."""
        try:  # taken in hand now: with --rm they have lost their names when the wait is over
            lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            raise no_such(self.name) from None
        try:
            end = os.open("end", os.O_RDONLY, dir_fd=lock)
            try:
                if not _await_lock(lock, seconds):
                    return None
                found = _parse_end(os.pread(end, 200, 0).decode())
            finally:
                os.close(end)
        finally:
            os.close(lock)
        return found[0] if found else UNKNOWN

    def remove(self) -> None:
        """Forget one that has ended."""
        with _everything_locked():
            if self.alive:
                raise ContainerError(f"cannot remove {self.name}", "it is running",
                                     "Stop it first, or: mycontainer rm -f", EXIT_FAILED)
            _remove(self.path, self.name)


# ---- finding them

def containers() -> list[Container]:
    """All containers of this user, the youngest first; those of keepers that were killed are swept first."""
    with _everything_locked() as base:
        _sweep(base)
        found = [Container(path, facts) for path in _directories(base)
                 if (facts := _read_facts(path)) is not None]
    return sorted(found, key=lambda one: one.created, reverse=True)


def find(word: str) -> Container:
    """The container with this name, or with an id that begins so. Raises ContainerError."""
    with _everything_locked() as base:
        _sweep(base)
        named = _holder(base, word) if is_name(word) else None
        found = [f"{base}/containers/{named}"] if named else [
            path for path in _directories(base) if word and os.path.basename(path).startswith(word)]
        if len(found) > 1:
            raise ContainerError(f"which container? {len(found)} ids begin with {word}",
                                 hint="Give more of it, or the name.", exit_code=EXIT_FAILED)
        facts = _read_facts(found[0]) if found else None
    if not found:
        raise no_such(word)
    if facts is None:
        raise ContainerError(f"{word} is only just being started", exit_code=EXIT_FAILED)
    return Container(found[0], facts)


def no_such(word: str) -> ContainerError:
    """What to say of a name that nobody has."""
    return ContainerError(f"no such container: {word}", hint="To see all of them: mycontainer ps -a",
                          exit_code=EXIT_FAILED)


# ---- making and clearing up

def create(name: str | None, image: str, remove_at_end: bool) -> Record:
    """Reserve a name, by default IMAGE-NUMBER, and lock a new container. Raises ContainerError."""
    if name is not None and not is_name(name):
        raise ContainerError(f"not a name for a container: {name}", hint="Two or more letters, digits, '_', "
                             "'.' and '-', the first a letter or a digit.")
    try:
        with _everything_locked() as base:
            _sweep(base)
            name = name or _free_name(base, image)
            if holder := _holder(base, name):
                raise ContainerError(f"the name {name} is taken by container {holder[:12]}",
                                     hint=f"Choose another, or: mycontainer rm -f {name}")
            path = f"{base}/containers/{os.urandom(32).hex()}"
            os.mkdir(path, 0o700)
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(lock, fcntl.LOCK_EX)
            _write_end(path, RUNNING, remove_at_end)
            os.symlink(os.path.basename(path), f"{base}/names/{name}")
    except OSError as error:
        raise explain("cannot keep a record of the container", error) from error
    return Record(path, name, lock, remove_at_end)


def _sweep(base: str) -> None:
    """Clear up after keepers that were killed. To be called with everything locked."""
    for path in _directories(base):
        if not _locked(path):
            end = _read(f"{path}/end").split()
            if RUNNING in end:
                _bury(path)
            if REMOVE in end or not os.path.exists(f"{path}/state.json"):
                _remove(path)
    for name in os.listdir(f"{base}/names"):
        if _holder(base, name) is None:
            os.unlink(f"{base}/names/{name}")


def _bury(path: str) -> None:
    """End what a killed keeper left running, and say that nobody saw how it ended."""
    from mycontainer.engine import limits

    facts = _read_facts(path) or {}
    pid, since = facts.get("pid", 0), facts.get("pid_started", 0)
    if since and facts.get("place") == place() and started(pid) == since:
        with suppress(OSError):
            pidfd = os.pidfd_open(pid)
            try:
                if started(pid) == since:
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            finally:
                os.close(pidfd)
    with suppress(OSError, ContainerError):  # where we can make no cgroups, there are none
        limits.sweep()
    _write_end(path, UNKNOWN, False)


def _remove(path: str, name: str = "") -> None:
    """state.json first: a directory without one is swept, should we be killed on the way. So is a name that
    leads nowhere."""
    with suppress(FileNotFoundError):
        for file in sorted(os.listdir(path), key=lambda file: file != "state.json"):
            os.unlink(f"{path}/{file}")
        os.rmdir(path)
    base, identity = path.rsplit("/", 2)[0], os.path.basename(path)
    with suppress(OSError):
        if os.readlink(f"{base}/names/{name}") == identity:
            os.unlink(f"{base}/names/{name}")


# ---- names

def is_name(word: str) -> bool:
    """Is it a name as Docker has them: ``[a-zA-Z0-9][a-zA-Z0-9_.-]+``?"""
    return (2 <= len(word) <= LONGEST_NAME and word[0] in ALPHANUMERIC
            and not word.strip(ALPHANUMERIC + "_.-"))


def _free_name(base: str, image: str) -> str:
    """``busybox-1``, or the first number that is free. It serves as a host name too, so no other letters."""
    plain = "".join(letter if letter in ALPHANUMERIC else "-" for letter in image.partition(":")[0][:40])
    stem = plain.strip("-").lower() or "container"
    taken = set(os.listdir(f"{base}/names"))
    return next(name for number in range(1, len(taken) + 2) if (name := f"{stem}-{number}") not in taken)


def _holder(base: str, name: str) -> str | None:
    """The id of the container that has this name."""
    try:
        identity = os.readlink(f"{base}/names/{name}")
    except OSError:
        return None
    return identity if os.path.isdir(f"{base}/containers/{identity}") else None


# ---- files and locks

def _directories(base: str) -> list[str]:
    return [f"{base}/containers/{identity}" for identity in os.listdir(f"{base}/containers")]


@contextmanager
def _everything_locked() -> Iterator[str]:
    """Nobody else makes, removes or sweeps meanwhile: for a moment only. Yields where it all lies."""
    base = paths.runtime_dir()
    for name in ("containers", "names"):
        os.makedirs(f"{base}/{name}", 0o700, exist_ok=True)
    fd = os.open(f"{base}/containers", os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield base
    finally:
        os.close(fd)


def _locked(path: str) -> bool:
    """Does somebody hold the lock of this container? One that is gone has none."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _await_lock(fd: int, seconds: float | None) -> bool:
    """Wait until its holder lets go; False if that takes longer."""
    if seconds is None:
        fcntl.flock(fd, fcntl.LOCK_SH)
        return True
    until = time.monotonic() + seconds
    while True:
        with suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return True
        if time.monotonic() > until:
            return False
        time.sleep(0.01)


def _write_end(path: str, code: int | str, remove_at_end: bool) -> None:
    """In place and padded: with the block there from the first day, a full disk can lose no exit code."""
    words = [str(code), str(time.time()), *[REMOVE] * remove_at_end]
    fd = os.open(f"{path}/end", os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.pwrite(fd, f"{' '.join(words):63}\n".encode(), 0)
    finally:
        os.close(fd)


def _read(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def _parse_end(text: str) -> tuple[int | str, float] | None:
    code, when, *_ = [*text.split(), RUNNING, "0"][:2]
    if code == RUNNING:
        return None
    return (int(code) if code.isdecimal() else UNKNOWN), float(when)


def _read_facts(path: str) -> dict[str, Any] | None:
    """What state.json says, nothing if that makes no sense; None if it is not there yet."""
    import json  # a start of a container only writes, and loading this takes longer than all the writing

    try:
        with open(f"{path}/state.json") as file:
            facts = json.load(file)
        return facts if isinstance(facts, dict) else {}
    except OSError:
        return None
    except ValueError:
        return {}


def to_json(value: object) -> str:
    """JSON of plain values, all ASCII. To load the module ``json`` takes a tenth of a container's start."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{to_json(key)}: {to_json(each)}" for key, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(to_json, value)) + "]"
    if isinstance(value, str):
        units = memoryview(value.encode("utf-16-le", "surrogatepass")).cast("H")  # what \u counts in
        return '"' + "".join(chr(unit) if 32 <= unit < 127 and unit not in b'"\\' else f"\\u{unit:04x}"
                             for unit in units) + '"'
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else repr(value)


# ---- processes

def started(pid: int) -> int:
    """When a process started, in clock ticks since boot: with it a pid is unique. 0 if there is none."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return int(file.read().rpartition(")")[2].split()[19])
    except OSError:
        return 0


def place() -> str:
    """Where our pids mean what we think: this boot, and this PID namespace."""
    with open("/proc/sys/kernel/random/boot_id") as file:
        return f"{file.read().strip()} {os.readlink('/proc/self/ns/pid')}"
