"""`mycontainer exec`: one more command in a container that runs."""

from __future__ import annotations

from collections.abc import Sequence

from mycontainer import api
from mycontainer.cli.options import Command, Option
from mycontainer.cli.run import attended, on_own_terminal, parse_env
from mycontainer.engine import state
from mycontainer.errors import ContainerError
from mycontainer.spawn import Process

EXEC = Command(
    "mycontainer exec [OPTIONS] CONTAINER COMMAND [ARGUMENTS...]",
    """\
Run one more command in a container that runs: it sees what the others in there
see, and shares their limits. It ends with the container at the latest.""",
    Option("interactive", "always so: the command reads your input", letter="i"),
    Option("tty", "a terminal of its own for the command", letter="t"),
    Option("env", "an environment variable; without VALUE: as it is here", "NAME[=VALUE]", "e", many=True),
    Option("workdir", "the working directory inside (default: the container's)", "DIR", "w"),
    later={**dict.fromkeys(("-d", "--detach", "--detach-keys", "--env-file"), 7),
           **dict.fromkeys(("-u", "--user", "--privileged"), 9)})


def main(arguments: Sequence[str]) -> int:
    """Find it, start the command, wait; returns the command's exit code."""
    given, words = EXEC.parse(arguments)
    if "help" in given:
        print(EXEC.help(), end="")
        return 0
    if len(words) < 2:
        raise ContainerError("which command?" if words else "which container?", hint=f"Usage: {EXEC.usage}")
    one = state.find(words[0])

    def start(terminal: int | None = None) -> Process:
        return api.execute(one, words[1:], env=parse_env(given.get("env", [])), terminal=terminal,
                           workdir=given.get("workdir", [None])[-1])

    return on_own_terminal(start) if "tty" in given else attended(start)
