"""Floor 0: each wrapper makes exactly the call it describes, and a failure tells which call and why."""

from __future__ import annotations

import errno
import os
import platform
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest

from mycontainer import syscalls
from mycontainer.engine import calls
from mycontainer.syscalls import AT_FDCWD
from needs import needs_root, needs_tool, needs_userns
from recording import recording
from sandbox import inside

# Python that makes a call, and what strace sees of it. All fail, or change only the child that makes them.
CALLS = [
    ("unshare(CLONE_NEWUSER | CLONE_NEWUTS)", "unshare(CLONE_NEWUTS|CLONE_NEWUSER) = 0"),
    ("unshare(CLONE_NEWIPC | CLONE_NEWNS)", "unshare(CLONE_NEWNS|CLONE_NEWIPC) = 0"),
    ("unshare(CLONE_NEWPID | CLONE_NEWNET)", "unshare(CLONE_NEWPID|CLONE_NEWNET) = 0"),
    ("sethostname('w\\xe4b')", 'sethostname("w\\303\\244b", 4) = 0'),
    ("setns(999, CLONE_NEWUTS)", "setns(999, CLONE_NEWUTS) = -1 EBADF"),
    ("mount('proc', '/nowhere', 'proc', MS_NOSUID | MS_NODEV)",
     'mount("proc", "/nowhere", "proc", MS_NOSUID|MS_NODEV, NULL) = -1 ENOENT'),
    ("mount(None, '/nowhere', None, MS_REC | MS_PRIVATE)",
     'mount(NULL, "/nowhere", NULL, MS_REC|MS_PRIVATE, NULL) = -1 ENOENT'),
    ("mount('tmpfs', '/nowhere', 'tmpfs', 0, 'mode=755')",
     'mount("tmpfs", "/nowhere", "tmpfs", 0, "mode=755") = -1 ENOENT'),
    ("umount2('/nowhere', MNT_DETACH)", 'umount2("/nowhere", MNT_DETACH) = -1 ENOENT'),
    ("pivot_root('/nowhere', '/nowhere/old')", 'pivot_root("/nowhere", "/nowhere/old") = -1 ENOENT'),
    ("chroot('/nowhere')", 'chroot("/nowhere") = -1 ENOENT'),
    ("chdir('/nowhere')", 'chdir("/nowhere") = -1 ENOENT'),
    ("prctl(PR_SET_PDEATHSIG, 9)", "prctl(PR_SET_PDEATHSIG, SIGKILL) = 0"),
    ("keyctl(KEYCTL_JOIN_SESSION_KEYRING)", "keyctl(KEYCTL_JOIN_SESSION_KEYRING, NULL) = "),
    ("close_range(900, 0x7fffffff, CLOSE_RANGE_CLOEXEC)",
     "close_range(900, 2147483647, CLOSE_RANGE_CLOEXEC) = 0"),
    ("openat2(AT_FDCWD, '/nowhere', os.O_PATH, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)",
     ('openat2(AT_FDCWD, "/nowhere", {flags=O_RDONLY|O_CLOEXEC|O_PATH, '
      'resolve=RESOLVE_NO_MAGICLINKS|RESOLVE_IN_ROOT}, 24) = -1 ENOENT')),
    ("open_tree(AT_FDCWD, '/nowhere', OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE)",
     'open_tree(AT_FDCWD, "/nowhere", OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC|AT_RECURSIVE) = -1 ENOENT'),
    ("move_mount(999, '', AT_FDCWD, '/', MOVE_MOUNT_F_EMPTY_PATH)",
     'move_mount(999, "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH) = -1 EBADF'),
    ("mount_setattr(AT_FDCWD, '/nowhere', AT_RECURSIVE, MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID)",
     ('mount_setattr(AT_FDCWD, "/nowhere", AT_RECURSIVE, {attr_set=MOUNT_ATTR_RDONLY, '
      'attr_clr=MOUNT_ATTR_NOSUID, propagation=0, userns_fd=0}, 32) = -1 ENOENT')),
    ("fsopen('nosuchfs')", 'fsopen("nosuchfs", FSOPEN_CLOEXEC) = -1 E'),
    ("fsconfig(999, FSCONFIG_SET_STRING, 'lowerdir+', '/a')",
     'fsconfig(999, FSCONFIG_SET_STRING, "lowerdir+", "/a", 0) = -1 EBADF'),
    ("fsconfig(999, FSCONFIG_CMD_CREATE)", 'fsconfig(999, FSCONFIG_CMD_CREATE, NULL, NULL, 0) = -1 EBADF'),
    ("fsmount(999)", 'fsmount(999, FSMOUNT_CLOEXEC, 0) = -1 EBADF'),
    # Those of engine/calls.py.
    ("personality(0xffffffff)", "personality(0xffffffff) = 0"),
    ("setdomainname('w\\xe4b')", 'setdomainname("w\\303\\244b", 4) = 0'),
    ("seccomp(b'', 0)", "seccomp(SECCOMP_SET_MODE_FILTER, 0, {len=0, filter="),
    ("capset(1, 3, 0)",
     ("capset({version=_LINUX_CAPABILITY_VERSION_3, pid=0}, {effective=1<<CAP_CHOWN, "
      "permitted=1<<CAP_CHOWN|1<<CAP_DAC_OVERRIDE, inheritable=0}) = 0")),
]
NAMES = sorted({call.partition("(")[0] for call, _ in CALLS})


