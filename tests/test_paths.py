"""Floor 0: no path leads out of a root, not even one that is changed while we look at it."""

from __future__ import annotations

import ctypes
import os
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mycontainer import paths, syscalls
from mycontainer.errors import ContainerError
from needs import needs_root

ROUNDS = 3000  # of the race


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    """A root file system, and beside it a directory that is none of its business."""
    (tmp_path / "root" / "etc").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret").write_text("secret")
    before = set(os.listdir("/proc/self/fd"))
    yield tmp_path / "root"
    assert set(os.listdir("/proc/self/fd")) <= before, "a descriptor was left open"


@contextmanager
def opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def where(fd: int) -> Path:
    """Which file a descriptor holds; it is closed."""
    try:
        return Path(os.readlink(f"/proc/self/fd/{fd}"))
    finally:
        os.close(fd)


# ---- where our files are

def test_data_dir_is_what_the_person_says_else_the_usual_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MYCONTAINER_HOME", "relative")
    assert paths.data_dir() == os.path.abspath("relative")
    monkeypatch.delenv("MYCONTAINER_HOME")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert paths.data_dir() == "/var/lib/mycontainer"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_DATA_HOME", "/xdg")
    assert paths.data_dir() == "/xdg/mycontainer"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert paths.data_dir() == "/home/me/.local/share/mycontainer"


def runtime_dir_of(user: int, **environment: str) -> str:
    """runtime_dir() as another user sees it, or the complaint."""
    script = ("import os\nfrom mycontainer import paths\nfrom mycontainer.errors import ContainerError\n"
              f"os.umask(0o002); os.setresgid({user}, {user}, {user})\n"  # and no import from here on:
              "os.setgroups([]) if os.geteuid() == 0 else None\n"  # the checkout may be closed to others
              f"os.setresuid({user}, {user}, {user})\n"
              "try: print(paths.runtime_dir())\nexcept ContainerError as error: print('refused:', error)")
    env = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(paths.__file__).parents[1]), **environment}
    return subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True,
                          check=True).stdout.strip()


@pytest.fixture
def user() -> Iterator[int]:
    """An id that nobody else uses here, and no trace of it afterwards."""
    number = 1_900_000_000 + os.getpid()
    yield number
    for path in (f"/tmp/mycontainer-{number}", f"/tmp/xdg-{number}/mycontainer", f"/tmp/xdg-{number}"):
        if os.path.islink(path) or os.path.isfile(path):
            os.unlink(path)
        elif os.path.isdir(path):
            os.rmdir(path)


@needs_root
def test_runtime_dir_is_closed_to_others(user: int) -> None:
    assert runtime_dir_of(user) == f"/tmp/mycontainer-{user}"
    found = os.stat(f"/tmp/mycontainer-{user}")
    assert (found.st_uid, stat.S_IMODE(found.st_mode)) == (user, 0o700)


@needs_root
def test_runtime_dir_goes_where_the_session_says_if_that_is_ours(user: int) -> None:
    base = f"/tmp/xdg-{user}"
    os.mkdir(base, 0o700)
    assert runtime_dir_of(user, XDG_RUNTIME_DIR=base) == f"/tmp/mycontainer-{user}"  # root's: after su(1)
    os.chown(base, user, user)
    assert runtime_dir_of(user, XDG_RUNTIME_DIR=base) == f"{base}/mycontainer"
    assert runtime_dir_of(user, XDG_RUNTIME_DIR="/nowhere") == f"/tmp/mycontainer-{user}"


@needs_root
@pytest.mark.parametrize("trap", ["somebody else's", "a symlink", "open to all", "a file"])
def test_runtime_dir_of_somebody_else_is_refused(trap: str, user: int, tmp_path: Path) -> None:
    path = f"/tmp/mycontainer-{user}"
    if trap == "a symlink":
        os.symlink("/tmp", path)
    elif trap == "a file":
        Path(path).touch()
        os.chown(path, user, user)
    else:
        os.mkdir(path)
        if trap == "open to all":
            os.chown(path, user, user)
            os.chmod(path, 0o777)
    assert runtime_dir_of(user).startswith(("refused: cannot use", "refused: cannot make"))


