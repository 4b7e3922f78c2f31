"""The command line: what a container shows, what it hides, and what a person reads when it cannot be."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from mycontainer import api, container
from mycontainer.cli import main as cli_main
from mycontainer.cli import run as cli_run
from mycontainer.cli.options import Command, Option
from mycontainer.errors import ContainerError
from mycontainer.images import base
from needs import (
    needs_cgroups,
    needs_lab,
    needs_root,
    needs_subids,
    needs_tool,
    needs_user,
    needs_userns,
    needs_v1,
)

PROJECT = Path(__file__).parents[1]
MYCONTAINER = [sys.executable, "-m", "mycontainer.cli.main"]
Done = subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with the base image."""
    directory = tmp_path_factory.mktemp("home")
    base.build(directory / "images" / "busybox.tar")
    return directory


@pytest.fixture(autouse=True)
def environment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MYCONTAINER_HOME", str(home))
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    monkeypatch.delenv("MYCONTAINER_DEBUG", raising=False)


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Path]:
    """A directory that a container's root may walk to, whoever that is out here."""
    done = subprocess.run(["mktemp", "-d"], capture_output=True, text=True, check=True)
    directory = Path(done.stdout.strip())
    directory.chmod(0o755)
    (directory / "no-interpreter").write_text("#!/no/such/shell\n")
    (directory / "not-executable").write_text("#!/bin/sh\n")
    (directory / "no-format").write_text("echo hi\n")
    (directory / "directory").mkdir()
    for name in ("no-interpreter", "no-format"):
        (directory / name).chmod(0o755)
    yield directory
    subprocess.run(["rm", "-rf", directory], check=True)


def mycontainer(*arguments: str | bytes, **how: object) -> Done:
    """Run the command line to its end."""
    argv = [*MYCONTAINER, *arguments]
    return subprocess.run(argv, **{"capture_output": True, "text": True, "timeout": 20, **how})  # type: ignore


def shell(script: str, *options: str) -> str:
    """What a shell script prints in a container."""
    done = mycontainer("run", *options, "busybox", "sh", "-c", script)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


# ---- what a container is

@needs_userns
def test_it_is_process_1_of_its_own_and_sees_no_other() -> None:
    lines = shell("echo $$; ps | wc -l; ls /proc | grep -c '^[0-9]'; true").split()
    assert lines[0] == "1"
    assert int(lines[1]) <= 4  # the title, sh, ps and wc
    assert int(lines[2]) <= 3


@needs_userns
def test_it_is_root_and_a_nobody_out_here() -> None:
    inside, outside, count = shell("id -u; cat /proc/self/uid_map").split()[0:4][1:]
    assert inside == "0"
    assert int(outside) == os.geteuid() if os.geteuid() else int(outside) >= 65536, "never map 0 to 0"
    assert int(count) >= 1


@needs_userns
def test_its_host_name_is_a_random_id_and_known_to_it() -> None:
    first, second = (shell("hostname; cat /etc/hostname; echo $HOSTNAME").split() for _ in range(2))
    assert re.fullmatch("[0-9a-f]{12}", first[0])
    assert len(set(first)) == 1
    assert first != second
    assert shell("hostname; ping -c 1 -q web >/dev/null && echo answers", "-h", "web") == "web\nanswers\n"


@needs_userns
def test_its_root_is_thrown_away() -> None:
    destroy = "echo mine > /etc/motd; rm -rf /bin/vi /usr; ls /bin/vi /usr 2>/dev/null; cat /etc/motd"
    assert shell(destroy) == "mine\n"
    assert shell("ls /bin/vi && ls -d /usr /etc/motd 2>/dev/null; true") == "/bin/vi\n/usr\n"


@needs_userns
def test_its_network_is_a_loopback_device_or_ours() -> None:
    ours = os.readlink("/proc/self/ns/net")
    assert shell("ls /sys/class/net; readlink /proc/self/ns/net").split()[0] == "lo"
    assert shell("readlink /proc/self/ns/net").strip() != ours
    assert shell("readlink /proc/self/ns/net", "--network", "host").strip() == ours


