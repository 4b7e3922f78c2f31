"""Which ids a user namespace gets, and trees seen through its map."""

from __future__ import annotations

import os
import pwd
import shutil
from pathlib import Path

import pytest

from mycontainer import namespaces, syscalls
from mycontainer.engine import idmap
from mycontainer.errors import ContainerError
from needs import needs_root, needs_userns
from sandbox import inside

SUBUID = "# a comment\nroot:100000:65536\nann:200000:65536\nann:400000:10\n1000:300000:5\nbad\nx:y:z\n"


@pytest.fixture
def subuid(tmp_path: Path) -> str:
    (tmp_path / "subuid").write_text(SUBUID)
    return str(tmp_path / "subuid")


def test_subordinate_ids_by_name_and_by_number(subuid: str) -> None:
    assert idmap.subordinate_ids("ann", subuid) == [(200000, 65536), (400000, 10)]
    assert idmap.subordinate_ids("bob", subuid, 1000) == [(300000, 5)]
    assert idmap.subordinate_ids("bob", subuid) == []
    assert idmap.subordinate_ids("bob", subuid + ".none") == []


def test_a_free_range_belongs_to_nobody(tmp_path: Path) -> None:
    grants, accounts = tmp_path / "subuid", tmp_path / "passwd"
    grants.write_text("ann:524288:65536\nbob:600000:1\n")
    accounts.write_text("carl:x:720895:100:Carl:/home/carl:/bin/sh\n")
    files = [str(grants), str(accounts)]
    assert idmap.free_range(files) == 720896  # 524288 is Ann's, 589824 holds Bob's, 655360 Carl
    assert idmap.free_range([]) == 524288


def test_no_free_range_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "subuid").write_text("ann:524288:1878523904\n")
    with pytest.raises(ContainerError, match="every range of 65536 is taken") as seen:
        idmap.free_range([str(tmp_path / "subuid")])
    assert "/etc/subuid" in seen.value.hint


def test_several_ranges_are_laid_end_to_end() -> None:
    assert idmap._behind_root([(200000, 10), (400000, 100000)]) == [(1, 200000, 10), (11, 400000, 65525)]


@needs_root
def test_root_of_the_host_is_never_mapped_to_itself() -> None:
    if namespaces.own_ids() != idmap.EVERYTHING:
        pytest.skip("needs root of the host, not of a user namespace")
    for rows in idmap.choose_maps():
        [(first, outside, count)] = rows
        assert (first, count) == (0, idmap.COUNT)
        taken = {entry.pw_uid for entry in pwd.getpwall()}
        assert not taken & set(range(outside, outside + count))
        assert outside > 65535


@needs_userns
def test_root_of_a_user_namespace_passes_on_what_it_has() -> None:
    assert inside(idmap.choose_maps, kinds=("user",)) == ([(0, 0, 1)], [(0, 0, 1)])


def test_an_ordinary_user_is_root_inside(monkeypatch: pytest.MonkeyPatch, subuid: str) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "getegid", lambda: 1000)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(idmap, "subordinate_ids", lambda *_: [(200000, 65536)])
    assert idmap.choose_maps() == ([(0, 1000, 1), (1, 200000, 65535)],) * 2
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert idmap.choose_maps() == ([(0, 1000, 1)],) * 2
    monkeypatch.setattr(idmap, "subordinate_ids", lambda *_: [])
    assert idmap.choose_maps() == ([(0, 1000, 1)],) * 2


def _mounted(tree: Path) -> dict[str, object]:
    """In a mount namespace of our own: mount ``tree`` read-only, and see what can be done to it."""
    syscalls.mount("tmpfs", "/mnt", "tmpfs")
    fd = idmap.readonly_tree(str(tree))
    idmap.place(fd, "/mnt", "here")
    answers: dict[str, object] = {"names": sorted(os.listdir("/mnt/here"))}
    for what, name, flags in (("write", "file", os.O_WRONLY), ("device", "null", os.O_RDONLY)):
        try:
            os.close(os.open(f"/mnt/here/{name}", flags))
            answers[what] = "done"
        except OSError as error:
            answers[what] = error.strerror
    return answers


@needs_userns
def test_a_read_only_tree_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    answers = inside(_mounted, tmp_path)
    assert answers["names"] == ["file"]
    assert answers["write"] == "Read-only file system"


@needs_root
def test_a_device_in_a_tree_does_not_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    os.mknod(tmp_path / "null", 0o20666, os.makedev(1, 3))
    assert inside(_mounted, tmp_path, kinds=("mnt",))["device"] == "Permission denied"


def _owner_seen(path: Path, mapped: bool) -> int:
    """The owner of ``path`` seen through a user namespace that maps 0 to 700000."""
    ready, tell = os.pipe()
    go, done = os.pipe()
    child = os.fork()
    if child == 0:
        namespaces.create(["user"])
        os.write(tell, b"r")
        os.read(go, 1)
        os._exit(0)
    os.read(ready, 1)
    namespaces.write_map(child, [(0, 700000, 65536)], [(0, 700000, 65536)])
    userns = os.open(f"/proc/{child}/ns/user", os.O_RDONLY)
    tree = idmap.idmapped_tree(str(path), userns) if mapped else idmap.readonly_tree(str(path))
    owner = os.fstat(tree).st_uid
    os.write(done, b"g")
    os.waitpid(child, 0)
    for fd in (userns, tree, ready, tell, go, done):
        os.close(fd)
    return owner


@needs_root
def test_an_idmapped_tree_is_seen_with_other_owners(tmp_path: Path) -> None:
    """Out here the file of uid 0 shows as 700000: what 0 is called in a namespace that maps it so."""
    assert _owner_seen(tmp_path, mapped=True) == 700000
    assert _owner_seen(tmp_path, mapped=False) == 0