@needs_root
def test_roots_runtime_dir_lets_strangers_through_but_not_look() -> None:
    assert paths.runtime_dir() == "/run/mycontainer"
    assert stat.S_IMODE(os.stat("/run/mycontainer").st_mode) == 0o711


# ---- looking inside a root

@pytest.mark.parametrize(("link", "leads_to"), [
    ("/etc", "etc"),                             # absolute: from the root's own /
    ("../../../../../../etc", "etc"),            # more .. than there are directories
    ("/../../etc", "etc"),
    ("/", "."),
    ("..", "."),
    ("chain", "etc"),
], ids=str)
def test_a_symlink_stays_inside(link: str, leads_to: str, root: Path) -> None:
    (root / "chain").symlink_to("/etc/../../etc")
    (root / "link").symlink_to(link)
    with opened(root) as fd:
        assert where(paths.open_in_root(fd, "link")) == root / leads_to
        assert where(paths.open_in_root(fd, "../../link/./")) == root / leads_to


def test_the_outside_cannot_be_named(root: Path) -> None:
    (root / "door").symlink_to(root.parent / "outside")
    with opened(root) as fd:
        for name in ("../outside/secret", "door/secret", f"{root.parent}/outside/secret"):
            with pytest.raises(FileNotFoundError):
                paths.open_in_root(fd, name)


def test_magic_links_are_refused() -> None:
    """/proc/PID/root and /proc/PID/fd/N lead anywhere, whatever the walk's root is. man 2 openat2."""
    with opened(Path("/proc/self")) as fd:
        for name in ("root/etc", "cwd", "exe"):
            with pytest.raises(OSError, match="symbolic links") as caught:
                paths.open_in_root(fd, name)
            assert "openat2" in str(caught.value.filename)


def test_a_loop_of_symlinks_ends(root: Path) -> None:
    (root / "loop").symlink_to("loop")
    with opened(root) as fd, pytest.raises(OSError, match="Too many levels"):
        paths.open_in_root(fd, "loop")


