"""The lab: what root in there cannot do to the machine, each claim tried from a cell."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("jupyter_client", reason="needs the Python module jupyter_client")

from lab_kernel import Kernel, everybody_in, kernel
from mycontainer import namespaces, syscalls
from mycontainer.errors import ContainerError
from mycontainer.lab import sandbox
from needs import needs_lab, needs_root, needs_userns
from sandbox import inside

pytestmark = needs_lab

HOST_MOUNTS = """
def host_mounts():
    rows = [row.split() for row in open("/proc/self/mountinfo")]
    return [(r[4], r[5].split(",")) for r in rows if r[2] in OF_HOST]
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    base = tmp_path_factory.mktemp("isolation")
    (base / "secret.txt").write_text("the learner's\n")
    with kernel(base, base) as one:
        one.run(f"OF_HOST = {sandbox.superblocks()!r}\n{HOST_MOUNTS}")
        one.base = base  # type: ignore[attr-defined]
        yield one


def test_every_namespace_is_its_own(lab: Kernel) -> None:
    inside = lab.value("import os\n{kind: os.stat(f'/proc/self/ns/{kind}').st_ino for kind in "
                       f"{list(namespaces.ORDER)!r}}}")
    outside = namespaces.identify()
    assert [kind for kind in outside if inside[kind] == outside[kind]] == ["time"]


def test_root_inside_is_nobody_outside(lab: Kernel) -> None:
    assert lab.value("import os\n[os.getuid(), os.getgid()]") == [0, 0]
    real = os.stat(f"/proc/{lab.lab()['init']}").st_uid
    assert real != 0
    if os.geteuid() != 0:
        assert real == os.geteuid()


def test_nothing_of_the_host_is_writable(lab: Kernel) -> None:
    mounts = lab.value("host_mounts()")
    assert "/usr" in [point for point, _ in mounts]
    assert [point for point, options in mounts if "ro" not in options] == []
    assert lab.sh(f"echo x > {lab.base}/secret.txt")[0] != 0  # type: ignore[attr-defined]
    assert lab.sh("touch /usr/x; touch /etc/x")[0] != 0


def test_no_mount_of_the_host_can_be_made_writable_or_taken_away(lab: Kernel) -> None:
    """With one user namespace instead of two all of these succeed."""
    refused = lab.value("""
from mycontainer import syscalls as s
def refused(call, *arguments, **more):
    try:
        call(*arguments, **more)
    except OSError:
        return True
def tries(point):
    return [refused(s.mount, None, point, None, 0x20 | s.MS_BIND),
            refused(s.mount_setattr, s.AT_FDCWD, point, 0, clear=s.MOUNT_ATTR_RDONLY),
            refused(s.umount2, point, s.MNT_DETACH)]
{point: tries(point) for point, _ in host_mounts() if not point.startswith("/dev/")}""")
    assert refused
    assert {point: tries for point, tries in refused.items() if tries != [True] * 3} == {}
    assert lab.value("[point for point, options in host_mounts() if 'ro' not in options]") == []


def test_a_copy_of_a_mount_stays_read_only(lab: Kernel) -> None:
    code, text = lab.sh(f"mkdir -p /tmp/copy && mount --bind {lab.base} /tmp/copy && "  # type: ignore[attr-defined]
                        "(mount -o remount,bind,rw /tmp/copy; touch /tmp/copy/x); umount /tmp/copy; "
                        f"ls {lab.base}")  # type: ignore[attr-defined]
    assert code == 0
    assert "x" not in text.splitlines()


def test_only_namespaced_sysctls_can_be_written(lab: Kernel) -> None:
    writable = lab.value("""
import os
def openable(path):
    try:
        os.close(os.open(path, os.O_WRONLY))
        return True
    except OSError:
        return False
[p for d, _, files in os.walk("/proc/sys") for p in (f"{d}/{f}" for f in files) if openable(p)]""")
    own = ("/proc/sys/net/", "/proc/sys/user/", "/proc/sys/fs/mqueue/")
    ipc_and_uts = {f"/proc/sys/kernel/{name}" for name in (
        "domainname", "hostname", "msg_next_id", "msgmax", "msgmnb", "msgmni", "ns_last_pid", "pid_max",
        "sem", "sem_next_id", "shm_next_id", "shm_rmid_forced", "shmall", "shmmax", "shmmni", "auto_msgmni")}
    assert [path for path in writable if not path.startswith(own) and path not in ipc_and_uts] == []
    assert "/proc/sys/fs/mqueue/msg_max" in writable  # the look does find what there is


