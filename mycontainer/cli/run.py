"""`mycontainer run`: a command in a container, as if it ran here: its output, its signals, its exit code."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import sys
import termios
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from mycontainer import api
from mycontainer.cli.options import Command, Option
from mycontainer.engine import state
from mycontainer.engine.state import Record
from mycontainer.errors import ContainerError
from mycontainer.spawn import Process

TYPE_CHECKING = False
if TYPE_CHECKING:  # loading it takes longer than all the rest of this file
    from types import FrameType

    from mycontainer.engine.outlet import Outlet
    from mycontainer.engine.ports import Port

RUN = Command(
    "mycontainer run [OPTIONS] IMAGE [COMMAND [ARGUMENTS...]]",
    """\
Run a command in a container of its own: its own root file system, host name,
processes, users and network. All of it is gone when the command ends; of a
detached one its output and exit code stay, until `mycontainer rm`.

Without a COMMAND it is sh. Options end at IMAGE: what follows belongs to the
command. With --rootfs there is no IMAGE, and options end at COMMAND.""",
    Option("detach", "in the background: print the container's id, and return", letter="d"),
    Option("name", "its name, by which others of its network find it, too\n(default: as busybox-1)", "NAME"),
    Option("hostname", "the host name inside (default: the container's id)", "NAME", "h"),
    Option("env", "an environment variable; without VALUE: as it is here", "NAME[=VALUE]", "e", many=True),
    Option("workdir", "the working directory inside, made if missing", "DIR", "w"),
    Option("volume", "show SRC, a file or directory of yours, as DST inside;\n"
           "ro: read-only (for root: its files are nobody's inside)",
           "SRC:DST[:ro]", "v", many=True),
    Option("memory", "the most memory, in bytes or with k, m, g: 64m", "SIZE", "m"),
    Option("cpus", "the most CPU time, as a number of CPUs: 0.5", "NUMBER"),
    Option("pids-limit", "the most processes (-1: no limit)", "NUMBER"),
    Option("publish", "lead callers of port HOST to PORT inside: 8080:80, 53:53/udp;\n"
           "only callers on this machine: 0.0.0.0:8080:80 lets in all\n"
           "who can reach it, as Docker always does. From the lab it is\n"
           "also led outside, to the URL that is printed", "[HOST:]PORT", "p", many=True),
    Option("network", "none (default): only a loopback device; host: this\n"
           "machine's; container:NAME: that one's; any other NAME: a\n"
           "network that all who name it share (with -p: bridge)", "NAME"),
    Option("rootfs", "start in DIR itself, whose changes stay", "DIR"),
    Option("rm", "with -d: remove it when it ends. Always so without"),
    Option("interactive", "always so: the command reads your input", letter="i"),
    Option("tty", "a terminal of its own for the command: job control, Ctrl-C", letter="t"),
    epilog="""\
Exit code: the command's; 128 + N if signal N ended it; 127 no such command in
there, 126 it cannot be executed, 125 mycontainer itself failed.

Signals are passed on to the command. As process 1 of the container it ignores
those that it has no handler for; the third Ctrl-C kills it.

