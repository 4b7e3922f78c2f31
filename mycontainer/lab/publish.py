"""`publish`: show what listens in the lab to the browser outside."""

from __future__ import annotations

import socket
from html import escape

from mycontainer.engine import outlet

_mine: dict[int, Published] = {}  # of this process: a cell may run twice


class Published:
    """A port that is open outside; printed, it is its URL, and in a notebook a link."""

    def __init__(self, port: int, url: str, lease: socket.socket | None = None) -> None:
        self.port, self.url, self._lease = port, url, lease

    def close(self) -> None:
        """Close the port outside. It is closed anyway when this process ends. Done twice is fine."""
        if self._lease:
            self._lease.close()
            self._lease = None
        if _mine.get(self.port) is self:
            del _mine[self.port]

    def __enter__(self) -> Published:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __str__(self) -> str:
        return self.url

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return f'<a href="{escape(self.url)}" target="_blank" rel="noreferrer">{escape(self.url)}</a>'


def publish(port: int, host: str = "127.0.0.1", inside: int = 0) -> Published:
    """Let the browser outside come to ``port``: it reaches ``inside`` (0: the same port) of ``host`` in here.

    ``host`` is an IP address: this lab's own, or that of a container that this lab's network leads to. Open
    until `Published.close`, or until this process ends: of the notebook, or of the function that `lab.run`
    runs. The URL is one of this machine's own addresses, lab/outlet.py says why not localhost. Outside of a
    lab there is nothing to open. Raises ContainerError: the port is taken, below 1024, one too many.
    """
    if before := _mine.get(port):
        before.close()
    if not outlet.in_lab():
        return Published(port, f"http://{f'[{host}]' if ':' in host else host}:{inside or port}")
    opened = outlet.ask(port, host, inside)
    _mine[port] = Published(port, opened.url, opened.lease)
    return _mine[port]
