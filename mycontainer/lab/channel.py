"""What the lab's processes tell each other while it starts: one message a datagram, descriptors with it.

The words, in the order of a start:

    doorman  JOINING                       I exist, put me under the limits
    launcher JOINED
    doorman  UNSHARED                      my user namespace is made, write its maps
    launcher MAPPED + trees                done; these are the host's directories that the lab may see
    doorman  ROOTED                        the lab's cgroup namespace is made, take me out of its cgroup
    launcher TAKEN_OUT
    doorman  RUNNING {init: pid}           the lab is up
    anybody  FAILED {what, reason, hint}   instead of the next word

And later, as often as somebody inside asks (outlet.py):

    doorman  OPEN {number, port}           listen out there
    launcher OPENED {number, address} + the listener, or REFUSED {number, what, reason, hint}
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from typing import Any

from mycontainer.errors import ContainerError, explain

JOINING, JOINED, UNSHARED, MAPPED, RUNNING, FAILED = (
    "joining", "joined", "unshared", "mapped", "running", "failed")
ROOTED, TAKEN_OUT = "rooted", "taken out"
OPEN, OPENED, REFUSED = "open", "opened", "refused"
BORN, GO = "born", "go"  # between the doorman and those that it forks


class Channel:
    """One end of a SEQPACKET pair: `send` a word, `expect` one."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end

    @classmethod
    def pair(cls) -> tuple[Channel, Channel]:
        """Two ends that talk to each other."""
        one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return cls(one), cls(other)

    def send(self, word: str, fds: Sequence[int] = (), **facts: Any) -> None:
        """Send ``word`` with facts (what JSON can hold) and copies of descriptors."""
        socket.send_fds(self.socket, [json.dumps({"word": word, **facts}).encode()], fds)

    def expect(self, word: str) -> tuple[dict[str, Any], list[int]]:
        """Wait for ``word``; returns (facts, descriptors).

        Raises ContainerError with the other side's reason if it has failed, or is gone.
        """
        try:
            message = self.receive()
        except OSError as error:
            raise explain("cannot start the lab", error) from error
        if message is None:
            raise ContainerError("cannot start the lab", "somebody killed it on the way")
        facts, fds = message
        if facts["word"] == FAILED:
            raise ContainerError(facts["what"], facts["reason"], facts["hint"])
        if facts["word"] != word:
            raise ContainerError("cannot start the lab", f"expected {word!r}, got {facts['word']!r}")
        return facts, fds

    def receive(self) -> tuple[dict[str, Any], list[int]] | None:
        """Whatever is said next, as (facts, descriptors); None if the other side is gone. Raises OSError."""
        data, fds, _, _ = socket.recv_fds(self.socket, 65536, 250, socket.MSG_CMSG_CLOEXEC)
        return (json.loads(data), fds) if data else None

    def fail(self, error: BaseException) -> None:
        """Tell the other side why there will be no next word."""
        if isinstance(error, OSError):
            error = explain(f"cannot start the lab: {error.filename or 'a system call failed'}", error)
        facts = ((error.what, error.reason, error.hint) if isinstance(error, ContainerError)
                 else ("cannot start the lab", repr(error), ""))
        try:
            self.send(FAILED, what=facts[0], reason=facts[1], hint=facts[2])
        except OSError:
            pass  # nobody is there to be told

    def close(self) -> None:
        self.socket.close()


def close_all_but(*keep: int) -> None:
    """Close every descriptor above 2 that is not in ``keep``: what a forked child got by mere inheritance."""
    low = 3
    for fd in sorted(keep):
        os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, 1 << 30)
