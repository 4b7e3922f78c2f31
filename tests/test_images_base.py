"""The base image: the same bytes for everybody, a root in which sh runs, and no way out while unpacking."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import stat
import struct
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from mycontainer import images
from mycontainer.errors import ContainerError
from mycontainer.images import base
from needs import needs_root, needs_tool, needs_userns

PROJECT = Path(__file__).parents[1]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return Path(base.build(tmp_path / "busybox.tar"))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def build_elsewhere(home: Path, *prefix: str, umask: int = 0o022, python: str = sys.executable,
                    **environment: str) -> Path:
    """Build as a person would, in a process of its own; returns the tar."""
    command = [*prefix, python, "-m", "mycontainer.images.base"]
    env = {"MYCONTAINER_HOME": str(home), "PATH": "/usr/bin:/bin", "PYTHONPATH": str(PROJECT), **environment}
    done = subprocess.run(command, env=env, umask=umask, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return home / "images" / "busybox.tar"


def listing(directory: Path) -> str:
    """Type, mode, owner, size, link target and name of every file, as find(1) sees them."""
    argv = ["find", ".", "-mindepth", "1", "(", "-type", "d", "-printf", "%y %m %U %P\n", "-o",
            "-printf", "%y %m %U %s %P %l\n", ")"]
    found = subprocess.run(argv, cwd=directory, capture_output=True, text=True, check=True)
    return "\n".join(sorted(found.stdout.splitlines()))


# ---- the same bytes for everybody

def test_build_is_the_same_whatever_umask_locale_zone_and_hash_seed(tmp_path: Path) -> None:
    (tmp_path / "scratch").mkdir()
    one = build_elsewhere(tmp_path / "one", umask=0o077, LANG="C", TZ="Asia/Tokyo", PYTHONHASHSEED="1")
    two = build_elsewhere(tmp_path / "two", umask=0o000, LC_ALL="tr_TR.UTF-8", TZ="America/Lima",
                          PYTHONHASHSEED="2", TMPDIR=str(tmp_path / "scratch"), HOME="/nowhere",
                          LD_LIBRARY_PATH="/nowhere", BUSYBOX="x")
    assert one.read_bytes() == two.read_bytes()


@needs_root
@needs_tool("setpriv", "util-linux")
def test_build_is_the_same_for_another_user(tmp_path: Path, image: Path) -> None:
    system_python = "/usr/bin/python3"  # one that nobody may execute, wherever the tests' own lies
    if subprocess.run([system_python, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]).returncode:
        pytest.skip("/usr/bin/python3 is older than 3.11")
    home = Path(subprocess.run(["mktemp", "-d"], capture_output=True, text=True, check=True).stdout.strip())
    try:
        shutil.copytree(PROJECT / "mycontainer", home / "mycontainer")
        os.chmod(home, 0o777)
        nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
        theirs = build_elsewhere(home / "data", *nobody, python=system_python, PYTHONPATH=str(home))
        assert theirs.stat().st_uid == 65534
        assert theirs.read_bytes() == image.read_bytes()
    finally:
        shutil.rmtree(home)


def test_another_labs_user_can_read_it(tmp_path: Path) -> None:
    """A lab started by root reads the image under a subordinate id: a closed umask must not shut it out."""
    built = build_elsewhere(tmp_path / "data", umask=0o077)
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "data", built.parent, built)]
    assert modes == [0o755, 0o755, 0o644]


def test_headers_hold_nothing_of_this_machine(image: Path) -> None:
    with tarfile.open(image) as tar:
        members = tar.getmembers()
    names = [member.name for member in members]
    assert names == sorted(names)
    owners_and_times = {(m.uid, m.gid, m.uname, m.gname, m.mtime, tuple(m.pax_headers)) for m in members}
    assert owners_and_times == {(0, 0, "", "", 0, ())}
    text = image.read_bytes()
    if Path("/etc/hostname").exists() and len(host := Path("/etc/hostname").read_bytes().strip()) > 5:
        assert host not in text


def test_source_date_epoch_is_the_time_of_all_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    with tarfile.open(base.build(tmp_path / "dated.tar")) as tar:
        assert {member.mtime for member in tar} == {1700000000}
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(ContainerError, match="SOURCE_DATE_EPOCH is 'yesterday'"):
        base.build(tmp_path / "dated.tar")


# ---- building again, and failing

def test_an_image_that_is_right_is_left_alone_and_a_wrong_one_is_mended(image: Path) -> None:
    before, inode = image.read_bytes(), image.stat().st_ino
    base.build(image)
    assert image.stat().st_ino == inode
    image.write_bytes(before[:-1] + b"x")
    base.build(image)
    assert image.read_bytes() == before


def test_a_failed_write_keeps_the_old_image_and_leaves_no_scrap(image: Path,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    image.write_bytes(b"the old one")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ContainerError, match=r"cannot write the base image to .*No space left"):
        base.build(image)
    assert image.read_bytes() == b"the old one"
    assert os.listdir(image.parent) == [image.name]


def test_building_where_one_may_not_says_so_in_one_line() -> None:
    env = {"MYCONTAINER_HOME": "/proc/nowhere", "PATH": "/usr/bin:/bin", "PYTHONPATH": str(PROJECT)}
    argv = [sys.executable, "-m", "mycontainer.images.base"]
    done = subprocess.run(argv, env=env, capture_output=True, text=True)
    complaint, hint = done.stderr.splitlines()
    assert done.returncode == 125
    assert complaint.startswith("mycontainer: cannot write the base image to /proc/nowhere/images/")
    assert hint.startswith("hint: Set MYCONTAINER_HOME")


# ---- what is in it

def test_configuration_is_our_own_and_directories_have_the_usual_modes(image: Path, tmp_path: Path) -> None:
    (root := tmp_path / "root").mkdir()
    images.unpack(image, root)
    for path, mode in {"tmp": 0o1777, "var/tmp": 0o1777, "root": 0o700, "proc": 0o755, "etc": 0o755}.items():
        assert stat.S_IMODE((root / path).stat().st_mode) == mode, path
    assert "127.0.0.1\tlocalhost" in (root / "etc/hosts").read_text()
    assert "nameserver" not in (root / "etc/resolv.conf").read_text()
    assert (root / "etc/passwd").read_text().startswith("root:x:0:0:")
    assert "ID=mycontainer" in (root / "etc/os-release").read_text().splitlines()
    assert stat.S_IMODE((root / "etc/passwd").stat().st_mode) == 0o644


def run_in(root: Path, script: str) -> subprocess.CompletedProcess[str]:
    argv = ["bwrap", "--unshare-user", "--unshare-net", "--clearenv", "--setenv", "PATH", "/usr/bin:/bin",
            "--bind", str(root), "/", "--ro-bind", "/proc", "/proc", "--dev", "/dev", "/bin/sh", "-c", script]
    return subprocess.run(argv, capture_output=True, text=True)


@needs_userns
@needs_tool("bwrap", "bubblewrap")
@pytest.mark.parametrize("with_busybox", [True, False])
def test_a_shell_and_its_tools_run_in_it(with_busybox: bool, tmp_path: Path,
                                         monkeypatch: pytest.MonkeyPatch) -> None:
    if with_busybox and not base.find_static_busybox():
        pytest.skip("needs a static busybox (Debian package busybox-static)")
    if not with_busybox:
        monkeypatch.setattr(base, "find_static_busybox", lambda: None)
    (root := tmp_path / "root").mkdir()
    images.unpack(base.build(tmp_path / "image.tar"), root)
    assert (root / "bin/busybox").exists() == with_busybox
    done = run_in(root, "set -e; cat /etc/os-release | head -n 1; id -u; ps >/tmp/ps; ls / | wc -l;"
                        "hostname >/dev/null; sleep 0; mount >/dev/null; test -s /tmp/ps")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == 'NAME="mycontainer base image"'


# ---- which programs

def test_a_dynamic_busybox_or_a_script_is_not_taken_for_a_static_one(tmp_path: Path,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    for directory, content in {"dynamic": Path("/bin/ls").read_bytes(), "script": b"#!/bin/sh\n",
                               "short": b"\x7fELF\x02\x01\x01", "empty": b""}.items():
        (tmp_path / directory).mkdir()
        (tmp_path / directory / "busybox").write_bytes(content)
        (tmp_path / directory / "busybox").chmod(0o755)
        monkeypatch.setattr(base, "BIN_DIRECTORIES", (str(tmp_path / directory),))
        assert base.find_static_busybox() is None, directory


@needs_tool("readelf", "binutils")
def test_loader_of_agrees_with_readelf() -> None:
    for program in ("/bin/ls", os.path.realpath(sys.executable), base.find_static_busybox()):
        if program is None:
            continue
        shown = subprocess.run(["readelf", "-lW", program], capture_output=True, text=True, check=True).stdout
        asked = [line.split(": ")[1].rstrip("]") for line in shown.splitlines() if "interpreter:" in line]
        assert base.loader_of(program) == "".join(asked)


def test_loader_of_reads_narrow_and_big_endian_files(tmp_path: Path) -> None:
    for order, flag in (("<", 1), (">", 2)):
        headers = struct.pack(order + "IIIIIIII", 3, 84, 0, 0, 13, 13, 4, 1)
        start = b"\x7fELF" + bytes([1, flag, 1]) + bytes(9)
        start += struct.pack(order + "HHIIIIIHHHHHH", 2, 3, 1, 0, 52, 0, 0, 52, 32, 1, 0, 0, 0)
        (tmp_path / "program").write_bytes(start + headers + b"/lib/ld.so.1\0")
        assert base.loader_of(str(tmp_path / "program")) == "/lib/ld.so.1"


@needs_tool("ldd", "libc-bin")
def test_libraries_of_agrees_with_ldd() -> None:
    shown = subprocess.run(["ldd", "/bin/ls"], capture_output=True, text=True, check=True).stdout
    wanted = {word for word in shown.split() if word.startswith("/")}
    assert set(base.libraries_of("/bin/ls")) == wanted


def test_libraries_are_those_of_the_machine_and_not_of_this_shell(tmp_path: Path,
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = base.libraries_of("/bin/ls")
    for library in wanted[1:]:
        shutil.copy(library, tmp_path)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    assert base.libraries_of("/bin/ls") == wanted


# ---- finding

def test_find_knows_the_name_and_its_latest_tag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MYCONTAINER_HOME", str(tmp_path))
    built = base.build()
    assert images.names() == ["busybox"]
    assert images.find("busybox") == images.find("busybox:latest") == built


@pytest.mark.parametrize("name", ["nginx", "", "busybox:1", "../images/busybox", "/etc/passwd", ".busybox",
                                  "busybox\0"])
def test_find_refuses_what_is_not_there(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MYCONTAINER_HOME", str(tmp_path))
    with pytest.raises(ContainerError) as none:
        images.find(name)
    base.build()
    (tmp_path / "images/.busybox.tar").touch()
    with pytest.raises(ContainerError) as some:
        images.find(name)
    assert str(some.value) == f"no such image: {name}"
    assert some.value.exit_code == 125
    assert none.value.hint.startswith("Here is none yet. To build busybox: python -m mycontainer.images.base")
    assert some.value.hint.startswith("Here is: busybox.")


# ---- unpacking

@needs_tool("tar", "tar")
def test_unpack_does_what_tar_does_whatever_the_umask(image: Path, tmp_path: Path) -> None:
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    ours.mkdir()
    theirs.mkdir()
    before = os.umask(0o077)
    try:
        images.unpack(image, ours)
    finally:
        os.umask(before)
    subprocess.run(["tar", "-xpf", image, "-C", theirs, "--no-same-owner"], check=True)
    assert listing(ours) == listing(theirs)
    assert subprocess.run(["diff", "-r", "--no-dereference", ours, theirs]).returncode == 0


def tar_of(path: Path, *members: tuple[str, bytes, str]) -> Path:
    """A tar of (name, type, link target) that was not written by us."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, kind, link in members:
            header = tarfile.TarInfo(name)
            header.type, header.linkname, header.mode = kind, link, 0o755
            header.size = 4 if kind == tarfile.REGTYPE else 0
            tar.addfile(header, io.BytesIO(b"evil"))
    return path


