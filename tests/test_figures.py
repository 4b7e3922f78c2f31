"""Figures: what they say is what the kernel says, and they can be read."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from itertools import combinations

import pytest

from mycontainer import namespaces
from mycontainer.errors import ContainerError
from mycontainer.lab import figures, style
from needs import needs_tool, needs_userns

Unshare = Callable[..., int]


@pytest.fixture
def unshare() -> Iterator[Unshare]:
    """Start a sleeping process in namespaces of its own, by unshare(1); returns its pid."""
    started = []

    def start(*options: str, then: str = "") -> int:
        command = [str(shutil.which("unshare")), *options, "sh", "-c", f"{then} echo ready; exec sleep 60"]
        one = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        started.append(one)
        assert one.stdout
        assert one.stdout.readline() == "ready\n"
        children = f"/proc/{one.pid}/task/{one.pid}/children"
        with open(children) as file:
            pid = int((file.read().split() or [str(one.pid)])[0])  # with --fork it is unshare's child
        while figures.status(pid)["Name"] != "sleep":
            time.sleep(0.01)
        return pid

    yield start
    for one in started:
        one.kill()
        one.communicate()


ALONE = ("--user", "--map-root-user")
FORK = ("--pid", "--fork", "--kill-child")


# ── who shares which namespace ───────────────────────────────────────────────────────────────────────

@needs_userns
def test_a_letter_is_a_namespace(unshare: Unshare) -> None:
    pid = unshare(*ALONE, "--uts", "--ipc")
    numbers = figures.number_namespaces({"me": "self", "it": pid, "me again": os.getpid()})
    for kind, row in numbers.items():
        assert row == ([0, 1, 0] if kind in ("user", "uts", "ipc") else [0, 0, 0])


@needs_userns
@needs_tool("lsns", "util-linux")
def test_lsns_says_the_same(unshare: Unshare) -> None:
    pid = unshare(*ALONE, "--uts", "--net", "--mount")
    listed = subprocess.run(["lsns", "-n", "-o", "TYPE,NS", "-p", str(pid)], capture_output=True, text=True)
    oracle = {kind: int(inode) for kind, inode in map(str.split, listed.stdout.splitlines())}
    assert figures.inodes(pid) == oracle
    drawn = figures.namespace_figure({"me": "self", "it": pid}).svg
    assert all(f">{inode}</text>" in drawn for inode in oracle.values())


def test_two_processes_in_the_same_namespaces_are_one_block_each() -> None:
    drawn = figures.namespace_figure({"one": "self", "other": os.getpid()})
    assert set(re.findall(r">([A-Z])</text>", drawn.svg)) == {"A"}
    assert drawn.svg.count('fill="#d6e6f5"') == len(figures.MEANING)  # one block a row, across both columns
    assert "B" not in drawn.words.replace("A  ", "")


def test_the_words_name_no_pid_and_no_inode() -> None:
    words = figures.namespace_figure({"one": "self", "other": os.getpid()}).words
    assert not re.search(r"\d", words)
    assert words.splitlines()[1].split() == ["user", "A", "A"]


def test_a_process_that_ended_can_be_drawn_from_what_was_noted() -> None:
    noted = {**namespaces.identify(), "uts": 7}
    numbers = figures.number_namespaces({"me": "self", "it": noted})
    assert [kind for kind, row in numbers.items() if row == [0, 1]] == ["uts"]


def test_no_such_process() -> None:
    one = subprocess.Popen(["true"])
    one.wait()
    with pytest.raises(ContainerError, match=f"process {one.pid}: No such file"):
        figures.namespace_figure({"gone": one.pid})


# ── what is mounted ──────────────────────────────────────────────────────────────────────────────────

MOUNTINFO = """\
20 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
21 20 0:5 / /dev rw - devtmpfs none rw
22 20 0:6 / /my\\040disk ro,relatime master:3 shared:9 - tmpfs none ro
23 21 0:7 / /dev/pts rw master:4 - devpts devpts rw
24 20 0:8 / /lock rw unbindable - tmpfs none rw
"""


def test_mountinfo_is_parsed() -> None:
    found = {mount.point: mount for mount in figures.mounts(MOUNTINFO)}
    assert [mount.propagation for mount in found.values()] == [
        "shared", "private", "shared and slave", "slave", "unbindable"]
    assert found["/my disk"].readonly
    assert not found["/"].readonly
    assert found["/dev/pts"].parent == found["/dev"].id


def states(before: str, after: str) -> tuple[dict[str, str], dict[str, str]]:
    old, new = figures.mounts(before), figures.mounts(after)
    was, now = figures.compare(old, new)
    return {m.point: was[m.id] for m in old}, {m.point: now[m.id] for m in new}


def test_nothing_has_changed() -> None:
    was, now = states(MOUNTINFO, MOUNTINFO)
    assert {*was.values(), *now.values()} == {"same"}
    assert figures.mount_tree(MOUNTINFO, MOUNTINFO).words == "Nothing has changed."


def test_other_mount_ids_are_the_same_mounts() -> None:
    """A new mount namespace numbers its copies anew."""
    renumbered = re.sub(r"^(\d+) (\d+)", lambda m: f"5{m[1]} 5{m[2]}", MOUNTINFO, flags=re.M)
    assert {*states(MOUNTINFO, renumbered)[1].values()} == {"same"}


def test_propagation_is_a_change() -> None:
    was, now = states(MOUNTINFO, MOUNTINFO.replace(" shared:1", ""))
    assert was["/"] == now["/"] == "changed"
    assert was["/dev"] == "same"
    assert "~ /  ext4, shared -> ext4, private" in figures.mount_tree(
        MOUNTINFO, MOUNTINFO.replace(" shared:1", "")).words


def test_what_hung_on_a_mount_that_is_gone_is_gone() -> None:
    was, now = states(MOUNTINFO, MOUNTINFO.replace("0:5", "0:55"))  # another file system on /dev
    assert was == {"/": "same", "/dev": "gone", "/my disk": "same", "/dev/pts": "gone", "/lock": "same"}
    assert now["/dev/pts"] == "appeared"


def test_the_same_mounted_twice_is_two_mounts() -> None:
    twice = MOUNTINFO + "30 21 0:7 / /dev/pts rw master:4 - devpts devpts rw\n"
    old, new = figures.mounts(MOUNTINFO), figures.mounts(twice)
    assert list(figures.compare(old, new)[1].values()).count("appeared") == 1


@needs_userns
def test_a_real_mount_appears_and_the_copy_is_private(unshare: Unshare) -> None:
    before = figures.mountinfo()
    after = figures.mountinfo(unshare(*ALONE, "--mount", then="mount -t tmpfs tmpfs /mnt &&"))
    was, now = states(before, after)
    assert [point for point, state in now.items() if state == "appeared"] == ["/mnt"]
    assert "gone" not in was.values()
    drawn = figures.mount_tree(before, after)
    assert "+ /mnt  tmpfs, private" in drawn.words.splitlines()
    assert ">+</text>" in drawn.svg
    assert ">−</text>" not in drawn.svg


def test_many_mounts_are_counted_and_news_come_first() -> None:
    many = MOUNTINFO + "".join(f"{100 + n} 20 0:{100 + n} / /a{n:02} rw - tmpfs x rw\n" for n in range(30))
    more = many + "200 20 0:200 / /zzz rw - tmpfs x rw\n"
    new = figures.mounts(more)
    rows = figures.Tree(new, figures.compare(figures.mounts(many), new)[1]).rows()
    assert (1, "/zzz", "tmpfs, private", "appeared") in rows
    assert len(rows) == 1 + 9
    hidden = int(re.findall(r"… (\d+) more", rows[-1][1])[0])
    below = sum(int(found[0]) for row in rows[1:-1] if (found := re.findall(r"and (\d+) on it", row[1])))
    assert len(rows) - 1 + hidden + below == len(new)


# ── the numbers of a process ─────────────────────────────────────────────────────────────────────────

ROWS = [(0, 1000, 10), (10, 5000, 5)]


@pytest.mark.parametrize(("inside", "outside"), [(0, 1000), (9, 1009), (10, 5000), (14, 5004), (15, None)])
def test_an_id_is_translated(inside: int, outside: int | None) -> None:
    assert figures.outwards(ROWS, inside) == outside
    assert outside is None or figures.inwards(ROWS, outside) == inside


def test_an_id_that_does_not_exist_inside() -> None:
    assert figures.inwards(ROWS, 0) is None


@needs_userns
def test_the_numbers_of_a_process_in_namespaces_of_its_own(unshare: Unshare,
                                                          monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MYCONTAINER_LAB", raising=False)
    pid = unshare(*ALONE, *FORK)
    found = figures.numbers(pid)
    assert found.command == "sleep"
    assert [(user, number) for _, user, number in found.levels[-2:]] == [(os.geteuid(), pid), (0, 1)]
    assert "in the container" in figures.three_numbers(pid).words


def test_a_process_in_our_own_namespaces_has_one_number_on_both_sides() -> None:
    here, inside = figures.numbers("self").levels[-2:]
    assert here[1:] == inside[1:]


def test_in_a_lab_the_host_id_is_what_the_launcher_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MYCONTAINER_LAB", "1")
    monkeypatch.setenv("MYCONTAINER_LAB_UID_MAP", "0 524288 1000\n1000 900000 10")
    assert figures.on_the_host(3) == 524291
    assert figures.on_the_host(1001) == 900001
    monkeypatch.delenv("MYCONTAINER_LAB_UID_MAP")
    assert figures.on_the_host(3) is None  # and not a guess


@needs_userns
def test_the_tree_shows_a_pid_inside(unshare: Unshare) -> None:
    pid = unshare(*ALONE, *FORK)
    one = next(one for one in figures.processes() if one.pid == pid)
    assert one.pids == (*one.pids[:-1], 1)
    assert one.pids[0] == pid
    drawn = figures.process_tree(top=pid)
    assert drawn.words == "sleep"
    assert ">B</text>" in drawn.svg  # A is ours
    assert ">1</text>" in drawn.svg


# ── to be read ───────────────────────────────────────────────────────────────────────────────────────

def all_figures() -> list[style.Figure]:
    hostile = '<script>alert("1")</script> & more'
    info = figures.mountinfo()
    return [figures.namespace_figure({hostile: "self"}), figures.three_numbers("self"),
            figures.process_tree(), figures.mount_tree(info),
            figures.mount_tree(info, MOUNTINFO, title=hostile)]


@pytest.mark.parametrize("number", range(5))
def test_a_figure_is_well_formed_and_has_words(number: int) -> None:
    drawn = all_figures()[number]
    svg = ET.fromstring(drawn.svg)
    assert svg.get("role") == "img"
    assert svg.get("aria-label") == drawn.title
    assert svg.findtext("{http://www.w3.org/2000/svg}title") == drawn.title
    assert "<script" not in drawn.svg
    assert "http" not in drawn.svg.replace("http://www.w3.org/2000/svg", "")
    bundle = drawn._repr_mimebundle_()
    assert bundle["text/plain"] == str(drawn)
    image = ET.fromstring(bundle["text/html"].replace('">', '"/>'))
    assert drawn.title in (image.get("alt") or "")


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb, as WCAG 2 defines it."""
    parts = [int(colour[at:at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    """Contrast ratio, as WCAG 2 defines it: 4.5 is enough for text."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_text_stands_out_from_its_ground() -> None:
    grounds = [fill for fill, _ in style.SWATCHES]
    pairs = [(style.INK, ground) for ground in grounds] + [(style.FAINT, style.CARD)]
    pairs += [(ink, ground or style.CARD) for _, ink, ground in style.CHANGES.values()]
    assert [pair for pair in pairs if contrast(*pair) < 4.5] == []


def test_no_two_swatches_have_the_same_pattern() -> None:
    """On grey paper the pattern tells them apart, and so does the letter."""
    assert [(a, b) for a, b in combinations(style.SWATCHES, 2) if a[1] == b[1] or a[0] == b[0]] == []
    assert [style.letter(n) for n in (0, 1, 25, 26, 27)] == ["A", "B", "Z", "AA", "AB"]
