"""Tell Jupyter about the kernel "Container Lab": ``python -m mycontainer.lab.kernelspec install``.

A kernelspec is a directory with a ``kernel.json``: the command that starts the kernel.
https://jupyter-client.readthedocs.io/en/stable/kernels.html
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from typing import Any

NAME = "container-lab"
# On Ubuntu 24.04 AppArmor lets only programs with a profile make user namespaces. The profile is for this
# name of the interpreter, never for Python itself.
OWN_INTERPRETER = "mycontainer-lab-python"


def interpreter() -> str:
    """The Python that starts the lab: the one with a name of its own, where set-up has made it."""
    own = os.path.join(sys.prefix, "bin", OWN_INTERPRETER)
    return own if os.access(own, os.X_OK) else sys.executable


def spec() -> dict[str, Any]:
    """The content of kernel.json. ``-I``: a json.py beside the notebook must not run outside the lab."""
    return {
        "argv": [interpreter(), "-I", "-m", "mycontainer.lab.launcher", "{connection_file}"],
        "display_name": "Container Lab",
        "language": "python",
        "interrupt_mode": "signal",
        "metadata": {"debugger": True},
    }


def install(prefix: str) -> str:
    """Write the kernelspec below ``prefix``; returns its directory. Replaces an older one."""
    directory = os.path.join(prefix, "share", "jupyter", "kernels", NAME)
    os.makedirs(directory, exist_ok=True)
    draft = os.path.join(directory, "kernel.json.new")
    with open(draft, "w") as file:
        json.dump(spec(), file, indent=1)
        file.write("\n")
    os.replace(draft, os.path.join(directory, "kernel.json"))
    return directory


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m mycontainer.lab.kernelspec")
    commands = parser.add_subparsers(required=True)
    command = commands.add_parser("install", help="let Jupyter find the kernel Container Lab")
    where = command.add_mutually_exclusive_group()
    where.add_argument("--sys-prefix", action="store_true", help="in this Python environment (the default)")
    where.add_argument("--prefix", help="below this directory")
    print(install(parser.parse_args().prefix or sys.prefix))


if __name__ == "__main__":
    main()