@needs_userns
def test_its_environment_holds_nothing_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    monkeypatch.setenv("WANTED", "y=z")
    options = ["-h", "web", "-e", "WANTED", "-eA=1", "--env=B=", "-e", "ABSENT"]
    done = mycontainer("run", *options, "busybox", "env", stdin=subprocess.DEVNULL)
    assert sorted(done.stdout.splitlines()) == sorted([
        f"PATH={container.ENVIRONMENT['PATH']}", "HOME=/root", "HOSTNAME=web", "WANTED=y=z", "A=1", "B="])


@needs_userns
def test_working_directory_and_words_behind_the_image() -> None:
    assert mycontainer("run", "-w", "/new/deep", "busybox", "pwd").stdout == "/new/deep\n"
    words = ["-w", "--rm", "--", "-h"]
    assert mycontainer("run", "--rm", "-i", "busybox", "echo", *words).stdout == "-w --rm -- -h\n"
    assert mycontainer("run", "--", "busybox", "echo", "hi").stdout == "hi\n"
    assert mycontainer("run", "busybox:latest", input="echo $((6 * 7))").stdout == "42\n"


@needs_userns
def test_volumes_show_and_read_only_ones_refuse(files: Path) -> None:
    files.chmod(0o777)
    assert "no-format" in shell("ls /data; touch /data/made", "-v", f"{files}:/data")
    assert (files / "made").exists()
    done = mycontainer("run", "-v", f"{files}:/data:ro", "busybox", "touch", "/data/refused")
    assert (done.returncode, "Read-only file system" in done.stderr) == (1, True)
    one = mycontainer("run", "-v", f"{files}/no-format:/deep/file:ro", "busybox", "cat", "/deep/file")
    assert one.stdout == "echo hi\n"
    relative = mycontainer("run", "-v", ".:/here", "busybox", "ls", "/here", cwd=files)
    assert "no-format" in relative.stdout


@needs_userns
def test_rootfs_is_a_directory_of_ours_whose_changes_stay(files: Path, home: Path) -> None:
    from mycontainer import images
    (files / "root").mkdir()
    images.unpack(home / "images/busybox.tar", files / "root")
    if os.geteuid() == 0:
        (files / "root/tmp").chmod(0o1777)
    done = mycontainer("run", "--rootfs", str(files / "root"), "sh", "-c", "touch /tmp/stays; ls -d /tmp")
    assert (done.stdout, done.stderr) == ("/tmp\n", "")
    assert (files / "root/tmp/stays").exists()


@needs_root
def test_root_inside_is_not_the_root_that_we_are(files: Path) -> None:
    (files / "secret").write_text("for root only")
    (files / "secret").chmod(0o600)
    assert mycontainer("run", "-v", f"{files}:/data", "busybox", "cat", "/data/secret").returncode == 1
    assert shell("stat -c %u /data/secret", "-v", f"{files}:/data") == "65534\n"


@needs_user
@needs_subids
def test_a_user_gets_their_subordinate_ids() -> None:
    rows = [row.split() for row in shell("cat /proc/self/uid_map; su nobody -s /bin/sh -c true").splitlines()]
    assert rows[0] == ["0", str(os.geteuid()), "1"]
    assert int(rows[1][2]) >= 65535


@needs_user
@needs_userns
def test_without_newuidmap_there_is_one_id() -> None:
    done = mycontainer("run", "busybox", "cat", "/proc/self/uid_map",
                       env={**os.environ, "PATH": "/nowhere"})
    assert done.stdout.split() == ["0", str(os.geteuid()), "1"]


# ---- how it ends

@needs_userns
@pytest.mark.parametrize(("script", "code"), [
    ("exit 0", 0), ("exit 7", 7), ("exit 255", 255),
    ("sleep 60 & kill -9 $!; wait $!", 137),
    ("nonsense", 127),
])
def test_the_exit_code_is_the_commands(script: str, code: int) -> None:
    assert mycontainer("run", "busybox", "sh", "-c", script).returncode == code


