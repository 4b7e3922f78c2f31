"""Chapter 4. The oracles: the kernel's overlayfs, tar(1), and each direction the other."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import socket
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest

from mycontainer import layers, syscalls
from mycontainer.errors import ContainerError
from needs import needs_root, needs_userns
from recording import recording
from sandbox import inside

KINDS = ("user", "mnt")


def fill(directory: Path, **files: str) -> str:
    """Make files in a directory; "__" in a name stands for "/"."""
    for name, content in files.items():
        path = directory / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    directory.mkdir(exist_ok=True)
    return str(directory)


def tree(directory: str) -> dict[str, str]:
    """What a directory holds: path to content, "/" for directories."""
    top = Path(directory)
    return {str(path.relative_to(top)): "/" if path.is_dir() else path.read_text() for path in top.rglob("*")}


@pytest.fixture
def low(tmp_path: Path) -> str:
    return fill(tmp_path / "low", a="a1", b="b1", dir__old="old", dir__kept="kept")


@pytest.fixture
def high(tmp_path: Path) -> str:
    return fill(tmp_path / "high", b="b2", dir__new="new")


def mounted(base: Path, *stack: str) -> tuple[str, str]:
    """Stack layers in the namespace that we are in, with an upper: (root, upper)."""
    root, place = base / "root", base / "place"
    root.mkdir()
    place.mkdir()
    upper, work = layers.make_upper(str(place))
    layers.stack(stack, str(root), upper, work)
    return str(root), upper


# ---- stacking

@needs_userns
@pytest.mark.parametrize("kinds", [KINDS, pytest.param(("mnt",), marks=needs_root)])
def test_the_topmost_layer_wins_and_the_layers_stay_as_they_were(
        low: str, high: str, tmp_path: Path, kinds: tuple[str, ...]) -> None:
    def look() -> tuple[dict[str, str], dict[str, str]]:
        root, upper = mounted(tmp_path, low, high)
        seen = tree(root)
        Path(root, "a").write_text("changed")
        return seen, tree(upper)
    before = tree(low), tree(high)
    seen, written = inside(look, kinds=kinds)
    assert seen == {"a": "a1", "b": "b2", "dir": "/", "dir/old": "old", "dir/kept": "kept", "dir/new": "new"}
    assert written == {"a": "changed"}
    assert (tree(low), tree(high)) == before


@needs_userns
@pytest.mark.parametrize("kinds", [KINDS, pytest.param(("mnt",), marks=needs_root)])
def test_deletions_leave_marks_that_we_recognise(
        low: str, high: str, tmp_path: Path, kinds: tuple[str, ...]) -> None:
    def look() -> list[bool]:
        root, upper = mounted(tmp_path, low, high)
        os.unlink(f"{root}/a")
        shutil.rmtree(f"{root}/dir")
        os.mkdir(f"{root}/dir")
        return [layers.is_whiteout(f"{upper}/a"), layers.is_opaque(f"{upper}/dir"),
                os.path.exists(f"{root}/a"), layers.is_whiteout(f"{low}/a"), layers.is_opaque(f"{low}/dir")]
    assert inside(look, kinds=kinds) == [True, True, False, False, False]


@needs_userns
def test_without_an_upper_nothing_can_be_written(low: str, high: str, tmp_path: Path) -> None:
    def look() -> None:
        (tmp_path / "root").mkdir()
        layers.stack([low, high], str(tmp_path / "root"))
        (tmp_path / "root" / "x").write_text("x")
    with pytest.raises(OSError, match="Read-only file system"):
        inside(look)


@needs_userns
def test_letters_that_mean_something_in_options_are_only_letters_in_paths(tmp_path: Path) -> None:
    names = ["a,b", "c:d", "e\\f", "g,upperdir=h", "i\\:j", "ä"]
    stack = [fill(tmp_path / name, **{f"f{number}": ""}) for number, name in enumerate(names)]
    seen = inside(lambda: tree(mounted(tmp_path / names[0], *stack[1:])[0]))
    assert sorted(seen) == ["f1", "f2", "f3", "f4", "f5"]


@needs_userns
def test_three_hundred_layers(tmp_path: Path) -> None:
    """More than a page of options: mount(2) would refuse them."""
    if tuple(map(int, os.uname().release.split("-")[0].split(".")[:2])) < (6, 8):
        pytest.skip("needs Linux 6.8: overlayfs' option lowerdir+")
    stack = [fill(tmp_path / f"layer-{number:03}", **{f"f{number}": "", "all": str(number)})
             for number in range(300)]
    seen = inside(lambda: tree(mounted(tmp_path, *stack)[0]))
    assert len(seen) == 301
    assert seen["all"] == "299"


def test_a_few_layers_are_one_mount() -> None:
    with recording() as calls:
        layers.stack(["/l/1", "/l/2"], "/root", "/u", "/w")
    assert [call.partition("(")[0] for call in calls] == ["mount"]
    assert "lowerdir=/l/2:/l/1,upperdir=/u,workdir=/w,redirect_dir=nofollow" in calls[0]


@needs_userns
def test_a_renamed_directory_is_copied_and_not_only_noted(low: str, high: str, tmp_path: Path) -> None:
    def look() -> str:
        root, upper = mounted(tmp_path, low, high)
        shutil.move(f"{root}/dir", f"{root}/moved")
        return Path(upper, "moved/kept").read_text()
    assert inside(look) == "kept"


@needs_userns
def test_an_upper_on_an_overlay_becomes_a_sized_tmpfs(low: str, high: str, tmp_path: Path) -> None:
    def look() -> tuple[str, str, int]:
        root, _ = mounted(tmp_path, low, high)
        os.mkdir(f"{root}/place")
        before = layers.file_system(f"{root}/place")
        upper, work = layers.make_upper(f"{root}/place", size="1m")
        (tmp_path / "second").mkdir()
        layers.stack([low, high], str(tmp_path / "second"), upper, work)
        (tmp_path / "second" / "x").write_text("x")
        found = os.statvfs(upper)
        return before, layers.file_system(upper), found.f_blocks * found.f_bsize
    assert inside(look) == ("overlay", "tmpfs", 1 << 20)


# ---- layers as tars

@needs_userns
def test_diff_and_apply_lead_to_the_same_tree(low: str, high: str, tmp_path: Path) -> None:
    def look() -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
        root, upper = mounted(tmp_path, low, high)
        os.unlink(f"{root}/a")
        shutil.rmtree(f"{root}/dir")
        fill(Path(root, "dir"), again="again", deep__deeper="x")
        Path(root, "b").write_text("b3")
        layers.diff(upper, str(tmp_path / "layer.tar"))
        after = tree(root)
        layers.apply(str(tmp_path / "layer.tar"), fill(tmp_path / "third"), as_layer=True)
        (tmp_path / "again").mkdir()
        layers.stack([low, high, str(tmp_path / "third")], str(tmp_path / "again"))
        stacked = tree(str(tmp_path / "again"))
        merged = fill(tmp_path / "merged")
        shutil.copytree(low, merged, dirs_exist_ok=True)
        shutil.copytree(high, merged, dirs_exist_ok=True)
        layers.apply(str(tmp_path / "layer.tar"), merged)
        return after, stacked, tree(merged)
    after, stacked, merged = inside(look)
    assert after == {"b": "b3", "dir": "/", "dir/again": "again", "dir/deep": "/", "dir/deep/deeper": "x"}
    assert stacked == after
    assert merged == after
    listed = subprocess.check_output(["tar", "-tf", tmp_path / "layer.tar"], text=True).splitlines()
    assert {".wh.a", "dir/.wh..wh..opq"} <= set(listed)


def test_the_same_changes_are_the_same_bytes(tmp_path: Path) -> None:
    first = fill(tmp_path / "1", b="b", a="a", dir__x="x")
    second = fill(tmp_path / "2", dir__x="x", a="a", b="b")
    digest = layers.diff(first, str(tmp_path / "1.tar"), 1000)
    assert digest == layers.diff(second, str(tmp_path / "2.tar"), 1000)
    os.chmod(f"{second}/a", 0o600)
    assert digest != layers.diff(second, str(tmp_path / "2.tar"), 1000)
    with tarfile.open(tmp_path / "1.tar") as tar:
        assert {entry.mtime for entry in tar} == {1000}
        assert {entry.uname for entry in tar} == {""}


def test_what_cannot_be_read_is_an_error_and_no_smaller_layer(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        layers.diff(str(tmp_path / "never-made"), str(tmp_path / "x.tar"))


@needs_userns
def test_a_directory_that_may_not_be_read_is_an_error(tmp_path: Path) -> None:
    def look() -> None:
        syscalls.mount("tmpfs", str(tmp_path), "tmpfs", 0)
        (Path(fill(tmp_path / "upper", shut__a="a")) / "shut").chmod(0)
        syscalls.unshare(syscalls.CLONE_NEWUSER)  # nobody in there: no right to what belongs to others
        layers.diff(str(tmp_path / "upper"), str(tmp_path / "x.tar"))
    with pytest.raises(PermissionError):
        inside(look)


def test_a_socket_is_left_out(tmp_path: Path) -> None:
    upper = fill(tmp_path / "upper", a="a", z="z")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{upper}/socket")
        layers.diff(upper, str(tmp_path / "x.tar"))
    with tarfile.open(tmp_path / "x.tar") as tar:
        assert tar.getnames() == ["a", "z"]


def tar_of(path: Path, *entries: tuple[str, bytes, str]) -> str:
    """A tar of (name, kind, link or content)."""
    with tarfile.open(path, "w") as tar:
        for name, kind, text in entries:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = kind, 0o755 if kind == tarfile.DIRTYPE else 0o644
            entry.size = len(text) if kind == tarfile.REGTYPE else 0
            entry.linkname = "" if kind == tarfile.REGTYPE else text
            entry.uid, entry.gid = os.geteuid(), os.getegid()
            tar.addfile(entry, io.BytesIO(text.encode()) if entry.size else None)
    return str(path)


FILE, LINK, SYMLINK, DIRECTORY = tarfile.REGTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE


@pytest.mark.parametrize("name", ["../out", "a/../../out", "..", "a/.wh...", ".wh...", ".wh..", ".wh.",
                                  "/../out"])
def test_a_name_that_leads_out_is_refused(name: str, tmp_path: Path) -> None:
    fill(tmp_path, out="mine", layer__a__b="b")
    with pytest.raises(ContainerError, match="this name leads out of the layer"):
        layers.apply(tar_of(tmp_path / "x.tar", (name, FILE, "theirs")), str(tmp_path / "layer"))
    assert tree(str(tmp_path / "layer")) == {"a": "/", "a/b": "b"}
    assert (tmp_path / "out").read_text() == "mine"


def test_a_symlink_in_the_way_is_walked_inside(tmp_path: Path) -> None:
    fill(tmp_path, out__file="mine")
    (tmp_path / "layer").mkdir()
    archive = tar_of(tmp_path / "x.tar", ("dir", SYMLINK, f"{tmp_path}/out"), ("up", SYMLINK, "../out"),
                     (str(tmp_path / "out").strip("/"), DIRECTORY, ""), ("dir/file", FILE, "theirs"),
                     ("out", DIRECTORY, ""), ("up/file", FILE, "theirs"), ("out/.wh.file", FILE, ""),
                     ("file", SYMLINK, f"{tmp_path}/out/file"), ("file", FILE, "instead"))
    layers.apply(archive, str(tmp_path / "layer"))
    assert (tmp_path / "out" / "file").read_text() == "mine"
    assert (tmp_path / "layer" / str(tmp_path).strip("/") / "out/file").read_text() == "theirs"
    assert (tmp_path / "layer" / "file").read_text() == "instead"


def test_a_hard_link_links_what_is_inside(tmp_path: Path) -> None:
    fill(tmp_path, secret="mine")
    (tmp_path / "layer").mkdir()
    layers.apply(tar_of(tmp_path / "x.tar", ("a", FILE, "x"), ("b", LINK, "a"), ("c", LINK, "/../a")),
                 str(tmp_path / "layer"))
    assert os.stat(tmp_path / "layer" / "a").st_nlink == 3
    with pytest.raises(FileNotFoundError):
        layers.apply(tar_of(tmp_path / "y.tar", ("s", LINK, f"{tmp_path}/secret")), str(tmp_path / "layer"))


@pytest.mark.parametrize(("entries", "merged"), [
    ([("d", DIRECTORY, ""), ("d/+new", FILE, "new"), ("d/.wh..wh..opq", FILE, "")],
     {"d": "/", "d/+new": "new"}),
    ([("d", DIRECTORY, ""), ("d/new", FILE, "new"), (".wh.d", FILE, "")], {"d": "/", "d/new": "new"}),
    ([("d/old", FILE, "new"), ("d/.wh.old", FILE, "")],
     {"d": "/", "d/old": "new", "d/sub": "/", "d/sub/old": "old"}),
    ([("d", DIRECTORY, ""), ("d/sub", DIRECTORY, ""), ("d/sub/new", FILE, "new"),
      ("d/.wh..wh..opq", FILE, "")], {"d": "/", "d/sub": "/", "d/sub/new": "new"}),
])
@needs_userns
def test_marks_mean_the_layers_below_wherever_they_stand(
        entries: list[tuple[str, bytes, str]], merged: dict[str, str], tmp_path: Path) -> None:
    """image-spec, layer.md: "Whiteout files MUST only apply to resources in lower/parent layers." """
    low = fill(tmp_path / "low", d__old="old", d__sub__old="old")

    def look() -> dict[str, str]:
        archive = tar_of(tmp_path / "x.tar", *entries)
        layers.apply(archive, fill(tmp_path / "layer"), as_layer=True)
        (tmp_path / "root").mkdir()
        layers.stack([low, str(tmp_path / "layer")], str(tmp_path / "root"))
        return tree(str(tmp_path / "root"))
    stacked = inside(look)
    layers.apply(str(tmp_path / "x.tar"), low)
    assert tree(low) == merged
    assert stacked == merged


@pytest.mark.parametrize("before", ["link", "file"])
def test_a_mark_in_a_directory_that_replaces_a_link_deletes_nothing_behind_it(
        before: str, tmp_path: Path) -> None:
    low = Path(fill(tmp_path / "low", other__kept="kept"))
    if before == "link":
        (low / "d").symlink_to("other")
    else:
        (low / "d").write_text("")
    layers.apply(tar_of(tmp_path / "x.tar", ("d", DIRECTORY, ""), ("d/.wh..wh..opq", FILE, ""),
                        ("d/.wh.kept", FILE, "")), str(low))
    assert tree(str(low)) == {"other": "/", "other/kept": "kept", "d": "/"}
    assert not (low / "d").is_symlink()


@needs_userns
def test_an_owner_that_we_do_not_have_costs_neither_mode_nor_time(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name, kind, mode in [("dir", DIRECTORY, 0o2775), ("file", FILE, 0o640), ("tool", FILE, 0o4755)]:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode, entry.gid, entry.mtime = kind, mode, 4_000_000_000, 1000
            tar.addfile(entry)
    (tmp_path / "layer").mkdir()

    def look() -> dict[str, tuple[str, int]]:
        layers.apply(str(tmp_path / "x.tar"), str(tmp_path / "layer"))
        found = {path.name: path.stat() for path in (tmp_path / "layer").iterdir()}
        return {name: (oct(stat.S_IMODE(one.st_mode)), int(one.st_mtime)) for name, one in found.items()}
    assert inside(look) == {"dir": ("0o2775", 1000), "file": ("0o640", 1000), "tool": ("0o4755", 1000)}


@needs_root
def test_owners_and_modes_as_tar_gives_them(tmp_path: Path) -> None:
    source = Path(fill(tmp_path / "source", dir__a="a", b="b"))
    os.chown(source / "b", 1234, 5678)
    os.chmod(source / "b", 0o4751)
    archive = str(tmp_path / "x.tar")
    subprocess.run(["tar", "-C", source, "-cf", archive, "."], check=True)
    for name in ("ours", "theirs"):
        (tmp_path / name).mkdir()
    layers.apply(archive, str(tmp_path / "ours"))
    subprocess.run(["tar", "-C", tmp_path / "theirs", "-xpf", archive], check=True)
    for name in ("b", "dir/a", "dir"):
        ours, theirs = os.lstat(tmp_path / "ours" / name), os.lstat(tmp_path / "theirs" / name)
        assert (ours.st_mode, ours.st_uid, ours.st_gid) == (theirs.st_mode, theirs.st_uid, theirs.st_gid)
    assert stat.S_IMODE(os.stat(tmp_path / "ours" / "b").st_mode) == 0o4751


def test_chain_id_is_what_the_image_spec_says() -> None:
    one, two, three = (f"sha256:{hashlib.sha256(word).hexdigest()}" for word in (b"1", b"2", b"3"))
    assert layers.chain_id([one]) == one
    chain = f"sha256:{hashlib.sha256(f'{one} {two}'.encode()).hexdigest()}"
    assert layers.chain_id([one, two]) == chain
    longer = f"sha256:{hashlib.sha256(f'{chain} {three}'.encode()).hexdigest()}"
    assert layers.chain_id([one, two, three]) == longer
    assert layers.chain_id([two, one]) != chain


def test_digest_is_that_of_sha256sum(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"x" * 100_000)
    theirs = subprocess.run(["sha256sum", tmp_path / "x"], capture_output=True, text=True, check=True)
    assert layers.digest(str(tmp_path / "x")) == f"sha256:{theirs.stdout.split()[0]}"