def test_a_sysctl_written_inside_is_another_outside(lab: Kernel) -> None:
    before = Path("/proc/sys/net/ipv4/ip_forward").read_text()
    other = "0" if before.strip() == "1" else "1"
    assert lab.sh(f"echo {other} > /proc/sys/net/ipv4/ip_forward")[0] == 0
    assert Path("/proc/sys/net/ipv4/ip_forward").read_text() == before


@pytest.mark.parametrize("path", ["/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern",
                                  "/proc/sys/vm/drop_caches", "/sys/kernel/uevent_helper", "/proc/kcore",
                                  "/dev/mem", "/dev/kmsg"])
def test_the_levers_of_the_machine_are_out_of_reach(lab: Kernel, path: str) -> None:
    assert lab.run(f"""
try:
    open({path!r}, "r+b", buffering=0)
    print("open")
except OSError:
    print("refused")""").strip() == "refused"


def test_no_device_but_the_harmless(lab: Kernel) -> None:
    devices = lab.value("""
import os, stat
found = [f"{d}/{n}" for d, _, names in os.walk("/dev") for n in names]
devices = (stat.S_IFCHR, stat.S_IFBLK)
sorted(p for p in found if not os.path.islink(p) and stat.S_IFMT(os.stat(p).st_mode) in devices)""")
    harmless = {"null", "zero", "full", "random", "urandom", "tty", "pts/ptmx"}
    assert {one.removeprefix("/dev/") for one in devices if not one.startswith("/dev/pts/")
            or one.endswith("ptmx")} <= harmless
    assert lab.sh("mknod /tmp/disk b 254 0")[0] != 0
    assert lab.sh("chmod 600 /dev/null")[0] != 0


def test_no_cgroup_of_the_host_is_shown(lab: Kernel) -> None:
    assert lab.value("import os\nos.listdir('/sys/fs/cgroup')") == []
    assert "cgroup" not in [row.split(" - ")[1].split()[0] for row in
                            lab.run("print(open('/proc/self/mountinfo').read())").strip().splitlines()]


def test_the_network_ends_at_its_own_loopback(lab: Kernel) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, \
            socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind(f"\0mycontainer-test-{os.getpid()}")
        abstract.listen()
        assert lab.value("import socket\n[name for _, name in socket.if_nameindex()]") == ["lo"]
        assert lab.value(f"""
def answer(family, address):
    with socket.socket(family) as caller:
        return caller.connect_ex(address)
callers = [(socket.AF_INET, ("127.0.0.1", {listener.getsockname()[1]})),
           (socket.AF_UNIX, "\\0mycontainer-test-{os.getpid()}"), (socket.AF_INET, ("192.0.2.1", 80))]
[answer(*one) for one in callers]""") == [
            111, 111, 101]


def test_names_resolve_without_a_name_server(lab: Kernel) -> None:
    """The host's resolv.conf, or no /etc/hosts, costs seconds a look-up."""
    assert lab.value("""
import socket, time
start = time.monotonic()
names = [socket.gethostname(), socket.gethostbyname("localhost"), socket.gethostbyname(socket.gethostname())]
try:
    socket.gethostbyname("example.org")
except OSError:
    pass
[names, time.monotonic() - start < 1]""") == [["lab", "127.0.0.1", "127.0.1.1"], True]
    assert "nameserver" not in lab.sh("cat /etc/resolv.conf")[1]


def test_secrets_of_the_hosts_etc_stay_closed(lab: Kernel) -> None:
    assert "root" in lab.sh("cat /etc/passwd")[1]
    code, text = lab.sh("cat /etc/shadow")
    assert (code, "denied" in text) == (1, True)


def test_no_process_of_the_host_is_seen(lab: Kernel) -> None:
    assert lab.value("import os\nlen([n for n in os.listdir('/proc') if n.isdigit()])") == \
        len(everybody_in(lab.lab()["init"]))
    assert lab.sh("ps -o pid= -C pytest")[1].strip() == ""


def test_the_environment_is_clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", "hunter2")
    with kernel(tmp_path, tmp_path) as lab:
        assert lab.value("dict(__import__('os').environ)")["HOME"] == "/root"
        text = lab.value("""
import os
def read(path):
    try:
        return open(path, "rb").read().decode(errors="replace")
    except OSError:
        return ""
[read(f"/proc/{n}/{f}") for n in os.listdir("/proc") if n.isdigit() for f in ("environ", "cmdline")]""")
        assert "hunter2" not in "".join(text)
        assert any("LAB" in one for one in text)  # the look does see environments


