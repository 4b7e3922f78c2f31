"""A shell in the lab: JupyterLab's terminals, and ``mycontainer lab``.

    terminal   outside: keeps the person's terminal, passes the keys in and the screen out
    └── guide  joins the lab's namespaces and opens a pseudo-terminal of the lab's own
        └── shell  inside, on that terminal: job control works, and ``tty`` has an answer

The person's own terminal never goes inside: root there could type into it (ioctl TIOCSTI). The lab is that
of the kernel started last by the same server; without one, the terminal has a lab to itself, which is
nobody else's: it ends with its terminal.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import stat
import struct
import sys
import termios
import tty
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from mycontainer import namespaces, spawn, syscalls
from mycontainer.errors import ContainerError, explain
from mycontainer.lab import channel, doorman, launcher, limits, state
from mycontainer.lab.channel import Channel

# asm-generic/ioctls.h: unlock a pseudo-terminal; open its other end, without a path
TIOCSPTLCK, TIOCGPTPEER = 0x40045431, 0x5441
PR_SET_DUMPABLE = 4  # linux/prctl.h
SHELLS = ("/bin/bash", "/bin/sh")


def main(command: Sequence[str] = ()) -> int:
    """Run ``command``, by default a shell, in the lab. Returns its exit code."""
    lab = find_lab()
    try:
        if lab is not None:
            try:
                return visit(lab, command)
            except ContainerError:
                if lives(lab):
                    raise  # else it ended while we were on our way
        return alone(command)
    except OSError as error:
        raise explain("cannot open a terminal in the lab", error) from error


def alone(command: Sequence[str]) -> int:
    """Run ``command`` in a lab of its own, which ends with it. Returns its exit code."""
    own, lab = start_lab()
    try:
        return visit(lab, command)
    finally:
        os.kill(own, signal.SIGTERM)
        os.waitpid(own, 0)


def lives(lab: Mapping[str, Any]) -> bool:
    """Whether the lab's PID 1 is still the process that it was."""
    since: int = state.started(lab["init"])
    return since != 0 and since == lab["init_started"]


def find_lab() -> dict[str, Any] | None:
    """The facts of the lab to join (see state.py): in a server's terminal only a lab of that server."""
    running = [lab for lab in state.labs() if lab["init"] and lab.get("for_kernel")]
    running.sort(key=lambda lab: float(lab["started"]), reverse=True)
    above = ancestors(os.getpid())
    same_server = [lab for lab in running if lab["server"] in above]
    if same_server or "JUPYTER_SERVER_URL" in os.environ:
        return next(iter(same_server), None)
    return next(iter(running), None)


def ancestors(pid: int) -> list[int]:
    """The parent of ``pid``, its parent, and so on."""
    found = []
    while pid > 1:
        try:
            with open(f"/proc/{pid}/stat") as file:
                pid = int(file.read().rpartition(")")[2].split()[1])
        except OSError:
            break
        found.append(pid)
    return found


def start_lab() -> tuple[int, dict[str, Any]]:
    """Start a lab without a kernel; returns (pid of its launcher, its facts). It ends when we end."""
    ours, theirs = Channel.pair()
    pid = os.fork()
    if pid == 0:  # outside, the launcher
        code = 125
        try:
            ours.close()
            lab = launcher.Lab(os.getcwd())
            lab.start()
            theirs.send(channel.RUNNING, **lab.facts())
            code = lab.watch()
        except BaseException as error:
            theirs.fail(error)
        finally:
            os._exit(code)
    theirs.close()
    try:
        facts = ours.expect(channel.RUNNING)[0]
    except ContainerError:
        os.waitpid(pid, 0)
        raise
    finally:
        ours.close()
    return pid, facts


def visit(lab: Mapping[str, Any], command: Sequence[str]) -> int:
    """Send a shell into the lab and be its screen and keyboard until it ends. Returns its exit code."""
    ours, theirs = Channel.pair()
    terminal, size = os.getpid(), screen_size()
    guide = os.fork()
    if guide == 0:  # outside, the guide, before it joins
        code = 125
        try:
            ours.close()
            code = _guide(lab, command, theirs, terminal, size)
        except BaseException as error:
            theirs.fail(error)
        finally:
            os._exit(code)
    theirs.close()
    try:
        _, fds = ours.expect(channel.RUNNING)
        pty = fds[0]
        if os.fstat(pty).st_rdev != os.makedev(5, 2) or not stat.S_ISCHR(os.fstat(pty).st_mode):
            raise ContainerError("cannot open a terminal in the lab", "/dev/ptmx in there is no terminal",
                                 "Restart the kernel: the lab is then as new.")
        with raw_terminal():
            carry(pty, guide)
    except BaseException:
        with suppress(ProcessLookupError):
            os.kill(guide, signal.SIGKILL)
        raise
    finally:
        ours.close()
        code = os.waitstatus_to_exitcode(os.waitpid(guide, 0)[1])
    return code if code >= 0 else 128 - code


