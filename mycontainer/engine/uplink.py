"""The way out into the world, where a program for it is installed: slirp4netns(1), or pasta(1).

It stays in the host's network, makes a device in the router, and does with ordinary sockets what the packets
that come out there ask for: a whole TCP/IP in user space. So it takes no right, no device and no rule of the
host. Without it a network is one of containers only, and says so in their /etc/resolv.conf.

    who makes a network ── forks ─► the keeper ── forks ─► the program, which holds the router open

The keeper ends it when the last member is gone: they all hold a shared lock on a file, and the keeper waits
to have it alone.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import time
from collections.abc import Callable

from mycontainer import namespaces, syscalls
from mycontainer.engine import idmap
from mycontainer.engine.devices import gateways

DEVICE = "uplink0"
NAME_SERVER = "10.0.2.3"  # an address at which the program answers for the host's name servers
PATIENCE = 5.0  # seconds until it must have made its device


def find() -> str:
    """The program, "" if there is none. $MYCONTAINER_WAY_OUT says which one alone will do, or "no"."""
    wanted = os.environ.get("MYCONTAINER_WAY_OUT")
    possible = [name for name in COMMANDS if name != "pasta" or not idmap.real_root()]  # won't be root
    return next((name for name in possible if wanted in (None, name) and shutil.which(name)), "")


def _pasta(pid: int, mtu: int, own_user: bool) -> list[str]:
    no_ports = [word for option in ("-t", "-u", "-T", "-U") for word in (option, "none")]
    return ["pasta", "--foreground", "--quiet", "--config-net", "--no-map-gw", *no_ports, "--mtu", str(mtu),
            "--ns-ifname", DEVICE, "--dns-forward", NAME_SERVER, "--netns", f"/proc/{pid}/ns/net",
            *(["--userns", f"/proc/{pid}/ns/user"] if own_user else ["--netns-only"])]


def _slirp4netns(pid: int, mtu: int, own_user: bool) -> list[str]:
    return ["slirp4netns", "--configure", f"--mtu={mtu}", "--disable-host-loopback",
            *([f"--userns-path=/proc/{pid}/ns/user"] if own_user else []), str(pid), DEVICE]


COMMANDS: dict[str, Callable[[int, int, bool], list[str]]] = {"slirp4netns": _slirp4netns, "pasta": _pasta}


class Uplink:
    """To be made before this process enters its router, and attached from within.

    ``members`` is the file on which every member of the network holds a shared lock, ``log`` one for what the
    program says.
    """

    def __init__(self, program: str, members: str, log: str, mtu: int) -> None:
        orders, self.order = os.pipe()
        self.alive, alive = os.pipe()
        us, outside = os.getpid(), namespaces.identify()["user"]
        child = os.fork()
        if child == 0:
            try:
                os.setsid()
                if os.fork() == 0:  # the keeper: a child of init, as it may live longer than we
                    _stay_alone({orders, alive})
                    if os.read(orders, 1):
                        own_user = namespaces.identify(us)["user"] != outside
                        _keep(COMMANDS[program](us, mtu, own_user), alive, members, log)
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        os.close(orders)
        os.close(alive)

    def attach(self) -> bool:
        """Have the program started, and wait until there is a way out; False if it does not come."""
        os.write(self.order, b"g")
        os.set_blocking(self.alive, False)
        deadline = time.monotonic() + PATIENCE
        while not (there := bool(gateways())) and time.monotonic() < deadline:
            try:
                if not os.read(self.alive, 1):  # nobody holds the other end any more
                    break
            except BlockingIOError:
                time.sleep(0.005)
        self.close()
        return there

    def close(self) -> None:
        """Let go; a keeper that was not asked for anything ends."""
        for fd in (self.order, self.alive):
            os.close(fd)


def _stay_alone(keep: set[int]) -> None:
    """Close all that came from our parent, above all its locks, and answer to no signal of its session."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)  # Python ignores SIGPIPE, which pasta takes for a failure
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    for fd in map(int, os.listdir("/proc/self/fd")):
        if fd > 2 and fd not in keep:
            try:
                os.close(fd)
            except OSError:  # the one that we list with
                pass


def _keep(command: list[str], alive: int, members: str, log: str) -> None:
    """The keeper: run the program until the last member is gone."""
    keeper = os.getpid()
    lock = os.open(members, os.O_RDONLY)
    child = os.fork()
    if child == 0:  # the program
        try:
            syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() == keeper:
                said = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
                os.dup2(said, 1)
                os.dup2(said, 2)
                os.set_inheritable(alive, True)
                os.execvp(command[0], command)
        finally:
            os._exit(127)
    os.close(alive)
    fcntl.flock(lock, fcntl.LOCK_EX)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