SESSION_KEYRING = """
import ctypes, os
keyctl = {"x86_64": 250, "aarch64": 219}[os.uname().machine]
ctypes.CDLL(None).syscall(keyctl, 0, -3, 0)"""  # KEYCTL_GET_KEYRING_ID of KEY_SPEC_SESSION_KEYRING


def test_the_callers_keys_stay_outside(lab: Kernel) -> None:
    before, last = SESSION_KEYRING.rsplit("\n", 1)
    out = subprocess.run([sys.executable, "-c", f"{before}\nprint({last})"], capture_output=True, text=True)
    outside, inside = int(out.stdout), lab.value(SESSION_KEYRING)
    if outside < 0:
        pytest.skip("needs the system call keyctl")
    assert inside > 0
    assert inside != outside
    command = [sys.executable, "-m", "mycontainer.lab.terminal", "python", "-c", f"{before}\nprint({last})"]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert int(done.stdout) not in (outside, -1)


def test_pid_1_holds_nothing_of_the_host(lab: Kernel) -> None:
    """Root may read PID 1: its descriptors, its program, its memory."""
    targets = lab.value("import os\nsorted(os.readlink(f'/proc/1/fd/{n}').split(':')[0] for n in "
                        "os.listdir('/proc/1/fd'))")
    assert set(targets) == {"/dev/null", "pipe", "socket"}
    assert lab.value("""
import os
def refused(path):
    try:
        os.close(os.open(path, os.O_WRONLY))
        return False
    except OSError:
        return True
def mount_of(path):
    fd = os.open(path, os.O_RDONLY)
    try:
        return [row.split()[1] for row in open(f"/proc/self/fdinfo/{fd}") if row.startswith("mnt_id")][0]
    finally:
        os.close(fd)
known = [row.split()[0] for row in open("/proc/self/mountinfo")]
[[refused(f"/proc/{n}/exe"), mount_of(f"/proc/{n}/exe") in known]
 for n in ("1", "self")]""".replace("\n for n", " for n")) == [[True, True], [True, True]]


def test_the_kernel_holds_only_its_own_descriptors(lab: Kernel) -> None:
    _, text = lab.sh("ls -l /proc/self/fd | grep -v /proc/ | sed 's/.* -> //'")
    assert {row.split(":")[0] for row in text.split("\n") if row and not row.startswith("total")} <= \
        {"/dev/null", "pipe"}
    kinds = lab.value("import os\nsorted({os.readlink(f'/proc/self/fd/{n}').split(':')[0] for n in "
                      "os.listdir('/proc/self/fd') if os.path.lexists(f'/proc/self/fd/{n}')})")
    assert {kind for kind in kinds if kind.startswith("/") and not kind.startswith("/root/.ipython")
            and not kind.startswith("/tmp/")} <= {"/dev/null", "/dev/urandom"}


def test_signals_to_the_own_group_stay_inside(lab: Kernel) -> None:
    before = lab.launcher
    lab.run("import os, signal\nsignal.signal(signal.SIGUSR1, lambda *_: None)\nos.kill(0, signal.SIGUSR1)")
    assert lab.value("1 + 1") == 2
    assert lab.launcher == before


@needs_root
def test_a_closed_home_above_the_notebook_does_not_matter(tmp_path: Path) -> None:
    home = tmp_path / "home"
    notebooks = home / "course" / "workspace"
    notebooks.mkdir(parents=True)
    home.chmod(0o700)
    (notebooks / "mine.txt").write_text("here\n")
    with kernel(notebooks, tmp_path) as lab:
        assert lab.value("import os\nos.getcwd()") == str(notebooks)
        assert lab.sh("cat mine.txt; stat -c %u mine.txt") == (0, "here\n0\n")


def test_the_throw_away_check_refuses_a_writable_mount_of_the_host() -> None:
    here = sandbox.superblocks()
    with pytest.raises(ContainerError, match="is the host's, and writable"):
        sandbox.assert_throw_away(here)
    sandbox.assert_throw_away(set())


SOCKETS = """
import errno, os, socket
def attempt(call, *arguments):
    try:
        call(*arguments)
        return "done"
    except OSError as error:
        return errno.errorcode[error.errno]
os.chdir({base!r})
answers = [
 attempt(socket.socket(socket.AF_UNIX).connect, "agent.sock"),
 attempt(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).connect, "agent.dgram"),
 attempt(os.open, "pipe", os.O_WRONLY | os.O_NONBLOCK), open("read.me").read()]
answers"""


