"""Tars made to harm, from a seed. Every case is a list of blocks of our own writing.

`case(seed)` gives a tar whose entries mix what layers have with what they must not have. What must hold for
every one of them: nothing outside changes, the process does not fall over, and the answer is a tree or one
ContainerError.
"""

from __future__ import annotations

import gzip
import os
import random

from mycontainer.images.tarstream import BLOCK, END, Entry, header

NAMES = ["a", "b", "d", "d/e", "d/e/f", "link", "link/x", "link/../x", "..", "../out", "../../out/secret",
         "d/../../x", "/etc/passwd", "/", "./", ".", "", "a/", "d//e", "out", "x" * 300,
         "/".join(["deep"] * 900), "\udcff\udcfe",
         ".wh.a", ".wh.d", "d/.wh.e", "d/.wh..wh..opq", ".wh..wh..opq", ".wh.", ".wh..", ".wh...", "d/.wh...",
         ".wh..wh.plnk", "link/.wh.secret", ".wh.link", "a\0b", "up/secret", "self/fd/3"]
LINKS = ["a", "b", "d", "link", "..", "../out", "../out/secret", "/", "/etc", "/etc/passwd", ".", "", "d/e/f",
         "self", "/proc/self", "/proc/self/cwd", "/proc/self/root", "OUTSIDE", "OUTSIDE/secret",
         "link/secret", "x" * 5000]
KINDS = [*[b"0"] * 3, *[b"5"] * 2, *[b"2"] * 2, b"1", b"3", b"4", b"6", b"\0", b"7", b"S", b"V", b"Z", b"D"]
SIZES = [0, 1, 511, 512, 513, 3000]
NUMBERS = [0, 1, 1000, 65536, 2**31, 2**32 - 2]


def case(seed: int, outside: str) -> bytes:
    """The tar of a seed, perhaps compressed, perhaps damaged; ``outside`` is what it may try to reach."""
    chance = random.Random(seed)
    blocks = [_entry(chance, outside) for _ in range(chance.choice([0, 0, 1, 2, 12]))]
    for _ in range(chance.randrange(3)):
        at = chance.randrange(len(blocks) + 1)
        blocks[at:at] = _way_out(chance, outside)
    data = b"".join(blocks) + END
    for damage in (_cut, _flip, _absurd_size, _not_at_all, _not_at_all):
        if chance.random() < 0.12:
            data = damage(chance, data)
    if chance.random() < 0.2:
        data = gzip.compress(data, 1)
        data = chance.choice([_cut, _flip, _as_it_is, _as_it_is])(chance, data)
    return data


def _entry(chance: random.Random, outside: str) -> bytes:
    kind, size = chance.choice(KINDS), chance.choice(SIZES)
    link = chance.choice(LINKS).replace("OUTSIDE", outside) if kind in b"12" or chance.random() < 0.1 else ""
    xattrs = chance.choice([(), (), (), (("user.x", b"1"),), (("trusted.overlay.redirect", b"/etc"),),
                            (("user.overlay.opaque", b"y"), ("security.capability", bytes(20)))])
    owner = os.geteuid() if chance.random() < 0.7 else chance.choice(NUMBERS)
    mode = chance.choice([0o644, 0o755, 0, 0o7777, 0o444])
    entry = Entry(chance.choice(NAMES), kind, mode, owner, owner, size if kind not in b"12345" else 0,
                  chance.choice([0, 1, 10**18, -5, 10**27]), link,
                  chance.choice([0, 0x103, 0x801]) if kind in b"34" else 0, xattrs)
    content = bytes(chance.randrange(256) for _ in range(8)) * (entry.size // 8 + 1)
    return header(entry) + content[:entry.size] + bytes(-entry.size % BLOCK)


def _way_out(chance: random.Random, outside: str) -> list[bytes]:
    """A symlink or two that lead outside, and something that is done through them."""
    way = chance.choice(["w", "d/w"])
    target = chance.choice([outside, outside, "../../../../outside", "/", "..", f"/proc/self/root{outside}"])
    first = [header(Entry(way, b"2", 0o777, link=target))]
    if chance.random() < 0.3:
        first += [header(Entry("second", b"2", 0o777, link=way))]
        way = "second"
    through = chance.choice([way, way, f"{way}{outside}", f"{way}/outside"])
    deed = chance.choice([
        Entry(f"{through}/new"), Entry(f"{through}/secret"), Entry(f"{through}/dir/new"),
        Entry(f"{through}/dir", b"5"),
        Entry(f"{through}/.wh.secret"), Entry(f"{through}/.wh..wh..opq"), Entry(f"{through}/pipe", b"6"),
        Entry("stolen", b"1", link=f"{through}/secret"), Entry(way), Entry(way, b"5", 0o700),
        Entry(f"{through}/l", b"2", link="x"), Entry(f"{through}/secret", b"1", link=way)])
    return [*first, header(deed), header(Entry("after"))]


def _as_it_is(chance: random.Random, data: bytes) -> bytes:
    return data


def _cut(chance: random.Random, data: bytes) -> bytes:
    return data[:chance.randrange(len(data))]


def _flip(chance: random.Random, data: bytes) -> bytes:
    at = chance.randrange(len(data))
    return data[:at] + bytes([data[at] ^ (1 << chance.randrange(8))]) + data[at + 1:]


def _absurd_size(chance: random.Random, data: bytes) -> bytes:
    """A header that claims up to 2^63 bytes, and whose checksum is right."""
    at = BLOCK * chance.randrange(len(data) // BLOCK) if len(data) >= BLOCK else 0
    block = bytearray(data[at:at + BLOCK])
    if len(block) < BLOCK:
        return data
    sizes = [b"77777777777\0", b"\x80\0\0\0\x7f" + bytes([255] * 7), b"\xff" * 12, b"9" * 12]
    block[124:136] = chance.choice(sizes)
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return data[:at] + bytes(block) + data[at + BLOCK:]


def _not_at_all(chance: random.Random, data: bytes) -> bytes:
    start = chance.choice([b"", b"\0" * 1024, b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"#!/bin/sh\n", bytes(100)])
    return start + (data if chance.random() < 0.5 else b"")