DATA = ["run", "-v", "FILES:/d", "busybox"]
BAD: list[tuple[list[str], int, str]] = [
    (["nope"], 125, "no such command: nope"),
    (["rnu"], 125, "no such command: rnu"),
    (["run"], 125, "which image?"),
    (["run", "nope", "true"], 125, "no such image: nope"),
    (["run", "../busybox", "true"], 125, "no such image: ../busybox"),
    (["run", "", "true"], 125, "no such image:"),
    (["run", "two\nlines", "true"], 125, "no such image: two lines"),
    (["run", "--bogus", "busybox", "true"], 125, "no such option: --bogus"),
    (["run", "-ix", "busybox", "true"], 125, "no such option: -x"),
    (["run", "--rm=yes", "busybox", "true"], 125, "option --rm takes no value"),
    (["run", "-w"], 125, "option -w needs a value: -w, --workdir DIR"),
    (["run", "-p", "80:http", "busybox"], 125, "not a port to publish: 80:http"),
    (["run", "-p", "80", "--network", "host", "busybox"], 125, "cannot publish a port with the network host"),
    (["run", "-P", "busybox"], 125, "no option -P yet: it comes with chapter 8"),
    (["run", "-dit", "busybox"], 125, "cannot use -d with -i or -t"),
    (["run", "--restart", "always", "busybox"], 125, "no option --restart yet: it comes with chapter 7"),
    (["run", "--name", "x", "busybox"], 125, "not a name for a container: x"),
    (["run", "--name", "../x", "busybox"], 125, "not a name for a container: ../x"),
    (["attach"], 125, "no attach yet: it comes with chapter 7"),
    (["ps", "web"], 125, "what is web?"),
    (["ps", "--format", "{{.Names}}"], 125, "no such format: {{.Names}}"),
    *(([verb], 125, "which container?") for verb in ("stop", "kill", "rm", "wait", "logs")),
    *(([verb, "nobody"], 1, "no such container: nobody") for verb in ("stop", "kill", "rm", "wait", "logs")),
    (["stop", "-t", "soon", "x"], 125, "not a number of seconds: soon"),
    (["kill", "-s", "NONE", "x"], 125, "no such signal: NONE"),
    (["pull", "ubuntu"], 125, "no pull yet: it comes with chapter 8"),
    (["run", "-w", "here", "busybox", "true"], 125, "not an absolute path: here"),
    (["run", "-w", "/etc/passwd", "busybox", "true"], 125, "cannot mount on /etc/passwd: Not a directory"),
    (["run", "-h", "a_b", "busybox", "true"], 125, "not a host name: a_b"),
    (["run", "-h", "x" * 65, "busybox", "true"], 125, f"not a host name: {'x' * 65}"),
    (["run", "-e", "=x", "busybox", "true"], 125, "not an environment variable: =x"),
    (["run", "-v", "nowhere", "busybox", "true"], 125, "not a volume: nowhere"),
    (["run", "-v", "/a:/b:rx", "busybox", "true"], 125, "not a volume: /a:/b:rx"),
    (["run", "-v", "a:b:c:d", "busybox", "true"], 125, "not a volume: a:b:c:d"),
    (["run", "-v", "/nowhere:/b", "busybox", "true"], 125, "no such file or directory: /nowhere"),
    (["run", "-v", "/tmp:b", "busybox", "true"], 125, "not an absolute path: b"),
    (["run", "-v", "/tmp:/etc/passwd", "busybox", "true"], 125, "cannot mount on /etc/passwd: Not a dir"),
    (["run", "--network", "a/b", "busybox", "true"], 125, "not a network's name: a/b"),
    (["run", "--network", "container:web", "busybox", "true"], 125, "cannot use the network container:web"),
    (["run", "--rootfs", "/nowhere", "true"], 125, "cannot use /nowhere as a root file system"),
    (["run", "-t", "busybox", "true"], 125, "cannot use -t: the input is not a terminal"),
    (["run", "busybox", ""], 127, "cannot run nothing: the command has no name"),
    (["run", "busybox", "nope"], 127, "cannot run nope: no such command in the PATH of the container"),
    (["run", "busybox", "/nope"], 127, "cannot run /nope: no such command"),
    ([*DATA, "/d/no-interpreter"], 127, "cannot run /d/no-interpreter: its interpreter"),
    ([*DATA, "/d/not-executable"], 126, "cannot run /d/not-executable: Permission denied"),
    ([*DATA, "/d/no-format"], 126, "cannot run /d/no-format: Exec format error"),
    ([*DATA, "/d/directory"], 126, "cannot run /d/directory: Permission denied"),
    (["doctor", "--bogus"], 125, "no such option: --bogus"),
    (["images", "--bogus"], 125, "no such option: --bogus"),
]