Examples:
  mycontainer run busybox sh -c 'hostname; ps; id'
  mycontainer run -h web -e COLOUR=green -v .:/work:ro -w /work busybox ls -l""",
    later={
        **dict.fromkeys(("-m", "--memory", "--memory-swap", "--cpus", "--cpu-shares", "--pids-limit"), 3),
        **dict.fromkeys(("--read-only", "--mount", "--tmpfs"), 4),
        **dict.fromkeys(("-P", "--publish-all"), 8),
        **dict.fromkeys(("--restart", "--init", "-l", "--label"), 7),
        **dict.fromkeys(("--entrypoint", "--pull", "--platform"), 8),
        **dict.fromkeys(("-u", "--user", "--cap-add", "--cap-drop", "--privileged", "--security-opt"), 9),
    })

DEFAULT_COMMAND = ["sh"]
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2,
             signal.SIGWINCH)
PATIENCE = 3  # the third SIGINT or SIGTERM goes on as SIGKILL, as with docker-run(1)
GRACE = 2     # seconds from SIGHUP to SIGKILL: the terminal is gone, and nobody could press Ctrl-C any more


def main(arguments: Sequence[str]) -> int:
    """Parse, start, wait; returns the exit code."""
    given, words = RUN.parse(arguments)
    if "help" in given:
        print(RUN.help(), end="")
        return 0
    wishes = parse_wishes(given)
    if "rootfs" not in wishes and not words:
        raise ContainerError("which image?", hint=f"Usage: {RUN.usage}")
    image = None if "rootfs" in wishes else words.pop(0)
    command = words or DEFAULT_COMMAND
    detach = "detach" in given
    if detach and ("tty" in given or "interactive" in given):
        raise ContainerError("cannot use -d with -i or -t", "its command has no input, and no terminal",
                             "Leave out -it: mycontainer logs -f shows what it writes.")
    record = state.create(given.get("name", [None])[-1], image or "rootfs", "rm" in given or not detach)
    wishes |= {"name": record.name, "hostname": wishes.get("hostname", record.id[:12])}
    ports: list[Port] = []
    urls: list[str] = []  # in a lab: where the ports are outside of it
    wishes["tell_ports"] = ports.extend if detach else lambda them: ports.extend(told(them))
    wishes["tell_outlets"] = lambda outlets, refusals: urls.extend(one.url for one in outlets) if detach \
        else tell_outlets(outlets, refusals)

    def start(terminal: int | None = None) -> Process:
        process = api.start(image, command, terminal=terminal, **wishes)  # type: ignore[arg-type]
        try:
            record.runs(process.pid, image=image or wishes["rootfs"], command=command, env=wishes["env"],
                        workdir=wishes.get("workdir", "/"), hostname=wishes["hostname"],
                        ports=", ".join([*ports_text(ports), *urls]))
        except BaseException:
            process.kill()
            process.wait()
            raise
        return process

    if detach:
        return detached(record, start)
    code: int | str = state.UNKNOWN
    try:
        code = in_foreground(start, "tty" in given, command)
        return code
    finally:
        record.ended(code)


def parse_wishes(given: Mapping[str, list[str]]) -> dict[str, object]:
    """From the options to what `api.start` takes."""
    wishes: dict[str, object] = {name: given[name][-1] for name in
                                 ("hostname", "workdir", "network", "rootfs") if name in given}
    wishes |= {name.replace("-", "_"): parse(given[name][-1])
               for name, parse in LIMITS.items() if name in given}
    if "rootfs" in given:
        wishes["rootfs"] = os.path.abspath(given["rootfs"][-1])  # a supervisor is in another directory
    return wishes | {"env": parse_env(given.get("env", [])), "publish": given.get("publish", []),
                     "volumes": [parse_volume(text) for text in given.get("volume", [])], "find_pid": pid_of}


def in_foreground(start: Callable[[int | None], Process], tty: bool, command: Sequence[str]) -> int:
    """Start it and stay with it, on a terminal of its own if there is to be one. Returns the exit code."""
    if tty:
        return on_own_terminal(start)
    if os.isatty(0) and os.isatty(1) and command == DEFAULT_COMMAND:
        print("hint: this sh has no terminal of its own: -it gives it one, with job control", file=sys.stderr)
    return attended(lambda: start(None))


def detached(record: Record, start: Callable[[], Process]) -> int:
    """Leave it to a supervisor, and print its id. Returns the exit code."""
    from mycontainer.engine import supervise  # nobody else should pay for loading it

    supervise.detach(record, start)
    print(record.id)
    return 0


def parse_size(text: str) -> int:
    """Bytes, from a number and k, m, g or t: powers of 1024, as Docker has them."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kmgt]?)(?:i?b)?", text.lower())
    if not found:
        raise ContainerError(f"not an amount of memory: {text}", hint="Write it as 64m, 1g or in bytes.")
    return int(float(found[1]) * 1024 ** " kmgt".index(found[2] or " "))


def parse_cpus(text: str) -> float:
    """A number of CPUs."""
    if not re.fullmatch(r"\d*\.?\d+", text):
        raise ContainerError(f"not a number of CPUs: {text}", hint="Write 0.5 for half of one.")
    return float(text)


def parse_count(text: str) -> int:
    """A number of processes."""
    if not re.fullmatch(r"-1|\d+", text):
        raise ContainerError(f"not a number of processes: {text}", hint="Write 32, or -1 for no limit.")
    return int(text)


LIMITS: dict[str, Callable[[str], object]] = {
    "memory": parse_size, "cpus": parse_cpus, "pids-limit": parse_count}