def _guide(lab: Mapping[str, Any], command: Sequence[str], terminal: Channel, parent: int,
           size: bytes) -> int:
    """Join the lab, open the pseudo-terminal, fork the shell and wait for it."""
    doorman.leave_keyring()
    init = os.pidfd_open(lab["init"])
    if not lives(lab):  # a pid is given away again; the descriptor is of the process that we looked at
        raise ContainerError("cannot open a terminal in the lab", "it has ended")
    limits.join_as_guest(lab["for_guests"], json.loads(lab["env"]["MYCONTAINER_LAB_LIMITS"]))
    join(init)
    syscalls.prctl(PR_SET_DUMPABLE, 0)  # the shell is seen inside before it is one: nobody may look into it
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGTERM)  # after the change of user, which clears it
    if os.getppid() != parent:
        return 125
    pty = os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    fcntl.ioctl(pty, TIOCSPTLCK, struct.pack("i", 0))
    own = fcntl.ioctl(pty, TIOCGPTPEER, os.O_RDWR | os.O_NOCTTY)
    fcntl.ioctl(own, termios.TIOCSWINSZ, size)
    if not os.isatty(0):
        _plain(own)
    shell = os.fork()
    if shell == 0:  # inside, the shell, before exec
        try:
            _become_shell(own, lab, command)
        except ContainerError as error:
            os.write(2, f"mycontainer: {error}\n".encode())
            os._exit(error.exit_code)
        finally:
            os._exit(125)
    os.close(own)
    terminal.send(channel.RUNNING, [pty])
    os.close(pty)
    terminal.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # We bury the shell ourselves: until somebody has, PID 1 of the lab cannot end (man 7 pid_namespaces), and
    # the host's PID 1, who would inherit it, may take its time.
    pidfd = os.pidfd_open(shell)
    signal.signal(signal.SIGTERM, lambda *_: doorman.send(pidfd, signal.SIGKILL))
    code = os.waitstatus_to_exitcode(os.waitpid(shell, 0)[1])
    return code if code >= 0 else 128 - code


def join(init: int) -> None:
    """Join all namespaces of the process behind the pidfd ``init``. man 2 setns, "PID file descriptor".

    Raises ContainerError if we are then still in the user namespace that we came from: a shell there would
    be one of the host.
    """
    before = os.stat("/proc/self/ns/user")
    syscalls.setns(init, syscalls.CLONE_NEWUSER)
    if os.path.samestat(before, os.stat("/proc/self/ns/user")):
        raise ContainerError("cannot open a terminal in the lab", "that is no lab, but the host")
    namespaces.become_root()
    others = (syscalls.CLONE_NEWCGROUP, syscalls.CLONE_NEWIPC, syscalls.CLONE_NEWUTS, syscalls.CLONE_NEWNET,
              syscalls.CLONE_NEWPID, syscalls.CLONE_NEWNS)
    syscalls.setns(init, sum(others))


def _plain(own: int) -> None:
    """Our input is no terminal: then nothing is typed that an echo should show."""
    attributes = termios.tcgetattr(own)
    attributes[1] &= ~termios.ONLCR
    attributes[3] &= ~termios.ECHO
    termios.tcsetattr(own, termios.TCSANOW, attributes)


def _become_shell(own: int, lab: Mapping[str, Any], command: Sequence[str]) -> None:
    names = prompt() if os.isatty(0) else {}
    os.setsid()
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    fcntl.ioctl(own, termios.TIOCSCTTY, 0)
    for fd in (0, 1, 2):
        os.dup2(own, fd)
    try:
        os.chdir(lab["workdir"])
    except OSError:
        os.chdir("/")
    shell = next((one for one in SHELLS if os.access(one, os.X_OK)), SHELLS[-1])
    spawn.execute(list(command) or [shell], {**lab["env"], **names, "SHELL": shell})


def prompt() -> dict[str, str]:
    """What tells where one is, in the environment; bash reads a file that sets PS1, hence the second."""
    text = f"[{'lab in a lab' if 'MYCONTAINER_LAB' in os.environ else 'lab'}] $PWD # "
    return {"PS1": text, "PROMPT_COMMAND": f"PS1='{text}'"}


def screen_size() -> bytes:
    """Rows and columns of our own terminal, as the kernel packs them; 24 × 80 if it is none."""
    try:
        return fcntl.ioctl(0, termios.TIOCGWINSZ, b"\0" * 8)
    except OSError:
        return struct.pack("HHHH", 24, 80, 0, 0)


class raw_terminal:
    """While in this block every key goes through untouched, Ctrl-C too: it is for the shell inside."""

    def __enter__(self) -> None:
        self.before = termios.tcgetattr(0) if os.isatty(0) else None
        if self.before:
            tty.setraw(0, termios.TCSADRAIN)  # what was typed ahead stays

    def __exit__(self, *_: object) -> None:
        if self.before:
            termios.tcsetattr(0, termios.TCSADRAIN, self.before)


def carry(pty: int, guide: int) -> None:
    """Keys in, screen out, until the shell has ended and all it wrote is shown."""
    resized, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGWINCH, lambda *_: None)
    pidfd = os.pidfd_open(guide)
    sources = [0, pty, pidfd, resized]
    while True:
        ready = select.select(sources, [], [])[0]
        if resized in ready:
            os.read(resized, 64)
            fcntl.ioctl(pty, termios.TIOCSWINSZ, screen_size())
        if 0 in ready and not _copy(0, pty):
            sources.remove(0)
            with suppress(OSError):
                os.write(pty, b"\x04")  # Ctrl-D: our input has ended
        if pty in ready and not _copy(pty, 1):
            sources.remove(pty)
        if pidfd in ready:
            while pty in sources and select.select([pty], [], [], 0)[0] and _copy(pty, 1):
                pass
            return


def _copy(source: int, sink: int) -> bool:
    try:
        data = os.read(source, 65536)
    except OSError:  # EIO: nobody has the other end of the pseudo-terminal open any more
        return False
    sent = 0
    while sent < len(data):
        sent += os.write(sink, data[sent:])
    return bool(data)


def run() -> int:
    """The command line: errors as one line and a hint."""
    try:
        return main(sys.argv[1:])
    except ContainerError as error:
        print(f"mycontainer: {error}", *([f"hint: {error.hint}"] if error.hint else []), sep="\n",
              file=sys.stderr)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(run())
