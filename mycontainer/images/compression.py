"""gzip, zstd or nothing: a layer's bytes as they come, and the tar inside, read a bounded piece at a time.

Which one it is says the content, not a name. A few kilobytes may unpack to gigabytes (a "bomb"), so every
read says how much it wants at most, and nothing here ever holds more than that.

The fastest library that is installed does the work: `isal` inflates three times as fast as zlib, `zstandard`
is for Pythons before 3.14, which brings its own. They come with ``pip install mycontainer[images]``.

Sources: RFC 1952 (gzip, members), RFC 8878 (zstd, frames); OCI image-spec, layer.md.
"""

from __future__ import annotations

import gzip
import importlib
from collections.abc import Callable
from typing import Any, Protocol

GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
SKIPPABLE = tuple(bytes([0x50 + n]) + b"\x2a\x4d\x18" for n in range(16))  # zstd frames to leap over
PIECE = 256 * 1024  # bytes: as much compressed input as we look at in one go
WINDOW = 27         # log2 of bytes: zstd may ask for no more memory than this to unpack (128 MiB)


class Damaged(ValueError):
    """The compressed data are cut short, or not what they claim to be."""


class Source(Protocol):
    """Where compressed bytes come from: a file, a pipe, a response of a registry."""

    def read(self, size: int, /) -> bytes:
        """At most ``size`` bytes; none at the end."""


class Inside(Protocol):
    """What comes out, into memory of the caller's: memory that is used again costs no new pages."""

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill ``buffer``, or a part of it; returns how many bytes, 0 at the end. Raises Damaged."""


def decompressed(source: Source) -> Inside:
    """What is inside ``source``, which is recognised by its first bytes."""
    start = b""
    while len(start) < 4 and (more := source.read(4 - len(start))):
        start += more
    if start.startswith(GZIP):
        return _gzip(_Replayed(start, source))
    if start.startswith((ZSTD, *SKIPPABLE)):
        return _zstd(_Replayed(start, source))
    return _Replayed(start, source)


class _Pieces:
    """What only gives pieces of its own, to be copied."""

    def read(self, size: int) -> bytes:
        raise NotImplementedError

    def readinto(self, buffer: memoryview) -> int:
        piece = self.read(len(buffer))
        buffer[:len(piece)] = piece
        return len(piece)


class _Replayed(_Pieces):
    """A source of which the start was read already."""

    def __init__(self, start: bytes, source: Source) -> None:
        self.start, self.source = start, source

    def read(self, size: int) -> bytes:
        start, self.start = self.start[:size], self.start[size:]
        return start or self.source.read(size)


class _Members(_Pieces):
    """Members (gzip) or frames (zstd) one after the other: several make one stream, as `cat` makes them."""

    def __init__(self, source: Source, new: Callable[[], Any], padding: bytes = b"") -> None:
        self.waiting, self.source, self.new, self.member = b"", source, new, new()
        self.padding = padding

    def read(self, size: int) -> bytes:
        while True:
            if self.member.eof:
                if not self._another():
                    return b""
            elif not self.waiting and self._needs_input() and not self._more():
                raise Damaged("the compressed data are cut short")
            data, self.waiting = self.waiting, b""
            try:
                piece: bytes = self.member.decompress(data, size)
            except Exception as error:  # each library has an error of its own
                raise Damaged(f"the compressed data are damaged: {error}") from error
            if not self.member.eof:
                self.waiting = getattr(self.member, "unconsumed_tail", b"")
            if piece:
                return piece

    def _another(self) -> bool:
        """Go to the next member, if there is one."""
        self.waiting = self.member.unused_data or self.waiting
        while not (rest := self.waiting.lstrip(self.padding)):
            if not self._more():
                return False
        self.waiting, self.member = rest, self.new()
        return True

    def _needs_input(self) -> bool:
        return bool(getattr(self.member, "needs_input", True))

    def _more(self) -> bool:
        self.waiting = self.source.read(PIECE)
        return bool(self.waiting)


def _gzip(source: _Replayed) -> Inside:
    library = _first_of("isal.isal_zlib", "zlib")
    reader = getattr(library, "_GzipReader", None)  # what igzip.open of isal is made of
    if reader is None:
        return _Members(source, lambda: library.decompressobj(wbits=31), padding=b"\0")
    return _Checked(reader(source, PIECE), (library.error, gzip.BadGzipFile))


def _zstd(source: _Replayed) -> Inside:
    library = _first_of("compression.zstd", "zstandard")
    if library is None:
        raise Damaged("a layer in zstd, and no library for it here: pip install 'mycontainer[images]'")
    if library.__name__ == "zstandard":
        reader = library.ZstdDecompressor(max_window_size=1 << WINDOW).stream_reader(
            source, read_size=PIECE, read_across_frames=True, closefd=False)
        return _Checked(reader, library.ZstdError)
    limit = {library.DecompressionParameter.window_log_max: WINDOW}
    return _Members(source, lambda: library.ZstdDecompressor(options=limit))


class _Checked:
    """A library's own reader, with our error for its errors.

    zstandard's takes an early end for the end: the tar inside is cut then, which is noticed.
    """

    def __init__(self, reader: Inside, errors: type[Exception] | tuple[type[Exception], ...]) -> None:
        self.reader, self.errors = reader, errors

    def readinto(self, buffer: memoryview) -> int:
        try:
            return self.reader.readinto(buffer)
        except EOFError as error:
            raise Damaged("the compressed data are cut short") from error
        except self.errors as error:
            raise Damaged(f"the compressed data are damaged: {error}") from error


def _first_of(*names: str) -> Any:
    for name in names:
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None
