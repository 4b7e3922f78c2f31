"""Who is in a network, with which address and by which names: files in its directory.

    networks/NAME/lock           held while somebody reads or changes the others
    networks/NAME/leases/N       who has address number N; locked by them for as long as they live
    networks/NAME/next           the number after the last that was given out
    networks/NAME/members        locked by all of them together: who has it alone, knows that they are gone
    networks/NAME/hosts          the /etc/hosts of every container in it, written anew in place

A lock ends with its process, however that ends: whoever finds a lease that is not locked removes it. So there
is nothing to remember and nothing to sweep after a crash. man 2 flock.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from mycontainer import paths
from mycontainer.engine.state import started
from mycontainer.errors import ContainerError, explain

# Every network is a world of its own, so they may all have the same addresses. The IPv6 ones are "unique
# local" (RFC 4193), whose forty bits would be random if two such networks could ever meet.
PREFIX, PREFIX6 = 16, 64
NETWORK, NETWORK6 = "10.88.0.0/16", "fd6d:7963:6f6e::/64"
FIRST, LAST = 2, 65534  # number 1 is the router's, 65535 means everybody
LOCALHOST = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
NO_NAMES = "# No name server: containers of this network are in /etc/hosts.\noptions timeout:1 attempts:1\n"
NO_WAY_OUT = "# No way out of this network: {}.\n" + NO_NAMES
GONE = ".gone-"  # what is being removed is called so: no network's name begins with a dot
WALK = 0o711  # root of a container is a stranger out here, and must walk through to its files


class Place(NamedTuple):
    """The addresses of number N of a network."""

    number: int

    @property
    def ip(self) -> str:
        """The IPv4 address: 10.88.0.2."""
        return f"10.88.{self.number >> 8}.{self.number & 255}"

    @property
    def ip6(self) -> str:
        """The IPv6 address: fd6d:7963:6f6e::2."""
        return f"fd6d:7963:6f6e::{self.number:x}"

    @property
    def mac(self) -> str:
        """A hardware address of our own making (its second bit says so). It goes with the IP address, so who
        remembers this pair is not wrong when another container has them later."""
        return f"02:00:0a:58:{self.number >> 8:02x}:{self.number & 255:02x}"


ROUTER = Place(1)


class Lease(NamedTuple):
    """A place that is taken: by which process (the one who started the container), for whom."""

    place: Place
    pid: int
    started: int            # when that process was (proc_pid_stat(5), field 22): its pid may be another's now
    names: tuple[str, ...]


class Network:
    """The directory of a network; its methods are to be called while it is `locked`."""

    def __init__(self, name: str) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", name):
            raise ContainerError(f"not a network's name: {name}", hint="Letters, digits, '-', '_' and '.'.")
        self.name = name
        self.path = os.path.join(paths.runtime_dir(), "networks", name)
        self.hosts, self.resolv = f"{self.path}/hosts", f"{self.path}/resolv.conf"
        self.members = f"{self.path}/members"
        self.held: dict[Place, int] = {}  # our own leases: descriptors with a lock
        self.belonging = -1               # and the one that we share with all members

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else changes the network meanwhile. Its directory is made, and made again if its last
        member has just removed it."""
        lock = self._lock()
        try:
            yield
        finally:
            os.close(lock)

    def _lock(self) -> int:
        while True:
            try:
                for directory in (os.path.dirname(self.path), self.path, f"{self.path}/leases"):
                    with suppress(FileExistsError):
                        os.mkdir(directory)
                        os.chmod(directory, WALK)
                lock = os.open(f"{self.path}/lock", os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600)
            except FileNotFoundError:
                continue  # removed between two of these steps
            except OSError as error:
                raise explain(f"cannot use {self.path}", error) from error
            fcntl.flock(lock, fcntl.LOCK_EX)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(lock), os.stat(f"{self.path}/lock")):
                    return lock
            os.close(lock)

    def leases(self) -> list[Lease]:
        """Those who live; the files of the others are removed."""
        living = []
        for name in sorted(os.listdir(f"{self.path}/leases"), key=int):
            fd = os.open(f"{self.path}/leases/{name}", os.O_RDONLY)
            try:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
                os.unlink(f"{self.path}/leases/{name}")
            except BlockingIOError:
                pid, started, *names = os.read(fd, 4096).decode().split()
                living.append(Lease(Place(int(name)), int(pid), int(started), tuple(names)))
            finally:
                os.close(fd)
        return living

    def belong(self) -> None:
        """Be a member from now on, for as long as we live or until the last address is given back."""
        if self.belonging < 0:
            self.belonging = os.open(self.members, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600)
            fcntl.flock(self.belonging, fcntl.LOCK_SH)

    def take(self, names: Iterable[str]) -> Place:
        """Take the address that has been free for the longest: the old namespace of one that has just become
        free may still be there. Raises ContainerError when there is none."""
        taken = {lease.place.number for lease in self.leases()}
        begin = self._next()
        numbers = (FIRST + (begin - FIRST + step) % (LAST - FIRST + 1) for step in range(LAST - FIRST + 1))
        number = next((number for number in numbers if number not in taken), None)
        if number is None:
            raise ContainerError(f"cannot join the network {self.name}", "no address is left",
                                 f"{len(taken)} containers have them all. There may be other networks: "
                                 "--network NAME.")
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR
        lease = os.open(f"{self.path}/leases/{number}", flags, 0o600)
        fcntl.flock(lease, fcntl.LOCK_EX)
        os.write(lease, " ".join([str(os.getpid()), str(started(os.getpid())), *names]).encode())
        self.held[Place(number)] = lease
        _write(f"{self.path}/next", str(number + 1 if number < LAST else FIRST))
        self.write_files()
        return Place(number)

    def _next(self) -> int:
        with suppress(FileNotFoundError, ValueError), open(f"{self.path}/next") as file:
            return max(FIRST, min(int(file.read()), LAST))
        return FIRST

    def give_back(self, place: Place) -> None:
        """Give an address of ours back; the last one takes the directory along."""
        lease = self.held.pop(place)
        with suppress(FileNotFoundError):
            os.unlink(f"{self.path}/leases/{place.number}")
        os.close(lease)
        if self.leases():
            self.write_files()
        else:
            self.remove()
        if not self.held and self.belonging >= 0:
            os.close(self.belonging)
            self.belonging = -1

    def remove(self) -> None:
        """Remove the directory. First out of the way, all at once: others are making it anew already."""
        gone = os.path.join(os.path.dirname(self.path), f"{GONE}{os.urandom(6).hex()}")
        with suppress(FileNotFoundError):
            os.rename(self.path, gone)
        shutil.rmtree(gone, ignore_errors=True)

    def write_files(self) -> None:
        """Tell everybody who is there, in the very file that the containers have mounted."""
        rows = [f"{ip}\t{' '.join(dict.fromkeys(lease.names))}\n" for lease in self.leases() if lease.names
                for ip in (lease.place.ip, lease.place.ip6)]
        _write(self.hosts, "".join([LOCALHOST, *rows]))
        if not os.path.exists(self.resolv):
            self.say_names(NO_NAMES)

    def say_names(self, text: str) -> None:
        """What every container of this network finds in /etc/resolv.conf."""
        _write(self.resolv, text)


def sweep() -> None:
    """Remove what networks have left behind whose members all died without a word."""
    home = os.path.join(paths.runtime_dir(), "networks")
    for name in os.listdir(home) if os.path.isdir(home) else ():
        if name.startswith(GONE):  # somebody was killed while removing it
            shutil.rmtree(os.path.join(home, name), ignore_errors=True)
            continue
        network = Network(name)
        with network.locked():
            if not network.leases():
                network.remove()


def _write(path: str, text: str) -> None:
    """Write in one go, and only then cut off what is left of the old: a reader finds no empty file."""
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW, 0o644)
    try:
        os.fchmod(fd, 0o644)
        data = text.encode()
        os.write(fd, data)
        os.ftruncate(fd, len(data))
    finally:
        os.close(fd)
