"""The dissolving container and the other widgets, in a kernel of the lab, where they are at home."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("jupyter_client", reason="needs the Python module jupyter_client")
pytest.importorskip("ipywidgets", reason="needs the Python module ipywidgets")

from lab_kernel import Kernel, kernel, wait_until_gone
from mycontainer.images import base
from mycontainer.lab.dissolve import PLAIN, VIEWS, WALLS, Dissolved
from needs import needs_lab, needs_tool, needs_userns

pytestmark = needs_lab
NAMESPACES = [wall for wall in WALLS if wall != "root"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data directory with the base image."""
    path = tmp_path_factory.mktemp("home")
    base.build(path / "images" / "busybox.tar")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MYCONTAINER_HOME", str(path))
        yield path


@pytest.fixture(scope="module")
def lab(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    directory = tmp_path_factory.mktemp("widgets")
    with kernel(directory, directory) as one:
        one.run("""
import os
from mycontainer import lab, namespaces
from mycontainer.lab import widgets
from mycontainer.lab.dissolve import WALLS
def facts(seen):
    return {"without": seen.without, "own": seen.own, "views": seen.views, "outside": seen.outside,
            "error": seen.error, "text": str(seen)}
""")
        yield one


def seen(lab: Kernel, without: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = lab.value(f"facts(lab.dissolve(without={without!r}))")
    return found


# ── the dissolving container ─────────────────────────────────────────────────────────────────────────

def test_the_whole_container_shares_nothing(lab: Kernel) -> None:
    found = seen(lab, [])
    assert found["error"] == ""
    assert found["own"] == dict.fromkeys(WALLS, True)
    views = found["views"]
    assert [line.split()[::2] for line in views["pid"][1:]] == [["1", "sh"], ["2", "ps"]]
    assert views["uts"] == ["container"]
    assert views["user"][0].startswith("uid=0(root) gid=0(root)")
    assert views["ipc"] == ["shmid size"]
    assert not [line for line in views["net"] if "listens" in line]
    assert "work" not in views["root"]
    assert set(base.DIRECTORIES) > set(views["root"]) > {"bin", "etc", "proc"}


@pytest.mark.parametrize("wall", WALLS)
def test_without_one_wall_just_that_is_shared(lab: Kernel, wall: str) -> None:
    found = seen(lab, [wall])
    assert found["own"] == {one: one != wall for one in WALLS}
    assert f"{wall:<8}SHARED   {WALLS[wall]}" in found["text"].splitlines()
    assert found["text"].count("SHARED") == 1


@pytest.mark.parametrize("kind", NAMESPACES)
def test_the_inode_says_so_too(lab: Kernel, kind: str) -> None:
    """Not by our own comparison: the link of a container that runs, beside the kernel's own."""
    theirs, ours = lab.value(f"""
def links(pid):
    return {{kind: os.readlink(f'/proc/{{pid}}/ns/{{kind}}') for kind in {NAMESPACES!r}}}
with lab.Specimen(without=[{kind!r}]) as one:
    both = [links(one.pid), links("self")]
both""")
    assert [one for one in NAMESPACES if theirs[one] == ours[one]] == [kind]


def test_what_leaks_without_pid(lab: Kernel) -> None:
    """The kernel itself is among what ps shows."""
    kernels = [str(lab.value("os.getpid()")), lab.value("open('/proc/self/comm').read().strip()")]
    assert kernels in [line.split()[::2] for line in seen(lab, ["pid"])["views"]["pid"]]
    assert kernels not in [line.split()[::2] for line in seen(lab, [])["views"]["pid"]]


def test_what_leaks_without_uts_ipc_net(lab: Kernel) -> None:
    views = seen(lab, ["uts", "ipc", "net"])["views"]
    assert views["uts"] == [lab.value("os.uname().nodename")] != ["container"]
    assert len(views["ipc"]) == 2
    assert views["ipc"][1].endswith(" 4096")
    assert [line for line in views["net"] if line.startswith("listens: 127.0.0.1:")]


def test_what_leaks_without_root(lab: Kernel) -> None:
    here = lab.value("sorted(name for name in os.listdir('/') if not name.startswith('.'))")
    assert sorted(seen(lab, ["root"])["views"]["root"]) == here
    assert sorted(seen(lab, ["root", "pid"])["views"]["root"]) == here


def test_what_leaks_without_user(lab: Kernel) -> None:
    """Root inside is root outside; with the wall it is somebody else, where the lab has more than one id."""
    rows = lab.value("namespaces.own_ids()")
    without = seen(lab, ["user"])
    assert without["outside"]["user"] == 0
    assert [list(map(int, row.split())) for row in without["views"]["user"][1:]] == rows
    has_1000 = any(inside <= 1000 < inside + count for inside, _, count in rows)
    assert seen(lab, [])["outside"]["user"] == (1000 if has_1000 else 0)


def test_nothing_ticked_leaves_a_plain_process(lab: Kernel) -> None:
    found = lab.value("facts(lab.dissolve('all'))")
    assert found["own"] == dict.fromkeys(WALLS, False)
    assert found["text"].startswith("A plain process\n")
    assert found["text"].endswith(PLAIN)


def test_walls_that_lean_on_each_other(lab: Kernel) -> None:
    """Every mixture of those whose mounts or rights depend on another: each as it was asked for."""
    wrong = lab.value("""
from itertools import combinations
wrong = []
for many in range(5):
    for without in combinations(["root", "pid", "net", "user"], many):
        one = lab.dissolve(without)
        if one.error or {wall for wall, own in one.own.items() if not own} != set(without):
            wrong.append([without, one.error])
wrong""")
    assert wrong == []


def test_the_words_are_the_same_every_time(lab: Kernel) -> None:
    assert seen(lab, ["pid", "net"])["text"] == seen(lab, ["net", "pid"])["text"] == """\
A container without: pid, net

root    its own
pid     SHARED   It sees the notebook's processes.
uts     its own
ipc     its own
net     SHARED   Its network is the notebook's: same ports, same localhost.
user    its own
cgroup  its own"""


def test_the_kernel_stays_as_it_was(lab: Kernel) -> None:
    """No namespace of the kernel changes, no process is left below it, no descriptor, no shared memory."""
    look = ("[namespaces.identify(), sorted(filter(str.isdigit, os.listdir('/proc'))), "
            "len(os.listdir('/proc/self/fd')), open('/proc/sysvipc/shm').read(), "
            "open('/proc/self/mountinfo').read(), os.uname().nodename]")
    before = lab.value(look)
    seen(lab, [])
    seen(lab, list(WALLS))
    lab.run("lab.Specimen().close()")
    assert lab.value(look) == before


def test_a_name_that_is_no_wall(lab: Kernel) -> None:
    told = lab.value("""
try:
    lab.dissolve(without=["pid", "time"])
    told = ""
except ValueError as error:
    told = str(error)
told""")
    assert told.startswith("not a wall of a container: time (there are: root, pid,")


def test_a_refusal_is_a_sentence(lab: Kernel) -> None:
    lab.run("os.environ['MYCONTAINER_HOME'] = '/nowhere'")
    try:
        found = seen(lab, [])
        shown = lab.value("widgets.render(lab.dissolve(), lab.dissolve())")
        refused = lab.value("""
try:
    lab.Specimen()
    told = ""
except Exception as error:
    told = f"{type(error).__name__}: {error}"
told""")
    finally:
        lab.run("del os.environ['MYCONTAINER_HOME']")
    assert found["error"].startswith("It could not be started: no such image: busybox.")
    assert "Traceback" not in found["text"] + shown + refused
    assert "no such image" in shown
    assert refused.startswith("ContainerError: cannot start a container: no such image: busybox")


@needs_userns
@needs_tool("unshare", "util-linux")
def test_in_a_lab_with_a_single_id(home: Path) -> None:
    code = "from mycontainer import lab; print(lab.dissolve()); print(lab.dissolve('all').leaks)"
    argv = ["unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "--mount-proc", "--net",
            "--kill-child", sys.executable, "-c", code]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout.count("its own") == len(WALLS)
    assert WALLS["root"] in done.stdout


@needs_userns
def test_a_specimen_ends_with_its_maker(home: Path) -> None:
    code = ("from mycontainer import lab; import sys, time; one = lab.Specimen(); "
            "print(one.pid, flush=True); time.sleep(60)")
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as maker:
        assert maker.stdout
        pid = int(maker.stdout.readline())
        assert Path(f"/proc/{pid}/comm").read_text() == "sleep\n"
        maker.send_signal(signal.SIGKILL)
    assert wait_until_gone([pid]) == []


# ── the widgets ──────────────────────────────────────────────────────────────────────────────────────

def test_each_box_changes_what_is_shown(lab: Kernel) -> None:
    shown = lab.value("""
widget = lab.dissolving_container()
boxes, shown = widget.parts["boxes"], widget.parts["shown"]
texts = [shown.value]
for wall, box in boxes.items():
    box.value = False
    texts.append(shown.value)
    box.value = True
widget.parts["set_all"](False)
[*texts, shown.value, str(widget)]""")
    whole, *dissolved, plain, words = shown
    assert whole.count("✓ its own") == len(WALLS)
    assert "◆" not in whole
    for wall, text in zip(WALLS, dissolved, strict=True):
        assert text.count("◆ shared") == 1
        assert text.count("✓ its own") == len(WALLS) - 1
        assert f"A container without: {wall}<" in text
    assert plain.count("◆ shared") == len(WALLS)
    assert PLAIN in plain
    assert words.startswith("A plain process")


def test_the_widget_says_it_in_words_too(lab: Kernel) -> None:
    bundle = lab.value("lab.dissolving_container()._repr_mimebundle_()")
    assert bundle["text/plain"].startswith("A container, whole\n\nroot    its own")
    assert "application/vnd.jupyter.widget-view+json" in bundle


WHOLE = Dissolved((), dict.fromkeys(WALLS, True), {wall: [] for wall in VIEWS}, {"pid": 7, "user": 1000})


def test_marked_is_only_what_the_whole_container_does_not_show() -> None:
    from mycontainer.lab import widgets

    whole = Dissolved((), WHOLE.own, {**WHOLE.views, "pid": ["PID USER COMMAND", "1 root sh"]}, WHOLE.outside)
    leaky = Dissolved(("pid",), {**WHOLE.own, "pid": False},
                      {**WHOLE.views, "pid": ["PID USER COMMAND", "2 root python<b>", "9 root sh"],
                       "uts": ["other<i>"]}, WHOLE.outside)
    text = widgets.render(leaky, whole)
    assert '<span class="new">◆ 2 root python&lt;b&gt;</span>' in text
    assert "other&lt;i&gt;" in text
    assert text.count('class="new"') == 1  # neither the heading, nor sh, nor what is not shared


@pytest.mark.parametrize(("count", "last"), [(7, "line 6"), (8, "line 7"), (9, "… 2 more")])
def test_never_one_more(count: int, last: str) -> None:
    from mycontainer.lab import widgets

    lines = widgets.first_lines([f"line {number}" for number in range(count)]).splitlines()
    assert last in lines[-1]
    assert len(lines) <= 8


def test_the_explorer_finds_the_container_that_it_starts(lab: Kernel) -> None:
    first, running, detail, ended, words = lab.value("""
explorer = lab.namespace_explorer()
listing, toggle = explorer.parts["listing"], explorer.parts["toggle"]
first = [listing.value == os.getpid(), [pid for _, pid in listing.options], toggle.description]
toggle.click()
running = [listing.value, [pid for _, pid in listing.options], toggle.description]
detail = explorer.parts["detail"].value
words = str(explorer)
toggle.click()
[first, running, detail, [pid for _, pid in listing.options], words]""")
    assert first[0]
    assert first[2] == "start a container"
    assert running[0] in running[1]
    assert running[0] not in first[1]
    assert running[2] == "end the container"
    assert f"{running[0]} → 1" in detail
    assert "Three numbers, one process" in detail
    assert detail.count("nobody else") >= 1  # its PID namespace; the runner is in the others
    assert running[0] not in ended
    assert next(line for line in words.splitlines() if line.startswith("sleep")).split()[-8:] == [
        "B", "B", "B", "B", "B", "B", "B", "A"]  # all but time


def test_a_process_that_has_ended_is_said_to_have(lab: Kernel) -> None:
    assert "that process has ended" in lab.value("widgets.describe([], 4711)")


def test_the_doctor_tells_a_cure_only_where_it_fails() -> None:
    from mycontainer.lab import widgets
    from mycontainer.lab.doctor import Finding

    findings = [Finding(0, "a <need>", True, "fine", "not this"),
                Finding(1, "b", False, "refused", "do & mend"), Finding(2, "c", None, "can do without", "")]
    text = widgets.diagnosis(findings)
    assert "a &lt;need&gt;" in text
    assert "not this" not in text
    assert "<code>do &amp; mend</code>" in text
    assert [text.count(mark) for mark in ("✓ works", "✗ does not work", "– not here")] == [1, 1, 1]
    assert "do & mend" in widgets.prescription(findings)


def test_the_doctor_says_first_what_it_means_and_folds_what_is_for_later(
        monkeypatch: pytest.MonkeyPatch) -> None:
    from mycontainer.lab import widgets
    from mycontainer.lab.doctor import Finding

    findings = [Finding(0, "air", True, "fresh", ""), Finding(7, "water", False, "none", "rain"),
                Finding(9, "fire", True, "hot", "")]
    monkeypatch.setenv("MYCONTAINER_LAB", "1")
    text = widgets.diagnosis(findings)
    places = [text.index(words) for words in ("Chapters 0 to 6 and 10 can be done here.",
                                              "a terminal outside of it", "air",
                                              "<summary>Later chapters: 1 of 2", "water", "fire")]
    assert places == sorted(places)
    assert widgets.prescription(findings).startswith("Chapters 0 to 6 and 10 can be done here.\nThis was")
    monkeypatch.delenv("MYCONTAINER_LAB")
    broken = widgets.diagnosis([Finding(1, "air", False, "none", "open a window")])
    assert 'class="bad">✗ Chapters 0 to 6 and 10 cannot be done here yet' in broken
    assert "outside" not in broken
    assert "<details>" not in broken


def test_the_doctor_examines_from_the_kernel(lab: Kernel) -> None:
    assert "✓ works" in json.dumps(lab.value("lab.doctor_widget().parts['shown'].value"), ensure_ascii=False)
