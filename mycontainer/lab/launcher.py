"""Start a notebook kernel in the lab, and take the lab down when its time has come.

Jupyter runs this as the kernel: ``python -I -m mycontainer.lab.launcher CONNECTION_FILE``. It stays outside
and does the three things that must not be done from inside: it owns the limits, it writes progress into the
workspace, and it watches. Whoever dies first, by whatever signal, the rest follows:

- Jupyter: we see its pidfd, and end the lab;
- we ourselves: our channel to the doorman breaks, and it ends PID 1; so does the lifeline of PID 1;
- the doorman: PID 1's parent-death signal;
- PID 1: the kernel of Linux ends everything in its PID namespace.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from mycontainer import namespaces, paths
from mycontainer.engine import idmap
from mycontainer.errors import ContainerError, explain
from mycontainer.lab import channel, doorman, init, outlet, relay, sandbox
from mycontainer.lab.channel import Channel
from mycontainer.lab.limits import Limits
from mycontainer.lab.log import Log, say
from mycontainer.lab.record import Recorder
from mycontainer.lab.state import PREFIX, State, started, sweep

PORTS = ("shell_port", "iopub_port", "stdin_port", "control_port", "hb_port")
# No warning with each start that loopback is not encrypted, and no history file: it dies with the lab anyway,
# and at once when somebody removes all files.
QUIET = ("--IPKernelApp.log_level=ERROR", "--HistoryManager.enabled=False")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Of the caller's environment the lab gets these; everything else may be a secret, or name a closed path.
PASSED_ON = ("LANG", "LANGUAGE", "TZ", "TERM", "COLORTERM", "NO_COLOR", "FORCE_COLOR", "JPY_SESSION_NAME")


class Lab:
    """A lab as its launcher sees it."""

    def __init__(self, workdir: str) -> None:
        self.name = f"{PREFIX}{os.getpid()}-{time.monotonic_ns() // 1000 % 10**9}"
        self.workspace = find_workspace(workdir)
        more = [self.workspace] if self.workspace else []
        self.layout = sandbox.plan(workdir, _kept(), more)
        self.maps = idmap.choose_maps()
        self.limits = Limits(self.name)
        self.sockets: list[str] = []  # socket files to remove at the end
        self.doorman = self.init = self.initfd = 0
        self.exit_code: int | None = None

    def start(self, argv: Sequence[str] = (), connection: Mapping[str, Any] | None = None) -> None:
        """Start the lab, and ``argv`` in it. Raises ContainerError if this machine cannot have one."""
        sweep()
        self.parent = watched_parent()
        self.for_kernel = bool(argv)
        self.state = State(self.name)
        try:
            self.limits.prepare(self.maps[0][0][1], self.announce)
            self._make_ends(argv, connection)
            self._bring_up()
        except BaseException:
            self.stop()
            raise

    def _make_ends(self, argv: Sequence[str], connection: Mapping[str, Any] | None) -> None:
        """Make what connects us with the inside, and fork the doorman, who takes the other ends."""
        self.sockets = socket_files(connection or {})
        self.announce()
        listeners, inside = publish(connection) if connection is not None else ([], {})
        progress, progress_inside = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        log, log_inside = os.pipe()
        self.log = Log(log)
        lifeline, self.lifeline = socket.socketpair()
        payload = init.Payload(sys.executable, argv, self._environment(), self.layout.workdir,
                               json.dumps(inside), sorted(sandbox.superblocks()),
                               bool(self.limits.delegated))
        errand = doorman.Errand(os.getpid(), self.parent, self.layout, payload,
                                init.Ends(lifeline.fileno(), progress_inside.fileno(), log_inside), listeners,
                                self.limits.set_own)
        self.recorder = Recorder(progress, self.workspace)
        self._fork(errand)
        for inherited in (lifeline, progress_inside, *(listener for listener, _ in listeners)):
            inherited.close()
        os.close(log_inside)

    def _fork(self, errand: doorman.Errand) -> None:
        self.channel, theirs = Channel.pair()
        self.doorman = os.fork()
        if self.doorman == 0:  # outside, the doorman
            code = 125
            try:
                code = doorman.main(errand, theirs)
            finally:
                os._exit(code)
        theirs.close()
        self.pidfd = os.pidfd_open(self.doorman)

    def _bring_up(self) -> None:
        """Our half of the start: limits before the first namespace, then maps and trees. See channel.py."""
        self.channel.expect(channel.JOINING)
        try:
            self.limits.join(self.doorman)
            self.channel.send(channel.JOINED)
            self.channel.expect(channel.UNSHARED)
            namespaces.write_map(self.doorman, *self.maps)
            trees = self._take_trees()
            self.channel.send(channel.MAPPED, trees)
            for fd in trees:
                os.close(fd)
            self.channel.expect(channel.ROOTED)
            self.limits.take_out(self.doorman)
            self.channel.send(channel.TAKEN_OUT)
        except OSError as error:
            raise explain("cannot start the lab", error) from error
        running = self.channel.expect(channel.RUNNING)[0]
        self.init = running["init"]
        self.initfd = os.pidfd_open(self.init)
        self.state.write(self.facts())
        for tree in running["open"]:
            say(f"{tree} has mounts below it or cannot lie below an overlay: its sockets and FIFOs lead out")

    def _take_trees(self) -> list[int]:
        if os.geteuid() != 0 or namespaces.own_ids() != idmap.EVERYTHING:
            return []  # the doorman takes them as they are: its root is the owner already
        userns = os.open(f"/proc/{self.doorman}/ns/user", os.O_RDONLY)
        try:
            return sandbox.take_trees(self.layout, userns)
        finally:
            os.close(userns)

    def announce(self) -> None:
        """Say what we are going to make: whoever kills us on the way leaves nothing that a sweep misses."""
        self.state.write(self.facts())

    def facts(self) -> dict[str, Any]:
        """What others must know to join this lab, or to clear up after it."""
        env = {name: value for name, value in self._environment().items() if name != "MYCONTAINER_LAB_FD"}
        return {"name": self.name, "launcher": os.getpid(), "server": os.getppid(), "started": time.time(),
                "init": self.init, "init_started": started(self.init), "for_kernel": self.for_kernel,
                "cgroups": self.limits.directories, "for_guests": self.limits.for_guests(),
                "sockets": self.sockets, "env": env, "workdir": self.layout.workdir}

    def _environment(self) -> dict[str, str]:
        passed = {name: value for name, value in os.environ.items()
                  if name in PASSED_ON or name.startswith("LC_")}
        return {
            "LANG": "C.UTF-8", **passed, "HOME": "/root", "USER": "root", "LOGNAME": "root",
            "SHELL": "/bin/sh", "PATH": f"{sys.prefix}/bin:{PATH}", "MYCONTAINER_LAB": "1",
            "MYCONTAINER_LAB_FD": str(init.PROGRESS_FD),
            "MYCONTAINER_LAB_LIMITS": json.dumps(self.limits.in_force),
            # From inside one sees the ids of the user namespace just above, which has the same ones.
            "MYCONTAINER_LAB_UID_MAP": "\n".join(" ".join(map(str, row)) for row in self.maps[0]),
            "JPY_PARENT_PID": "0",  # or ipykernel takes PID 1 for a parent that died, and ends
            **({"MYCONTAINER_WORKSPACE": self.workspace} if self.workspace else {}),
        }

    def watch(self) -> int:
        """Look after the running lab until it ends, or shall end. Returns the kernel's exit code."""
        asked = signals_as_descriptor()
        poll = select.poll()
        wishes = self.channel.socket.fileno()
        for fd in (self.parent, self.pidfd, asked, self.log.pipe, wishes):
            poll.register(fd, select.POLLIN)
        recording = True
        while True:
            pause = self.recorder.ready_in() if recording else 0.0
            if recording:
                poll.register(self.recorder.inside, 0 if pause else select.POLLIN)
            ready = dict(poll.poll(pause * 1000 + 1 if pause else None))
            if self.log.pipe in ready and not self.log.copy():
                poll.unregister(self.log.pipe)
            if (event := ready.get(self.recorder.inside.fileno(), 0)) and not pause:
                recording = self.recorder.take() or not event & select.POLLHUP
                if not recording:
                    poll.unregister(self.recorder.inside)
            if wishes in ready and not self._grant():
                poll.unregister(wishes)
            if asked in ready and self._obey(os.read(asked, 64)):
                return self.stop()
            if self.parent in ready or self.pidfd in ready:
                return self.stop()

    def _grant(self) -> bool:
        """Open a port for somebody inside; False if the doorman is gone, who asks for them."""
        message = doorman.said(self.channel)
        if message is None:
            return False
        asked, _ = message
        with suppress(OSError):  # gone meanwhile: its end is the next that we see
            outlet.grant(self.channel, asked["number"], asked["port"])
        return True

    def _obey(self, signals: bytes) -> bool:
        """Pass SIGINT on to the kernel; True for the signals that mean the end."""
        if signal.SIGINT in signals:
            doorman.send(self.initfd, signal.SIGINT)
        return bool({signal.SIGTERM, signal.SIGHUP} & set(signals))

    def stop(self) -> int:
        """End the lab and clear up. Returns the kernel's exit code, 143 if we ended it."""
        if self.exit_code is None:
            self.exit_code = self._end() if self.doorman else 125
            for path in self.sockets:
                relay.remove_dead(path)
            self.state.release(self.limits.remove())
        return self.exit_code

    def _end(self) -> int:
        """End every process of the lab; returns the kernel's exit code."""
        done = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG)
        self.lifeline.close()  # PID 1 ends, and with it everybody inside
        if done is None and not select.select([self.pidfd], [], [], 2)[0]:
            doorman.send(self.pidfd, signal.SIGKILL)
        if self.initfd:  # readable when the last process inside is gone
            doorman.send(self.initfd, signal.SIGKILL)
            select.select([self.initfd], [], [], 2)
        self.log.copy()
        self.log.tell()
        if done is None:
            os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED)
            return 143
        return done.si_status if done.si_code == os.CLD_EXITED else 128 + done.si_status


