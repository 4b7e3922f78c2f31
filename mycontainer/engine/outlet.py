"""A port of a lab, led out to the machine around it, where the learner's browser is: how to ask for that.

A lab has a network of its own, and what is published in there stays in there. Its doorman, who stands in both
networks, leads callers in (lab/outlet.py). It hears us at an abstract Unix socket: that lies in no directory,
which root in a lab could remove, but in the lab's network namespace. So notebooks, terminals and all that
they start find it, and containers with a network of their own do not.

The connection is the lease: while anybody has it open, the port is open, and however they end, it goes with
them. There is nothing to take back. man 7 unix, "abstract".
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterable
from typing import NamedTuple

from mycontainer.errors import ContainerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from mycontainer.engine.ports import Port

PLACE = "\0mycontainer-lab"
EVERYBODY = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # where to find who listens for all callers
LARGEST = 4096   # bytes of a question or an answer
PATIENCE = 5     # seconds that we wait for the answer: the launcher may be stopped


class Outlet(NamedTuple):
    """A port that is open outside, at ``address``, for as long as ``lease`` is."""

    port: int
    address: str
    lease: socket.socket

    @property
    def url(self) -> str:
        """Where a browser finds it, if it is a web server's."""
        return f"http://{self.address}:{self.port}"


def worth_asking(ports: Iterable[Port]) -> list[Port]:
    """Of published ports those that are led out: TCP, each number once, by IPv4 where it has both."""
    found: dict[int, Port] = {}
    for port in ports:
        if port.protocol == "tcp" and (port.outside not in found or ":" not in port.addresses[0]):
            found[port.outside] = port
    return list(found.values())


def in_lab() -> bool:
    """Whether there is anything outside to lead a port to."""
    return "MYCONTAINER_LAB" in os.environ


def ask(port: int, host: str = "127.0.0.1", inside: int = 0) -> Outlet:
    """Have ``port`` opened on the machine around the lab, for callers of ``host`` and ``inside`` in here.

    ``host`` is an IP address as this lab's network knows it, ``inside`` a port, 0 for the same one. Raises
    ContainerError, with the reason of who refused.
    """
    import json  # who is in no lab should not pay for loading it

    lease = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        for way in (socket.SO_SNDTIMEO, socket.SO_RCVTIMEO):  # with settimeout a full queue would be an error
            lease.setsockopt(socket.SOL_SOCKET, way, struct.pack("ll", PATIENCE, 0))
        lease.connect(PLACE)
        wish = {"port": port, "host": EVERYBODY.get(host, host), "inside": inside or port}
        lease.send(json.dumps(wish).encode())
        answer = lease.recv(LARGEST)
        if not answer:
            raise ConnectionResetError("the lab ends")
        told = json.loads(answer)
        if "address" not in told:
            raise ContainerError(told["what"], told["reason"], told["hint"])
    except OSError as error:
        lease.close()
        raise _unheard(port, error) from error
    except BaseException:
        lease.close()
        raise
    return Outlet(port, told["address"], lease)


def _unheard(port: int, error: OSError) -> ContainerError:
    what = f"cannot publish port {port} outside the lab"
    if isinstance(error, ConnectionRefusedError):
        return ContainerError(what, "nobody hears us", "This process is in another network namespace than "
                              "the lab itself: ask before you enter it.")
    reason = "no answer" if isinstance(error, BlockingIOError) else error.strerror or str(error)
    return ContainerError(what, reason, "Try once more.")