def test_a_rename_beside_the_walk_is_asked_again_but_not_for_ever(
        root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[int] = []

    def busy(*_: object) -> int:
        answers.append(1)
        if len(answers) < 5 or forever:
            raise BlockingIOError
        return 77

    monkeypatch.setattr(syscalls, "openat2", busy)
    forever = False
    assert paths.open_in_root(0, "x") == 77
    forever = True
    with pytest.raises(BlockingIOError):
        paths.open_in_root(0, "x")
    assert len(answers) == 105


# ---- making things inside a root

def test_make_directories_goes_through_symlinks_of_the_root(root: Path) -> None:
    (root / "var").symlink_to("/etc")
    (root / "up").symlink_to("../../..")
    with opened(root) as fd:
        assert where(paths.make_directories(fd, "/var/../up/./var//new/deep/")) == root / "etc/new/deep"
        assert where(paths.make_directories(fd, "var/new/deep")) == root / "etc/new/deep"
        assert where(paths.make_directories(fd, "/")) == root
    assert not (root.parent / "outside" / "new").exists()


def test_make_directories_gives_the_mode_asked_for(root: Path) -> None:
    with opened(root) as fd:
        os.close(paths.make_directories(fd, "closed/inner", 0o700))
    assert stat.S_IMODE((root / "closed/inner").stat().st_mode) == 0o700


@pytest.mark.parametrize(("make", "error"), [
    (lambda path: path.write_text(""), NotADirectoryError),
    (lambda path: path.symlink_to("/no/where"), FileNotFoundError),
    (lambda path: path.symlink_to("in-the-way"), OSError),
], ids=["a file", "a broken symlink", "a loop"])
def test_what_is_in_the_way_is_told_and_left_alone(make: Callable[[Path], None], error: type[OSError],
                                                   root: Path) -> None:
    make(root / "in-the-way")
    before = sorted(os.walk(root))
    with opened(root) as fd, pytest.raises(error):
        paths.make_directories(fd, "in-the-way/below")
    assert sorted(os.walk(root)) == before
    with pytest.raises(ContainerError, match="cannot mount on in-the-way/below"), \
            paths.target(str(root), "in-the-way/below"):
        pass


def test_make_file_makes_an_empty_file_and_its_directories_and_no_more(root: Path) -> None:
    (root / "link").symlink_to("/etc/made")
    with opened(root) as fd:
        assert where(paths.make_file(fd, "a/b/file")) == root / "a/b/file"
        (root / "a/b/file").write_text("kept")
        assert where(paths.make_file(fd, "/a/b/file")) == root / "a/b/file"
        with pytest.raises(OSError, match="File exists"):  # it would be made where the symlink leads to
            paths.make_file(fd, "link")
    assert (root / "a/b/file").read_text() == "kept"


# ---- targets of mounts

def test_target_is_a_name_for_the_very_file_inside(root: Path) -> None:
    (root / "dev").symlink_to(root.parent / "outside")
    (root / "data").symlink_to("/etc")
    with paths.target(str(root), "data/new") as path:
        Path(path, "here").touch()
    assert (root / "etc/new/here").exists()
    with pytest.raises(ContainerError, match="cannot mount on dev"), paths.target(str(root), "dev"):
        pass
    with paths.target(str(root), "etc/conf", directory=False) as path:
        assert os.path.samefile(path, root / "etc/conf")


SWAPPER = """\
import ctypes, os, sys
libc = ctypes.CDLL(None)
one, other = (os.fsencode(path) for path in sys.argv[1:])
print("ready", flush=True)
while True:  # exchange the two names, again and again
    libc.renameat2(-100, one, -100, other, 2)
"""


@contextmanager
def swapping(one: Path, other: Path) -> Iterator[None]:
    """Somebody who exchanges two files all the time."""
    process = subprocess.Popen([sys.executable, "-c", SWAPPER, str(one), str(other)], stdout=subprocess.PIPE)
    assert process.stdout
    process.stdout.readline()
    try:
        yield
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


needs_renameat2 = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "renameat2"),
                                     reason="needs renameat2 in the C library")


@pytest.fixture
def battlefield(root: Path) -> Path:
    """A directory ``root/a/b``, and ``root/evil``, a symlink to the outside that will take the place of a."""
    (root / "a/b").mkdir(parents=True)
    (root.parent / "outside" / "b").mkdir()
    (root / "evil").symlink_to("../outside")
    return root


@needs_renameat2
def test_the_attack_is_real(battlefield: Path) -> None:
    """The negative control: whoever looks first and opens then is led outside."""
    escapes, until = 0, time.monotonic() + 10
    with swapping(battlefield / "a", battlefield / "evil"):
        while not escapes and time.monotonic() < until:
            if not (battlefield / "a").is_symlink():
                fd = os.open(battlefield / "a/b", os.O_PATH)
                escapes += not where(fd).is_relative_to(battlefield)
    assert escapes


@needs_renameat2
def test_target_never_leaves_the_root_while_a_thief_swaps_directory_and_symlink(battlefield: Path) -> None:
    reached: dict[str, int] = {}
    with swapping(battlefield / "a", battlefield / "evil"):
        for _ in range(ROUNDS):
            try:
                with paths.target(str(battlefield), "a/b") as path:
                    found = os.readlink(path)
            except (ContainerError, BlockingIOError) as error:
                found = type(error).__name__
            reached[found] = reached.get(found, 0) + 1
    inside = {str(battlefield / name / "b") for name in ("a", "evil", "outside")}
    assert set(reached) <= inside | {"ContainerError", "BlockingIOError"}, reached
    assert sum(reached.get(path, 0) for path in inside) > ROUNDS / 20, reached
    assert os.listdir(battlefield.parent / "outside" / "b") == []