def _kept() -> dict[str, str]:
    """The host's images, and its virtual machines for chapter 10: by name, where they are. These are
    directories made now, so that what is built later is seen in running labs."""
    found = {}
    for name in ("images", "bench/machines"):
        path = f"{paths.data_dir()}/{name}"
        try:
            os.makedirs(path, exist_ok=True)
        except OSError:
            continue
        found[name] = path
    return found


def find_workspace(workdir: str) -> str | None:
    """The workspace that ``workdir`` lies in: $MYCONTAINER_WORKSPACE, or ``workspace`` in the checkout."""
    here = os.path.realpath(workdir)
    for one in (os.environ.get("MYCONTAINER_WORKSPACE"), f"{sandbox.project()}/workspace"):
        if one and os.path.isdir(one):
            path = os.path.realpath(one)
            if here == path or here.startswith(path + "/"):
                return path
    return None


def watched_parent() -> int:
    """A pidfd of our parent, Jupyter: readable when it ends, which no signal would tell us.

    The parent-death signal would not do: it comes when the *thread* that forked us ends. man 2 prctl.
    """
    parent = os.getppid()
    try:
        fd = os.pidfd_open(parent)
    except OSError as error:
        raise explain("cannot watch the parent", error) from error
    if os.getppid() != parent:
        raise ContainerError("cannot start the lab", "Jupyter is gone")
    return fd


