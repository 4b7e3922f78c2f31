"""The verbs of `mycontainer-oci` that work on containers: their options, and what they print."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Mapping, Sequence

from mycontainer.cli.options import Command, Option
from mycontainer.engine import bundle_exec, bundle_launch, bundle_store, bundles, config
from mycontainer.engine.config_process import Process, read_process
from mycontainer.engine.reader import parse
from mycontainer.errors import ContainerError, explain
from mycontainer.spawn import Process as Running

BUNDLE = Option("bundle", "the bundle's directory (default: this one)", "DIR", "b")
PID_FILE = Option("pid-file", "write the pid of the process there", "FILE")
CONSOLE = Option("console-socket", "send the terminal's master end to this socket", "PATH")
PRESERVE = Option("preserve-fds", "let it keep so many descriptors after the first three", "N")
FORMAT = Option("format", "json, or table", "FORMAT", "f")

EXPLAIN = Option("explain", "show the steps, and do none of them")

RUN = Command("mycontainer-oci run [OPTIONS] ID", "Create a container, wait for its end, and delete it.",
              BUNDLE, Option("detach", "return as soon as it runs", letter="d"), PID_FILE, CONSOLE, PRESERVE,
              Option("keep", "do not delete it at its end"), Option("no-new-keyring", "accepted"),
              Option("no-pivot", "not supported"), EXPLAIN)
CREATE = Command("mycontainer-oci create [OPTIONS] ID", "Make a container, up to its command.",
                 BUNDLE, PID_FILE, CONSOLE, PRESERVE, Option("no-new-keyring", "accepted"),
                 Option("no-pivot", "not supported"), EXPLAIN)
START = Command("mycontainer-oci start ID", "Let a created container become its command.")
STATE = Command("mycontainer-oci state ID", "Tell about a container, as JSON.")
KILL = Command("mycontainer-oci kill [OPTIONS] ID [SIGNAL]", "Send a signal to a container (default: TERM).",
               Option("all", "to all of its processes", letter="a"))
DELETE = Command("mycontainer-oci delete [OPTIONS] ID", "Take back all that was made for a container.",
                 Option("force", "also one that runs, or is not there", letter="f"))
EXEC = Command("mycontainer-oci exec [OPTIONS] ID [COMMAND [ARGUMENTS...]]",
               "Run one more process in a container.", PID_FILE, CONSOLE, PRESERVE,
               Option("process", "read the process from this file of JSON", "FILE", "p"),
               Option("detach", "return as soon as it runs", letter="d"),
               Option("tty", "a terminal of its own", letter="t"), Option("cwd", "its directory", "DIR"),
               Option("env", "one more environment variable", "NAME=VALUE", "e", many=True),
               Option("user", "as UID[:GID]", "USER", "u"))
PS = Command("mycontainer-oci ps [OPTIONS] ID", "List the processes of a container.", FORMAT)
LIST = Command("mycontainer-oci list [OPTIONS]", "List all containers.", FORMAT,
               Option("quiet", "only their ids", letter="q"))
PAUSE = Command("mycontainer-oci pause ID", "Stop all processes of a container where they are.")
RESUME = Command("mycontainer-oci resume ID", "Let the processes of a container go on.")

Given = Mapping[str, list[str]]


def _last(given: Given, name: str) -> str:
    return given.get(name, [""])[-1]


def _parsed(command: Command, arguments: Sequence[str], most: int = 1) -> tuple[Given, list[str]]:
    """Options and words, of which the first must be there: the id."""
    given, words = command.parse(arguments)
    if "help" in given:
        print(command.help(), end="")
        raise SystemExit(0)
    if "no-pivot" in given:
        raise ContainerError("--no-pivot is not supported", "the old root would stay in reach")
    if not words:
        raise ContainerError("which container?", hint=f"Usage: {command.usage}")
    if len(words) > most:
        raise ContainerError(f"too many arguments: {' '.join(words[most:])}", hint=f"Usage: {command.usage}")
    return given, words


def _kept(given: Given) -> int:
    """How many descriptors the command keeps; each must be open now, or one of ours would take its place."""
    number = _last(given, "preserve-fds") or "0"
    if not number.isdecimal() or int(number) > 1000:
        raise ContainerError(f"not a number of descriptors: {number}")
    for fd in range(3, 3 + int(number)):
        try:
            os.fstat(fd)
        except OSError as error:
            raise explain(f"cannot preserve descriptor {fd}", error) from error
        os.set_inheritable(fd, True)
    return 3 + int(number)


def create(root: str, arguments: list[str]) -> int:
    given, (identity,) = _parsed(CREATE, arguments)
    if "explain" in given:
        print(bundle_launch.explained(identity, _last(given, "bundle") or ".", root))
        return 0
    bundle_launch.create(root, identity, _last(given, "bundle") or ".", kept=_kept(given),
                   console_socket=_last(given, "console-socket"), pid_file=_last(given, "pid-file"))
    return 0


def run(root: str, arguments: list[str]) -> int:
    given, (identity,) = _parsed(RUN, arguments)
    bundle = _last(given, "bundle") or "."
    if "explain" in given:
        print(bundle_launch.explained(identity, bundle, root))
        return 0
    detach, kept = "detach" in given, _kept(given)

    def begin(take_terminal: Callable[[int], object] | None) -> Running:
        return bundle_launch.create(root, identity, bundle, waits=False, stays=not detach, kept=kept,
                              console_socket=_last(given, "console-socket"), take_terminal=take_terminal,
                              pid_file=_last(given, "pid-file"))

    if detach:
        begin(None)
        return 0
    found, _ = config.load(bundle)
    terminal = bool(found.process and found.process.terminal) and "console-socket" not in given
    try:
        return _attended(begin, terminal)
    finally:
        if "keep" not in given:
            bundles.delete(root, identity, force=True)


def _attended(begin: Callable[[Callable[[int], object] | None], Running], terminal: bool) -> int:
    """Stay with a process until its end, passing on signals, or as the screen of its terminal."""
    from mycontainer.cli.run import attended

    if not terminal:
        return attended(lambda: begin(None))
    if not os.isatty(0):
        raise ContainerError("process.terminal", "the input here is no terminal",
                             "Set it to false, or give a --console-socket.")
    from mycontainer.lab.terminal import carry, raw_terminal

    masters: list[int] = []
    process = begin(masters.append)
    with raw_terminal():
        carry(masters[0], process.runner)
    return process.wait()


def start(root: str, arguments: list[str]) -> int:
    _, (identity,) = _parsed(START, arguments)
    bundles.start(root, identity)
    return 0


def state(root: str, arguments: list[str]) -> int:
    _, (identity,) = _parsed(STATE, arguments)
    print(json.dumps(bundle_store.find(root, identity).describe(), indent=2))
    return 0


def kill(root: str, arguments: list[str]) -> int:
    given, (identity, *rest) = _parsed(KILL, arguments, 2)
    bundles.kill(root, identity, parse_signal(rest[0] if rest else "TERM"), "all" in given)
    return 0


def parse_signal(text: str) -> int:
    """``9``, ``KILL`` or ``SIGKILL``."""
    name = text.upper() if text.upper().startswith("SIG") else f"SIG{text.upper()}"
    known = {one.name: int(one) for one in signal.Signals}
    number = int(text) if text.isdecimal() else known.get(name, 0)
    if not 0 < number <= signal.SIGRTMAX:
        raise ContainerError(f"not a signal: {text}")
    return number


def delete(root: str, arguments: list[str]) -> int:
    given, (identity,) = _parsed(DELETE, arguments)
    bundles.delete(root, identity, "force" in given)
    return 0


def execute(root: str, arguments: list[str]) -> int:
    given, (identity, *args) = _parsed(EXEC, arguments, 1 << 20)
    if bool(args) == ("process" in given):
        raise ContainerError("what shall it execute?", hint="Either a COMMAND, or --process FILE.")
    detach, kept, terminal = "detach" in given, _kept(given), "tty" in given
    asked = _process_of_file(_last(given, "process")) if "process" in given else None
    terminal = asked.terminal if asked else terminal

    def begin(take_terminal: Callable[[int], object] | None) -> Running:
        return bundle_exec.execute(root, identity, lambda theirs: asked or _asked(given, args, theirs),
                                   detach=detach, kept=kept, console_socket=_last(given, "console-socket"),
                                   take_terminal=take_terminal, pid_file=_last(given, "pid-file"))

    if detach:
        bundle_launch.leave(begin(None))
        return 0
    return _attended(begin, terminal and "console-socket" not in given)


def _process_of_file(path: str) -> Process:
    try:
        with open(path, "rb") as file:
            return read_process(parse(file.read(), path))
    except OSError as error:
        raise explain(f"cannot read the process in {path}", error) from error


def _asked(given: Given, args: list[str], theirs: Process | None) -> Process:
    """The container's own process with what is asked for on the command line."""
    if theirs is None:
        raise ContainerError("cannot exec", "the container's configuration has no process")
    user = theirs.user
    if "user" in given:
        uid, _, gid = _last(given, "user").partition(":")
        if not uid.isdecimal() or not (gid or "0").isdecimal():
            raise ContainerError(f"not a user: {_last(given, 'user')}", hint="As numbers: UID or UID:GID.")
        user = user._replace(uid=int(uid), gid=int(gid or user.gid))
    env = [*theirs.env, *given.get("env", [])]
    if wrong := next((pair for pair in env if "=" not in pair), None):
        raise ContainerError(f"not an environment variable: {wrong}", hint="Write NAME=VALUE.")
    return theirs._replace(args=tuple(args), env=tuple(env), user=user, terminal="tty" in given,
                           cwd=_last(given, "cwd") or theirs.cwd)


