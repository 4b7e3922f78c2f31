"""The tar format, read from a stream and written to one, exactly as far as layers need it.

A tar is a list of 512-byte headers, each followed by a content that is padded to the next 512. The header of
1988 holds names of 100 bytes and whole seconds; whatever does not fit stands in an extended header ("pax")
before it, extended attributes included. tarfile(3) of Python reads the same and takes ten times as long for
an entry, which is most of the time for a layer of small files.

Sources: tar(5); POSIX pax, "pax Interchange Format"; GNU tar's manual, "Storing Sparse Files".
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import NamedTuple

BLOCK = 512
FILE, HARD_LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
OLD_FILE, CONTIGUOUS, GNU_SPARSE = b"\0", b"7", b"S"
LONG_NAME, LONG_LINK, PAX, PAX_GLOBAL = b"L", b"K", b"x", b"g"
XATTR = b"SCHILY.xattr."
SPARSE = b"GNU.sparse."
LARGEST_HEADER = 1 << 20  # bytes: an extended header is read into memory whole
SECOND = 1_000_000_000    # nanoseconds


Extents = tuple[tuple[int, int], ...]  # of a file with holes: (where, how many bytes)


class BadTar(ValueError):
    """Not a tar, a damaged one, or one with what no layer has."""


class Entry(NamedTuple):
    """One entry; names as os.fsdecode gives them, the times in nanoseconds since 1970."""

    name: str
    kind: bytes = FILE
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    size: int = 0                                # bytes of the file, holes included
    mtime: int = 0
    link: str = ""
    device: int = 0
    xattrs: tuple[tuple[str, bytes], ...] = ()
    stored: int = 0                              # bytes in the archive
    extents: Extents | None = None


class Reader:
    """Entries from ``pieces`` of a tar, of which each is used until the next is asked for.

    ``need_end``: whether a tar without its closing zeros is cut short.
    Iterate over the entries; `content` gives the pieces of the current one's content. All raise BadTar.
    """

    def __init__(self, pieces: Iterable[bytes | memoryview], need_end: bool = True) -> None:
        self.pieces, self.need_end = iter(pieces), need_end
        self.current = memoryview(b"")
        self.position = 0  # in the current piece
        self.left = 0      # bytes of this entry's content not yet read
        self.padding = 0

    def __iter__(self) -> Iterator[Entry]:
        globals_: dict[bytes, bytes] = {}
        extra: dict[bytes, bytes] = {}
        while header := self._next_header():
            kind = header[156:157]
            if kind in (LONG_NAME, LONG_LINK, PAX, PAX_GLOBAL):
                data = self._extension(header)
                if kind == PAX:
                    extra.update(_records(data))
                elif kind == PAX_GLOBAL:
                    globals_.update(_records(data))
                else:
                    extra[b"path" if kind == LONG_NAME else b"linkpath"] = data.rstrip(b"\0")
                continue
            yield self._entry(header, {**globals_, **extra})
            for _ in self.content():
                pass
            extra = {}
        if extra:
            raise BadTar("an extended header without the entry that it is for")

    def _next_header(self) -> bytes:
        """The next header, empty at the end of the archive."""
        self._skip(self.padding)
        self.padding = 0
        header = self.take(BLOCK, may_end=not self.need_end)
        if not any(header):
            return b""
        given = _number(header[148:156])
        if given != sum(header) - sum(header[148:156]) + 256 and given != _signed_sum(header):
            raise BadTar("not a tar, or a damaged one: a header's checksum is wrong")
        return header

    def _extension(self, header: bytes) -> bytes:
        size = _number(header[124:136])
        if size > LARGEST_HEADER:
            raise BadTar(f"an extended header of {size} bytes")
        data = self.take(size)
        self._skip(-size % BLOCK)
        return data

    def _entry(self, header: bytes, extra: dict[bytes, bytes]) -> Entry:
        kind = header[156:157]
        size = _decimal(extra[b"size"]) if b"size" in extra else _number(header[124:136])
        if kind in (HARD_LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO):
            size = 0  # whatever it says: some give a hard link the size of what it links to
        self.left, self.padding = size, -size % BLOCK
        real, extents = self._sparse(header, extra) if extra or kind == GNU_SPARSE else (None, None)
        stored = self.left
        if extents is not None and sum(length for _, length in extents) != stored:
            raise BadTar("the map of a sparse file does not fit its content")
        name = extra.get(SPARSE + b"name") or extra.get(b"path") or _header_name(header)
        if kind in (OLD_FILE, CONTIGUOUS, GNU_SPARSE):
            kind = DIRECTORY if name.endswith(b"/") and kind == OLD_FILE else FILE
        return Entry(
            os.fsdecode(name), kind, _number(header[100:108]) & 0o7777,
            _decimal(extra[b"uid"]) if b"uid" in extra else _number(header[108:116]),
            _decimal(extra[b"gid"]) if b"gid" in extra else _number(header[116:124]),
            stored if real is None else real,
            _time(extra[b"mtime"]) if b"mtime" in extra else _number(header[136:148]) * SECOND,
            os.fsdecode(link) if (link := extra.get(b"linkpath") or _text(header[157:257])) else "",
            os.makedev(_number(header[329:337]), _number(header[337:345]))
            if kind in (CHARACTER, BLOCK_DEVICE) else 0,
            tuple((os.fsdecode(key[len(XATTR):]), value) for key, value in extra.items()
                  if key.startswith(XATTR)) if extra else (),
            stored, extents)

    def _sparse(self, header: bytes, extra: dict[bytes, bytes]) -> tuple[int | None, Extents | None]:
        """(size with the holes, where the content goes); (None, None) for a file without holes."""
        if header[156:157] == GNU_SPARSE:
            real, numbers = _number(header[483:495]), _gnu_map(header[386:482])
            more = header[482]
            while more:
                block = self.take(BLOCK)
                numbers += _gnu_map(block[:504])
                more = block[504]
        elif extra.get(SPARSE + b"major") == b"1":
            real, numbers = _decimal(extra.get(SPARSE + b"realsize", b"")), self._map_in_content()
        elif SPARSE + b"map" in extra:  # version 0.1; 0.0 repeats its keys and died out in 2006
            real = _decimal(extra.get(SPARSE + b"size", b""))
            numbers = [_decimal(text) for text in extra[SPARSE + b"map"].split(b",") if text]
        else:
            return None, None
        return real, _checked_map(numbers, real)

    def _map_in_content(self) -> list[int]:
        """Version 1.0: the map is the start of the content, one decimal number a line, padded to a block."""
        numbers: list[int] = []
        text = b""
        while not numbers or len(numbers) < 2 * numbers[0] + 1:
            if self.left < BLOCK or len(numbers) > LARGEST_HEADER:
                raise BadTar("the map of a sparse file is damaged")
            self.left -= BLOCK
            *lines, text = (text + self.take(BLOCK)).split(b"\n")
            numbers += [_decimal(line) for line in lines]
        return numbers[1:2 * numbers[0] + 1]

    def content(self) -> Iterator[memoryview]:
        """What is left of the current entry's content, in pieces that are valid until the next."""
        while self.left:
            piece = self._piece(self.left)
            self.left -= len(piece)
            yield piece

    def take(self, size: int, may_end: bool = False) -> bytes:
        """The next ``size`` bytes, in one; where it ``may_end``, none at the end of the stream."""
        first = self.current[self.position:self.position + size]
        if len(first) == size:
            self.position += size
            return bytes(first)
        parts, wanted = [], size
        while wanted:
            try:
                piece = self._piece(wanted)
            except BadTar:
                if may_end and wanted == size:
                    return b""
                raise
            parts.append(bytes(piece))
            wanted -= len(piece)
        return b"".join(parts)

    def _skip(self, size: int) -> None:
        while size:
            size -= len(self._piece(size))

    def _piece(self, most: int) -> memoryview:
        while self.position == len(self.current):
            try:
                self.current, self.position = memoryview(next(self.pieces)), 0
            except StopIteration:
                raise BadTar("the archive is cut short") from None
        piece = self.current[self.position:self.position + most]
        self.position += len(piece)
        return piece


