"""What comes out of the lab on purpose: a line of progress now and then.

The learner's files cannot be written to from inside. A solved exercise is told to the launcher instead, one
JSON object a datagram, and the launcher appends it to ``.progress.jsonl`` in the workspace. Whoever is root
in there may send anything at all, as fast as they like: so all of it is checked, copied field by field, and
counted.
"""

from __future__ import annotations

import json
import os
import re
import socket
import stat
import time
from typing import Any

FILE = ".progress.jsonl"
LARGEST = 128 * 1024           # bytes of one message: the source of an exercise and a little more
LARGEST_FILE = 64 << 20        # bytes of the file; a learner writes some 100 kB
BURST, PER_SECOND = 40, 10     # messages that are taken at once, and then each second

TYPES = ("progress", "reset")
NAME = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)*", re.ASCII)
FIELDS: dict[str, tuple[type, ...]] = {
    "id": (str,), "exercise": (str,), "event": (str,), "name": (str,), "source": (str,), "pick": (str,),
    "seconds": (int, float),
}


def accept(data: bytes) -> dict[str, Any] | None:
    """What a message says, as far as it is one of ours; None for anything else."""
    if len(data) > LARGEST:
        return None
    try:
        message = json.loads(data, parse_constant=_no_number)
    except (ValueError, RecursionError):
        return None
    if not isinstance(message, dict) or message.get("type") not in TYPES:
        return None
    name = message.get("exercise")
    if not isinstance(name, str) or len(name) > 80 or not NAME.fullmatch(name):
        return None
    known = {key: message[key] for key, types in FIELDS.items()
             if key in message and type(message[key]) in types}
    return {"type": message["type"], **known, "time": round(time.time(), 3)}


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


class Recorder:
    """Takes messages from ``inside`` and appends them to the workspace's progress file."""

    def __init__(self, inside: socket.socket, workspace: str | None) -> None:
        inside.setblocking(False)
        self.inside, self.workspace = inside, workspace
        self.credit, self.since = float(BURST), time.monotonic()

    def ready_in(self) -> float:
        """Seconds until the next message may be taken: until then the sender waits."""
        now = time.monotonic()
        self.credit = min(BURST, self.credit + (now - self.since) * PER_SECOND)
        self.since = now
        return 0.0 if self.credit >= 1 else (1 - self.credit) / PER_SECOND

    def take(self) -> bool:
        """Take one message; False when there will be no more. Descriptors sent along are dropped unseen."""
        self.credit -= 1
        try:
            data = self.inside.recv(LARGEST + 1)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if data and self.workspace and (message := accept(data)):
            append(self.workspace, message)
        return bool(data)


def append(workspace: str, message: dict[str, Any]) -> None:
    """Add a line to the progress file, on the disk before we return. A failure costs only the line."""
    line = json.dumps(message, ensure_ascii=True) + "\n"
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(os.path.join(workspace, FILE), flags, 0o644)
        try:
            found = os.fstat(fd)
            if stat.S_ISREG(found.st_mode) and found.st_size + len(line) <= LARGEST_FILE:
                os.write(fd, line.encode())
                os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        os.write(2, f"mycontainer: cannot save progress in {workspace}: {error.strerror}\n".encode())
