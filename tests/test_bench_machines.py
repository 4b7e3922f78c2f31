"""Virtual machines: what boots says so, what does not cannot pass for it, and nothing of either stays.

The guest of busybox really boots here, with Debian's cloud kernel, fetched once into .cache. The Debian with
systemd is for `make soak`, where it is prepared.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mycontainer import paths
from mycontainer.bench import accel, debian, guest, kernel, machines, qemu
from mycontainer.bench.kernel import Kernel
from mycontainer.bench.prepare import beside, prepare
from mycontainer.bench.qemu import KVM, TCG, Accelerator
from mycontainer.bench.subject import Missing, NotReady, Task, hello, page, sleeper
from mycontainer.bench.vm import Machine
from mycontainer.errors import ContainerError
from mycontainer.images.base import find_static_busybox
from mycontainer.lab import launcher, sandbox
from needs import needs_tool

CACHE = Path(__file__).parents[1] / ".cache" / "bench"
DEADLINE = 100.0  # seconds; two when nobody else is here
needs_mke2fs = pytest.mark.skipif(not shutil.which("mke2fs", path=f"{os.environ['PATH']}:/usr/sbin:/sbin"),
                                  reason="needs mke2fs (Debian package e2fsprogs)")
EMULATED = Accelerator(TCG, qemu.here().machine)


@pytest.fixture(scope="session")
def prepared() -> Kernel:
    """A kernel and an initramfs of this project's own, kept between runs."""
    old = os.environ.get("MYCONTAINER_HOME")
    os.environ["MYCONTAINER_HOME"] = str(CACHE)
    try:
        prepare(lambda text: None, ["micro"])
        found = kernel.find()
    except ContainerError as error:
        pytest.skip(f"needs a kernel: {error}")
    finally:
        os.environ.pop("MYCONTAINER_HOME")
        if old is not None:
            os.environ["MYCONTAINER_HOME"] = old
    assert found
    return found


@pytest.fixture
def micro(prepared: Kernel, monkeypatch: pytest.MonkeyPatch) -> machines.Micro:
    """The smallest machine, emulated: the same on every machine that runs this test."""
    monkeypatch.setenv("MYCONTAINER_HOME", str(CACHE))
    monkeypatch.setattr(accel, "find", lambda found: EMULATED)
    subject = machines.Micro()
    if missing := subject.available():
        pytest.skip(f"needs a virtual machine: {missing.reason}")
    return subject


@pytest.fixture
def start() -> Iterator[Callable[..., Machine]]:
    """Machines that are stopped when the test is over, whatever became of it."""
    started: list[Machine] = []

    def begin(how: Callable[..., Machine], *arguments: object) -> Machine:
        started.append(how(*arguments))
        return started[-1]
    yield begin
    for machine in started:
        machine.stop()


