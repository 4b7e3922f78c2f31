"""Version 1's equivalents, against the old files themselves. `test_cgroups.py` runs into the limits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mycontainer import cgroups
from mycontainer.engine import cgroup_v1
from mycontainer.engine.cgroup_v1 import FILES, CgroupV1
from mycontainer.errors import ContainerError
from needs import needs_cgroups, needs_user, needs_v1

MB = 1 << 20


@pytest.fixture
def group() -> Iterator[CgroupV1]:
    made = cgroup_v1.create(f"test-v1-{os.getpid()}")
    yield made
    made.remove()
    assert not any(map(os.path.exists, made.directories()))


def old(group: CgroupV1, controller: str, file: str) -> str:
    return Path(group.directory(controller), file).read_text().strip()


@needs_v1
@needs_cgroups
def test_it_lies_at_the_top_of_every_tree(group: CgroupV1) -> None:
    """Not below the cgroup that we are in: on some machines that one is somebody's who watches over us."""
    assert group.path.startswith("/mycontainer/test-v1-")
    for controller, tree in cgroup_v1.hierarchies().items():
        assert Path(tree, group.path[1:]).is_dir(), controller
        assert os.path.ismount(tree)


@needs_v1
@needs_cgroups
def test_each_limit_is_in_its_old_file(group: CgroupV1) -> None:
    group.limit_memory(64 * MB)
    group.limit_cpu(20_000, 50_000)
    group.weigh_cpu(200)
    group.limit_processes(7)
    group.pin_cpus("0")
    assert old(group, "memory", "memory.limit_in_bytes") == str(64 * MB)
    assert old(group, "cpu", "cpu.cfs_quota_us") == "20000"
    assert old(group, "cpu", "cpu.cfs_period_us") == "50000"
    assert old(group, "cpu", "cpu.shares") == "2048"
    assert old(group, "pids", "pids.max") == "7"
    assert old(group, "cpuset", "cpuset.cpus") == "0"
    if (together := Path(group.directory("memory"), "memory.memsw.limit_in_bytes")).exists():
        assert together.read_text().strip() == str(64 * MB)  # no swap on top


@needs_v1
@needs_cgroups
def test_what_was_written_reads_the_same(group: CgroupV1) -> None:
    for file, text in [("memory.max", str(32 * MB)), ("cpu.max", "30000 100000"), ("cpu.weight", "300"),
                       ("pids.max", "9"), ("cpuset.cpus", "0"), ("cgroup.freeze", "1"),
                       ("cgroup.freeze", "0"), ("memory.max", "max"), ("cpu.max", "max 100000"),
                       ("pids.max", "max")]:
        group.write(file, text)
        assert group.read(file) == text


@needs_v1
@needs_cgroups
def test_a_limit_is_raised_and_taken_away_again(group: CgroupV1) -> None:
    for amount in (32 * MB, 64 * MB, 16 * MB, None):
        group.limit_memory(amount)
        assert group.read("memory.max") == ("max" if amount is None else str(amount))


@needs_v1
@needs_cgroups
def test_every_file_of_the_table_is_there(group: CgroupV1) -> None:
    assert [file for file in FILES if not group.has(file)] == []
    assert not group.has("memory.pressure")


@needs_v1
@needs_cgroups
def test_what_version_1_lacks_says_so(group: CgroupV1) -> None:
    for use in (group.pressure, lambda: group.limit_memory(64 * MB, high=32 * MB),
                lambda: group.limit_io("8:0", rbps=1)):
        with pytest.raises(FileNotFoundError, match="version 1") as refused:
            use()
        assert "unified_cgroup_hierarchy=1" in refused.value.__notes__[0]


@needs_v1
@needs_user
def test_an_ordinary_user_is_told_that_it_takes_root() -> None:
    with pytest.raises(ContainerError, match="belongs to root") as refused:
        cgroup_v1.create("test")
    assert "unified_cgroup_hierarchy=1" in refused.value.hint


HYBRID = """\
cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0
cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0
cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0
"""
MOUNTS = {
    "hybrid": (HYBRID, True),
    "version 2": ("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n", False),
    "only systemd's own": ("cgroup /sys/fs/cgroup/systemd cgroup rw,name=systemd 0 0\n", False),
}


@pytest.mark.parametrize("machine", MOUNTS)
def test_which_version_a_machine_has(machine: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    text, is_v1 = MOUNTS[machine]
    (tmp_path / "mounts").write_text(text)
    monkeypatch.setattr(cgroup_v1, "MOUNTS", str(tmp_path / "mounts"))
    monkeypatch.setattr(cgroups, "ROOT", str(tmp_path))
    if not is_v1:
        (tmp_path / "cgroup.controllers").touch()
    assert cgroup_v1.in_use() is is_v1
    if is_v1:
        assert cgroup_v1.hierarchies()["cpu"] == cgroup_v1.hierarchies()["cpuacct"]
        assert len(CgroupV1("/mycontainer/x").directories()) == 2
