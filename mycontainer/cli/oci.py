"""`mycontainer-oci`: the runtime that engines call, in runc's words. Podman does not know that it is ours.

What fails is one line on the standard error, the exit code 1, and with ``--log`` a line in that file, of JSON
with ``--log-format json``: the engines read it there. What is not built yet says so by its name.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence

from mycontainer.cli.options import Command, Option
from mycontainer.engine.state import to_json
from mycontainer.errors import ContainerError, explain

EXIT_FAILED = 1
NOT_YET = ("update", "checkpoint", "restore", "events", "stats")

GLOBAL = Command(
    "mycontainer-oci [OPTIONS] VERB ...",
    """\
An OCI runtime: containers from bundles (a directory with a config.json), for
engines such as Podman, containerd and dockerd.

Verbs:
  spec      write a config.json to begin with
  run       create, start, wait for the end, delete
  create    make a container, up to its command
  start     let it become its command
  state     tell about it, as JSON
  kill      send a signal to it
  delete    take back all that was made for it
  exec      run one more process in it
  ps        list its processes
  list      list all containers
  pause     stop its processes where they are
  resume    let them go on
  features  tell what this runtime can do, as JSON

mycontainer-oci VERB --help tells more.""",
    Option("root", "where it keeps what it knows of its containers", "DIR"),
    Option("log", "write errors to this file, too", "FILE"),
    Option("log-format", "text (default) or json", "FORMAT"),
    Option("debug", "accepted, and without effect"),
    Option("systemd-cgroup", "not supported: cgroups are directories here"),
    Option("rootless", "accepted: it finds out by itself", "BOOL"),
    Option("version", "show the version", letter="v"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb; returns the exit code."""
    given: dict[str, list[str]] = {}
    try:
        given, words = GLOBAL.parse(sys.argv[1:] if arguments is None else arguments)
        code = dispatch(given, words)
        sys.stdout.flush()
        return code
    except SystemExit as end:  # help was all that was asked for
        return int(end.code or 0)
    except BaseException as error:
        if "MYCONTAINER_DEBUG" in os.environ:
            import traceback

            traceback.print_exc()
        return complain(error, given)


def dispatch(given: Mapping[str, list[str]], words: list[str]) -> int:
    """Find the verb and run it."""
    if "version" in given:
        from mycontainer.cli.oci_spec import version_text

        print(version_text())
        return 0
    if "help" in given or not words or words[0] == "help":
        print(GLOBAL.help(), end="")
        return 0
    if "systemd-cgroup" in given:
        raise ContainerError("--systemd-cgroup is not supported", hint="Tell the engine to use cgroupfs.")
    verb, rest = words[0], words[1:]
    if verb in NOT_YET:
        raise ContainerError(f"{verb} is not built yet")
    found = _find(verb)
    if found is None:
        raise ContainerError(f"no such verb: {verb}", hint="To see all of them: mycontainer-oci --help")
    return found(_root(given), rest)


def _find(verb: str) -> Callable[[str, list[str]], int] | None:
    """What does it; the start of a container should not pay for loading the rest."""
    if verb in ("spec", "features"):
        from mycontainer.cli import oci_spec

        return oci_spec.VERBS[verb]
    from mycontainer.cli import oci_verbs

    return oci_verbs.VERBS.get(verb)


def _root(given: Mapping[str, list[str]]) -> str:
    if "root" in given:
        return os.path.abspath(given["root"][-1])
    from mycontainer.engine import bundle_store

    return bundle_store.default_root()


def complain(error: BaseException, given: Mapping[str, list[str]]) -> int:
    """Say what failed where it will be read; returns the exit code."""
    if isinstance(error, ContainerError):
        told = error
    elif isinstance(error, OSError):
        told = explain("cannot go on", error)
    elif isinstance(error, KeyboardInterrupt):
        told = ContainerError("interrupted")
    else:
        told = ContainerError(f"this is a bug of ours: {type(error).__name__}: {error}",
                              hint="MYCONTAINER_DEBUG=1 shows where it happened.")
    line = " ".join(str(told).split())
    print(f"mycontainer-oci: {line}", *([f"hint: {told.hint}"] if told.hint else []), sep="\n",
          file=sys.stderr)
    if "log" in given:
        _log(given["log"][-1], line, given.get("log-format", ["text"])[-1])
    return EXIT_FAILED


def _log(path: str, line: str, form: str) -> None:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    text = to_json({"level": "error", "msg": line, "time": now}) if form == "json" else \
        f"time={to_json(now)} level=error msg={to_json(line)}"
    try:
        with open(path, "a") as file:
            file.write(text + "\n")
    except OSError as error:
        print(f"mycontainer-oci: {explain(f'cannot write to the log {path}', error)}", file=sys.stderr)


if __name__ == "__main__":
    raise SystemExit(main())