def _text(field: bytes) -> bytes:
    return field.split(b"\0", 1)[0]


def _header_name(header: bytes) -> bytes:
    name = _text(header[:100])
    if header[257:263] == b"ustar\0" and header[345]:
        return _text(header[345:500]) + b"/" + name
    return name


def _number(field: bytes) -> int:
    """Octal digits; or, where those do not suffice, a binary number with the highest bit set."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big", signed=False) & ((1 << (8 * len(field) - 1)) - 1)
        if field[0] == 0xFF or value >= 1 << 63:
            raise BadTar("a number in a header is negative or absurd")
        return value
    text = field.rstrip(b" \0")
    if not text.isdigit():  # int() would also take "-1", "1_0" and "0o17"
        text = _text(field).strip() or b"0"
    try:
        return int(text if text.isdigit() else b"-", 8)
    except ValueError:
        raise BadTar("not a tar, or a damaged one: not a number") from None


def _decimal(text: bytes) -> int:
    if not text.isdigit() or len(text) > 19 or int(text) >= 1 << 63:
        raise BadTar(f"not a number, or an absurd one: {text[:40]!r}")
    return int(text)


def _time(text: bytes) -> int:
    """Nanoseconds from "1234567890.123456789", which a float cannot hold."""
    sign, text = (-1, text[1:]) if text.startswith(b"-") else (1, text)
    seconds, _, fraction = text.partition(b".")
    return sign * (_decimal(seconds) * SECOND + _decimal((fraction + b"000000000")[:9]))


def _signed_sum(header: bytes) -> int:
    """The checksum as some old tars have it, which took bytes for signed."""
    rest = header[:148] + header[156:]
    return sum(rest) - 256 * sum(byte > 127 for byte in rest) + 256


def _records(data: bytes) -> dict[bytes, bytes]:
    """The records of a pax header: ``LENGTH KEY=VALUE\\n``, where LENGTH counts all of it."""
    found = {}
    while data:
        length, _, rest = data.partition(b" ")
        size = _decimal(length) - len(length) - 1
        key, equals, value = rest[:max(size, 0) - 1].partition(b"=")
        if size < 3 or len(rest) < size or rest[size - 1:size] != b"\n" or not equals:
            raise BadTar("an extended header is damaged")
        found[key] = value
        data = rest[size:]
    return found


def _gnu_map(field: bytes) -> list[int]:
    numbers = [field[at:at + 12] for at in range(0, len(field), 12)]
    return [_number(number) for number in numbers if any(number)]


def _checked_map(numbers: list[int], real: int) -> Extents:
    extents = tuple(zip(numbers[::2], numbers[1::2], strict=False))
    end = 0
    for where, length in extents:
        if where < end:
            raise BadTar("the map of a sparse file is damaged")
        end = where + length
    if end > real or len(numbers) % 2:
        raise BadTar("the map of a sparse file is damaged")
    return extents


# ---- writing

END = bytes(2 * BLOCK)


def header(entry: Entry) -> bytes:
    """The header(s) of ``entry``: with an extended one before it for what does not fit into 1988's."""
    name, link = os.fsencode(entry.name), os.fsencode(entry.link)
    seconds, fraction = divmod(entry.mtime, SECOND)
    records: dict[bytes, bytes] = {XATTR + os.fsencode(key): value for key, value in entry.xattrs}
    if len(name) > 100 or not name.isascii():
        records[b"path"] = name
    if len(link) > 100 or not link.isascii():
        records[b"linkpath"] = link
    if fraction or not 0 <= seconds < 8 ** 11:
        records[b"mtime"] = _time_text(entry.mtime)
    for key, value, digits in ((b"uid", entry.uid, 7), (b"gid", entry.gid, 7), (b"size", entry.size, 11)):
        if value >= 8 ** digits:
            records[key] = str(value).encode()
    blocks = b""
    if records:
        data = b"".join(_record(key, records[key]) for key in sorted(records))
        short = b"PaxHeaders/" + os.path.basename(name.rstrip(b"/"))[:80]
        blocks = _block(short, PAX, 0o644, 0, 0, len(data), 0) + data + bytes(-len(data) % BLOCK)
    return blocks + _block(name[:100], entry.kind, entry.mode, entry.uid % 8 ** 7, entry.gid % 8 ** 7,
                           entry.size % 8 ** 11, seconds % 8 ** 11, link[:100], entry.device)


def _record(key: bytes, value: bytes) -> bytes:
    size = len(key) + len(value) + 3
    total = size + len(str(size))
    total = size + len(str(total))  # the length counts its own digits
    return b"%d %s=%s\n" % (total, key, value)


def _time_text(mtime: int) -> bytes:
    seconds, fraction = divmod(abs(mtime), SECOND)
    return b"%s%d.%09d" % (b"-" if mtime < 0 else b"", seconds, fraction)


def _block(name: bytes, kind: bytes, mode: int, uid: int, gid: int, size: int, seconds: int,
           link: bytes = b"", device: int = 0) -> bytes:
    block = b"".join([
        name.ljust(100, b"\0"), b"%07o\0%07o\0%07o\0%011o\0%011o\0" % (mode, uid, gid, size, seconds),
        b" " * 8, kind, link.ljust(100, b"\0"), b"ustar\x0000", bytes(64),
        b"%07o\0%07o\0" % (os.major(device), os.minor(device)), bytes(167)])
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]
