"""The lab's listeners: where Jupyter expects a kernel, and the way from there into the lab.

The relay itself is the engine's. The lab itself has no socket in the host's network, and cannot reach what
listens on the host's loopback.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from typing import Any

from mycontainer.engine import relay
from mycontainer.engine.relay import Address as Address

# Where we knock from, inside. From 127.0.0.1 Linux may choose the very port that we knock at, and connect the
# socket with itself (a simultaneous open, RFC 9293): then the notebook's kernel cannot bind it.
KNOCKING_FROM = "127.0.0.2"
PATIENCE = 60.0  # seconds that a caller waits for somebody to listen inside: the kernel may still be starting


class Relay(relay.Relay):
    """A relay to what listens on the lab's loopback."""

    def lead(self, listener: socket.socket, inside: Address) -> None:
        """Connect whoever comes to ``listener`` with the address ``inside``."""
        self.publish(listener, inside, KNOCKING_FROM, PATIENCE)


def listen(transport: str, ip: str, port: int) -> socket.socket:
    """A listener at the place where a kernel would bind: ``tcp``, or ``ipc`` (the socket file IP-PORT)."""
    if transport == "ipc":
        path = socket_file(ip, port)
        remove_dead(path)  # of the kernel that was killed before us
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        address: Any = path
    else:
        listener = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        address = ("" if ip == "*" else ip, port)
    try:
        listener.bind(address)
        listener.listen(64)
    except OSError:
        listener.close()
        raise
    return listener


def socket_file(ip: str, port: int) -> str:
    """The path that Jupyter's transport ``ipc`` means."""
    return os.path.abspath(f"{ip}-{port}")


def remove_dead(path: str) -> None:
    """Remove a socket file that nobody listens at: a restarted kernel may have taken the name meanwhile."""
    try:
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as caller:
                if caller.connect_ex(path) == errno.ECONNREFUSED:
                    os.remove(path)
    except OSError:
        pass  # it is gone, or not ours to remove