def described(call: str) -> str:
    """What our recording double says of a call."""
    with recording() as made:
        eval(call, {**vars(syscalls), **vars(calls), "os": os})
    assert len(made) == 1
    return made[0]


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The calls of CALLS as strace saw them, made one after the other by one process."""
    log = tmp_path_factory.mktemp("strace") / "log"
    script = "import os\nfrom contextlib import suppress\nfrom mycontainer.syscalls import *\n"
    script += "from mycontainer.engine.calls import *\nos.chdir('/')\n"
    script += "".join(f"with suppress(OSError): {call}\n" for call, _ in CALLS)
    argv = ["strace", "-o", str(log), "-e", f"trace={','.join(NAMES)}", sys.executable, "-c", script]
    subprocess.run(argv, check=True, timeout=60)
    lines = [re.sub(r" +", " ", line) for line in log.read_text().splitlines()]
    return [re.sub(r" /\* .*? \*/", "", line) for line in lines if not line.startswith("+++")]


@needs_userns
@needs_tool("strace")
@pytest.mark.parametrize("number", range(len(CALLS)), ids=[call for call, _ in CALLS])
def test_strace_sees_exactly_the_call(number: int, traced: list[str]) -> None:
    assert traced[-len(CALLS):][number].startswith(CALLS[number][1])


# Where strace has words for what are numbers and bytes to us: those of prctl and keyctl, and structures.
OTHER_WORDS = ("prctl", "keyctl", "sethostname", "setdomainname", "personality")
SAME_WORDS = [(call, seen) for call, seen in CALLS if "{" not in seen and not call.startswith(OTHER_WORDS)]


@pytest.mark.parametrize(("call", "seen"), SAME_WORDS, ids=[call for call, _ in SAME_WORDS])
def test_describe_says_what_strace_says(call: str, seen: str) -> None:
    def words(text: str) -> list[str]:
        return sorted(re.split(r"[|, ()]+", text))  # strace has another order of flags

    assert words(described(call)) == words(seen.rpartition(" = ")[0])


def test_every_wrapper_is_tested_here() -> None:
    assert set(NAMES) == {*syscalls.NUMBERS["x86_64"], *syscalls.NUMBERS_EVERYWHERE}


# ---- numbers and constants, against the kernel's own headers

INCLUDE = Path("/usr/include")


def defines(*headers: str, prefix: str = "") -> dict[str, int]:
    """The #defines of kernel headers whose value is a number."""
    found: dict[str, int] = {}
    for header in headers:
        for where in (INCLUDE / header, INCLUDE / f"{platform.machine()}-linux-gnu" / header):
            text = where.read_text() if where.exists() else ""
            line = rf"#\s*define\s+{prefix}(\w+)\s+([^/\n]+?)\s*(?:/\*.*)?$"
            for name, value in re.findall(line, text, re.M):
                number = value.replace("U", "").strip()  # (1U << 2)
                if re.fullmatch(r"[-()x<\s\da-fA-F]+", number):
                    found[name] = eval(number)
    return found


@pytest.mark.parametrize(("machine", "header"), [("x86_64", "asm/unistd_64.h"),
                                                 ("aarch64", "asm-generic/unistd.h")])