def ps(root: str, arguments: list[str]) -> int:
    given, (identity, *rest) = _parsed(PS, arguments, 1 << 20)
    pids = bundles.processes(bundle_store.find(root, identity))
    if _last(given, "format") == "json":
        print(json.dumps(pids))
        return 0
    import subprocess

    rows = subprocess.run(["ps", *(rest or ["-ef"])], capture_output=True, text=True).stdout.splitlines()
    column = rows[0].split().index("PID")
    print(rows[0])
    for row in rows[1:]:
        if int(row.split()[column]) in pids:
            print(row)
    return 0


def list_all(root: str, arguments: list[str]) -> int:
    given, words = LIST.parse(arguments)
    if "help" in given or words:
        print(LIST.help(), end="")
        return 0 if "help" in given else 1
    bundle_store.sweep_all(root)
    found = [one.describe() for one in bundle_store.everyone(root)]
    if "quiet" in given:
        print(*(one["id"] for one in found), sep="\n", end="\n" if found else "")
    elif _last(given, "format") == "json":
        print(json.dumps(found))
    else:
        columns = ("id", "pid", "status", "bundle", "created", "owner")
        rows = [[name.upper() for name in columns], *([str(one[name]) for name in columns] for one in found)]
        widths = [max(len(row[at]) for row in rows) for at in range(len(columns))]
        for row in rows:
            print("  ".join(f"{text:{width}}" for text, width in zip(row, widths, strict=True)).rstrip())
    return 0


def pause(root: str, arguments: list[str]) -> int:
    _, (identity,) = _parsed(PAUSE, arguments)
    bundles.pause(root, identity)
    return 0


def resume(root: str, arguments: list[str]) -> int:
    _, (identity,) = _parsed(RESUME, arguments)
    bundles.resume(root, identity)
    return 0


VERBS: dict[str, Callable[[str, list[str]], int]] = {
    "create": create, "run": run, "start": start, "state": state, "kill": kill, "delete": delete,
    "exec": execute, "ps": ps, "list": list_all, "pause": pause, "resume": resume,
}