FILE, LINK, DIR = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE


@pytest.mark.parametrize("members", [
    [("../evil", FILE, "")],
    [("d", DIR, ""), ("d/../../evil", FILE, "")],
    [("/tmp/evil", FILE, "")],
    [("out", LINK, ".."), ("out/evil", FILE, "")],
    [("out", LINK, ".."), ("out/evil", DIR, "")],
    [("d", DIR, ""), ("d/..", LINK, "x")],
    [("..", DIR, "")],
    [("missing/evil", FILE, "")],
], ids=lambda members: members[-1][0])
def test_a_name_that_leads_out_is_refused(members: list[tuple[str, bytes, str]], tmp_path: Path) -> None:
    (root := tmp_path / "in" / "root").mkdir(parents=True)
    with pytest.raises(ContainerError, match="is not in a directory of this image"):
        images.unpack(tar_of(tmp_path / "evil.tar", *members), root)
    assert not [path for path in tmp_path.rglob("*evil*") if path.name != "evil.tar"]
    assert not Path("/tmp/evil").exists()


def test_a_file_over_a_symlink_is_refused_and_not_written_through_it(tmp_path: Path) -> None:
    (root := tmp_path / "root").mkdir()
    (tmp_path / "victim").write_text("untouched")
    with pytest.raises(FileExistsError):
        images.unpack(tar_of(tmp_path / "evil.tar", ("x", LINK, "../victim"), ("x", FILE, "")), root)
    assert (tmp_path / "victim").read_text() == "untouched"


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, b"x"])
def test_kinds_that_base_images_do_not_have_are_refused(kind: bytes, tmp_path: Path) -> None:
    (root := tmp_path / "root").mkdir()
    with pytest.raises(ContainerError, match="of kind"):
        images.unpack(tar_of(tmp_path / "evil.tar", ("x", kind, "/etc/shadow")), root)
    assert os.listdir(root) == []


