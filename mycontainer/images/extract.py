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
import os
import queue
import threading
from collections.abc import Iterator
from typing import NamedTuple

from mycontainer.errors import explain
from mycontainer.images import apply, compression, tarstream
from mycontainer.images.compression import Damaged, Source

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
    """The pieces of the tar in a blob, inflated and hashed by two threads that are a little ahead."""

    def __init__(self, source: Source, limit: int, copy: int | None) -> None:
        self.blob, self.tar, self.size, self.limit = _Hashing(source, copy), hashlib.sha256(), 0, limit
        self.room = threading.Semaphore(AHEAD)
        self.stop = False
        self.inflated: queue.SimpleQueue[bytes | BaseException] = queue.SimpleQueue()
        self.hashed: queue.SimpleQueue[bytes | BaseException] = queue.SimpleQueue()
        self.threads = [threading.Thread(target=work, name=f"layer {work.__name__}", daemon=True)
                        for work in (self._read, self._hash)]
        for thread in self.threads:
            thread.start()

    def _read(self) -> None:
        try:
            inside = compression.decompressed(self.blob)
            while piece := self._next(inside):
                self.inflated.put(piece)
            while not self.stop and self.blob.read(PIECE):
                pass  # whatever lies behind the compressed data belongs to the blob, too
            self.inflated.put(b"")
        except BaseException as error:
            self.inflated.put(error)

    def _next(self, inside: Source) -> bytes:
        """The next piece, once there is room for it; none at the end, or where the writer has given up."""
        self.room.acquire()
        piece = b"" if self.stop else inside.read(PIECE)
        self.size += len(piece)
        if self.size > self.limit:
            raise Damaged(f"more than {self.limit} bytes are in it")
        return piece

    def _hash(self) -> None:
        while isinstance(piece := self.inflated.get(), bytes) and piece:
            self.tar.update(piece)
            self.hashed.put(piece)
        self.hashed.put(piece)

    def __iter__(self) -> Iterator[bytes]:
        while piece := self.hashed.get():
            if isinstance(piece, BaseException):
                raise piece
            yield piece
            self.room.release()

    def close(self) -> None:
        """Stop the threads and wait for them; a source that blocks for ever would keep us."""
        self.stop = True
        self.room.release()
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

