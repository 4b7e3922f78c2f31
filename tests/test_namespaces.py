"""Chapter 2. Oracles: lsns, unshare and nsenter from util-linux, and what the kernel says in /proc."""

from __future__ import annotations

import json
import os
import pwd
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mycontainer import chroot, namespaces, syscalls
from mycontainer.errors import ContainerError
from needs import needs_root, needs_subids, needs_tool, needs_userns
from sandbox import in_a_child, inside

pytestmark = needs_userns
KINDS = ("user", "cgroup", "ipc", "uts", "net", "pid", "time", "mnt")


@pytest.fixture
def stranger() -> Iterator[int]:
    """A process that util-linux has put in namespaces of its own."""
    command = ["unshare", "-U", "-r", "-m", "-u", "-i", "-n", "-p", "-C", "-f", "--kill-child",
               "sh", "-c", "hostname stranger; echo ready; exec sleep 60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        child = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())
        try:
            yield child
        finally:
            os.kill(child, 9)  # and unshare, which waits for it, reaps it and ends


def test_every_kind_is_made_anew() -> None:
    before = namespaces.identify()

    def made() -> dict[str, int]:
        return in_a_child(namespaces.identify)  # in a child, as pid and time count for children
    after = inside(made, kinds=KINDS)
    assert [kind for kind in KINDS if after[kind] == before[kind]] == []
    assert namespaces.identify() == before


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "user"])
def test_only_what_was_asked_for_is_new(kind: str) -> None:
    before = namespaces.identify()
    after = inside(lambda: in_a_child(namespaces.identify), kinds=("user", kind))
    assert {kind for kind in KINDS if after[kind] != before[kind]} == {"user", kind}


@needs_tool("lsns", "util-linux")
def test_identify_says_what_lsns_says(stranger: int) -> None:
    rows = json.loads(subprocess.check_output(["lsns", "-J", "-o", "NS,TYPE"]))["namespaces"]
    theirs = {(row["type"], int(row["ns"])) for row in rows}
    assert set(namespaces.identify(stranger).items()) <= theirs
    assert ("uts", namespaces.identify(stranger)["mnt"]) not in theirs


def test_shared_tells_the_same_from_the_other(stranger: int) -> None:
    assert namespaces.shared(os.getpid()) == dict.fromkeys(namespaces.ORDER, True)
    assert [kind for kind, same in namespaces.shared(stranger).items() if same] == ["time"]


def test_identify_a_process_that_is_gone() -> None:
    with pytest.raises(FileNotFoundError):
        namespaces.identify(2 ** 22 + 1)


def test_a_host_name_of_our_own() -> None:
    def rename() -> str:
        syscalls.sethostname("renamed")
        return socket.gethostname()
    before = socket.gethostname()
    assert inside(rename, kinds=("user", "uts")) == "renamed"
    assert socket.gethostname() == before


def test_without_a_uts_namespace_the_name_is_not_ours() -> None:
    with pytest.raises(PermissionError):
        inside(lambda: syscalls.sethostname("no"), kinds=("user",))


def test_unshare_pid_moves_the_children_not_me() -> None:
    def pids() -> tuple[bool, int, int]:
        before = os.getpid()
        namespaces.create(["pid"])
        return os.getpid() == before, in_a_child(os.getpid), in_a_child_fails()

    def in_a_child_fails() -> int:
        try:
            return in_a_child(os.getpid)
        except OSError as error:  # PID 1 has ended, and with it the namespace
            return -(error.errno or 0)
    assert inside(pids) == (True, 1, -12)


def test_ps_needs_a_fresh_proc() -> None:
    def processes() -> list[int]:
        return [len([name for name in os.listdir("/proc") if name.isdigit()]), mounted()]

    def mounted() -> int:
        chroot.mount_proc("/")
        return len([name for name in os.listdir("/proc") if name.isdigit()])
    before, after = inside(lambda: in_a_child(processes), kinds=("user", "mnt", "pid"))
    assert before > 1
    assert after == 1


def test_one_id_needs_nobody_and_denies_setgroups() -> None:
    def ids() -> tuple[int, int, str, list[tuple[int, int, int]]]:
        setgroups = Path("/proc/self/setgroups").read_text().strip()
        return os.getuid(), os.getgid(), setgroups, namespaces.own_ids()
    uid, gid, setgroups, uid_map = inside(ids, kinds=("user",))
    assert (uid, gid, uid_map) == (0, 0, [(0, os.geteuid(), 1)])
    assert setgroups == ("allow" if os.geteuid() == 0 else "deny")


@needs_tool("unshare", "util-linux")
def test_our_map_is_that_of_unshare_map_root_user() -> None:
    theirs = subprocess.check_output(["unshare", "-U", "-r", "cat", "/proc/self/uid_map"], text=True).split()
    assert inside(namespaces.own_ids, kinds=("user",)) == [tuple(map(int, theirs))]


def waiting_child() -> tuple[int, int]:
    """A child in a new user namespace that waits for its maps; returns its pid and the pipe to end it."""
    reader, writer = os.pipe()
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writer)
        namespaces.create(["user"])
        os.write(tell, b"u")
        os.read(reader, 1)
        os._exit(0)
    os.close(reader)
    os.close(tell)
    os.read(told, 1)
    os.close(told)
    return child, writer