def test_numbers_are_those_of_the_kernels_headers(machine: str, header: str) -> None:
    theirs = defines(header, prefix="__NR_")
    if not theirs:
        pytest.skip(f"needs {header} (Debian package linux-libc-dev)")
    assert {**syscalls.NUMBERS[machine], **syscalls.NUMBERS_EVERYWHERE}.items() <= theirs.items()


def test_constants_are_those_of_the_kernels_headers() -> None:
    theirs = defines("linux/sched.h", "linux/mount.h", "linux/fcntl.h", "linux/openat2.h", "linux/prctl.h",
                     "linux/close_range.h")
    if not theirs:
        pytest.skip("needs the kernel's headers (Debian package linux-libc-dev)")
    theirs |= {"MNT_DETACH": 2, "OPEN_TREE_CLOEXEC": os.O_CLOEXEC}  # no numbers there: an enum, another name
    theirs |= {"FSCONFIG_SET_FLAG": 0, "FSCONFIG_SET_STRING": 1, "FSCONFIG_CMD_CREATE": 6}  # an enum too
    prefixes = ("CLONE_", "MS_", "MNT_", "OPEN_TREE_", "MOVE_MOUNT_", "MOUNT_ATTR_", "AT_", "RESOLVE_",
                "CLOSE_RANGE_", "PR_", "FSOPEN_", "FSMOUNT_", "FSCONFIG_")
    ours = {name: value for name, value in vars(syscalls).items() if name.startswith(prefixes)}
    assert len(ours) > 25
    assert {name: theirs.get(name) for name in ours} == ours


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_number_is_chosen_by_the_machine(machine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    class Library:
        @staticmethod
        def syscall(number: object, *arguments: object) -> int:
            made.append((getattr(number, "value", None), len(arguments)))
            return 0

    monkeypatch.setattr(syscalls, "_libc", Library)
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "host", "6.1", "#1", machine)))
    syscalls.pivot_root(".", ".")
    syscalls.openat2(3, "x", 0)
    assert made == [({"x86_64": 155, "aarch64": 41}[machine], 2), (437, 4)]


# ---- failures

@pytest.mark.parametrize(("call", "kind", "code"), [
    (lambda: syscalls.chroot("/nowhere"), FileNotFoundError, errno.ENOENT),
    (lambda: syscalls.chdir("/dev/null"), NotADirectoryError, errno.ENOTDIR),
    (lambda: syscalls.setns(999), OSError, errno.EBADF),
    (lambda: syscalls.unshare(-1), OSError, errno.EINVAL),
], ids=["ENOENT", "ENOTDIR", "EBADF", "EINVAL"])
def test_a_failure_is_the_oserror_of_its_errno_and_names_the_call(
        call: Callable[[], None], kind: type[OSError], code: int) -> None:
    with pytest.raises(kind) as caught:
        call()
    assert caught.value.errno == code
    assert caught.value.strerror == os.strerror(code)
    assert re.fullmatch(r"(chroot|chdir|setns|unshare)\(.*\)", caught.value.filename)


def hints(call: str) -> list[str]:
    """The notes on the OSError of a call, made in namespaces of its own."""
    def make() -> list[str]:
        try:
            eval(call, dict(vars(syscalls)))
        except OSError as error:
            return getattr(error, "__notes__", [])
        return ["it worked"]
    found: list[str] = inside(make)
    return found


@needs_userns
@pytest.mark.parametrize(("call", "word"), [
    ("pivot_root('/usr', '/usr')", "not a mount point"),
    ("umount2('/usr/bin', 0)", "Not a mount point"),
    ("mount('x', '/', 'nosuchfs')", "does not have that file system"),
    ("mount('proc', '/proc', 'proc')", "PID namespace of its own"),
    ("sethostname('x')", "unshare(CLONE_NEWUTS) first"),
])
def test_a_likely_cause_comes_with_the_failure(call: str, word: str) -> None:
    (hint,) = hints(call)
    assert word in hint


@needs_userns
def test_no_cause_is_made_up_where_none_is_known() -> None:
    assert hints("chdir('/nowhere')") == []


def test_unshare_of_a_user_namespace_in_a_threaded_process_names_the_threads() -> None:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        with pytest.raises(OSError, match="Invalid argument") as caught:
            syscalls.unshare(syscalls.CLONE_NEWUSER)
    finally:
        stop.set()
        thread.join()
    assert "several threads" in caught.value.__notes__[0]


