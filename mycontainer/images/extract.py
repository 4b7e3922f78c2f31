"""A layer's blob, unpacked as it streams past: two digests, one inflation, one writer.

One thread reads, hashes and inflates, one hashes what is inside, the caller's makes the files. Nearly all of
the work is done in the kernel and in libraries that let go of Python's lock, and the pieces are large: so
threads fill two processors as well as processes would, with shared memory between them, and need no care.
The digest of the compressed bytes (the blob's name) and that of the tar (the DiffID) come out at the end, and
are compared with what was promised before anybody may use the files.

Sources: OCI image-spec, descriptor.md ("Digests"), config.md ("Layer DiffID").
"""

from __future__ import annotations

import hashlib
import mmap
import os
import queue
import threading
from collections.abc import Iterator
from typing import NamedTuple

from mycontainer.errors import explain
from mycontainer.images import apply, compression, tarstream
from mycontainer.images.compression import Damaged, Inside, Source

PIECE = 1 << 20  # bytes that go from a thread to the next in one go: for each it has to wait for the lock
AHEAD = 8        # pieces that the reader may be ahead


class Limits(NamedTuple):
    """What a layer may cost us at most: a few kilobytes of zstd can hold terabytes of zeros."""

    size: int = 32 << 30     # bytes of the tar inside
    entries: int = 2_000_000


USUAL = Limits()


class Extracted(NamedTuple):
    """What came out: the names of the blob and of the tar in it, bytes of the latter, devices left out."""

    digest: str
    diff_id: str
    size: int
    skipped: list[str]


class Filled(NamedTuple):
    """A piece of the tar: the first ``size`` bytes of ``buffer``, none at the end."""

    buffer: memoryview
    size: int


class _Hashing:
    """A source whose bytes are hashed as they are read, and perhaps copied to a file."""

    def __init__(self, source: Source, copy: int | None) -> None:
        self.source, self.copy, self.sum = source, copy, hashlib.sha256()

    def read(self, size: int) -> bytes:
        data = self.source.read(size)
        self.sum.update(data)
        if self.copy is not None:
            apply.write_all(self.copy, memoryview(data))
        return data


class _Stream:
    """The pieces of the tar in a blob, inflated and hashed by two threads that are a little ahead.

    The pieces go round in a few buffers: from `free` to the reader, the hasher, the writer, and back.
    """

    def __init__(self, source: Source, limit: int, copy: int | None) -> None:
        self.blob, self.tar, self.size, self.limit = _Hashing(source, copy), hashlib.sha256(), 0, limit
        self.free: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
        self.inflated: queue.SimpleQueue[Filled | BaseException] = queue.SimpleQueue()
        self.hashed: queue.SimpleQueue[Filled | BaseException] = queue.SimpleQueue()
        memory = memoryview(mmap.mmap(-1, AHEAD * PIECE, mmap.MAP_PRIVATE))  # pages come with the first use
        for at in range(0, len(memory), PIECE):
            self.free.put(memory[at:at + PIECE])
        self.stop = False
        self.threads = [threading.Thread(target=work, name=f"layer {work.__name__}", daemon=True)
                        for work in (self._read, self._hash)]
        for thread in self.threads:
            thread.start()

    def _read(self) -> None:
        try:
            inside = compression.decompressed(self.blob)
            while (filled := self._fill(inside)).size:
                self.inflated.put(filled)
            while not self.stop and self.blob.read(PIECE):
                pass  # whatever lies behind the compressed data belongs to the blob, too
            self.inflated.put(filled)
        except BaseException as error:
            self.inflated.put(error)

    def _fill(self, inside: Inside) -> Filled:
        """The next piece, once there is room for it; an empty one where the writer has given up."""
        buffer = self.free.get()
        size = 0 if self.stop else inside.readinto(buffer)
        self.size += size
        if self.size > self.limit:
            raise Damaged(f"more than {self.limit} bytes are in it")
        return Filled(buffer, size)

    def _hash(self) -> None:
        while isinstance(filled := self.inflated.get(), Filled) and filled.size:
            self.tar.update(filled.buffer[:filled.size])
            self.hashed.put(filled)
        self.hashed.put(filled)

    def __iter__(self) -> Iterator[memoryview]:
        """Each piece is valid until the next."""
        while isinstance(filled := self.hashed.get(), Filled) and filled.size:
            yield filled.buffer[:filled.size]
            self.free.put(filled.buffer)
        if isinstance(filled, BaseException):
            raise filled

    def close(self) -> None:
        """Stop the threads and wait for them; a source that blocks for ever would keep us."""
        self.stop = True
        self.free.put(memoryview(b""))  # to wake a reader that waits for room
        for thread in self.threads:
            thread.join()


def extract(source: Source, directory: str, *, digest: str | None = None, diff_id: str | None = None,
            as_layer: bool = True, limits: Limits = USUAL, copy: int | None = None) -> Extracted:
    """Unpack a layer's blob (plain, gzip or zstd) into ``directory``, checking what was promised of it.

    ``digest`` is the blob's name, ``diff_id`` that of the tar inside, both "sha256:..."; None: not known.
    ``as_layer`` keeps whiteouts as overlayfs' marks. ``copy`` is a descriptor to which the blob is written on
    the way. Raises ContainerError; what was unpacked until then is in ``directory``, which the caller throws
    away (`store.Store` does so).
    """
    root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    stream = _Stream(source, limits.size, copy)
    try:
        with apply.applying(root, as_layer) as applier:
            pieces = iter(stream)
            reader = tarstream.Reader(pieces, need_end=digest is None and diff_id is None)
            for number, entry in enumerate(reader):
                if number >= limits.entries:
                    raise Damaged(f"more than {limits.entries} entries are in it")
                applier.add(entry, reader.content())
            for _ in pieces:  # tar(1) pads with zeros to a record of 20 blocks; they are part of the DiffID
                pass
        found = Extracted(f"sha256:{stream.blob.sum.hexdigest()}", f"sha256:{stream.tar.hexdigest()}",
                          stream.size, applier.skipped)
        _compare("blob", digest, found.digest)
        _compare("tar in it", diff_id, found.diff_id)
        return found
    except (ValueError, OSError) as error:
        raise explain(f"cannot unpack {digest or diff_id or 'the layer'}", error) from error
    finally:
        stream.close()
        os.close(root)


def _compare(what: str, promised: str | None, found: str) -> None:
    if promised not in (None, found):
        raise Damaged(f"the {what} is not what was promised, but {found}")

