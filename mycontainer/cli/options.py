"""Options in Docker's words, and their help.

Not argparse: loading it and describing a command to it takes a third of the time in which a whole
container starts (10 ms of 30), and its option -h is help, where Docker's is the host name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from mycontainer.errors import ContainerError

FLAG, ONE, MANY = "flag", "one", "many"  # given or not; the last one counts; all of them count


class Option:
    """One option: ``--name``, perhaps ``-letter``, and ``value``, how its value is called in the help."""

    def __init__(self, name: str, text: str, value: str = "", letter: str = "", many: bool = False) -> None:
        self.name, self.text, self.value, self.letter = name, text, value, letter
        self.kind = MANY if many else ONE if value else FLAG

    @property
    def spelling(self) -> str:
        """As the help shows it: ``-h, --hostname NAME``."""
        return (f"-{self.letter}, " if self.letter else "    ") + f"--{self.name} {self.value}".rstrip()


HELP = Option("help", "show this help")


class Command:
    """A command's usage and options; `parse` reads a command line by them."""

    def __init__(self, usage: str, text: str, *options: Option, epilog: str = "",
                 later: Mapping[str, int] = MappingProxyType({})) -> None:
        self.usage, self.text, self.options, self.epilog = usage, text, (*options, HELP), epilog
        self.later = later  # options that are not there yet: the chapter that brings each

    def help(self) -> str:
        """The help text, 80 columns wide where the option's own text is."""
        width = max(len(option.spelling) for option in self.options) + 2
        rows = [f"  {option.spelling:{width}}" + option.text.replace("\n", "\n" + " " * (width + 2))
                for option in self.options]
        parts = [f"Usage: {self.usage}", self.text, "\n".join(["Options:", *rows]), self.epilog]
        return "\n\n".join(part for part in parts if part) + "\n"

    def parse(self, arguments: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
        """Split a command line into options (name to the values given) and words.

        The options end at the first word, which may be the name of an image: what follows it is another
        program's. Raises ContainerError.
        """
        given: dict[str, list[str]] = {}
        rest = list(arguments)
        while rest and rest[0].startswith("-") and rest[0] != "-":
            word = rest.pop(0)
            if word == "--":
                break
            name, separator, attached = word.partition("=")
            if not word.startswith("--"):  # -eA=1 is -e A=1
                name, attached = word[:2], word[2:].removeprefix("=")
            option = self._find(name)
            if option.kind == FLAG:
                if separator and name.startswith("--"):
                    raise self._error(f"option {name} takes no value")
                if attached:  # -it is -i -t
                    rest.insert(0, f"-{attached}")
                attached = ""
            elif not attached and not separator:
                if not rest:
                    raise self._error(f"option {name} needs a value: {option.spelling.strip()}")
                attached = rest.pop(0)
            given.setdefault(option.name, []).append(attached)
        return given, rest

    def _find(self, name: str) -> Option:
        for option in self.options:
            if name in (f"--{option.name}", f"-{option.letter}"):
                return option
        if name in self.later:
            raise self._error(f"no option {name} yet: it comes with chapter {self.later[name]}")
        raise self._error(f"no such option: {name}")

    def _error(self, line: str) -> ContainerError:
        return ContainerError(line, hint=f"To see what there is: {' '.join(self.usage.split()[:2])} --help")
