"""The layer store. Oracles: tar(1), umoci, and overlayfs; for the rest generated cases, thousands of them."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import json
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hostile
from mycontainer import layers, namespaces
from mycontainer.errors import ContainerError
from mycontainer.images import compression, extract, pack
from mycontainer.images.extract import Limits
from mycontainer.images.store import Store
from mycontainer.images.tarstream import END, Entry, header
from needs import needs_module, needs_root, needs_tool, needs_userns
from sandbox import inside

ROOT = os.geteuid() == 0
CASES = 1200


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"), durable=False)


def look(directory: str | Path, times: bool = True, attributes: bool = True) -> dict[str, tuple[object, ...]]:
    """Everything a layer keeps of a tree, by path; hard links by the first name of the file."""
    seen: dict[str, tuple[object, ...]] = {}
    first: dict[int, str] = {}
    for above, directories, files in os.walk(directory):
        for name in [*["."] * (above == str(directory)), *sorted(directories + files)]:
            path = os.path.join(above, name)
            found = os.lstat(path)
            inner = os.path.relpath(path, directory)
            content = (Path(path).read_bytes() if stat.S_ISREG(found.st_mode)
                       else os.readlink(path).encode() if stat.S_ISLNK(found.st_mode) else b"")
            names = os.listxattr(path, follow_symlinks=False) if attributes else []
            seen[inner] = (stat.filemode(found.st_mode), found.st_uid, found.st_gid, found.st_rdev, content,
                           found.st_mtime_ns if times else 0,
                           [(key, os.getxattr(path, key, follow_symlinks=False)) for key in sorted(names)])
            if not stat.S_ISDIR(found.st_mode):
                seen[inner] += (first.setdefault(found.st_ino, inner),)
    return seen


def packed(directory: str | Path, latest: int | None = None) -> bytes:
    out = io.BytesIO()
    pack.snapshot(str(directory), out, latest)
    return out.getvalue()


def unpacked(data: bytes, directory: Path, **how: Any) -> extract.Extracted:
    directory.mkdir(exist_ok=True)
    return extract.extract(io.BytesIO(data), str(directory), **how)


def sha256(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def varied(top: Path) -> Path:
    """A tree with one of everything that this user can make."""
    (top / "dir" / "sub").mkdir(parents=True)
    (top / "dir" / "file").write_bytes(os.urandom(3000))
    (top / "empty").touch()
    (top / "big").write_bytes(b"0123456789abcdef" * 200_000)
    os.symlink("/etc/passwd", top / "absolute")
    os.symlink("nowhere", top / "dangling")
    os.link(top / "dir" / "file", top / "dir" / "sub" / "same")
    os.mkfifo(top / "fifo")
    (top / ("n" * 200)).write_text("long")
    (top / "ünïcode").write_text("x")
    (top / os.fsdecode(b"not-\xff-utf8")).write_text("x")
    with open(top / "sparse", "wb") as file:
        file.seek(5_000_000)
        file.write(b"end")
        file.truncate(9_000_000)
    os.setxattr(top / "empty", "user.note", b"\0binary\xff")
    os.chmod(top / "dir" / "file", 0o4711)
    os.chmod(top / "dir" / "sub", 0o1777)
    if ROOT:
        os.chown(top / "big", 1234, 3_000_000)
        os.lchown(top / "dangling", 7, 8)
        os.mknod(top / "null", 0o20666, os.makedev(1, 3))
    for number, name in enumerate(["dir/file", "empty", "dangling", "dir/sub", "dir"]):
        os.utime(top / name, ns=(0, 1_600_000_000_123_456_789 + number), follow_symlinks=False)
    return top


# ---- unpacking: the oracles

@pytest.mark.parametrize("format_", ["gnu", "pax", "posix --sparse", "gnu --sparse",
                                     "pax --sparse-version=0.1 --sparse"])
def test_tar_makes_it_and_we_unpack_the_same(format_: str, tmp_path: Path) -> None:
    top = varied(tmp_path / "top")
    exact = not format_.startswith("gnu")
    options = [*f"--format={format_}".split(), *["--xattrs", "--xattrs-include=user.*"][:2 * exact]]
    subprocess.run(["tar", "-C", top, *options, "-cf", tmp_path / "x.tar", "."], check=True)
    data = (tmp_path / "x.tar").read_bytes()
    found = unpacked(data, tmp_path / "ours")
    assert found[:3] == (sha256(data), sha256(data), len(data))
    assert look(tmp_path / "ours", exact, exact) == look(top, exact, exact)
    if "sparse" in format_:
        assert os.stat(tmp_path / "ours" / "sparse").st_blocks < 1000


def test_we_make_it_and_tar_unpacks_the_same(tmp_path: Path) -> None:
    top = varied(tmp_path / "top")
    (tmp_path / "x.tar").write_bytes(packed(top))
    (tmp_path / "theirs").mkdir()
    options = ["--xattrs", "--xattrs-include=*", "-xpf"]
    subprocess.run(["tar", "-C", tmp_path / "theirs", *options, tmp_path / "x.tar"], check=True)
    assert look(tmp_path / "theirs") == look(top)
    assert subprocess.run(["tar", "-df", tmp_path / "x.tar", "-C", top], capture_output=True).stdout == b""


def oci_image(directory: Path, *blobs: bytes) -> str:
    """An image layout of layers (gzip), for umoci. OCI image-spec, image-layout.md."""
    kept = directory / "blobs" / "sha256"
    kept.mkdir(parents=True)

    def keep(data: bytes, kind: str) -> dict[str, object]:
        (kept / sha256(data)[7:]).write_bytes(data)
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": sha256(data), "size": len(data)}

    rootfs = {"type": "layers", "diff_ids": [sha256(gzip.decompress(blob)) for blob in blobs]}
    about = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": rootfs}
    config = keep(json.dumps(about).encode(), "config.v1+json")
    manifest = keep(json.dumps({"schemaVersion": 2, "config": config, "layers": [
        keep(blob, "layer.v1.tar+gzip") for blob in blobs]}).encode(), "manifest.v1+json")
    manifest["annotations"] = {"org.opencontainers.image.ref.name": "x"}
    (directory / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [manifest]}))
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    return f"{directory}:x"


@needs_root
@needs_tool("umoci", "umoci")
def test_umoci_makes_the_same_of_two_layers(tmp_path: Path) -> None:
    old, new = varied(tmp_path / "old"), tmp_path / "new"
    shutil.copytree(old, new, symlinks=True, ignore=shutil.ignore_patterns("fifo", "null", "sparse"))
    (new / "dir" / "more").write_text("more")
    os.unlink(new / "empty")
    os.utime(new / "dir", ns=(0, 1_500_000_000_000_000_000))
    out = io.BytesIO()
    pack.difference(str(old), str(new), out)
    image = oci_image(tmp_path / "oci", gzip.compress(packed(old)), gzip.compress(out.getvalue()))
    command = ["umoci", "raw", "unpack", "--image", image, str(tmp_path / "theirs")]
    subprocess.run(command, check=True, capture_output=True)
    unpacked(packed(old), tmp_path / "ours")
    unpacked(out.getvalue(), tmp_path / "ours", as_layer=False)
    assert look(tmp_path / "ours") == look(tmp_path / "theirs")
    assert look(tmp_path / "ours") == look(new)


@needs_userns
def test_stacked_layers_are_what_was_packed(store: Store, tmp_path: Path) -> None:
    (tmp_path / "mnt").mkdir()

    def trial() -> tuple[dict[str, str], dict[str, str], list[str]]:
        for name in ("low", "place"):
            (tmp_path / name).mkdir()
        (tmp_path / "low" / "a").write_text("a")
        (tmp_path / "low" / "d").mkdir()
        (tmp_path / "low" / "d" / "x").write_text("x")
        with store.lease() as lease:
            first = store.add_layer(io.BytesIO(packed(tmp_path / "low")), lease)
            upper, work = layers.make_upper(str(tmp_path / "place"))
            layers.stack([store.layer(first)], str(tmp_path / "mnt"), upper, work)
            os.unlink(tmp_path / "mnt" / "a")
            shutil.rmtree(tmp_path / "mnt" / "d")
            (tmp_path / "mnt" / "d").mkdir()
            (tmp_path / "mnt" / "d" / "y").write_text("y")
            second = store.commit(upper, lease)
            assert store.commit(upper, lease) == second
            (tmp_path / "again").mkdir()
            store.stack([first, second], str(tmp_path / "again"))
            seen = {str(path.relative_to(tmp_path / "again")): "" if path.is_dir() else path.read_text()
                    for path in (tmp_path / "again").rglob("*")}
            with open(store.blob(second), "rb") as blob, tarfile.open(fileobj=blob) as tar:
                return seen, {"d": "", "d/y": "y"}, tar.getnames()
    for kinds in [("user", "mnt")]:
        seen, expected, names = inside(trial, kinds=kinds)
        assert seen == expected
        assert {".wh.a", "d/.wh..wh..opq"} <= set(names)


# ---- digests and compressions

def test_both_digests_come_out_and_are_checked(store: Store, tmp_path: Path) -> None:
    tar = packed(varied(tmp_path / "top"))
    blob = gzip.compress(tar)
    with store.lease() as lease:
        for promise in ({"digest": sha256(tar)}, {"diff_id": sha256(blob)}):
            with pytest.raises(ContainerError, match="is not what was promised"):
                store.add_layer(io.BytesIO(blob), lease, **promise)  # type: ignore[arg-type]
            assert os.listdir(f"{store.directory}/layers") == os.listdir(f"{store.directory}/tmp") == []
        diff_id = store.add_layer(io.BytesIO(blob), lease, digest=sha256(blob), diff_id=sha256(tar),
                                  keep_blob=True)
    assert diff_id == sha256(tar)
    assert store.record(diff_id) == {"digest": sha256(blob), "size": len(tar), "skipped": []}
    assert Path(store.blob(sha256(blob))).read_bytes() == blob
    assert look(store.layer(diff_id)) == look(tmp_path / "top")


def zstd(data: bytes) -> bytes:
    zstandard = pytest.importorskip("zstandard")
    made: bytes = zstandard.ZstdCompressor().compress(data)
    return made


def two_members(tar: bytes) -> bytes:
    return gzip.compress(tar[:700]) + gzip.compress(tar[700:])


def padded(tar: bytes) -> bytes:
    return gzip.compress(tar) + bytes(700_000)  # as gzip(1) takes it: zeros to the end of a tape's record


@pytest.mark.parametrize("compress", [
    bytes, gzip.compress, two_members, padded, zstd,
    lambda tar: zstd(tar[:700]) + b"\x50\x2a\x4d\x18\x04\0\0\0skip" + zstd(tar[700:])],
    ids=["plain", "gzip", "two members", "padded", "zstd", "frames"])
def test_compressions(compress: Callable[[bytes], bytes], tmp_path: Path) -> None:
    tar = packed(varied(tmp_path / "top"))
    assert unpacked(compress(tar), tmp_path / "ours").diff_id == sha256(tar)
    assert look(tmp_path / "ours") == look(tmp_path / "top")


@pytest.fixture(params=["isal", "zlib"])
def inflater(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What inflates: the fast library, or what every Python has."""
    if request.param == "isal":
        pytest.importorskip("isal")
    else:
        monkeypatch.setitem(sys.modules, "isal", None)
        monkeypatch.setitem(sys.modules, "isal.isal_zlib", None)
    names = {"isal": "isal.isal_zlib", "zlib": "zlib"}
    assert compression._first_of("isal.isal_zlib", "zlib").__name__ == names[request.param]
    return str(request.param)


