"""What comes out of the lab on purpose: a line of progress now and then.

The learner's files cannot be written to from inside. A solved exercise is told to the launcher instead, one
JSON object a datagram, and the launcher appends it to ``.progress.jsonl`` in the workspace. Whoever is root
in there may send anything at all, as fast as they like: so all of it is checked, copied field by field, and
counted.
"""

from __future__ import annotations

import json
import math
import os
import re
import socket
import stat
import time
from typing import Any

from mycontainer.lab.log import Bucket, say

FILE = ".progress.jsonl"
LARGEST = 128 * 1024           # bytes of one message: the source of an exercise and a little more
LARGEST_FILE = 64 << 20        # bytes of the file; a learner writes some 100 kB
LARGEST_SHARE = 8 << 20        # bytes of it that one lab may add, or it could fill it up for all others
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
             if key in message and type(message[key]) in types
             and (isinstance(message[key], str) or math.isfinite(message[key]))}  # 1e999 is infinite
    return {"type": message["type"], **known, "time": round(time.time(), 3)}


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


class Recorder:
    """Takes messages from ``inside`` and appends them to the workspace's progress file."""

    def __init__(self, inside: socket.socket, workspace: str | None) -> None:
        inside.setblocking(False)
        self.inside, self.workspace = inside, workspace
        self.bucket = Bucket(PER_SECOND, BURST)
        self.share = LARGEST_SHARE

    def ready_in(self) -> float:
        """Seconds until the next message may be taken: until then the sender waits."""
        missing = 1 - self.bucket.level()
        return max(0.0, missing / PER_SECOND)

    def take(self) -> bool:
        """Take one message; False when there will be no more. Descriptors sent along are dropped unseen."""
        self.bucket.take(1)
        try:
            data = self.inside.recv(LARGEST + 1)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if data and self.workspace and (message := accept(data)):
            self._append(self.workspace, message)
        return bool(data)

    def _append(self, workspace: str, message: dict[str, Any]) -> None:
        if self.share <= 0:
            return
        self.share -= append(workspace, message)
        if self.share <= 0:
            say("no more progress is saved for this kernel: it has sent too much", "Restart it.")


def append(workspace: str, message: dict[str, Any]) -> int:
    """Add a line to the progress file, on the disk before we return. A failure costs only the line.

    Returns how many bytes were added.
    """
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        fd = os.open(os.path.join(workspace, FILE), flags, 0o644)
        try:
            return _append_to(fd, json.dumps(message, ensure_ascii=True).encode() + b"\n")
        finally:
            os.close(fd)
    except OSError as error:
        say(f"cannot save progress in {workspace}: {error.strerror}")
        return 0


def _append_to(fd: int, line: bytes) -> int:
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode) or found.st_size + len(line) > LARGEST_FILE:
        return 0
    if found.st_size and os.pread(fd, 1, found.st_size - 1) != b"\n":
        line = b"\n" + line  # half a line, from when the disk was full: it shall not spoil this one
    written = os.write(fd, line)
    os.fsync(fd)
    if written < len(line):
        say("cannot save progress: the disk is full")
    return written