def lives(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def await_end(*pids: int) -> None:
    end = time.monotonic() + 20
    while left := [pid for pid in pids if lives(pid)]:
        assert time.monotonic() < end, f"still there: {left}"
        time.sleep(0.01)


# ---- the guest that boots ------------------------------------------------------------------------------


def test_the_smallest_machine_boots_and_tells_where_its_time_went(
        micro: machines.Micro, start: Callable[..., Machine]) -> None:
    machine = start(micro.start, sleeper())
    moment = machine.ready(DEADLINE)
    names, times = zip(*machine.marks(), strict=True)
    assert names == ("kernel", "init", "service")
    assert list(times) == sorted(times)
    assert 0 < times[0] < times[-1] <= moment / 1e9 < DEADLINE  # firmware takes time, and so does a kernel
    [pid] = machine.pids()
    assert "qemu-system" in Path(f"/proc/{pid}/cmdline").read_text()
    assert 50 << 20 < machine.memory().pss < 1 << 30  # a kernel of its own is not to be had for less
    machine.stop()
    assert not lives(pid)
    assert machine.pids() == set()
    machine.stop()  # twice is fine


def test_its_page_is_served_to_this_machine(micro: machines.Micro, start: Callable[..., Machine]) -> None:
    task = page()
    machine = start(micro.start, task)
    moment = machine.ready(DEADLINE)
    assert [name for name, _ in machine.marks()] == ["kernel", "init", "network", "service"]
    assert machine.marks()[1][1] < moment / 1e9
    listening = [row.split()[1:4] for row in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ours = {place for place, _, state in listening if place.endswith(f":{task.port:04X}") and state == "0A"}
    assert ours == {f"0100007F:{task.port:04X}"}  # 127.0.0.1, and nowhere else


def test_a_machine_that_fails_is_told_from_one_that_works(
        micro: machines.Micro, start: Callable[..., Machine]) -> None:
    crash = Task(("sh", "-c", "busybox echo c >/proc/sysrq-trigger"), "token")
    other = hello()._replace(token="what nobody says")
    panics, differs = start(micro.start, crash), start(micro.start, other)  # two at once, of the same files
    with pytest.raises(NotReady, match=r"Kernel panic.*sysrq"):
        panics.ready(DEADLINE)
    with pytest.raises(NotReady, match=f"ended without its token: {other.argv[-1]}"):
        differs.ready(DEADLINE)


def test_a_command_reaches_the_guest_as_it_is(micro: machines.Micro, start: Callable[..., Machine]) -> None:
    words = """it's "quoted" $HOME `id` back\\slash %d tab\tend -- a=b"""
    machine = start(micro.start, Task(("busybox", "printf", "%s\\n", words), words))
    machine.ready(DEADLINE)


def test_one_that_takes_too_long_says_how_far_it_got(
        micro: machines.Micro, start: Callable[..., Machine]) -> None:
    machine = start(micro.start, hello())
    with pytest.raises(NotReady, match=r"no token within 0\.1 s: nothing came"):
        machine.ready(0.1)


BEGIN = """\
import sys, time
from mycontainer.bench import debian, machines, accel, qemu
from mycontainer.bench.subject import sleeper
from pathlib import Path
accel.find = lambda kernel: qemu.Accelerator(qemu.TCG, qemu.here().machine)
debian.path = lambda: Path(sys.argv[1])
argv = qemu.argv
qemu.argv = lambda *given: [*argv(*given), "-S"]  # its processor stands still: it will not end by itself
print(machines.Web().start(sleeper()).process.pid, flush=True)
time.sleep(1000)
"""


def test_killing_the_benchmark_leaves_no_machine_and_no_file(micro: machines.Micro, tmp_path: Path) -> None:
    disk, place = tmp_path / "disk", tmp_path / "place"
    disk.write_bytes(bytes(1 << 20))
    place.mkdir()
    before = disk.stat().st_mtime_ns
    runner = subprocess.Popen([sys.executable, "-c", BEGIN, str(disk)], stdout=subprocess.PIPE, text=True,
                              env={**os.environ, "MYCONTAINER_HOME": str(CACHE), "TMPDIR": str(place)})
    try:
        assert runner.stdout
        pid = int(runner.stdout.readline())
        end = time.monotonic() + 20
        while not re.search(rf"{place}/\S+ \(deleted\)", opened(pid)):  # changes to the disk: without a name
            assert lives(pid)
            assert time.monotonic() < end, opened(pid)
            time.sleep(0.01)
        assert list(place.iterdir()) == []
    finally:
        runner.send_signal(signal.SIGKILL)
        runner.communicate()
    await_end(pid)
    assert list(place.iterdir()) == []
    assert disk.stat().st_mtime_ns == before


def opened(pid: int) -> str:
    names = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            names.append(os.readlink(entry))
        except FileNotFoundError:
            continue
    return " ".join(names)


# ---- what is said on a serial port ---------------------------------------------------------------------


def says(text: str, then: str = "exec sleep 100") -> list[str]:
    return ["sh", "-c", 'printf "%b" "$1"; eval "$2"', "sh", text, then]


def test_a_token_is_a_line_and_not_a_part_of_one(start: Callable[..., Machine]) -> None:
    task = Task(("x",), "abcd")
    with pytest.raises(NotReady, match=r"no token within 0\.3 s: echo abcd"):
        start(Machine, says("echo abcd\\r\\n"), task).ready(0.3)
    with pytest.raises(NotReady, match="the machine ended: xabcd"):
        start(Machine, says("xabcd\\n", ""), task).ready(5)
    with pytest.raises(NotReady, match="no token"):
        start(Machine, says("abc", "sleep 0.1; printf e; exec sleep 9"), task).ready(0.5)
    said = says("noise\\n", "printf ab; sleep 0.1; printf 'cd\\r\\n'; exec sleep 9")
    assert start(Machine, said, task).ready(5)


def test_the_moment_is_that_of_the_token(start: Callable[..., Machine]) -> None:
    machine = start(Machine, says("", "sleep 0.3; echo abcd; exec sleep 9"), Task(("x",), "abcd"))
    assert 0.25e9 < machine.ready(5) < 1.2e9


def test_marks_begin_with_the_guests_own_clock(start: Callable[..., Machine]) -> None:
    said = says("", "sleep 0.4; echo mark init 0.15; sleep 0.2; echo mark service 0.35; echo t")
    machine = start(Machine, said, Task(("x",), "t"))
    machine.ready(5)
    marks = dict(machine.marks())
    assert list(marks) == ["kernel", "init", "service"]
    assert marks["init"] - marks["kernel"] == pytest.approx(0.15)
    assert marks["service"] - marks["init"] == pytest.approx(0.2, abs=0.15)


# ---- whether KVM works ---------------------------------------------------------------------------------


@pytest.fixture
def broken_kvm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Kernel]:
    """A machine with /dev/kvm and a QEMU that does ``what`` with it, and nothing remembered."""
    monkeypatch.setenv("MYCONTAINER_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setattr(accel, "DEVICE", os.devnull)
    monkeypatch.setattr(accel, "DEADLINE", 0.5)
    monkeypatch.setattr(qemu, "version", lambda: "7.2")

    def make(what: str) -> Kernel:
        program = tmp_path / "bin" / qemu.here().program
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\necho started >>{tmp_path}/starts\n{what}\n")
        program.chmod(0o755)
        (tmp_path / "bench/machines").mkdir(parents=True, exist_ok=True)
        return Kernel("6.1", "/boot/vmlinuz", (), "linux-image")
    return make


@needs_tool("setpriv", "util-linux")
@pytest.mark.parametrize(("what", "why"), [
    ("exec sleep 100", "no token within 0.5 s"), ("echo 'kvm: failed' >&2; exit 134", "kvm: failed")])
def test_a_kvm_that_boots_nothing_is_not_used_and_asked_once_a_boot(
        what: str, why: str, broken_kvm: Callable[[str], Kernel], tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch) -> None:
    found = accel.find(broken_kvm(what))
    assert (found.name, found.machine) == (TCG, qemu.here().machine)
    assert why in found.why
    assert any("TCG" in text for text in accel.differences(found))
    starts = (tmp_path / "starts").read_text()
    assert accel.find(broken_kvm(what)) == found
    assert (tmp_path / "starts").read_text() == starts  # remembered
    monkeypatch.setattr(accel, "_boot_id", lambda: "another boot")
    accel.find(broken_kvm(what))
    assert len((tmp_path / "starts").read_text()) > len(starts)


@needs_tool("setpriv", "util-linux")
def test_a_kvm_that_brings_out_the_token_is_used(broken_kvm: Callable[[str], Kernel]) -> None:
    # It finds the token where a guest does: on the kernel's command line.
    answer = r"""echo "$*" | sed "s/.*-accel kvm.*'echo' '\([0-9a-f]*\)'.*/\1/"; exec sleep 9"""
    found = accel.find(broken_kvm(answer))
    assert found.name == KVM
    assert accel.differences(found) == ("its processor: KVM",)


def test_without_a_device_nothing_is_started(broken_kvm: Callable[[str], Kernel], tmp_path: Path,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accel, "DEVICE", str(tmp_path / "kvm"))
    assert "no " in accel.find(broken_kvm("exit 1")).why
    (tmp_path / "kvm").touch(mode=0)
    if os.geteuid():
        assert "group kvm" in accel.find(broken_kvm("exit 1")).why
    assert not (tmp_path / "starts").exists()


# ---- the initramfs -------------------------------------------------------------------------------------


@pytest.fixture
def unreal(tmp_path: Path) -> Kernel:
    """A kernel that nobody boots, with one module."""
    if not find_static_busybox():
        pytest.skip("needs a static busybox (Debian package busybox-static)")
    (tmp_path / "00-virtio.ko").write_bytes(b"\x7fELF")
    return Kernel("6.1", "/boot/vmlinuz", (str(tmp_path / "00-virtio.ko"),), "linux-image")


def test_two_builds_are_the_same_to_the_byte(unreal: Kernel, tmp_path: Path,
                                             monkeypatch: pytest.MonkeyPatch) -> None:
    built = []
    for name, mask, epoch in (("one", 0o022, "0"), ("other", 0o077, "1700000000")):
        monkeypatch.setenv("MYCONTAINER_HOME", str(tmp_path / name))
        monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
        old = os.umask(mask)
        try:
            path = guest.initramfs(unreal)
        finally:
            os.umask(old)
        built.append(path.read_bytes())
        assert path.stat().st_mode & 0o777 == 0o644
        assert path.parent.stat().st_mode & 0o777 == 0o755
    assert built[0] == built[1]


def test_busybox_reads_the_archive_as_it_was_meant(unreal: Kernel) -> None:
    busybox = find_static_busybox()
    assert busybox
    rows = subprocess.run([busybox, "cpio", "-tv"], input=guest.cpio(guest.tree(unreal)), capture_output=True,
                          check=True).stdout.decode().splitlines()
    modes = {row.split()[-1] if " -> " not in row else row.split()[-3]: row.split()[0] for row in rows}
    assert modes["init"] == "-rwxr-xr-x"
    assert modes["bin/sh"][0] == "l"
    assert modes["dev/console"][0] == "c"
    assert set(modes) >= {"modules", "modules/00-virtio.ko", "etc/fstab", "proc", "bin/busybox"}


def test_one_made_by_an_older_version_is_made_again(unreal: Kernel, tmp_path: Path,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MYCONTAINER_HOME", str(tmp_path))
    right = guest.initramfs(unreal).read_bytes()
    guest.initramfs_path(unreal).write_bytes(right[:-4096])
    assert guest.initramfs(unreal).read_bytes() == right


def test_a_task_that_the_kernel_would_cut_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit"):
        guest.command_line(Task(("busybox", "echo", "x" * 2048), "x"), "ttyS0")


# ---- what is prepared ----------------------------------------------------------------------------------


def module(name: str, *needs: str) -> bytes:
    return b"\x7fELF\0name=" + name.encode() + b"\0depends=" + ",".join(needs).encode() + b"\0"


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An apt that has a kernel in the directory that this returns, and knows no network."""
    if not shutil.which("dpkg-deb"):
        pytest.skip("needs dpkg-deb")
    monkeypatch.setenv("MYCONTAINER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)  # where it is, is asked anew
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    tree = tmp_path / "tree"
    library = tree / "lib/modules/6.1-cloud/kernel"
    library.mkdir(parents=True)
    (tree / "boot").mkdir()
    (tree / "DEBIAN").mkdir()
    (tree / "boot/vmlinuz-6.1-cloud").write_bytes(b"a kernel")
    for name, needs in (("virtio_net", ["virtio", "net-failover"]), ("virtio", ["virtio_ring"]),
                        ("virtio-ring", []), ("net_failover", []), ("virtio_pci", ["virtio"]), ("snd", [])):
        (library / f"{name}.ko").write_bytes(module(name, *needs))
    (tree / "DEBIAN/control").write_text("Package: linux-image-6.1-cloud\nVersion: 1\nArchitecture: all\n"
                                         "Maintainer: nobody <nobody@example.org>\nDescription: none\n")
    subprocess.run(["dpkg-deb", "--build", "--root-owner-group", str(tree), str(tmp_path / "kernel.deb")],
                   check=True, capture_output=True)
    put(tmp_path, "apt-cache", """case "$1" in search) echo "found";; show) echo "Size: 5242880";;
                                  depends) echo "  Depends: linux-image-6.1-cloud";; esac""")
    put(tmp_path, "apt-get", f'cp {tmp_path}/kernel.deb linux-image-6.1-cloud_1_all.deb')
    monkeypatch.setattr(qemu, "missing", lambda: None)
    return tmp_path


def put(place: Path, name: str, script: str) -> None:
    path = place / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def ready_made() -> list[str]:
    home = Path(paths.data_dir())
    return sorted(str(path.relative_to(home)) for path in home.rglob("*")
                  if path.is_file() and path.name != ".lock")


def test_a_kernel_is_unpacked_with_the_modules_a_guest_needs(apt: Path) -> None:
    told: list[str] = []
    prepare(told.append, ["micro"])
    found = kernel.find()
    assert found
    assert (found.release, found.package) == ("6.1-cloud", "linux-image-6.1-cloud")
    assert Path(found.image).read_bytes() == b"a kernel"
    names = [re.sub(r"^\d\d-|\.ko$", "", Path(one).name).replace("-", "_") for one in found.modules]
    assert sorted(names) == ["net_failover", "virtio", "virtio_net", "virtio_pci", "virtio_ring"]  # no sound
    for later, before in (("virtio", "virtio_ring"), ("virtio_net", "net_failover"),
                          ("virtio_pci", "virtio")):
        assert names.index(before) < names.index(later)
    assert any("linux-image-6.1-cloud, 5 MB" in text for text in told)  # what is fetched, and how large
    put(apt, "apt-get", "exit 1")
    prepare(told.append, ["micro"])  # nothing is fetched again
    assert "here already" in told[-2]


def test_a_packed_module_is_unpacked(tmp_path: Path) -> None:
    import lzma

    (tmp_path / "virtio.ko.xz").write_bytes(lzma.compress(module("virtio", "virtio_ring")))
    (tmp_path / "virtio_ring.ko.xz").write_bytes(lzma.compress(module("virtio_ring")))
    order = kernel.loading_order(tmp_path, ["virtio", "virtio_blk"])  # the last is built into this kernel
    assert [one.name for one in order] == ["virtio_ring.ko.xz", "virtio.ko.xz"]


@pytest.mark.parametrize(("name", "script", "reason", "hint"), [
    ("apt-get", "echo 'E: Failed to fetch http://deb' >&2; exit 100", "Failed to fetch", "network"),
    ("apt-cache", "exit 0", "no package linux-image-cloud", "apt-get update"),
    ("apt-get", "echo garbage >linux_1_all.deb", "dpkg-deb", ""),
])
def test_what_cannot_be_fetched_is_said_with_a_way_out(name: str, script: str, reason: str, hint: str,
                                                       apt: Path) -> None:
    put(apt, name, script)
    with pytest.raises(ContainerError) as failure:
        prepare(lambda text: None)
    assert reason in str(failure.value)
    assert hint in failure.value.hint
    assert ready_made() == []


def test_without_apt_or_qemu_it_says_what_brings_them(apt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(apt / "nothing"))
    with pytest.raises(ContainerError, match="apt-cache is not installed") as failure:
        prepare(lambda text: None)
    assert "Debian or Ubuntu" in failure.value.hint
    monkeypatch.undo()
    monkeypatch.setenv("PATH", str(apt / "nothing"))
    with pytest.raises(ContainerError, match=r"qemu-system-\w+ is not installed") as failure:
        prepare(lambda text: None)
    assert "qemu-system" in failure.value.hint
    with pytest.raises(ContainerError, match="cannot prepare windows"):
        prepare(lambda text: None, ["windows"])


PREPARE = """\
import sys
from mycontainer.bench import qemu
from mycontainer.bench.prepare import beside, prepare
qemu.missing = lambda: None
prepare(print, sys.argv[1:])
"""


LONG = f"100.{os.getpid()}"  # seconds, and whose


def asleep() -> list[int]:
    """By their command: a process in a PID namespace does not know its pid out here."""
    found = []
    for entry in filter(str.isdecimal, os.listdir("/proc")):
        try:
            if Path("/proc", entry, "cmdline").read_bytes() == f"sleep\0{LONG}\0".encode():
                found.append(int(entry))
        except OSError:
            continue
    return found


def kill_in_the_middle(apt: Path, name: str, work: str, *kinds: str) -> None:
    """kill -9 `prepare` while the program ``name`` is at work, and has written something."""
    whole = (apt / "bin" / name).read_text()
    put(apt, name, f"{work}\ntouch {apt}/at-work; exec sleep {LONG}")
    runner = subprocess.Popen([sys.executable, "-c", PREPARE, *kinds], stdout=subprocess.PIPE)
    end = time.monotonic() + 30
    while not (apt / "at-work").exists():
        assert runner.poll() is None, runner.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)
    runner.kill()
    runner.communicate()
    if name == "mmdebstrap":
        await_end(*asleep())  # with us
    else:
        for pid in asleep():  # a download that ends by itself
            os.kill(pid, signal.SIGKILL)
            await_end(pid)
    (apt / "bin" / name).write_text(whole)


def test_a_kernel_that_was_half_there_is_never_taken_for_one(apt: Path) -> None:
    kill_in_the_middle(apt, "apt-get", "echo half >linux-image-6.1-cloud_1_all.deb", "micro")
    assert kernel.find() is None
    prepare(lambda text: None, ["micro"])
    assert kernel.find()
    assert not (kernel.machines_dir() / ".part").exists()


def fake_mmdebstrap(apt: Path) -> None:
    """A Debian of three files, and an apt that says where it would come from."""
    tree = apt / "debian"
    (tree / "var/lib/dpkg").mkdir(parents=True)
    (tree / "var/lib/dpkg/status").write_text(
        "Package: systemd\nStatus: install ok installed\nVersion: 252.1\n\n"
        "Package: nginx-light\nStatus: install ok installed\nVersion: 1.22\n\n")
    wants = tree / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(parents=True)
    (wants / "nginx.service").symlink_to("/lib/systemd/system/nginx.service")
    origin = platform.freedesktop_os_release()["ID"].capitalize()
    put(apt, "apt-get", f'case "$1" in indextargets) echo "{origin}|http://deb/|bookworm|main|$(SIGNED_BY)"; '
                        f'echo "Google|http://google/|x|main|";; '
                        f'*) cp {apt}/kernel.deb linux-image-6.1-cloud_1_all.deb;; esac')
    put(apt, "apt-config", """echo 'Acquire::http::Proxy "http://proxy:3128";'""")
    put(apt, "mmdebstrap", f"""echo "$@" >{apt}/asked; for one; do case $one in *.tar) target=$one;;
        *.list) cat $one >>{apt}/asked;; esac; done
        tar -cf "$target" -C {tree} .""")


@needs_mke2fs
@needs_tool("unshare", "util-linux")
def test_a_disk_is_made_of_this_machines_own_sources(apt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_mmdebstrap(apt)
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:/usr/sbin:/sbin")
    if os.geteuid() and subprocess.run(["unshare", "--map-root-user", "--map-auto", "true"],
                                       capture_output=True).returncode:
        pytest.skip("needs subordinate ids, and a util-linux that maps them")
    prepare(lambda text: None, ["web"])
    assert debian.versions()["systemd"] == "252.1"
    asked = (apt / "asked").read_text()
    assert "http://deb/ bookworm main" in asked
    assert "google" not in asked  # third parties' packages have no business in there
    assert 'Acquire::http::Proxy "http://proxy:3128";' in asked
    look = [["debugfs", "-R", what, str(debian.path())] for what in (
        "cat /etc/hostname", "ls /etc/systemd/system/multi-user.target.wants", "stat /etc/hostname")]
    name, wants, owner = (subprocess.run(one, capture_output=True, text=True).stdout for one in look)
    assert name == "debian\n"
    assert "nginx" not in wants
    assert re.search(r"User:\s+0\s+Group:\s+0", owner)  # of root, whoever made it
    prepare(lambda text: None, ["debian"])  # the same disk


@needs_mke2fs
def test_a_disk_that_was_half_there_is_never_taken_for_one(apt: Path,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    fake_mmdebstrap(apt)
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:/usr/sbin:/sbin")
    kill_in_the_middle(apt, "mmdebstrap", 'echo half >"$TMPDIR/root.tar"', "debian")
    assert not debian.path().exists()
    assert list(apt.glob("prepare-mycontainer-*"))  # nobody was left to remove it ...
    put(apt, "mmdebstrap", "echo 'E: apt-get update failed: Could not connect to deb' >&2; exit 1")
    with pytest.raises(ContainerError, match="Could not connect") as failure:
        prepare(lambda text: None, ["debian"])
    assert "network" in failure.value.hint
    assert not debian.path().exists()
    assert not list(apt.glob("prepare-mycontainer-*"))  # ... but the next call does


def test_make_course_prepares_them_beside_and_once(apt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian, "missing", lambda: None)
    started: list[list[str]] = []
    monkeypatch.setattr(subprocess, "Popen", lambda argv, **how: started.append(argv))
    assert "90 MB to fetch" in beside()
    assert started[0][-2:] == ["bench", "prepare"]
    monkeypatch.setattr(qemu, "missing", lambda: Missing("no qemu", "apt install it"))
    assert beside() == "Chapter 10 goes without virtual machines: no qemu (apt install it)"
    monkeypatch.undo()
    assert len(started) == 1


def test_the_lab_sees_them_where_its_root_looks_for_them(monkeypatch: pytest.MonkeyPatch,
                                                         tmp_path: Path) -> None:
    monkeypatch.setenv("MYCONTAINER_HOME", str(tmp_path))
    trees = dict(sandbox.plan("/", launcher._kept()).trees)
    assert trees[str(kernel.machines_dir())] == "/var/lib/mycontainer/bench/machines"


# ---- what people call a virtual machine: takes long, and must have been prepared ---------------------------


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("subject", [machines.Debian, machines.Web])
@pytest.mark.parametrize("task", [hello, page])
def test_a_whole_debian_boots(subject: type[machines.VirtualMachine], task: Callable[[], Task],
                              start: Callable[..., Machine]) -> None:
    one = subject()
    if missing := one.available():
        pytest.skip(f"needs {one.name}: {missing.reason} ({missing.cure})")
    assert one.accelerator.name in one.label
    machine = start(one.start, task())
    machine.ready(300)
    names = [name for name, _ in machine.marks()]
    assert names[:2] == ["kernel", "init"]
    assert "disk" in names