@pytest.mark.parametrize("compress", [gzip.compress, two_members, padded])
def test_the_result_is_the_same_whatever_inflates(
        compress: Callable[[bytes], bytes], inflater: str, tmp_path: Path) -> None:
    tar = packed(varied(tmp_path / "top"))
    blob = compress(tar)
    assert unpacked(blob, tmp_path / "ours")[:2] == (sha256(blob), sha256(tar))
    assert look(tmp_path / "ours") == look(tmp_path / "top")


def flipped(blob: bytes, at: int) -> bytes:
    return blob[:at] + bytes([blob[at] ^ 0x20]) + blob[at + 1:]


@pytest.mark.parametrize(("damage", "reason"), [
    (lambda blob: blob[:5], "cut short"), (lambda blob: blob[:len(blob) // 2], "cut short"),
    (lambda blob: blob[:-3], "cut short"), (lambda blob: blob + blob[:20], "cut short"),
    (lambda blob: flipped(blob, 2), "damaged"), (lambda blob: flipped(blob, len(blob) // 2), "damaged"),
    (lambda blob: flipped(blob, -6), "damaged"), (lambda blob: blob + b"rubbish" * 9, "damaged")],
    ids=["header", "middle", "trailer", "second member", "method", "data", "checksum", "rubbish"])
def test_a_damaged_gzip_is_refused_and_leaves_nothing(
        damage: Callable[[bytes], bytes], reason: str, inflater: str, store: Store) -> None:
    content = random.Random(1).randbytes(3_000_000)
    blob = damage(gzip.compress(header(Entry("f", size=len(content))) + content + bytes(64) + END, 1))
    with store.lease() as lease, pytest.raises(ContainerError, match=f"the compressed data are {reason}"):
        store.add_layer(io.BytesIO(blob), lease)
    assert os.listdir(f"{store.directory}/layers") == os.listdir(f"{store.directory}/tmp") == []


# ---- the threads

class Counted(io.BytesIO):
    """A source that says how much was taken of it, and breaks after ``good`` bytes."""

    taken = 0
    good = 1 << 40

    def read(self, size: int | None = -1, /) -> bytes:
        if self.taken > self.good:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        data = super().read(size)
        self.taken += len(data)
        return data


@pytest.mark.parametrize("compress", [bytes, lambda tar: gzip.compress(tar, 1), zstd],
                         ids=["plain", "gzip", "zstd"])
def test_a_source_that_breaks_is_an_error_and_leaves_nothing(
        compress: Callable[[bytes], bytes], store: Store) -> None:
    content = random.Random(1).randbytes(30_000_000)
    source = Counted(compress(header(Entry("f", size=len(content))) + content))
    source.good = 20_000_000
    before = threading.active_count()
    with store.lease() as lease, pytest.raises(ContainerError, match="Input/output error"):
        store.add_layer(source, lease)
    assert threading.active_count() == before
    assert os.listdir(f"{store.directory}/layers") == os.listdir(f"{store.directory}/tmp") == []


def test_where_the_writer_gives_up_the_reader_is_not_far_ahead(tmp_path: Path) -> None:
    size = 8 * extract.AHEAD * extract.PIECE
    source = Counted(header(Entry("../x", size=size)) + bytes(size))
    before = threading.active_count()
    (tmp_path / "ours").mkdir()
    with pytest.raises(ContainerError, match="leads out of the layer"):
        extract.extract(source, str(tmp_path / "ours"))
    assert source.taken <= (extract.AHEAD + 2) * extract.PIECE
    assert threading.active_count() == before


@pytest.mark.parametrize("compress", [gzip.compress, zstd], ids=["gzip", "zstd"])
def test_a_bomb_is_stopped_at_the_limit(compress: Callable[[bytes], bytes], tmp_path: Path) -> None:
    bomb = compress(header(Entry("zeros", size=100 << 20)) + bytes(100 << 20) + END)
    assert len(bomb) < 500_000
    with pytest.raises(ContainerError, match="more than 1000000 bytes are in it"):
        unpacked(bomb, tmp_path / "ours", limits=Limits(size=1_000_000))
    assert sum(path.stat().st_size for path in (tmp_path / "ours").iterdir()) <= 1_000_000


def test_too_many_entries_are_stopped(tmp_path: Path) -> None:
    with pytest.raises(ContainerError, match="more than 100 entries"):
        unpacked(header(Entry("f")) * 200, tmp_path / "ours", limits=Limits(entries=100))


# ---- hostile tars

@pytest.mark.parametrize(("entries", "reason"), [
    ([Entry("../x")], "leads out of the layer"),
    ([Entry("/etc/x")], "absolute name"),
    ([Entry("a\0b" * 50)], "zero byte"),
    ([Entry("x", b"1", link="etc/passwd")], "not in this layer"),
    ([Entry("x", b"1", link="../../etc/passwd")], "leads out of the layer"),
    ([Entry("d", b"5"), Entry("x", b"1", link="d")], "hard link to a directory"),
    ([Entry("x", b"3", device=0)], "device 0:0"),
    ([Entry(".wh...")], "whiteout of nothing, or of what is outside"),
    ([Entry(".wh.")], "whiteout of nothing"),
    ([Entry("f"), Entry("f/x")], "Not a directory"),
    ([Entry("x", b"Z")], "of kind b'Z'"),
    ([Entry("x", size=1 << 62)], "cut short"),
    ([Entry("x" * 300)], "File name too long"),
])
def test_what_no_layer_has_is_refused_and_leaves_nothing(
        entries: list[Entry], reason: str, store: Store) -> None:
    with store.lease() as lease, pytest.raises(ContainerError, match=reason) as caught:
        store.add_layer(io.BytesIO(b"".join(map(header, entries)) + END), lease)
    assert str(caught.value).startswith("cannot unpack the layer: ")
    assert os.listdir(f"{store.directory}/layers") == os.listdir(f"{store.directory}/tmp") == []


@pytest.mark.parametrize("number", [b"-0000000777\0", b"0_1\0", b"0o17\0", b"+17\0", b"8\0", b"\xff" * 12])
def test_what_is_no_octal_number_is_refused(number: bytes, tmp_path: Path) -> None:
    """A size below zero would be a content without an end."""
    block = bytearray(header(Entry("x")))
    block[124:136], block[148:156] = number.ljust(12, b"\0"), b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    with pytest.raises(ContainerError, match=r"not a number|negative or absurd"):
        unpacked(bytes(block) + bytes(4096), tmp_path / "ours")


def attack(store: Store, outside: Path, seed: int) -> bool:
    """Try one case; returns whether it was refused."""
    with store.lease() as lease:
        try:
            diff_id = store.add_layer(io.BytesIO(hostile.case(seed, str(outside))), lease)
        except ContainerError:
            return True
        assert os.path.isdir(store.layer(diff_id))
    return False


def attacks(store: Store, outside: Path, seeds: Iterator[int] | range) -> int:
    (outside / "secret").write_text("secret")
    before = look(outside.parent / "outside")
    refused = 0
    for seed in seeds:
        refused += attack(store, outside, seed)
        assert look(outside) == before, seed
        assert os.listdir(f"{store.directory}/tmp") == [], seed
    assert sorted(os.listdir(outside.parent)) == ["outside", "store"]
    return refused


def test_a_thousand_hostile_tars_change_nothing_outside(store: Store, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    refused = attacks(store, tmp_path / "outside", range(CASES))
    assert CASES * 0.2 < refused < CASES * 0.98  # it is no test if all, or none, get through
    store.collect()
    assert os.listdir(f"{store.directory}/layers") == []


@needs_userns
def test_hostile_tars_in_a_user_namespace(store: Store, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    assert inside(attacks, store, tmp_path / "outside", range(5000, 5150)) > 30


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_soak_hostile_tars(store: Store, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    start = int.from_bytes(os.urandom(6), "big")
    print(f"seeds from {start}")
    for part in range(60):
        attacks(store, tmp_path / "outside", range(start + part * 1000, start + part * 1000 + 1000))
        store.collect()


SWAP = """
import os, sys
tree, outside = sys.argv[1:]
print("go", flush=True)
number = 0
while True:
    number += 1
    for step in ("os.rename(f'{tree}/d', f'{tree}/old{number}')", "os.symlink(outside, f'{tree}/d')",
                 "os.unlink(f'{tree}/d')"):
        try:
            exec(step)
        except OSError:
            pass
"""


def test_a_directory_that_is_swapped_under_us_leads_nowhere(tmp_path: Path) -> None:
    """Somebody who can write to the tree keeps replacing a directory by a symlink to the outside."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "tree" / "d").mkdir(parents=True)
    (tmp_path / "outside" / "secret").touch()
    tar = b"".join(map(header, [Entry("d/f"), Entry("e/x"), Entry("d/.wh.secret"), Entry("d/dir/f")])) + END
    command = [sys.executable, "-c", SWAP, str(tmp_path / "tree"), str(tmp_path / "outside")]
    swapper = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert swapper.stdout
    assert swapper.stdout.readline() == b"go\n"
    outcomes = set()
    try:
        for _ in range(400):
            try:
                unpacked(tar, tmp_path / "tree")
                outcomes.add("unpacked")
            except ContainerError:
                outcomes.add("refused")
    finally:
        swapper.kill()
        swapper.wait()
        swapper.stdout.close()
    assert "unpacked" in outcomes
    assert os.listdir(tmp_path / "outside") == ["secret"]


@needs_root
def test_devices_are_made_by_root_and_left_out_in_a_user_namespace(tmp_path: Path) -> None:
    tar = header(Entry("null", b"3", 0o666, device=os.makedev(1, 3))) + header(Entry("f")) + END
    assert unpacked(tar, tmp_path / "host").skipped == []
    assert os.stat(tmp_path / "host" / "null").st_rdev == os.makedev(1, 3)
    assert inside(lambda: unpacked(tar, tmp_path / "inner").skipped) == ["null"]
    assert os.listdir(tmp_path / "inner") == ["f"]


@needs_userns
def test_with_a_single_id_everything_is_ours(tmp_path: Path) -> None:
    tar = header(Entry("f", uid=1234, gid=5)) + END
    inside(lambda: unpacked(tar, tmp_path / "inner"))
    assert os.stat(tmp_path / "inner" / "f").st_uid == os.geteuid()


OWNERS = """
import io, sys
from mycontainer.errors import ContainerError
from mycontainer.images import extract
from mycontainer.images.tarstream import END, Entry, header
for name, owner in (("known", 1234), ("unknown", 70000)):
    try:
        extract.extract(io.BytesIO(header(Entry(name, uid=owner, gid=owner)) + END), sys.argv[1])
        print("unpacked")
    except ContainerError as error:
        print(error)
"""


@needs_root
def test_owners_go_through_the_map_of_a_user_namespace(tmp_path: Path) -> None:
    """As root of the host in a namespace of 65536 ids, and as an ordinary user with subordinate ids."""
    directory = tmp_path / "layer"
    directory.mkdir()
    os.chown(directory, 700000, 700000)
    for above in (tmp_path, *tmp_path.parents):
        if above.stat().st_uid == 0 and "pytest" in above.name + above.parent.name:
            os.chmod(above, 0o711)

    ready, tell = os.pipe()
    go, done = os.pipe()
    child = os.fork()
    if child == 0:
        namespaces.create(["user"])
        os.write(tell, b"r")
        os.read(go, 1)
        namespaces.become_root()
        out = os.open(tmp_path / "said", os.O_WRONLY)
        os.dup2(out, 1)
        os.chdir("/")
        os.execv(sys.executable, [sys.executable, "-c", OWNERS, str(directory)])
    os.read(ready, 1)
    (tmp_path / "said").touch()
    os.chmod(tmp_path / "said", 0o666)
    namespaces.write_map(child, [(0, 700000, 65536)], [(0, 700000, 65536)])
    os.write(done, b"g")
    os.waitpid(child, 0)
    for fd in (ready, tell, go, done):
        os.close(fd)
    first, second = (tmp_path / "said").read_text().splitlines()
    assert first == "unpacked"
    assert "belongs to 70000:70000, ids that this user namespace does not have" in second
    assert os.stat(directory / "known").st_uid == 701234


@pytest.mark.parametrize("xattr", ["trusted.overlay.redirect", "user.overlay.opaque"])
def test_overlayfs_own_notes_are_not_taken_from_a_tar(xattr: str, tmp_path: Path) -> None:
    entry = Entry("d", b"5", 0o755, xattrs=((xattr, b"/etc"), ("user.fine", b"1")))
    unpacked(header(entry) + END, tmp_path / "x")
    assert os.listxattr(tmp_path / "x" / "d") == ["user.fine"]


# ---- the order of marks does not matter

@pytest.mark.parametrize("order", [[0, 1, 2, 3], [2, 3, 0, 1], [3, 0, 2, 1]])
def test_marks_mean_the_layers_below_wherever_they_stand(order: list[int], tmp_path: Path) -> None:
    blocks = [header(Entry("d/", b"5", 0o755)), header(Entry("d/new")), header(Entry("d/.wh..wh..opq")),
              header(Entry("d/.wh.new"))]
    (tmp_path / "merged" / "d").mkdir(parents=True)
    (tmp_path / "merged" / "d" / "old").touch()
    tar = b"".join(blocks[number] for number in order) + END
    unpacked(tar, tmp_path / "merged", as_layer=False)
    assert os.listdir(tmp_path / "merged" / "d") == ["new"]
    unpacked(tar, tmp_path / "layer")
    assert layers.is_opaque(str(tmp_path / "layer" / "d"))
    assert stat.S_ISREG(os.lstat(tmp_path / "layer" / "d" / "new").st_mode)


# ---- packing

def test_the_same_tree_is_the_same_bytes(tmp_path: Path) -> None:
    top = varied(tmp_path / "top")
    unpacked(packed(top), tmp_path / "copy")
    assert packed(tmp_path / "copy") == packed(top)
    os.chmod(tmp_path / "copy" / "empty", 0o600)
    assert packed(tmp_path / "copy") != packed(top)
    clamped = packed(top, latest=1_500_000_000)
    with tarfile.open(fileobj=io.BytesIO(clamped)) as tar:
        assert {entry.mtime for entry in tar} == {1_500_000_000}


def test_a_file_named_like_a_whiteout_is_not_packed(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / ".wh.x").touch()
    with pytest.raises(ContainerError, match="such a name means a deleted file"):
        packed(tmp_path / "t")


names = st.sampled_from(["a", "b", "c", "ü", "n" * 120])
modes = st.sampled_from([0o644, 0o600, 0o755])
times = st.sampled_from([0, 1_000_000_000, 1_600_000_000_123_456_789])
leaves = st.one_of(
    st.tuples(st.just("file"), st.sampled_from([b"", b"x", b"y", b"z" * 700]), modes, times),
    st.tuples(st.just("link"), st.sampled_from(["a", "/etc", "../b"]), st.just(0), times),
    st.tuples(st.just("fifo"), st.just(""), modes, times),
    st.tuples(st.just("hard"), st.just(""), st.just(0), st.just(0)))
trees: Any = st.recursive(leaves, lambda below: st.tuples(
    st.just("dir"), st.dictionaries(names, below, max_size=4), modes, times), max_leaves=12)
roots = st.tuples(st.just("dir"), st.dictionaries(names, trees, max_size=4), st.just(0o755), times)


def plant(what: Any, path: Path, files: list[Path]) -> None:
    kind, content, mode, mtime = what
    if kind == "hard" and files:
        os.link(files[len(files) // 2], path)
        return
    if kind in ("file", "hard"):
        path.write_bytes(content or b"")
        files.append(path)
    elif kind == "link":
        os.symlink(content, path)
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
        mode |= 0o700
        for name, below in content.items():
            plant(below, path / name, files)
    if kind != "link":
        os.chmod(path, mode or 0o644)
    os.utime(path, ns=(mtime, mtime), follow_symlinks=False)


@settings(max_examples=120, deadline=None, database=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(old=roots, new=roots)
def test_applying_the_difference_gives_the_other_tree(old: Any, new: Any, tmp_path: Path) -> None:
    place = tmp_path / os.urandom(4).hex()
    place.mkdir()
    plant(old, place / "old", [])
    plant(new, place / "new", [])
    out, nothing = io.BytesIO(), io.BytesIO()
    pack.difference(str(place / "old"), str(place / "new"), out)
    unpacked(out.getvalue(), place / "old", as_layer=False)
    assert look(place / "old") == look(place / "new")
    pack.difference(str(place / "old"), str(place / "new"), nothing)
    assert nothing.getvalue() == END
    shutil.rmtree(place)


@pytest.mark.parametrize(("old", "new"), [
    ([["a", "b"]], [["a"], ["b"]]), ([["a"], ["b"]], [["a", "b"]]),
    ([["a", "b"], ["c"]], [["a"], ["b", "c"]]), ([["a", "b", "c"]], [["a", "b"]]),
    ([["a", "b"]], [["a", "b", "c"]])])
def test_names_of_one_file_are_part_of_the_difference(
        old: list[list[str]], new: list[list[str]], tmp_path: Path) -> None:
    """The files are all alike: only which names belong together differs."""
    for where, groups in (("old", old), ("new", new)):
        (tmp_path / where).mkdir()
        for first, *others in groups:
            (tmp_path / where / first).write_text("x")
            os.utime(tmp_path / where / first, (0, 0))
            for other in others:
                os.link(tmp_path / where / first, tmp_path / where / other)
        os.utime(tmp_path / where, (0, 0))
    out = io.BytesIO()
    pack.difference(str(tmp_path / "old"), str(tmp_path / "new"), out)
    unpacked(out.getvalue(), tmp_path / "old", as_layer=False)
    assert look(tmp_path / "old") == look(tmp_path / "new")


# ---- collection, and what dies in the middle

def add(store: Store, name: str, lease: Any) -> str:
    return store.add_layer(io.BytesIO(header(Entry(name)) + END), lease)


def test_what_a_name_keeps_or_a_lease_uses_is_not_collected(store: Store) -> None:
    with store.lease() as lease:
        tagged, used, lost = (add(store, name, lease) for name in ("tagged", "used", "lost"))
        assert store.collect() == []
        store.tag("image", [tagged])
    with store.lease() as lease:
        lease.use(used)
        assert store.collect() == [lost]
        with pytest.raises(ContainerError, match="no such layer or blob"):
            lease.use(lost)
    assert store.collect() == [used]
    assert store.tagged("image") == [tagged]
    store.untag("image")
    assert store.collect() == [tagged]
    assert os.listdir(f"{store.directory}/tmp") == os.listdir(f"{store.directory}/leases") == []


def test_a_name_keeps_only_what_is_there(store: Store) -> None:
    with pytest.raises(ContainerError, match="it is not in the store"):
        store.tag("image", [sha256(b"")])
    for name in ("../x", "", ".x", "a/b"):
        with pytest.raises(ContainerError, match="not a name"):
            store.tag(name, [])
    with pytest.raises(ContainerError, match="not a digest"):
        store.layer("sha256:../../etc")


def killed(store: Store, code: str) -> None:
    """Run Python code with `store` and `lease`, which prints a line and is then killed."""
    script = (f"import io, os, sys, time\nfrom mycontainer.images.store import Store\n"
              "from mycontainer.images.tarstream import *\n"
              f"store = Store({store.directory!r}, durable=False)\n"
              f"with store.lease() as lease:\n{code}\n    print('ready', flush=True); time.sleep(60)\n")
    child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert child.stdout
    assert child.stdout.readline() == b"ready\n"
    assert store.collect() == []  # they live
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()


def test_the_lease_of_the_dead_counts_no_more(store: Store) -> None:
    killed(store, "    store.add_layer(io.BytesIO(header(Entry('x')) + END), lease)")
    assert len(store.collect()) == 1
    assert os.listdir(f"{store.directory}/leases") == []


def test_what_the_dead_left_half_made_is_swept(store: Store) -> None:
    killed(store, """
    class Slow(io.BytesIO):
        def read(self, size):
            data = super().read(size)
            if not data:
                print('ready', flush=True); time.sleep(60)
            return data
    store.add_layer(Slow(header(Entry('x')) * 3000), lease)""")
    assert len(os.listdir(f"{store.directory}/tmp")) == 1
    assert store.collect() == []
    assert os.listdir(f"{store.directory}/tmp") == os.listdir(f"{store.directory}/layers") == []


def test_two_that_add_the_same_and_one_that_collects(store: Store) -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for number in range(25):
                with store.lease() as lease:
                    diff_id = add(store, f"same{number % 3}", lease)
                    assert os.path.exists(store.layer(diff_id))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        store.collect()
    assert not failures


@needs_module("zstandard")
def test_libraries_that_make_it_fast_are_there() -> None:
    assert hasattr(compression._first_of("isal.isal_zlib", "zlib"), "_GzipReader")