def socket_files(connection: Mapping[str, Any]) -> list[str]:
    """The files that `publish` makes, for transport ``ipc``."""
    if connection.get("transport") != "ipc":
        return []
    return [relay.socket_file(connection["ip"], int(connection[name])) for name in PORTS]


def publish(connection: Mapping[str, Any]) -> tuple[
        list[tuple[socket.socket, relay.Address]], dict[str, Any]]:
    """Listen where Jupyter expects the kernel; returns listeners and the connection file for inside.

    Inside, the kernel binds the same port numbers on a loopback of its own, where all are free.
    """
    transport, ip = connection.get("transport", "tcp"), connection.get("ip", "127.0.0.1")
    if transport not in ("tcp", "ipc"):
        raise ContainerError("cannot start the lab", f"transport {transport} is not known", "Use tcp or ipc.")
    listeners = []
    inside = dict(connection, transport="tcp", ip="127.0.0.1")
    for at, name in enumerate(PORTS):
        port = int(connection[name])
        inside[name] = port if transport == "tcp" else 50001 + at
        try:
            listeners.append((_listen(transport, ip, port), ("127.0.0.1", inside[name])))
        except OSError as error:
            raise explain(f"cannot listen on {ip}, port {port}", error) from error
    return listeners, inside


def _listen(transport: str, ip: str, port: int, patience: float = 2.0) -> socket.socket:
    """Listen; after a SIGKILL the last lab on this port may need a moment to be gone."""
    deadline = time.monotonic() + patience
    while True:
        try:
            return relay.listen(transport, ip, port)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def signals_as_descriptor() -> int:
    """A descriptor from which the signals that we are sent can be read, a byte each."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    return read


def main() -> int:
    """The kernel as Jupyter sees it."""
    for number in (signal.SIGINT, signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    if len(sys.argv) != 2:
        say("usage: python -m mycontainer.lab.launcher CONNECTION_FILE")
        return 125
    try:
        with open(sys.argv[1]) as file:
            connection = json.load(file)
        lab = Lab(os.getcwd())
        kernel = [sys.executable, "-m", "ipykernel_launcher", "-f", init.CONNECTION_FILE, *QUIET]
        lab.start(kernel, connection)
    except (OSError, ValueError, KeyError) as error:
        say(f"cannot start the lab: {error}")
        return 125
    except ContainerError as error:
        say(str(error), error.hint)
        return instead(sys.argv[1], error)
    return lab.watch()


def instead(connection_file: str, error: ContainerError) -> int:
    """Become a kernel that runs nothing and says why, so that the notebook shows it. Returns never."""
    os.execv(sys.executable, [sys.executable, "-I", "-m", "mycontainer.lab.explain", connection_file,
                              str(error), error.hint])


if __name__ == "__main__":
    sys.exit(main())
