"""`mycontainer COMMAND ...`: which command, and what a person reads when it fails.

Each command is a module that is loaded when it is asked for: a start of a container should not pay for
what a doctor knows.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Sequence

from mycontainer.errors import EXIT_OURS, ContainerError, explain

HELP = """\
Usage: mycontainer COMMAND ...

A Linux container runtime that you build yourself, one kernel feature at a time.

Commands:
  run [OPTIONS] IMAGE [COMMAND [ARGUMENTS...]]
           run a command in a container; with -d in the background
  ps       list the containers that run; -a: those that have ended, too
  logs     show what a container has written
  exec     run one more command in a container: exec -it NAME sh
  stop     end containers: SIGTERM, and SIGKILL after a while
  kill     send a signal to containers
  wait     wait until containers have ended, and print their exit codes
  rm       remove containers that have ended
  demo     show what a container keeps apart, seen from inside and from outside
  lab      open a shell in the lab: you are root in there, and nothing you do harms this machine
  images   list the images that are here
  bench    measure containers and virtual machines against one another, on this machine
  doctor   try what each chapter needs of this machine, and say how to mend what fails

  mycontainer COMMAND --help   more about a command
  mycontainer --version        the version

To begin:  mycontainer run busybox sh -c 'hostname; ps; id'
"""


WELCOME = """\
You are in the lab: root, with the programs of this machine and a network of its own. Its files you can read.
Whatever you break here is thrown away at the end, nothing else can be harmed. To leave: exit, or Ctrl-D."""


def run(arguments: Sequence[str]) -> int:
    from mycontainer.cli.run import main

    return main(arguments)


def _verb(name: str) -> Callable[[Sequence[str]], int]:
    """A command for containers that are there."""
    def verb(arguments: Sequence[str]) -> int:
        from mycontainer.cli import containers

        code: int = getattr(containers, name)(arguments)
        return code

    return verb


def logs(arguments: Sequence[str]) -> int:
    from mycontainer.cli.logs import main

    return main(arguments)


def execute(arguments: Sequence[str]) -> int:
    from mycontainer.cli.execute import main

    return main(arguments)


def demo(arguments: Sequence[str]) -> int:
    from mycontainer.cli.demo import main

    return main(arguments) or 0


def lab(arguments: Sequence[str]) -> int:
    from mycontainer.cli.options import Command

    command = Command("mycontainer lab [COMMAND [ARGUMENTS...]]",
                      "Open a shell in the lab, or run a command there. You are root in it, and nothing you\n"
                      "do harms this machine: all that you can write to is thrown away at the end.")
    given, words = command.parse(arguments)
    if "help" in given:
        print(command.help(), end="")
        return 0
    from mycontainer.lab.terminal import main

    if not words and os.isatty(0) and os.isatty(1):
        print(WELCOME, flush=True)
    return main(words)


def list_images(arguments: Sequence[str]) -> int:
    from mycontainer.cli.images import main

    return main(arguments)


def bench(arguments: Sequence[str]) -> int:
    from mycontainer.cli.bench import main

    return main(arguments)


def doctor(arguments: Sequence[str]) -> int:
    from mycontainer.cli.doctor import main

    return main(arguments)


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "run": run, **{name: _verb(name) for name in ("ps", "stop", "kill", "wait", "rm")}, "logs": logs,
    "exec": execute, "demo": demo, "lab": lab, "images": list_images, "bench": bench, "doctor": doctor,
}


# Docker's words that this does not have yet: the chapter that brings them.
LATER = {
    **dict.fromkeys(("attach", "start", "create", "top", "inspect", "stats", "pause", "unpause",
                     "restart"), 7),
    **dict.fromkeys(("pull", "push", "build", "tag", "save", "load", "rmi", "history", "import"), 8),
    **dict.fromkeys(("commit", "diff", "cp", "volume"), 4), "network": 5, "port": 5, "compose": 12,
}


def use_permitted_interpreter() -> None:
    """On Ubuntu, go on as the one Python that may make user namespaces, if set-up has made it.

    See tools/apparmor: only that file has a profile. Root needs none. ``-I``: the directory that we are
    called in is nobody's to take modules from.
    """
    permitted = os.path.join(os.path.dirname(sys.executable), "mycontainer-lab-python")
    if os.geteuid() != 0 and sys.executable != permitted and os.access(permitted, os.X_OK):
        os.execv(permitted, [permitted, "-I", "-m", "mycontainer.cli.main", *sys.argv[1:]])


def fill_standard_descriptors() -> None:
    """Open /dev/null for a closed input or output, or the next pipe of ours would be the command's."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; whatever goes wrong is one line, and a hint."""
    fill_standard_descriptors()
    if arguments is None:
        use_permitted_interpreter()
    try:
        code = dispatch(sys.argv[1:] if arguments is None else arguments)
        if sys.stdout:
            sys.stdout.flush()  # here, where a full disk or a broken pipe can still be told
        return code
    except BaseException as error:
        if "MYCONTAINER_DEBUG" in os.environ:
            import traceback

            traceback.print_exc()
        return explain_to_person(error)


def explain_to_person(error: BaseException) -> int:
    """One line and a hint for whatever went wrong; returns the exit code."""
    if isinstance(error, ContainerError):
        return complain(str(error), error.hint, error.exit_code)
    if isinstance(error, KeyboardInterrupt):
        return 128 + signal.SIGINT
    if isinstance(error, OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python tries once more to write the rest
        if isinstance(error, BrokenPipeError):  # the reader went away ("| head"): nobody is left to be told
            return 128 + signal.SIGPIPE
        failure = explain("cannot go on", error)
        return complain(str(failure), failure.hint, EXIT_OURS)
    return complain(f"this is a bug of ours: {type(error).__name__}: {error}",
                    "MYCONTAINER_DEBUG=1 mycontainer ... shows where it happened.", EXIT_OURS)


def dispatch(arguments: Sequence[str]) -> int:
    """Find the command and run it."""
    name, rest = (arguments[0], arguments[1:]) if arguments else ("--help", [])
    if name in ("--help", "-h", "help"):
        print(HELP, end="")
        return 0
    if name in ("--version", "version"):
        from mycontainer import __version__

        print(f"mycontainer {__version__}")
        return 0
    if name in LATER:
        raise ContainerError(f"no {name} yet", f"it comes with chapter {LATER[name]}",
                             "To see what there is: mycontainer --help")
    if name not in COMMANDS:
        raise ContainerError(f"no such command: {name}", hint=_suggestion(name))
    return COMMANDS[name](rest)


def complain(line: str, hint: str, code: int) -> int:
    """Say what failed, and what to try; returns the exit code."""
    one_line = " ".join(line.split())
    print(f"mycontainer: {one_line}", *([f"hint: {hint}"] if hint else []), sep="\n", file=sys.stderr)
    return code


def _suggestion(name: str) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, COMMANDS, n=1)
    return f"Did you mean: mycontainer {close[0]}" if close else "To see all of them: mycontainer --help"


if __name__ == "__main__":
    raise SystemExit(main())
