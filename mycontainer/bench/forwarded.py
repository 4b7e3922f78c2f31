"""When a web server behind a forwarded port answers.

A port that QEMU (or a proxy) forwards accepts a connection at once, long before anybody in the guest listens:
QEMU then asks the guest, and, unanswered, again after ever longer pauses. Who waits on that one connection
measures these pauses. So a new one is opened every few milliseconds, beside those that wait, and the first
answer that has the token counts.
"""

from __future__ import annotations

import selectors
import socket
import time
from contextlib import suppress

EVERY = 0.02     # seconds between two connections; also the finest that this can tell
PATIENCE = 1.0   # seconds after which a connection is given up


class Question:
    """One connection: asks for the page, and collects the answer."""

    def __init__(self, port: int, token: str) -> None:
        self.asked = time.monotonic()
        self.token, self.seen, self.sent = token.encode(), b"", False
        self.socket = socket.socket()
        self.socket.setblocking(False)
        self.socket.connect_ex(("127.0.0.1", port))

    def fileno(self) -> int:
        return self.socket.fileno()

    def go_on(self) -> bool | None:
        """True: the token is there. False: nobody is, or somebody else. None: not known yet."""
        try:
            if not self.sent:
                self.socket.send(b"GET / HTTP/1.0\r\nHost: localhost\r\n\r\n")
                self.sent = True
                return None
            data = self.socket.recv(65536)
        except BlockingIOError:
            return None
        except OSError:
            return False
        self.seen += data
        head, _, body = self.seen.partition(b"\r\n\r\n")
        if head.split(b" ")[1:2] == [b"200"] and body.strip() == self.token:
            return True
        return None if data else False

    def too_old(self) -> bool:
        return time.monotonic() - self.asked > PATIENCE


class Questions:
    """All open connections to one port, and when the next is due. Use it with a selector of the caller's."""

    def __init__(self, port: int, token: str, selector: selectors.BaseSelector) -> None:
        self.port, self.token, self.selector = port, token, selector
        self.open: set[Question] = set()
        self.due = time.monotonic()

    def ask(self) -> float:
        """Open a connection if one is due, close those that are too old; returns seconds until the next."""
        now = time.monotonic()
        if now >= self.due:
            question = Question(self.port, self.token)
            self.open.add(question)
            self.selector.register(question, selectors.EVENT_WRITE, question)
            self.due = now + EVERY
        for question in [one for one in self.open if one.too_old()]:
            self._close(question)
        return max(0.0, self.due - time.monotonic())

    def take(self, question: Question) -> bool:
        """Go on with a connection on which something happened; True if it brought the token."""
        answer = question.go_on()
        if answer is None:
            self.selector.modify(question, selectors.EVENT_READ, question)
        else:
            self._close(question)
        return answer is True

    def close(self) -> None:
        """Give all of them up."""
        for question in list(self.open):
            self._close(question)

    def _close(self, question: Question) -> None:
        self.open.discard(question)
        with suppress(KeyError):
            self.selector.unregister(question)
        question.socket.close()