def parse_env(texts: Sequence[str], ours: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Each text is ``NAME=VALUE``; or ``NAME``, which takes our own value along, if there is one."""
    env = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not name:
            raise ContainerError(f"not an environment variable: {text}", hint="Write NAME=VALUE, or NAME.")
        if separator:
            env[name] = value
        elif name in ours:
            env[name] = ours[name]
    return env


def parse_volume(text: str) -> api.Volume:
    """``SRC:DST``, ``SRC:DST:ro`` or ``SRC:DST:rw``. The first becomes absolute: a supervisor lives in /."""
    source, inside, mode = [*text.split(":"), "rw"][:3] if text.count(":") in (1, 2) else ("", "", "")
    if not source or not inside or mode not in ("ro", "rw"):
        raise ContainerError(f"not a volume: {text}", hint="Write SRC:DST or SRC:DST:ro.")
    return os.path.abspath(source), inside, mode == "ro"


def pid_of(word: str) -> int:
    """Process 1 of a container that runs."""
    try:
        one = state.find(word)
        os.close(one.pidfd())
    except ContainerError as error:
        raise ContainerError(f"cannot use the network container:{word}", str(error), error.hint) from None
    return one.pid


def ports_text(ports: Sequence[Port]) -> list[str]:
    """As `ps` shows them: ``127.0.0.1:8080->80/tcp``."""
    return [f"{bracketed(address)}:{port.outside}->{port.inside}/{port.protocol}"
            for port in ports for address in port.addresses]


def bracketed(address: str) -> str:
    """An address as it stands before a port."""
    return f"[{address}]" if ":" in address else address


def told(ports: list[Port]) -> list[Port]:
    """Say which port was chosen, where that was left to us."""
    for port in ports:
        if port.chosen:
            print(f"mycontainer: {bracketed(port.addresses[0])}:{port.outside} leads to "
                  f"{port.inside}/{port.protocol}", file=sys.stderr)
    return ports


def tell_outlets(outlets: Sequence[Outlet], refusals: Sequence[ContainerError]) -> None:
    """Say where the ports are outside of the lab that we are in, and which are not."""
    for one in outlets:
        print(f"mycontainer: outside the lab it is {one.url}", file=sys.stderr)
    for refusal in refusals:
        print(f"mycontainer: {refusal}", *([f"hint: {refusal.hint}"] if refusal.hint else []), sep="\n",
              file=sys.stderr)


def on_own_terminal(start: Callable[[int], Process]) -> int:
    """Give the container a terminal of its own, and be its keyboard and screen until it ends.

    Ours never goes inside: root there could type into it (ioctl TIOCSTI).
    """
    from mycontainer.lab.terminal import carry, raw_terminal, screen_size

    if not os.isatty(0):
        raise ContainerError("cannot use -t", "the input is not a terminal", "Leave it out: -i is enough.")
    ours, inner = os.openpty()
    fcntl.ioctl(inner, termios.TIOCSWINSZ, screen_size())
    process = start(inner)
    os.close(inner)
    with raw_terminal():
        carry(ours, process.runner)
    return process.wait()


def attended(start: Callable[[], Process]) -> int:
    """Start a container and stay with it until its end, passing on the signals that we get."""
    process: Process | None = None
    early: list[int] = []
    interruptions = 0
    outside = os.getpid()

    def forward(number: int, _: FrameType | None) -> None:
        nonlocal interruptions
        if os.getpid() != outside:  # a forked child, which has its own ideas in a moment
            return
        interruptions += number in (signal.SIGINT, signal.SIGTERM)
        if process is None:
            early.append(number)
            if interruptions >= PATIENCE:
                raise KeyboardInterrupt
        else:
            process.kill(signal.SIGKILL if interruptions >= PATIENCE else number)
        if number == signal.SIGHUP:
            signal.alarm(GRACE)
        if number == signal.SIGINT and interruptions == PATIENCE - 1:
            os.write(2, b"mycontainer: process 1 ignores signals without a handler; once more kills it\n")

    for each in FORWARDED:
        if signal.getsignal(each) != signal.SIG_IGN:  # as nohup(1) sets it
            signal.signal(each, forward)
    signal.signal(signal.SIGALRM, lambda *_: process.kill() if process else None)
    with settings_kept():
        process = start()
        for number in early:
            process.kill(number)
        return process.wait()


@contextmanager
def settings_kept() -> Iterator[None]:
    """Put the terminal's settings back at the end: a command that was killed could not do it itself."""
    if not os.isatty(0):
        yield
        return
    before = termios.tcgetattr(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)