def test_sockets_and_fifos_of_the_learner_lead_nowhere(lab: Kernel) -> None:
    base: Path = lab.base  # type: ignore[attr-defined]
    (base / "read.me").write_text("here\n")
    os.mkfifo(base / "pipe")
    reader = os.open(base / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    with socket.socket(socket.AF_UNIX) as stream, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as dgram:
        stream.bind(str(base / "agent.sock"))
        stream.listen()
        dgram.bind(str(base / "agent.dgram"))
        script = SOCKETS.format(base=str(base))
        assert lab.value(script) == ["ECONNREFUSED", "ECONNREFUSED", "ENXIO", "here\n"]
        outside = subprocess.run([sys.executable, "-c", f"{script}\nprint(*answers)"], text=True,
                                 capture_output=True)
        assert outside.stdout == "done done done here\n\n"
    os.close(reader)


def test_the_view_of_the_workspace_is_fresh(lab: Kernel) -> None:
    """An overlay remembers what it found, and what it did not find."""
    base: Path = lab.base  # type: ignore[attr-defined]
    (base / "kept.txt").write_text("old\n")
    (base / "removed.txt").write_text("old\n")
    os.link(base / "kept.txt", base / "hard.txt")
    os.mkdir(base / "package")
    look = f"""
import os
os.chdir({str(base)!r})
def read(name):
    return open(name).read() if os.path.exists(name) else None
names = ("kept.txt", "removed.txt", "new.txt", "package/new.py")
[*map(read, names), sorted(os.listdir("package")), os.path.samefile("kept.txt", "hard.txt")]"""
    assert lab.value(look) == ["old\n", "old\n", None, None, [], True]
    (base / "other").write_text("new\n")
    os.rename(base / "other", base / "kept.txt")  # as an editor saves
    os.remove(base / "removed.txt")
    (base / "new.txt").write_text("new\n")
    (base / "package/new.py").write_text("new\n")
    assert lab.value(look) == ["new\n", None, "new\n", "new\n", ["new.py"], False]
    with open(base / "new.txt", "a") as file:
        file.write("more\n")
    assert lab.value("read('new.txt')") == "new\nmore\n"


def test_a_long_cell_sees_new_files_too(lab: Kernel) -> None:
    base: Path = lab.base  # type: ignore[attr-defined]
    cell = f"""
import os, time
deadline = time.monotonic() + 10
looks = 0
while not os.path.exists({str(base / 'late.txt')!r}) and time.monotonic() < deadline:
    looks += 1
    time.sleep(0.02)
print(looks > 5, time.monotonic() < deadline)"""
    timer = threading.Timer(0.5, (base / "late.txt").touch)
    timer.start()
    assert lab.run(cell) == "True True\n"
    timer.join()


def _a_tree_with_a_mount_below(tmp_path: Path) -> list[bool]:
    syscalls.mount("tmpfs", str(tmp_path / "with a blank/below"), "tmpfs")
    return [sandbox._has_mounts_below(str(path)) for path in
            (tmp_path, tmp_path / "with a blank", tmp_path / "with a blank/below", tmp_path / "with")]


@needs_userns
def test_a_tree_with_mounts_below_is_noticed(tmp_path: Path) -> None:
    """An overlay would hide what is mounted there."""
    (tmp_path / "with a blank" / "below").mkdir(parents=True)
    (tmp_path / "with").mkdir()
    assert inside(_a_tree_with_a_mount_below, tmp_path) == [True, True, False, False]


def test_an_interpreter_that_nobody_may_execute_is_named(tmp_path: Path) -> None:
    with pytest.raises(ContainerError, match="cannot be executed"):
        sandbox.assert_runs(str(tmp_path / "python"))
    sandbox.assert_runs(sys.executable)


def test_the_home_directory_itself_is_not_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert sandbox.plan(str(tmp_path), {}).workdir == "/root"
    assert str(tmp_path) not in [tree for tree, _ in sandbox.plan(str(tmp_path), {}).trees]
    below = tmp_path / "course"
    below.mkdir()
    assert sandbox.plan(str(below), {}).workdir == str(below)


def test_links_on_the_way_to_the_interpreter_are_made_again(tmp_path: Path) -> None:
    real = tmp_path / "real" / "lib"
    real.mkdir(parents=True)
    link = tmp_path / "link"
    link.symlink_to("real")
    layout = sandbox.plan("/", {}, [str(link / "lib")])
    assert (str(real), str(real)) in layout.trees
    assert (str(link), "real") in layout.links
