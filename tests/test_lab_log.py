"""What the launcher says: bounded, harmless, and never a reason to wait or to die."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from mycontainer.lab import log


@contextmanager
def pipe() -> Iterator[list[int]]:
    """Both ends of a pipe; either may be closed, and marked by -1, in the block."""
    ends = list(os.pipe())
    try:
        yield ends
    finally:
        for end in ends:
            if end >= 0:
                os.close(end)


@contextmanager
def copied(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Callable[[bytes], str], log.Log]]:
    """A function that writes bytes into a log and returns what comes out of it."""
    said: list[bytes] = []
    monkeypatch.setattr(log, "put", lambda data, fd=2: said.append(data))
    with pipe() as (read, write):
        one = log.Log(read)

        def through(data: bytes) -> str:
            said.clear()
            os.write(write, data)
            assert one.copy()
            return b"".join(said).decode()

        yield through, one


def test_controls_are_taken_out_and_text_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    with copied(monkeypatch) as (through, _):
        assert through("Grüße, 世界\t✓\n".encode()) == "Grüße, 世界\t✓\n"
        assert through(b"\x1b]0;x\x07\x7f\r") == "?]0;x???"
        assert through("\x9b31m\u202e".encode()) == "?31m?"
        assert through(b"\x9b31m") == "\ufffd31m"


def test_a_letter_in_two_pieces_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with copied(monkeypatch) as (through, _):
        assert through(b"\xc3") + through(b"\xa4") == "ä"


def test_a_flood_is_dropped_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with copied(monkeypatch) as (through, one):
        passed = sum(len(through(b"x" * 60000)) for _ in range(20))
        assert 200000 < passed < 400000
        dropped = one.dropped
        assert dropped + passed == 20 * 60000
        one.bucket.credit = log.BURST
        first, second = through(b"later\n").splitlines()
        assert first.startswith(f"mycontainer: {dropped} bytes of the kernel's log")
        assert second == "later"


def test_the_end_of_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    with pipe() as ends:
        one = log.Log(ends[0])
        assert one.copy()  # nothing there, and no wait
        os.close(ends[1])
        ends[1] = -1
        assert not one.copy()


def in_time(call: Callable[[], None]) -> bool:
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(2)
    return not thread.is_alive()


def test_a_full_pipe_does_not_hold_it_up() -> None:
    with pipe() as (_, write):
        os.set_blocking(write, False)
        with suppress(BlockingIOError):
            while True:
                os.write(write, b"x" * 4096)
        os.set_blocking(write, True)
        assert in_time(lambda: log.put(b"more", write))
        assert os.get_blocking(write)  # the description is everybody's: it stays as it was


def test_a_full_socket_does_not_hold_it_up() -> None:
    one, other = socket.socketpair()

    def flood() -> None:
        for _ in range(50):
            log.put(b"x" * 65536, one.fileno())

    with one, other:
        assert in_time(flood)


def test_a_pipe_that_nobody_reads_any_more_does_not_end_it() -> None:
    assert signal.getsignal(signal.SIGPIPE) == signal.SIG_IGN
    with pipe() as ends:
        os.close(ends[0])
        ends[0] = -1
        log.put(b"x", ends[1])
    log.put(b"x", 1 << 20)  # no such descriptor


def test_a_line_and_its_hint(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    log.say("cannot do it", "Do not.")
    log.say("only this")
    assert capfd.readouterr().err == "mycontainer: cannot do it\nhint: Do not.\nmycontainer: only this\n"
