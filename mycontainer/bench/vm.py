"""A virtual machine that runs: started, watched on its serial port, asked for its page, ended."""

from __future__ import annotations

import os
import selectors
import subprocess
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache

from mycontainer.bench import guest
from mycontainer.bench.forwarded import Question, Questions
from mycontainer.bench.subject import Instance, NotReady, Task, descendants


@cache
def starter() -> ThreadPoolExecutor:
    """The one thread that starts all machines: they end with it, so it must live as long as this process."""
    return ThreadPoolExecutor(1, "starts virtual machines")


os.register_at_fork(after_in_child=starter.cache_clear)  # a thread stays where it was


class Machine(Instance):
    """A virtual machine that runs, or has ended."""

    def __init__(self, argv: list[str], task: Task, env: Mapping[str, str] | None = None) -> None:
        self.task = task
        self.began = time.perf_counter_ns()
        self.process = starter().submit(
            subprocess.Popen, argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, env=env, start_new_session=True).result()
        assert self.process.stdout
        self.serial = self.output = self.process.stdout.fileno()
        os.set_blocking(self.serial, False)
        self.lines: list[tuple[int, str]] = []  # of the serial port: when it was whole, and what
        self._rest = b""

    def ready(self, deadline: float) -> int:
        end = self.began + int(deadline * 1e9)
        with selectors.DefaultSelector() as selector:
            selector.register(self.serial, selectors.EVENT_READ)
            questions = Questions(self.task.port, self.task.token, selector)
            try:
                while (left := end - time.perf_counter_ns()) > 0:
                    # Before its init runs no guest has a network: until then nobody is asked.
                    asking = self.task.port and self._passed("network")
                    patience = min(left / 1e9, questions.ask() if asking else 1)
                    for key, _ in selector.select(patience):
                        if self._seen(key.data, questions):
                            return time.perf_counter_ns() - self.began
            finally:
                questions.close()
        raise NotReady(f"no token within {deadline:g} s: {self._last_words()}")

    def _seen(self, question: Question | None, questions: Questions) -> bool:
        """Whether what just happened is the token. Raises NotReady when it can come no more."""
        if question is not None:
            return questions.take(question)
        before, alive = len(self.lines), self._read()
        words = [text for _, text in self.lines[before:]]
        if not self.task.port and self.task.token in words:
            return True
        if self._passed(guest.ENDED):
            raise NotReady(f"the task ended without its token: {self._last_words()}")
        if not alive:
            raise NotReady(f"the machine ended: {self._last_words()}")
        return False

    def _read(self) -> bool:
        """Take what the serial port has said; False at its end."""
        with suppress(BlockingIOError):
            while data := os.read(self.serial, 65536):
                now = time.perf_counter_ns()
                *whole, self._rest = (self._rest + data).split(b"\n")
                self.lines += [(now, line.decode(errors="replace").strip()) for line in whole]
            return False
        return True

    def _passed(self, name: str) -> bool:
        return any(text.startswith(f"{guest.MARK} {name} ") for _, text in self.lines)

    def _last_words(self) -> str:
        """A panic, or what came last that is not the kernel's, or how far it got."""
        panic = next((text for _, text in self.lines if "Kernel panic" in text), None)
        texts = [text for _, text in self.lines if text and not text.startswith((f"{guest.MARK} ", "[ "))]
        passed = [name for name, _ in self.marks()]
        return panic or (texts[-1] if texts else f"it passed {passed[-1]}" if passed else "nothing came")

    def marks(self) -> list[tuple[str, float]]:
        """What it passed on its way, and when: (name, seconds since ``began``), in this order.

        All times are seen from out here, but one: "kernel", where the guest's clock began to count. It is
        told by that clock, when the first line came. What was before is QEMU's and the firmware's.
        """
        self._read()
        found: list[tuple[str, float]] = []
        for moment, text in self.lines:
            words = text.split()
            if words[:1] == [guest.MARK] and len(words) == 3:
                seconds = (moment - self.began) / 1e9
                if not found:
                    found.append(("kernel", seconds - float(words[2])))
                found.append((words[1], seconds))
        return found

    def pids(self) -> set[int]:
        return descendants(self.process.pid) if self.process.poll() is None else set()

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()
