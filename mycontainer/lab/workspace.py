"""The learner's own copy of the notebooks: `workspace/`.

A learner gets each chapter as nobody has run it yet, and a learner's file is never overwritten. So we
remember the digest of each notebook as we copied it: a file that still has it is untouched and may follow the
course; any other is the learner's, and a changed chapter is laid beside it as `NN_name.new.ipynb`, once.

Everything goes through a descriptor of the directory and no symlink is followed: whoever can write there must
not be able to send us elsewhere.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import stat
import sys
from collections.abc import Callable
from pathlib import Path

from mycontainer.errors import ContainerError

MANIFEST = ".course.json"
NOTEBOOK = ".ipynb"
BESIDE = ".new.ipynb"


def course() -> Path:
    """The directory of the course's notebooks: `notebooks/` of the checkout."""
    return Path(__file__).resolve().parents[2] / "notebooks"


def default() -> Path:
    """Where the learner works unless told otherwise: `workspace/` of the checkout."""
    return Path(__file__).resolve().parents[2] / "workspace"


def sync(source: Path, target: Path, say: Callable[[str], object] = print) -> list[Path]:
    """Bring the notebooks of `source` into `target`; returns the files that were written.

    `say` gets one line for each thing that a learner should know. Raises ContainerError if `target` is a
    symlink or cannot be written.
    """
    try:
        target.mkdir(parents=True, exist_ok=True)
        directory = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        hint = "workspace must be a directory of yours, and not a symlink."
        raise ContainerError(f"cannot use {target} as workspace", error.strerror or "", hint) from error
    try:
        return [target / name for name in _Sync(directory, say).run(source)]
    except OSError as error:
        raise ContainerError(f"cannot write in {target}", error.strerror or "") from error
    finally:
        os.close(directory)


class _Sync:
    """One run: `known` is what we copied before (name -> digest), `written` what we write now."""

    def __init__(self, directory: int, say: Callable[[str], object]) -> None:
        self.directory = directory
        self.say = say
        self.known = self._manifest()
        self.written: list[str] = []

    def run(self, source: Path) -> list[str]:
        before = dict(self.known)
        for notebook in sorted(source.glob("*" + NOTEBOOK)):
            self._bring(notebook.name, unplayed(notebook.read_bytes()))
        if self.known != before:
            self._replace(MANIFEST, json.dumps(self.known, indent=1, sort_keys=True).encode() + b"\n")
        return self.written

    def _bring(self, name: str, new: bytes) -> None:
        theirs = self._digest(name)
        if theirs is None:
            self._create(name, new)
            self.say(f"workspace: {name} is there for you")
        elif theirs == _digest(new):
            self.known[name] = theirs
        elif theirs == self.known.get(name):
            self._replace(name, new)
            self.known[name] = _digest(new)
            self.written.append(name)
            self.say(f"workspace: {name} is the course's new version (you had changed nothing)")
        else:
            self._lay_beside(name, new)

    def _lay_beside(self, name: str, new: bytes) -> None:
        beside = name.removesuffix(NOTEBOOK) + BESIDE
        if name in self.known and _digest(new) in (self.known[name], self.known.get(beside)):
            return  # the course has not changed, or this change was offered before
        there = self._digest(beside)
        if there is None:
            self._create(beside, new)
        elif there == self.known.get(beside):
            self._replace(beside, new)
            self.written.append(beside)
        elif there != _digest(new):
            self.say(f"workspace: {beside} is yours too: move it away to get the course's new version")
            return
        self.known[beside] = _digest(new)
        self.known.setdefault(name, "")
        self.say(f"workspace: {name} is yours and stays; the course's new version lies beside it: {beside}")

    def _digest(self, name: str) -> str | None:
        """The file's digest; None if nothing is there; empty for what is no file and so the learner's."""
        try:
            return _digest(self._read(name))
        except FileNotFoundError:
            return None
        except OSError:
            return ""

    def _read(self, name: str) -> bytes:
        """The content of a regular file. O_NONBLOCK: opening a FIFO would wait for somebody to write."""
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=self.directory)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(errno.EINVAL, "Not a regular file")
            with open(descriptor, "rb", closefd=False) as stream:
                return stream.read()
        finally:
            os.close(descriptor)

    def _create(self, name: str, content: bytes) -> None:
        """Write a file that is not there. link(2) refuses, where rename(2) would take a file's place."""
        scrap = self._scrap(content)
        try:
            os.link(scrap, name, src_dir_fd=self.directory, dst_dir_fd=self.directory)
        except FileExistsError:  # somebody was quicker, and then it is theirs
            return
        except PermissionError:  # no hard links on this file system, as on VirtualBox's shared folders
            self._write_new(name, content)
        finally:
            os.unlink(scrap, dir_fd=self.directory)
        self.written.append(name)
        self.known[name] = _digest(content)

    def _replace(self, name: str, content: bytes) -> None:
        scrap = self._scrap(content)
        os.rename(scrap, name, src_dir_fd=self.directory, dst_dir_fd=self.directory)

    def _scrap(self, content: bytes) -> str:
        """A whole file under a name of its own: a crash leaves the old one or the new one, never half."""
        name = f".{secrets.token_hex(8)}.scrap"
        self._write_new(name, content)
        return name

    def _write_new(self, name: str, content: bytes) -> None:
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644, dir_fd=self.directory)
        with open(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(descriptor)

    def _manifest(self) -> dict[str, str]:
        try:
            known = json.loads(self._read(MANIFEST))
        except (OSError, ValueError):  # without it every differing file is the learner's: the safe mistake
            return {}
        return {str(name): str(digest) for name, digest in known.items()} if isinstance(known, dict) else {}


def unplayed(notebook: bytes) -> bytes:
    """The notebook as nobody has run it yet: its outputs would tell the answers before the questions.

    What is no notebook is left as it is.
    """
    try:
        document = json.loads(notebook)
        for cell in document["cells"]:
            if cell["cell_type"] == "code":
                cell["outputs"], cell["execution_count"] = [], None
    except (ValueError, TypeError, KeyError):
        return notebook
    return json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def main() -> int:
    """`python -m mycontainer.lab.workspace [DIRECTORY]`."""
    try:
        sync(course(), Path(sys.argv[1]) if len(sys.argv) > 1 else default())
    except ContainerError as error:
        print(f"mycontainer: {error}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
