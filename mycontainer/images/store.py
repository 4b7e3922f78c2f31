"""Layers on disk, each under the name of its content, each once.

    blobs/sha256/HEX     a blob as it came (compressed), named by its digest
    layers/HEX/tree      a layer unpacked, ready to be stacked, named by its DiffID
    layers/HEX/record    what we know of it, JSON
    refs/NAME            what is kept by this name: digests, one a line
    leases/X             what somebody uses right now: the same, locked by them as long as they live
    tmp/X                half made, locked by its maker; or half removed

Nothing appears under its name before it is whole and checked: it is made in tmp/ and renamed. A maker that
dies leaves something in tmp/ that nobody has locked, and the next collection takes it. Whoever publishes or
takes a lease holds the store's lock shared for a moment, a collection holds it alone; so what is being used
is seen by the collection, or is not there to be used.

Sources: OCI image-layout.md; flock(2): the lock goes with the process; rename(2), "atomically".
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from mycontainer import layers, paths
from mycontainer.errors import ContainerError, explain
from mycontainer.images import extract, pack
from mycontainer.images.compression import Source
from mycontainer.images.extract import Limits

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class Lease:
    """What somebody uses: as long as they live, and until the end of their ``with store.lease()``."""

    def __init__(self, store: Store, fd: int) -> None:
        self.store, self.fd = store, fd

    def use(self, digest: str) -> str:
        """Keep a blob or layer from being collected. Raises ContainerError if it is not there."""
        with self.store.locked():
            return self._use(digest)

    def _use(self, digest: str) -> str:
        if not self.store.has(digest):
            raise ContainerError(f"no such layer or blob: {digest}")
        os.write(self.fd, f"{digest}\n".encode())
        return digest


class Store:
    """A store in ``directory``, by default ours; made if it is not there. Any number of processes may use it.

    ``durable``: wait for the disk before a name appears, so that it also survives a power cut.
    """

    def __init__(self, directory: str | None = None, durable: bool = True) -> None:
        self.directory = directory or os.path.join(paths.data_dir(), "store")
        self.durable = durable
        try:
            for name in ("blobs/sha256", "layers", "refs", "leases", "tmp"):
                os.makedirs(os.path.join(self.directory, name), mode=0o700, exist_ok=True)
        except OSError as error:
            raise explain(f"cannot make the store {self.directory}", error) from error

    # ---- what is there

    def has(self, digest: str) -> bool:
        """Whether a blob or a layer of this name is there."""
        return os.path.exists(self.blob(digest)) or os.path.exists(self.layer(digest))

    def blob(self, digest: str) -> str:
        """The path of a blob, there or not."""
        return os.path.join(self.directory, "blobs/sha256", _hex(digest))

    def layer(self, diff_id: str) -> str:
        """The path of a layer's tree, to be stacked; there or not."""
        return os.path.join(self.directory, "layers", _hex(diff_id), "tree")

    def record(self, diff_id: str) -> dict[str, object]:
        """What is known of a layer: ``digest`` of the blob, ``size`` of the tar in bytes, ``skipped``."""
        try:
            with open(os.path.join(self.directory, "layers", _hex(diff_id), "record")) as file:
                found: dict[str, object] = json.load(file)
                return found
        except FileNotFoundError:
            raise ContainerError(f"no such layer: {diff_id}") from None

    # ---- adding

    def add_layer(self, source: Source, lease: Lease, *, digest: str | None = None,
                  diff_id: str | None = None, limits: Limits = extract.USUAL, keep_blob: bool = False) -> str:
        """Unpack a layer's blob; returns its DiffID, which ``lease`` now uses.

        ``digest`` and ``diff_id`` are what is promised of it. Raises ContainerError, and then nothing has
        changed. A layer that is there already is not unpacked again if ``diff_id`` says so.
        """
        if diff_id is not None and not keep_blob:
            with self.locked():
                if os.path.exists(self.layer(diff_id)):
                    return lease._use(diff_id)
        with self._making() as work:
            tree, blob = os.path.join(work, "layer", "tree"), os.path.join(work, "blob")
            os.makedirs(tree, mode=0o755)
            copy = os.open(blob, os.O_WRONLY | os.O_CREAT, 0o600) if keep_blob else None
            try:
                found = extract.extract(source, tree, digest=digest, diff_id=diff_id, limits=limits,
                                        copy=copy)
            finally:
                if copy is not None:
                    os.close(copy)
            _write_json(os.path.join(work, "layer", "record"), {
                "digest": found.digest, "size": found.size, "skipped": found.skipped})
            self._flush()
            with self.locked():
                self._publish(os.path.join(work, "layer"), os.path.dirname(self.layer(found.diff_id)))
                if keep_blob:
                    self._publish(blob, self.blob(found.digest))
                    lease._use(found.digest)
                return lease._use(found.diff_id)

    def add_blob(self, write: pack.Pack, lease: Lease) -> pack.Packed:
        """Keep the tar that ``write`` writes (`pack.snapshot` or its like) as a blob for ``lease``."""
        with self._making() as work:
            path = os.path.join(work, "blob")
            with open(path, "xb") as out:
                packed = write(out)
            self._flush()
            with self.locked():
                self._publish(path, self.blob(packed.diff_id))
                lease._use(packed.diff_id)
        return packed

    def commit(self, upper: str, lease: Lease, latest: int | None = None) -> str:
        """Make a layer of what an overlay's upper holds; returns its DiffID. Same changes, same DiffID."""
        packed = self.add_blob(lambda out: pack.changes(upper, out, latest), lease)
        with open(self.blob(packed.diff_id), "rb") as blob:
            return self.add_layer(blob, lease, diff_id=packed.diff_id)

    def stack(self, diff_ids: list[str], root: str, upper: str | None = None,
              work: str | None = None) -> None:
        """Mount layers, the lowest first, at ``root`` (`layers.stack`). Hold a lease on them meanwhile."""
        layers.stack([self.layer(diff_id) for diff_id in diff_ids], root, upper, work)

    @contextmanager
    def _making(self) -> Iterator[str]:
        """A directory in tmp/, ours while we live, gone at the end."""
        with self.locked():
            work = tempfile.mkdtemp(dir=os.path.join(self.directory, "tmp"))
            mine = os.open(work, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(mine, fcntl.LOCK_EX)
        try:
            yield work
        finally:
            _remove(work)
            os.close(mine)

    def _publish(self, made: str, name: str) -> None:
        """Give what was made its name. Where somebody was faster theirs stays, which is the same."""
        try:
            os.rename(made, name)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
                raise
        if self.durable:
            _sync(os.path.dirname(name))

    def _flush(self) -> None:
        if self.durable:
            _sync(os.path.join(self.directory, "tmp"), whole=True)

    # ---- names, leases

    def tag(self, name: str, digests: Iterable[str]) -> None:
        """Keep layers and blobs by a name, in place of what it named before. Raises ContainerError."""
        digests = list(digests)
        with self.locked():
            for digest in digests:
                if not self.has(digest):
                    raise ContainerError(f"cannot keep {digest} as {name}", "it is not in the store")
            path = self._ref(name)
            fd, temporary = tempfile.mkstemp(dir=os.path.join(self.directory, "tmp"))
            with open(fd, "w") as file:
                file.write("".join(f"{digest}\n" for digest in digests))
                file.flush()
                os.fsync(fd)
            os.rename(temporary, path)
            _sync(os.path.dirname(path))

    def tagged(self, name: str) -> list[str]:
        """What is kept by a name. Raises ContainerError if there is no such name."""
        try:
            return _lines(self._ref(name))
        except FileNotFoundError:
            raise ContainerError(f"no such name in the store: {name}") from None

    def untag(self, name: str) -> None:
        """Forget a name; what it kept goes with the next collection, unless it is used otherwise."""
        with self.locked(), suppress(FileNotFoundError):
            os.unlink(self._ref(name))

    def _ref(self, name: str) -> str:
        if not NAME.fullmatch(name):
            raise ContainerError(f"not a name: {name}", hint="Letters, digits, '.', '_' and '-', up to 128.")
        return os.path.join(self.directory, "refs", name)

    @contextmanager
    def lease(self) -> Iterator[Lease]:
        """For the block, or until this process dies: what the lease uses is not collected."""
        with self.locked():
            fd, path = tempfile.mkstemp(dir=os.path.join(self.directory, "leases"))
            fcntl.flock(fd, fcntl.LOCK_EX)
        try:
            yield Lease(self, fd)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(path)
            os.close(fd)

    @contextmanager
    def locked(self, alone: bool = False) -> Iterator[None]:
        """The store's lock, shared or alone: held for moments."""
        fd = os.open(os.path.join(self.directory, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
            yield
        finally:
            os.close(fd)

    # ---- collection

    def collect(self) -> list[str]:
        """Remove what no name keeps and nobody uses, and what the dead left half made; returns the digests.

        Under the lock things only lose their names, which is quick; the removal itself comes after it.
        """
        with self.locked(alone=True):
            kept = self._kept()
            gone = []
            for kind in ("blobs/sha256", "layers"):
                for name in os.listdir(os.path.join(self.directory, kind)):
                    if f"sha256:{name}" not in kept:
                        gone.append(f"sha256:{name}")
                        os.rename(os.path.join(self.directory, kind, name), self._trash())
            dead = [path for path in self._in("tmp") if _abandoned(path)]
        for path in dead:
            _remove(path)
        return sorted(set(gone))

    def _trash(self) -> str:
        return os.path.join(self.directory, "tmp", f"gone-{os.urandom(8).hex()}")

    def _kept(self) -> set[str]:
        kept: set[str] = set()
        for path in self._in("refs"):
            kept.update(_lines(path))
        for path in self._in("leases"):
            with suppress(FileNotFoundError):  # its holder has just finished
                if _abandoned(path):
                    os.unlink(path)
                else:
                    kept.update(_lines(path))
        return kept

    def _in(self, name: str) -> list[str]:
        directory = os.path.join(self.directory, name)
        return [os.path.join(directory, each) for each in os.listdir(directory)]


def _hex(digest: str) -> str:
    if not DIGEST.fullmatch(digest):
        raise ContainerError(f"not a digest: {digest[:100]}", hint="It is sha256: and 64 hexadecimal digits.")
    return digest.removeprefix("sha256:")


def _lines(path: str) -> list[str]:
    with open(path) as file:
        return file.read().split()


def _write_json(path: str, what: dict[str, object]) -> None:
    with open(path, "x") as file:
        json.dump(what, file)


def _abandoned(path: str) -> bool:
    """Whether nobody alive holds the lock of ``path``."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:  # its maker has just published it, or taken it away
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(fd)


def _remove(path: str) -> None:
    """Remove a file or a tree, also one with directories that even we, not being root, may not write to."""
    if not os.path.isdir(path) or os.path.islink(path):
        with suppress(FileNotFoundError):
            os.unlink(path)
        return
    if os.geteuid() != 0:
        for _, directories, _, fd in os.fwalk(path):
            for name in directories:
                with suppress(OSError):  # a symlink, which is not to be followed
                    below = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
                    os.chmod(f"/proc/self/fd/{below}", 0o700)
                    os.close(below)
    shutil.rmtree(path, ignore_errors=True)


def _sync(path: str, whole: bool = False) -> None:
    """Wait until a directory is on the disk; ``whole``: all of its file system (syncfs(2))."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if whole:
            ctypes.CDLL(None, use_errno=True).syncfs(fd)
        else:
            os.fsync(fd)
    finally:
        os.close(fd)