def assert_one_line_and_a_hint(done: Done, code: int, line: str) -> None:
    """A complaint as every complaint must be."""
    complaint, *hint = done.stderr.splitlines()
    assert complaint.startswith(f"mycontainer: {line}")
    assert len(hint) <= 1
    assert all(text.startswith("hint: ") and len(text) > 10 for text in hint)
    assert (done.returncode, done.stdout) == (code, "")


@needs_userns
@pytest.mark.parametrize(("arguments", "code", "line"), BAD, ids=[" ".join(row[0])[:40] for row in BAD])
def test_bad_input_gives_one_line_a_hint_and_its_code(arguments: list[str], code: int, line: str,
                                                      files: Path) -> None:
    done = mycontainer(*(word.replace("FILES", str(files)) for word in arguments), stdin=subprocess.DEVNULL)
    assert_one_line_and_a_hint(done, code, line)
    if code == 125:
        assert "hint: " in done.stderr or "root file system" in line


@needs_userns
@needs_tool("unshare")
def test_without_user_namespaces_it_says_where_to_look(tmp_path: Path,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    script = 'echo 0 > /proc/sys/user/max_user_namespaces; exec "$@"'
    argv = ["unshare", "-Ur", "sh", "-c", script, "sh", *MYCONTAINER, "run", "busybox", "true"]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert_one_line_and_a_hint(done, 125, "cannot start the container: No space left on device (unshare(")
    assert "/proc/sys/user" in done.stderr


@needs_userns
def test_an_image_that_cannot_be_built_is_told(tmp_path: Path) -> None:
    done = mycontainer("run", "busybox", "true", env={**os.environ, "MYCONTAINER_HOME": "/proc/nowhere"})
    assert_one_line_and_a_hint(done, 125, "cannot write the base image to /proc/nowhere/images/busybox.tar")


@needs_user
def test_an_image_that_may_not_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MYCONTAINER_HOME", str(tmp_path))
    os.chmod(base.build(), 0)
    assert_one_line_and_a_hint(mycontainer("run", "busybox", "true"), 125,
                               f"cannot read the image: Permission denied ({tmp_path}/images/busybox.tar)")
    (tmp_path / "images").chmod(0)
    assert_one_line_and_a_hint(mycontainer("run", "busybox", "true"), 125,
                               f"cannot read {tmp_path}/images: Permission denied")
    (tmp_path / "images").chmod(0o755)


@needs_userns
def test_the_base_image_is_built_when_it_is_first_needed(tmp_path: Path) -> None:
    done = mycontainer("run", "busybox", "echo", "hi", env={**os.environ, "MYCONTAINER_HOME": str(tmp_path)})
    assert (done.stdout, done.stderr) == ("hi\n", "")
    assert mycontainer("images", env={**os.environ, "MYCONTAINER_HOME": str(tmp_path)}).stdout.endswith(
        f"{tmp_path}/images/busybox.tar\n")


# ---- input, output, and bytes that are no text

@needs_userns
def test_input_and_output_are_ours() -> None:
    assert mycontainer("run", "busybox", "cat", input="through\n").stdout == "through\n"
    done = mycontainer("run", "busybox", "sh", "-c", "echo out; echo err >&2")
    assert (done.stdout, done.stderr) == ("out\n", "err\n")


@needs_userns
def test_only_three_descriptors_go_inside() -> None:
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    done = mycontainer("run", "busybox", "sh", "-c", "ls /proc/1/fd; true", pass_fds=[writer])
    os.close(reader)
    os.close(writer)
    assert done.stdout.split() == ["0", "1", "2"]


@needs_userns
@pytest.mark.parametrize("locale", ["C", "POSIX", "C.UTF-8", "tr_TR.UTF-8"])
def test_bytes_that_are_no_text_pass_through(locale: str) -> None:
    odd = b"a\xffb\xc3\xa4"
    env = {**os.environ, "LC_ALL": locale, "LANG": locale}
    words: list[str | bytes] = ["-e", b"ODD=" + odd, "busybox", "sh", "-c", 'echo "$1$ODD"', "sh", odd]
    done = subprocess.run([*MYCONTAINER, "run", *words], env=env, capture_output=True)
    assert done.stdout == odd + odd + b"\n"
    done = subprocess.run([*MYCONTAINER, "run", odd], env=env, capture_output=True)
    assert done.returncode == 125
    assert done.stderr.startswith(b"mycontainer: no such image: a\\udcffb")


@pytest.mark.parametrize("sink", ["| true", "> /dev/full", ">&-"])
def test_an_output_that_takes_nothing_is_no_traceback(sink: str) -> None:
    script = f'for word in --help "run --help" images; do "$@" $word {sink}; done'
    done = subprocess.run(["bash", "-c", script, "bash", *MYCONTAINER], capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr
    lines = done.stderr.splitlines()
    assert lines == (["mycontainer: cannot go on: No space left on device"] * 3 if "full" in sink else [])


@needs_userns
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_descriptor_is_dev_null_inside_and_no_pipe_of_ours(closed: str, files: Path) -> None:
    files.chmod(0o777)
    script = f'"$@" {closed}'
    look = "seen=$(for n in 0 1 2; do readlink /proc/1/fd/$n; done); echo $seen > /d/seen"
    argv = [*MYCONTAINER, "run", "-v", f"{files}:/d", "busybox", "sh", "-c", look]
    argv = ["bash", "-c", script, "bash", *argv]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    seen = (files / "seen").read_text().split()
    assert len(seen) == 3
    assert seen.count("/dev/null") >= len(closed.split())


@needs_userns
def test_no_module_is_taken_from_the_directory_that_we_are_called_in(
        files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mycontainer.lab import doctor
    for name in ("json", "ctypes", "subprocess"):
        (files / f"{name}.py").write_text("open('ran', 'w')")
    monkeypatch.chdir(files)
    doctor.examine()
    program = Path(sys.executable).with_name("mycontainer")
    if program.exists():
        subprocess.run([program, "run", "busybox", "true"], check=True)
    assert not (files / "ran").exists()


# ---- signals

class Running:
    """A command line that runs in the background, in a process group of its own."""

    def __init__(self, *arguments: str, wrapper: Sequence[str] = ()) -> None:
        self.process = subprocess.Popen([*wrapper, *MYCONTAINER, "run", *arguments], stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE, text=True, start_new_session=True)
        assert self.process.stdout
        assert self.process.stderr
        self.stdout, self.stderr = self.process.stdout, self.process.stderr

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def signal(self, number: int) -> None:
        """As the terminal does it: to the whole process group."""
        os.killpg(self.process.pid, number)


TRAP = 'trap "echo got {0}; exit 9" {0}; echo ready; while :; do sleep 0.02; done'


@needs_userns
@pytest.mark.parametrize("name", ["INT", "TERM", "HUP", "QUIT", "USR1", "USR2", "WINCH"])
def test_a_signal_reaches_the_command_once(name: str) -> None:
    with Running("busybox", "sh", "-c", TRAP.format(name)) as container:
        assert container.stdout.readline() == "ready\n"
        container.signal(signal.Signals[f"SIG{name}"])
        assert container.stdout.read() == f"got {name}\n"
        assert container.process.wait(10) == 9


@needs_userns
def test_the_third_interruption_kills_what_ignores_the_first_two() -> None:
    with Running("busybox", "sh", "-c", "echo ready; exec sleep 60") as container:
        container.stdout.readline()
        time.sleep(0.1)
        for _ in range(2):
            container.signal(signal.SIGINT)
            time.sleep(0.2)
            assert container.process.poll() is None
        container.signal(signal.SIGINT)
        assert container.process.wait(10) == 137
        assert container.stderr.read() == ("mycontainer: process 1 ignores signals without a handler; "
                                           "once more kills it\n")


@needs_userns
def test_a_terminal_that_goes_away_takes_the_container_along_unless_nohup_says_no() -> None:
    with Running("busybox", "sh", "-c", "echo ready; exec sleep 60") as container:
        container.stdout.readline()
        container.signal(signal.SIGHUP)
        assert container.process.wait(10) == 137
    with Running("busybox", "sh", "-c", "echo ready; sleep 3; exit 3", wrapper=["nohup"]) as container:
        container.stdout.readline()
        container.signal(signal.SIGHUP)
        assert container.process.wait(10) == 3


def alive(marker: str) -> list[str]:
    """The processes of this machine whose command line holds a word."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes()
        except OSError:
            continue
        if marker.encode() in words and path.parent.name != str(os.getpid()):
            found.append(words.replace(b"\0", b" ").decode())
    return found


@needs_userns
def test_kill_9_at_any_moment_leaves_nothing() -> None:
    name = f"killed-{os.getpid()}"  # the same each time: nobody who is dead keeps a name
    for number in range(12):
        marker = f"{60 + number}.{os.getpid()}"
        process = subprocess.Popen([*MYCONTAINER, "run", "--name", name, "busybox", "sleep", marker])
        time.sleep(number * 0.012)
        process.kill()
        process.wait()
        until = time.monotonic() + 3
        while (left := alive(marker)) and time.monotonic() < until:
            time.sleep(0.01)
        assert left == [], f"killed after {number * 12} ms"
    assert name not in mycontainer("ps", "-a").stdout, "the next command finds nobody, and clears up"


# ---- a terminal of its own

def drive(*arguments: str, steps: Sequence[tuple[str, bytes]]) -> tuple[int, str]:
    """Run on a terminal; wait for each text, then type; returns exit code and all that was shown.

    Ctrl-C is pressed again until it works: a shell that is just starting a command may not hear it.
    """
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(MYCONTAINER[0], [*MYCONTAINER, *arguments])
    shown = typed = b""
    try:
        for text, keys in [*steps, ("\0", b"")]:
            until = time.monotonic() + 10
            while text.encode() not in shown.split(b"\0")[-1] and time.monotonic() < until:
                if not select.select([terminal], [], [], 0.3)[0]:
                    if typed == b"\x03":
                        os.write(terminal, typed)
                    continue
                try:
                    shown += os.read(terminal, 4096)
                except OSError:
                    break
            os.write(terminal, typed := keys)
            shown += b"\0" if keys else b""
    finally:
        os.close(terminal)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code, shown.decode(errors="replace")


@needs_userns
def test_on_a_terminal_ctrl_c_stops_the_command_and_not_the_shell() -> None:
    code, shown = drive("run", "-it", "busybox", steps=[
        ("# ", b"echo st''art; sleep 60\n"), ("start\r\n", b"\x03"),
        ("# ", b"echo code:$?\n"), ("code:130", b"exit 5\n")])
    assert code == 5, shown
    assert "job control turned off" not in shown


@needs_userns
def test_the_terminal_has_the_size_of_ours_and_gets_its_settings_back() -> None:
    script = ("stty rows 33 cols 99; stty -g > $TMP/before; "
              '"$@"; code=$?; stty -g > $TMP/after; cmp $TMP/before $TMP/after && echo same $code')
    done = subprocess.run(["mktemp", "-d"], capture_output=True, text=True, check=True)
    directory = done.stdout.strip()
    try:
        pid, terminal = pty.fork()
        if pid == 0:
            os.environ["TMP"] = directory
            words = [*MYCONTAINER, "run", "-t", "busybox", "stty", "size"]
            os.execv("/bin/sh", ["sh", "-c", script, "sh", *words])
        shown = b""
        while b"same" not in shown:
            try:
                shown += os.read(terminal, 4096)
            except OSError:
                break
        os.close(terminal)
        os.waitpid(pid, 0)
        assert b"33 99" in shown
        assert b"same 0" in shown
    finally:
        subprocess.run(["rm", "-rf", directory], check=True)


@needs_userns
def test_a_shell_on_a_terminal_without_t_is_told_of_it() -> None:
    code, shown = drive("run", "busybox", steps=[("# ", b"exit 3\n")])
    assert (code, "hint: this sh has no terminal of its own: -it gives it one" in shown) == (3, True)
    code, shown = drive("run", "busybox", "echo", "hi", steps=[("hi", b"")])
    assert (code, "hint" in shown) == (0, False)


@needs_lab
def test_the_lab_says_where_one_is_and_how_to_leave() -> None:
    code, shown = drive("lab", steps=[("[lab] ", b"bash\n"), ("[lab] ", b"exit\n"), ("[lab] ", b"exit 4\n")])
    assert code == 4
    assert "You are in the lab" in shown
    assert "To leave: exit" in shown


def test_an_image_that_is_not_here_yet() -> None:
    done = mycontainer("run", "ubuntu")
    assert "hint: Here is: busybox. Pulling others comes with chapter 8." in done.stderr


# ---- help, version, bugs

def test_help_is_there_for_everything() -> None:
    for arguments in ([], ["--help"], ["-h"], ["help"]):
        assert mycontainer(*arguments).stdout.startswith("Usage: mycontainer COMMAND")
    for command in ("run", "images", "doctor", "lab", "ps", "stop", "kill", "rm", "wait", "logs"):
        done = mycontainer(command, "--help")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(f"Usage: mycontainer {command}")
        assert max(map(len, done.stdout.splitlines())) <= 90
    assert set(re.findall(r"^  (\w+) ", mycontainer().stdout, re.MULTILINE)) >= set(cli_main.COMMANDS)


def test_version() -> None:
    from mycontainer import __version__
    assert mycontainer("--version").stdout == f"mycontainer {__version__}\n"


def test_a_bug_of_ours_is_one_line_too_and_can_be_looked_into(
        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(_: Sequence[str]) -> int:
        raise ZeroDivisionError("in the\nmiddle")

    monkeypatch.setitem(cli_main.COMMANDS, "images", fail)
    assert cli_main.main(["images"]) == 125
    assert capsys.readouterr().err.splitlines() == [
        "mycontainer: this is a bug of ours: ZeroDivisionError: in the middle",
        "hint: MYCONTAINER_DEBUG=1 mycontainer ... shows where it happened."]
    monkeypatch.setenv("MYCONTAINER_DEBUG", "1")
    assert cli_main.main(["images"]) == 125
    assert "Traceback" in capsys.readouterr().err


def test_on_ubuntu_it_goes_on_as_the_permitted_interpreter(tmp_path: Path,
                                                           monkeypatch: pytest.MonkeyPatch) -> None:
    from mycontainer.lab.kernelspec import OWN_INTERPRETER
    permitted = tmp_path / OWN_INTERPRETER
    became: list[object] = []
    monkeypatch.setattr(os, "execv", lambda *call: became.append(call))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(sys, "argv", ["mycontainer", "run", "busybox"])
    cli_main.use_permitted_interpreter()
    assert became == []
    permitted.write_text("")
    permitted.chmod(0o755)
    cli_main.use_permitted_interpreter()
    argv = [str(permitted), "-I", "-m", "mycontainer.cli.main", "run", "busybox"]
    assert became == [(str(permitted), argv)]
    monkeypatch.setattr(sys, "executable", str(permitted))
    cli_main.use_permitted_interpreter()
    assert len(became) == 1, "again and again"


def test_a_start_loads_nothing_slow() -> None:
    script = (f"import sys; sys.path.insert(0, {str(PROJECT)!r})\n"
              "from mycontainer.cli import main, run; print(*sys.modules)")
    argv = [sys.executable, "-I", "-S", "-c", script]  # without what other packages load at each start
    loaded = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.split()
    assert not {"argparse", "subprocess", "pathlib", "tarfile", "json", "dataclasses", "typing", "asyncio",
                "inspect", "tempfile"} & set(loaded)


# ---- options

TRY = Command("mycontainer try WORDS", "Try.", Option("flag", "a flag", letter="f"),
              Option("yes", "another", letter="y"), Option("one", "one value", "VALUE", "o"),
              Option("many", "many values", "VALUE", "m", many=True))


@pytest.mark.parametrize(("line", "given", "words"), [
    ("", {}, ""),
    ("word -f", {}, "word -f"),
    ("-f word", {"flag": [""]}, "word"),
    ("-fy -o 1 word", {"flag": [""], "yes": [""], "one": ["1"]}, "word"),
    ("-fo1 -yo=2", {"flag": [""], "one": ["1", "2"], "yes": [""]}, ""),
    ("--one=1 --one 2 --many a --many=b", {"one": ["1", "2"], "many": ["a", "b"]}, ""),
    ("--one= word", {"one": [""]}, "word"),
    ("--one -f word", {"one": ["-f"]}, "word"),
    ("-f -- -y", {"flag": [""]}, "-y"),
    ("-f - -y", {"flag": [""]}, "- -y"),
])
def test_options(line: str, given: dict[str, list[str]], words: str) -> None:
    assert TRY.parse(line.split()) == (given, words.split())


@pytest.mark.parametrize("line", ["-x", "-fx", "--fla", "--flag=", "--one", "-o", "--", "--=", "-="])
def test_wrong_options(line: str) -> None:
    if line == "--":
        assert TRY.parse([line]) == ({}, [])
        return
    with pytest.raises(ContainerError) as caught:
        TRY.parse([line])
    assert caught.value.hint == "To see what there is: mycontainer try --help"


# ---- limits

@pytest.mark.parametrize(("text", "size"), [
    ("64m", 64 << 20), ("64M", 64 << 20), ("64MiB", 64 << 20), ("64mb", 64 << 20), ("1g", 1 << 30),
    ("2048", 2048), ("512k", 512 << 10), ("1.5g", 3 << 29), ("10b", 10),
])
def test_parse_size(text: str, size: int) -> None:
    assert cli_run.parse_size(text) == size


@pytest.mark.parametrize("option", [
    ["--memory", "64mm"], ["--memory", ""], ["-m", "1m"], ["--cpus", "half"], ["--cpus", "10000"],
    ["--cpus", "."], ["--pids-limit", "1.5"], ["--pids-limit", "-2"],
])
def test_a_limit_that_makes_no_sense(option: list[str]) -> None:
    done = mycontainer("run", *option, "busybox", "true")
    assert done.returncode == 125
    first, second = done.stderr.splitlines()
    assert first.startswith("mycontainer: ")
    assert second.startswith("hint: ")


@needs_userns
@needs_cgroups
def test_limits_hold_in_there() -> None:
    eat = "head -c 90m /dev/zero | tail -n 1 >/dev/null"
    assert mycontainer("run", "-m", "24m", "--pids-limit", "9", "busybox", "sh", "-c", eat).returncode == 137
    fork = "for i in 1 2 3 4 5 6 7 8 9; do sleep 5 & done"
    done = mycontainer("run", "--pids-limit", "5", "busybox", "sh", "-c", fork)
    assert "can't fork" in done.stderr
    assert mycontainer("run", "--pids-limit", "-1", "busybox", "sh", "-c", f"{fork}; kill -9 $!").stderr == ""


@needs_userns
@needs_user
@needs_v1
def test_where_limits_take_root_it_says_so() -> None:
    done = mycontainer("run", "--memory", "64m", "busybox", "true")
    assert done.returncode == 125
    first, second = done.stderr.splitlines()
    assert first.startswith("mycontainer: cannot make a cgroup: this machine has version 1 of them")
    assert second.startswith("hint: Be root")


# ---- api

@needs_userns
def test_api_run_takes_what_the_command_line_takes() -> None:
    argv = ["sh", "-c", '[ "$A" = 1 ] && [ "$(hostname)" = x ]']
    assert api.run("busybox", argv, env={"A": "1"}, hostname="x") == 0
    assert api.run("busybox", argv, env={"A": "2"}, hostname="x") == 1
    with pytest.raises(ContainerError, match="no image and no root directory"):
        api.run(None, ["true"])


@pytest.mark.parametrize(("texts", "env"), [
    (["A=1"], {"A": "1"}), (["A=1", "A=2"], {"A": "2"}), (["A="], {"A": ""}), (["A=b=c"], {"A": "b=c"}),
    (["OURS"], {"OURS": "here"}), (["ABSENT"], {}),
])
def test_parse_env(texts: list[str], env: dict[str, str]) -> None:
    assert cli_run.parse_env(texts, {"OURS": "here"}) == env


def test_parse_volume() -> None:
    parse: Callable[[str], api.Volume] = cli_run.parse_volume
    assert parse("/a:/b") == parse("/a:/b:rw") == ("/a", "/b", False)
    assert parse("a:/b:ro") == (f"{os.getcwd()}/a", "/b", True)
