"""JSON that somebody else has written, read with care: each value knows where in the document it stands.

    document = Reader(json.loads(text))
    document["process"]["args"].strings()    # or: process.args[0]: expected a string, got 3

A value of null is one that is not there: programs in Go write so what they have not set. A property that
nobody asks for is ignored, as the runtime-spec demands (config.md, "Extensibility").
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping

from mycontainer.errors import ContainerError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn, TypeVar

    T = TypeVar("T")

INT32, INT64 = (-1 << 31, (1 << 31) - 1), (-1 << 63, (1 << 63) - 1)  # the least and the greatest
UINT32, UINT64 = (0, (1 << 32) - 1), (0, (1 << 64) - 1)
LONGEST = 60  # letters of a wrong value that an error shows


class Invalid(ContainerError):
    """The document says something that it must not: ``what`` begins with the place."""


class Unsupported(Invalid):
    """The document says something that is right, and that we cannot do."""


class Reader:
    """A value of a document, and its place there. ``default`` is for a value that is not there."""

    def __init__(self, value: object, place: str = "") -> None:
        self.value, self.place = value, place

    # ---- going down

    def __getitem__(self, name: str) -> Reader:
        """The property of an object, which may not be there."""
        found = self.object().get(name)
        return Reader(found, f"{self.place}.{name}" if self.place else name)

    def object(self) -> Mapping[str, object]:
        """The object itself; an empty one if it is not there."""
        if self.value is None:
            return {}
        if not isinstance(self.value, dict):
            self.expected("an object")
        return self.value

    def items(self) -> Iterator[Reader]:
        """The values of an array, none if it is not there."""
        if self.value is not None and not isinstance(self.value, list):
            self.expected("an array")
        for number, item in enumerate(self.value or ()):
            yield Reader(item, f"{self.place}[{number}]")

    def entries(self) -> Iterator[tuple[str, Reader]]:
        """The names and values of an object whose names are free."""
        for name, value in self.object().items():
            yield name, Reader(value, f"{self.place}[{json.dumps(name)}]")

    # ---- what it is

    def __bool__(self) -> bool:
        """Is it there?"""
        return self.value is not None

    def required(self) -> Reader:
        """Itself, which must be there."""
        if self.value is None:
            self.fail("is missing")
        return self

    def string(self, default: str = "") -> str:
        """Text that the kernel can be told: no zero byte, and no half of a character."""
        if self.value is None:
            return default
        if not isinstance(self.value, str):
            self.expected("a string")
        if "\0" in self.value:
            self.fail("a zero byte in a string")
        if not self.value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in self.value):
            self.fail("half of a surrogate pair in a string")
        return self.value

    def boolean(self) -> bool:
        """True or false; false if it is not there."""
        if self.value is not None and not isinstance(self.value, bool):
            self.expected("true or false")
        return bool(self.value)

    def integer(self, limits: tuple[int, int], default: int = 0) -> int:
        """A whole number within its limits."""
        found = self.optional_integer(limits)
        return default if found is None else found

    def optional_integer(self, limits: tuple[int, int]) -> int | None:
        """A whole number, or None if it is not there: where 0 says something else."""
        if self.value is None:
            return None
        if isinstance(self.value, bool) or not isinstance(self.value, int):
            self.expected("a whole number")
        if not limits[0] <= self.value <= limits[1]:
            self.fail(f"{self.shown()} is not between {limits[0]} and {limits[1]}")
        return self.value

    def choice(self, words: Collection[str], default: str = "") -> str:
        """One of these words."""
        word = self.string(default)
        if self.value is not None and word not in words:
            self.fail(f"{self.shown()} is none of {', '.join(words)}")
        return word

    def absolute(self) -> str:
        """A path that begins with a slash."""
        path = self.required().string()
        if not path.startswith("/"):
            self.fail(f"not an absolute path: {self.shown()}")
        return path

    def strings(self) -> tuple[str, ...]:
        """An array of strings."""
        return tuple(item.required().string() for item in self.items())

    def each(self, read: Callable[[Reader], T]) -> tuple[T, ...]:
        """An array of whatever ``read`` reads."""
        return tuple(read(item.required()) for item in self.items())

    def texts(self) -> dict[str, str]:
        """An object of strings."""
        return {name: value.required().string() for name, value in self.entries()}

    def unique(self, names: Collection[str], what: str) -> None:
        """Refuse an array in which one of these names, which its items have, is there twice."""
        if len(set(names)) < len(names):
            seen: set[str] = set()
            twice = next(name for name in names if name in seen or seen.add(name))  # type: ignore[func-returns-value]
            self.fail(f"{what} {twice} is there twice")

    # ---- what is wrong

    def shown(self) -> str:
        """The value as the document has it, cut short."""
        text = json.dumps(self.value)
        return text if len(text) <= LONGEST else text[:LONGEST] + "…"

    def expected(self, what: str) -> NoReturn:
        """Refuse a value of another type."""
        self.fail(f"expected {what}, got {self.shown()}")

    def fail(self, reason: str) -> NoReturn:
        """Refuse it."""
        raise Invalid(self.place or "the document", reason)

    def refuse(self, what: str, hint: str = "") -> None:
        """Refuse what we cannot do, if it is asked for: an empty value asks for nothing."""
        if self.value not in (None, "", [], {}, False):
            raise Unsupported(self.place, f"not supported: {what}", hint)


def parse(text: bytes | str, name: str) -> Reader:
    """Read a JSON document. Raises `Invalid` that calls it by ``name``."""
    try:
        return Reader(json.loads(text, parse_constant=_no_number))
    except RecursionError:
        raise Invalid(name, "nested too deeply") from None
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are both
        raise Invalid(name, f"not JSON: {error}") from None


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a number")