def damage_checksum(tar: bytes) -> bytes:
    return b"BIN" + tar[3:]


def with_size(field: bytes) -> Callable[[bytes], bytes]:
    """The first entry's size as these twelve bytes, and a checksum that fits."""

    def damage(tar: bytes) -> bytes:
        header = tar[:124] + field.rjust(11, b"0") + b"\0" + tar[136:148] + b" " * 8 + tar[156:512]
        return header[:148] + b"%06o\0 " % sum(header) + header[156:] + tar[512:]

    return damage


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "checksum": damage_checksum,
    **{f"size {size.decode()}": with_size(size.rjust(11)) for size in (b"-1", b"1_0", b"0o17", b"+1", b"8")},
    "cut in a header": lambda tar: tar[:700],
    "cut in a file": lambda tar: tar[:200_000],
    "not a tar": lambda tar: b"\x1f\x8b" + tar[2:],
    "a page": lambda tar: b"<html>" * 1000,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_tar_is_told_in_one_line(damage: str, image: Path, tmp_path: Path) -> None:
    (root := tmp_path / "root").mkdir()
    image.write_bytes(DAMAGES[damage](image.read_bytes()))
    with pytest.raises(ContainerError, match=r"^cannot unpack .*busybox.tar: [^\n]+$") as caught:
        images.unpack(image, root)
    assert "python -m mycontainer.images.base" in caught.value.hint