def uid_map_written(uid_map: namespaces.IdMap, gid_map: namespaces.IdMap) -> list[list[int]]:
    child, writer = waiting_child()
    try:
        namespaces.write_map(child, uid_map, gid_map)
        rows = Path(f"/proc/{child}/uid_map").read_text().splitlines()
        return [list(map(int, row.split())) for row in rows]
    finally:
        os.close(writer)
        os.waitpid(child, 0)


@needs_root
def test_root_maps_a_range_directly() -> None:
    assert uid_map_written([(0, 700000, 1000)], [(0, 700000, 1000)]) == [[0, 700000, 1000]]


@needs_subids
@pytest.mark.skipif(os.geteuid() == 0, reason="needs an ordinary user")
def test_a_user_maps_a_range_through_newuidmap() -> None:
    user = pwd.getpwuid(os.getuid()).pw_name
    first, group = (int(line.split(":")[1]) for file in ("/etc/subuid", "/etc/subgid")
                    for line in Path(file).read_text().splitlines() if line.startswith(f"{user}:"))
    rows = uid_map_written([(0, os.geteuid(), 1), (1, first, 9)], [(0, os.getegid(), 1), (1, group, 9)])
    assert rows == [[0, os.geteuid(), 1], [1, first, 9]]


@pytest.mark.skipif(os.geteuid() == 0, reason="needs an ordinary user")
@needs_tool("newuidmap", "uidmap")
def test_ids_that_are_not_ours_are_refused_with_a_hint() -> None:
    with pytest.raises(ContainerError) as caught:
        uid_map_written([(0, 0, 1), (1, 1, 9)], [(0, 0, 1), (1, 1, 9)])
    assert "/etc/subuid" in caught.value.hint


@pytest.mark.skipif(os.geteuid() == 0, reason="needs an ordinary user")
def test_without_newuidmap_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ContainerError) as caught:
        uid_map_written([(0, os.geteuid(), 1), (1, 100000, 9)], [(0, os.getegid(), 1), (1, 100000, 9)])
    assert "uidmap" in caught.value.hint


@needs_tool("nsenter", "util-linux")
def test_enter_takes_us_where_nsenter_does(stranger: int) -> None:
    kinds = "user cgroup ipc uts net time mnt"
    show = ["sh", "-c", f"hostname; for k in {kinds}; do readlink /proc/self/ns/$k; done"]

    def join() -> str:
        namespaces.enter(stranger)
        return subprocess.check_output(show, text=True)
    options = ["-U", "--preserve-credentials", "-m", "-u", "-i", "-n", "-p", "-C"]
    theirs = subprocess.check_output(["nsenter", "-t", str(stranger), *options, *show], text=True)
    assert in_a_child(join) == theirs
    assert theirs.startswith("stranger\n")


def test_enter_in_the_wrong_order_fails(stranger: int) -> None:
    if os.geteuid() == 0:
        pytest.skip("real root may join in any order")

    def uts_first() -> None:
        fd = os.open(f"/proc/{stranger}/ns/uts", os.O_RDONLY)
        syscalls.setns(fd, syscalls.CLONE_NEWUTS)
    with pytest.raises(PermissionError) as caught:
        in_a_child(uts_first)
    assert caught.value.errno == 1


def test_two_clocks() -> None:
    def clocks() -> tuple[float, float]:
        namespaces.create(["time"])
        namespaces.set_clocks(1_000_000)
        return time.clock_gettime(time.CLOCK_BOOTTIME), in_a_child(time.clock_gettime, time.CLOCK_BOOTTIME)
    here, there = inside(clocks, kinds=("user",))
    assert 999_999 < there - here < 1_000_010


def test_a_namespace_is_kept_without_any_process(tmp_path: Path) -> None:
    held = str(tmp_path / "held")

    def keep() -> tuple[str, str]:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            namespaces.create(["uts"])
            syscalls.sethostname("kept")
            os.write(writer, b"r")
            time.sleep(30)
            os._exit(0)
        os.read(reader, 1)
        namespaces.keep(child, "uts", held)
        os.kill(child, 9)
        os.waitpid(child, 0)
        fd = os.open(held, os.O_RDONLY)
        syscalls.setns(fd, syscalls.CLONE_NEWUTS)
        os.close(fd)
        name = socket.gethostname()
        syscalls.umount2(held)
        return name, Path(held).read_text()
    assert inside(keep, kinds=("user", "mnt", "uts")) == ("kept", "")


def test_a_network_namespace_is_empty_and_its_loopback_can_be_raised() -> None:
    def look() -> tuple[list[str], int, int]:
        names = [name for _, name in socket.if_nameindex()]
        with socket.create_server(("127.0.0.1", 0)) as server:
            try:
                socket.create_connection(server.getsockname(), 1).close()
                before = 0
            except OSError as error:
                before = error.errno or -1
            namespaces.raise_loopback()
            socket.create_connection(server.getsockname(), 1).close()
        return names, before, 0
    assert inside(look, kinds=("user", "net")) == (["lo"], 101, 0)  # ENETUNREACH


def test_become_root_drops_the_groups_we_came_with() -> None:
    def groups() -> list[int]:
        return os.getgroups()
    if os.geteuid() == 0:
        assert inside(groups, kinds=("user",)) == []
