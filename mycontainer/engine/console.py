"""The terminal of a container: made inside, of its own devpts, and handed out to whoever is its screen.

A caller that stays (conmon, a shim) listens on a Unix socket and gets the master end through it, with the
name of the other end; our own `run` has a socket pair for the same. man 4 pts, man 3 cmsg (SCM_RIGHTS).
"""

from __future__ import annotations

import array
import fcntl
import os
import socket
import struct
import termios

from mycontainer import syscalls
from mycontainer.errors import ContainerError, explain
from mycontainer.syscalls import MS_BIND

TIOCGPTN, TIOCSPTLCK = 0x80045430, 0x40045431  # asm-generic/ioctls.h


def connect(path: str) -> int:
    """Connect to a console socket; returns the descriptor."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as one:
            one.connect(path)
            return one.detach()
    except OSError as error:
        raise explain(f"cannot connect to the console socket {path}", error) from error


def pair() -> tuple[int, int]:
    """A socket for us and one for `open_terminal`, as `connect` returns it."""
    ours, inner = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    return ours.detach(), inner.detach()


def receive(fd: int) -> int:
    """The master end that `open_terminal` sends; closes the socket."""
    with socket.socket(fileno=fd) as one:
        _, ancillary, _, _ = one.recvmsg(256, socket.CMSG_SPACE(4))
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            return int(array.array("i", data[:4])[0])
    raise ContainerError("cannot get the container's terminal", "it sent none")


def open_terminal(fd: int, uid: int, size: tuple[int, int] | None) -> None:
    """Inside, at home in the new root: open a terminal, send its master end, and take the other for ours.

    We lead a session without a terminal, so the first that we ask for becomes its own (TIOCSCTTY).
    """
    try:
        master = os.open("/dev/pts/ptmx", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
        fcntl.ioctl(master, TIOCSPTLCK, struct.pack("i", 0))
        number = struct.unpack("i", fcntl.ioctl(master, TIOCGPTN, bytes(4)))[0]
        name = f"/dev/pts/{number}"
        slave = os.open(name, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        raise explain("cannot open a terminal inside", error, "Is there a devpts on /dev/pts, and the link "
                      "/dev/ptmx?") from error
    if size:
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
    os.fchown(slave, uid, -1)
    with socket.socket(fileno=fd) as one:
        one.sendmsg([name.encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [master]))])
    os.close(master)
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    for standard in (0, 1, 2):
        os.dup2(slave, standard)
    os.close(slave)


def show_as_console() -> None:
    """Show our terminal as /dev/console: config-linux.md, "Default Devices"."""
    name = os.ttyname(0)
    os.close(os.open("/dev/console", os.O_CREAT | os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY,
                     0o620))
    syscalls.mount(name, "/dev/console", None, MS_BIND)
