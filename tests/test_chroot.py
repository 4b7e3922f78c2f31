"""Chapter 1. The oracle is the kernel itself: what a process in the new root can reach, and what not."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from mycontainer import chroot, syscalls
from mycontainer.errors import ContainerError
from needs import needs_root, needs_userns
from recording import recording
from sandbox import in_a_child, inside

pytestmark = needs_userns


@pytest.fixture
def root(tmp_path: Path) -> str:
    """A root directory with a file of its own, beside a file that it must not reach."""
    (tmp_path / "outside").write_text("outside")
    (tmp_path / "root" / "etc").mkdir(parents=True)
    (tmp_path / "root" / "etc" / "name").write_text("the new root")
    (tmp_path / "root" / "tmp").mkdir()
    return str(tmp_path / "root")


def text(path: str) -> str:
    return Path(path).read_text()


def entered(root: str) -> tuple[str, str, list[str]]:
    chroot.enter(root)
    return text("/etc/name"), os.getcwd(), sorted(os.listdir(".."))


def test_enter_makes_the_directory_the_root_and_stands_in_it(root: str) -> None:
    assert inside(entered, root) == ("the new root", "/", ["etc", "tmp"])


def test_enter_without_the_chdir_would_leave_a_way_out(root: str) -> None:
    def only_chroot() -> str:
        os.chdir(os.path.dirname(root))
        syscalls.chroot(root)
        return text("outside")  # by a relative path: the working directory is still out there
    assert inside(only_chroot) == "outside"


def test_enter_needs_the_right_to() -> None:
    if os.geteuid() == 0:
        pytest.skip("root may chroot")
    with pytest.raises(PermissionError) as caught:
        chroot.enter("/tmp")
    assert "CAP_SYS_CHROOT" in " ".join(caught.value.__notes__)


def test_escape_walks_out_of_a_chroot(root: str) -> None:
    def walk() -> list[bool]:
        chroot.enter(root)
        before = os.path.exists("/etc/passwd")
        chroot.escape()
        return [before, os.path.exists("/etc/passwd"), os.path.exists(os.path.dirname(root))]
    assert inside(walk) == [False, True, True]


def test_escape_does_not_walk_out_after_pivot(root: str) -> None:
    def walk() -> tuple[bool, str]:
        chroot.pivot(root)
        chroot.escape()
        return os.path.exists("/etc/passwd"), text("/etc/name")
    assert inside(walk) == (False, "the new root")


def test_pivot_leaves_a_single_mount_and_nothing_of_the_old_root(root: str) -> None:
    def mounts() -> list[str]:
        os.mkdir(f"{root}/proc")
        chroot.mount_proc(root)
        chroot.pivot(root)
        return [line.split()[4] for line in text("/proc/self/mountinfo").splitlines()]
    assert inside(lambda: in_a_child(mounts), kinds=("user", "mnt", "pid")) == ["/", "/proc"]


def test_pivot_needs_a_mount_point_first(root: str) -> None:
    def without_the_bind() -> None:
        os.chdir(root)
        syscalls.pivot_root(".", ".")
    with pytest.raises(OSError, match=r"pivot_root") as caught:
        inside(without_the_bind)
    assert caught.value.errno in (errno.EINVAL, errno.EBUSY)


def test_pivot_is_these_calls_in_this_order() -> None:
    with recording() as calls:
        chroot.pivot("/new")
    assert calls == ['mount("/new", "/new", NULL, MS_BIND|MS_REC, NULL)', 'chdir("/new")',
                     'pivot_root(".", ".")', 'umount2(".", MNT_DETACH)', 'chdir("/")']


def test_mounts_made_after_make_private_stay_here(root: str) -> None:
    def mount_tmpfs() -> bool:
        syscalls.mount("tmpfs", f"{root}/tmp", "tmpfs")
        Path(f"{root}/tmp/here").touch()
        return os.path.ismount(f"{root}/tmp")
    assert inside(mount_tmpfs)
    assert not os.path.ismount(f"{root}/tmp")
    assert os.listdir(f"{root}/tmp") == []


def test_make_private_is_what_does_it() -> None:
    with recording() as calls:
        chroot.make_private()
    assert calls == ['mount(NULL, "/", NULL, MS_REC|MS_PRIVATE, NULL)']


def devices(root: str, umask: int) -> dict[str, tuple[str, int]]:
    os.umask(umask)
    chroot.make_dev(root)
    found = {name: os.stat(f"{root}/dev/{name}")
             for name in [*chroot.DEVICES, "pts", "shm", "mqueue", "pts/ptmx"]}
    return {name: (stat.filemode(it.st_mode), it.st_rdev) for name, it in found.items()}


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_dev_has_the_usual_nodes_with_the_right_modes_whatever_the_umask(root: str, umask: int) -> None:
    found = inside(devices, root, umask, kinds=("user", "mnt", "ipc"))
    for name in chroot.DEVICES:
        assert found[name] == ("crw-rw-rw-", os.stat(f"/dev/{name}").st_rdev), name
    assert found["shm"][0] == found["mqueue"][0] == "drwxrwxrwt"
    assert found["pts/ptmx"][0] == "crw-rw-rw-"
    assert found["pts"][0] == "drwxr-xr-x"


@needs_root
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_real_root_makes_real_nodes_with_the_same_modes(root: str, umask: int) -> None:
    def nodes() -> list[str]:
        os.umask(umask)
        chroot.make_dev(root)
        return [line.split()[4] for line in text("/proc/self/mountinfo").splitlines() if "/dev/null" in line]
    assert inside(nodes, kinds=("mnt", "ipc")) == [], "bound, although mknod is allowed"
    assert inside(devices, root, umask, kinds=("mnt", "ipc"))["null"][0] == "crw-rw-rw-"


def test_dev_works(root: str) -> None:
    def use() -> tuple[bytes, int, list[str], str | None]:
        chroot.make_dev(root)
        chroot.enter(root)
        with open("/dev/zero", "rb") as zero, open("/dev/urandom", "rb") as random:
            read = zero.read(3)
            assert len(set(random.read(64))) > 16
        written = Path("/dev/null").write_text("gone")
        os.open("/dev/ptmx", os.O_RDWR | os.O_NOCTTY)
        other = os.open("/dev/full", os.O_WRONLY)
        try:
            os.write(other, b"x")
        except OSError as error:
            return read, written, os.listdir("/dev/pts"), error.strerror
        return read, written, os.listdir("/dev/pts"), "full took a byte"
    assert inside(use, kinds=("user", "mnt", "ipc")) == (
        b"\0\0\0", 4, ["0", "ptmx"], "No space left on device")


def test_a_volume_is_the_same_file_and_read_only_means_it(root: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "a").write_text("before")

    def use() -> list[str | None]:
        chroot.bind(str(data), root, "srv/rw")
        chroot.bind(str(data), root, "srv/ro", readonly=True)
        chroot.bind(str(data / "a"), root, "srv/file")
        chroot.enter(root)
        Path("/srv/rw/a").write_text("after")
        seen: list[str | None] = [text("/srv/ro/a"), text("/srv/file")]
        try:
            Path("/srv/ro/a").write_text("never")
        except OSError as error:
            seen.append(error.strerror)
        return seen
    assert inside(use) == ["after", "after", "Read-only file system"]
    assert (data / "a").read_text() == "after"


def test_a_volume_of_nothing_leaves_no_place_behind(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        chroot.bind(str(tmp_path / "nothing"), str(tmp_path), "place")
    assert not (tmp_path / "place").exists()


def test_read_only_holds_for_mounts_below_the_volume(root: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    (data / "below").mkdir(parents=True)

    def use() -> str | None:
        syscalls.mount("tmpfs", f"{data}/below", "tmpfs")
        chroot.bind(str(data), root, "v", readonly=True)
        try:
            Path(f"{root}/v/below/x").touch()
        except OSError as error:
            return error.strerror
        return "written"
    assert inside(use) == "Read-only file system"


def test_a_symlink_in_the_root_does_not_lead_a_mount_outside(root: str, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    os.symlink(str(victim), f"{root}/proc")      # absolute: leads to ROOT/tmp/.../victim, made inside
    os.symlink("../../victim", f"{root}/dev")     # relative, upwards

    def use() -> list[bool]:
        for mount in (chroot.mount_proc, chroot.make_dev):
            try:
                mount(root)
            except ContainerError:
                pass
        return [os.path.ismount(victim), bool(os.listdir(victim))]
    assert inside(lambda: in_a_child(use), kinds=("user", "mnt", "pid")) == [False, False]


def test_sys_shows_the_devices_of_our_network_namespace(root: str) -> None:
    def use() -> list[str]:
        chroot.mount_sys(root)
        return os.listdir(f"{root}/sys/class/net")
    assert inside(use, kinds=("user", "mnt", "net")) == ["lo"]