@needs_root
def test_chroot_without_the_right_says_which(tmp_path: Path) -> None:
    script = ("from mycontainer import syscalls; import os; os.setresuid(65534, 65534, 65534)\n"
              "try: syscalls.chroot('/usr')\nexcept PermissionError as error: print(*error.__notes__)")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("chroot needs CAP_SYS_CHROOT")


@pytest.fixture
def alarms() -> Iterator[list[int]]:
    """Signals that arrive every 20 ms, and a list of those that came."""
    came: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        came.append(number)

    before = signal.signal(signal.SIGALRM, note)
    signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
    yield came
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def test_a_call_interrupted_by_a_signal_is_made_again(alarms: list[int], tmp_path: Path) -> None:
    """Opening a FIFO waits for its other end; each signal interrupts the wait (EINTR)."""
    os.mkfifo(fifo := tmp_path / "fifo")
    writer = subprocess.Popen(["sh", "-c", 'sleep 0.3; exec 3>"$1"', "sh", fifo])
    os.close(syscalls.openat2(AT_FDCWD, str(fifo), os.O_RDONLY))
    assert writer.wait() == 0
    assert len(alarms) >= 3


def test_a_signal_handler_that_raises_ends_the_wait(tmp_path: Path) -> None:
    def give_up(*_: object) -> None:
        raise TimeoutError

    os.mkfifo(fifo := tmp_path / "fifo")
    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    try:
        with pytest.raises(TimeoutError):
            syscalls.openat2(AT_FDCWD, str(fifo), os.O_RDONLY)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_descriptors_are_closed_on_exec(tmp_path: Path) -> None:
    fd = syscalls.openat2(AT_FDCWD, str(tmp_path), os.O_PATH)
    assert not os.get_inheritable(fd)
    os.close(fd)


def test_names_that_are_not_utf8_pass_through(tmp_path: Path) -> None:
    os.mkdir(os.fsencode(tmp_path) + b"/\xff\xfe")
    os.close(syscalls.openat2(AT_FDCWD, f"{tmp_path}/\udcff\udcfe", os.O_PATH))


# ---- the recording double

def test_recording_notes_the_calls_in_order_and_makes_none() -> None:
    host = os.uname().nodename
    with recording() as calls:
        syscalls.unshare(syscalls.CLONE_NEWUTS | syscalls.CLONE_NEWPID)
        syscalls.sethostname("recorded")
        syscalls.mount("a", "b", None, syscalls.MS_BIND | syscalls.MS_REC)
    assert calls == ["unshare(CLONE_NEWUTS|CLONE_NEWPID)", 'sethostname("recorded", 8)',
                     'mount("a", "b", NULL, MS_BIND|MS_REC, NULL)']
    assert os.uname().nodename == host


def test_recording_fails_where_it_is_told_to() -> None:
    with recording(fail={"pivot_root": errno.EINVAL}) as calls:
        syscalls.chdir("/new")
        with pytest.raises(OSError, match="Invalid argument"):
            syscalls.pivot_root(".", ".")
    assert calls == ['chdir("/new")', 'pivot_root(".", ".")']


def test_recording_ends_with_its_block_even_when_that_raises() -> None:
    with pytest.raises(ZeroDivisionError), recording():
        _ = 1 // 0
    with pytest.raises(FileNotFoundError):
        syscalls.chdir("/nowhere")


@pytest.mark.parametrize(("prefix", "value", "shown"), [
    ("MS_", 0, "0"),
    ("MS_", 0x4001, "MS_RDONLY|MS_REC"),
    ("MS_", 0x84000, "MS_REC|0x80000"),
    ("AT_", 0x8000, "AT_RECURSIVE"),
    (("OPEN_TREE_", "AT_"), 0x8001, "OPEN_TREE_CLONE|AT_RECURSIVE"),
])
def test_flags_print_as_the_kernels_names(prefix: str, value: int, shown: str) -> None:
    assert repr(syscalls.Flags(prefix, value)) == shown


def test_a_zero_byte_is_refused_not_cut_off() -> None:
    with pytest.raises(ValueError, match="zero byte"):
        syscalls.chdir("/\0nowhere")
