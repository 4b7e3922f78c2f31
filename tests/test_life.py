"""The life of a container: run -d, ps, logs, stop, kill, wait, rm; and what is left after a SIGKILL."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mycontainer import cgroups, paths
from mycontainer.cli import containers as verbs
from mycontainer.engine import cgroup_v1, log, state
from mycontainer.engine.state import Container
from mycontainer.errors import ContainerError
from mycontainer.images import base
from needs import needs_cgroups, needs_lab, needs_userns
from test_cli import drive

pytestmark = needs_userns

PROJECT = Path(__file__).parents[1]
MYCONTAINER = [sys.executable, "-m", "mycontainer.cli.main"]
Done = subprocess.CompletedProcess[str]
LOOP = "while :; do sleep 0.05; done"


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


def mycontainer(*arguments: str, **how: object) -> Done:
    """Run the command line to its end."""
    argv = [*MYCONTAINER, *arguments]
    return subprocess.run(argv, **{"capture_output": True, "text": True, "timeout": 30, **how})  # type: ignore


@pytest.fixture
def name() -> Iterator[str]:
    """A name that nobody else on this machine uses; whoever has it at the end is removed."""
    chosen = f"test-{os.urandom(4).hex()}"
    yield chosen
    for each in [one.name for one in state.containers() if one.name.startswith(chosen)]:
        mycontainer("rm", "-f", each)


def detached(name: str, script: str, *options: str) -> Container:
    """A container that runs the script in the background."""
    done = mycontainer("run", "-d", "--name", name, *options, "busybox", "sh", "-c", script)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    one = state.find(name)
    assert done.stdout == one.id + "\n"
    return one


def ps(name: str, *options: str) -> list[str]:
    """The columns of what `ps` says of one container."""
    lines = mycontainer("ps", *options).stdout.splitlines()
    return next((re.split(" {3,}", line) for line in lines if line.endswith(f" {name}")), [])


def eventually(true: Callable[[], object], seconds: float = 5) -> bool:
    """Whether it becomes true."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if true():
            return True
        time.sleep(0.01)
    return False


def keeper(one: Container) -> int:
    """The pid of its supervisor."""
    pid: int = json.loads(Path(one.path, "state.json").read_text())["keeper"]
    return pid


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


# ---- run -d

def test_it_runs_on_when_the_caller_has_gone_home(name: str) -> None:
    one = detached(name, f"echo started; {LOOP}")
    assert re.fullmatch("[0-9a-f]{64}", one.id)
    identity, image, command, _, status, shown = ps(name)
    assert (identity, image, shown) == (one.id[:12], "busybox", name)
    assert command.startswith('"sh -c echo started;')
    assert status.startswith("Up ")
    assert parent(parent(one.pid)) == keeper(one)
    assert Path(f"/proc/{one.pid}/cmdline").read_bytes().startswith(b"sh\0-c\0echo started")
    assert eventually(lambda: mycontainer("logs", name).stdout == "started\n")


def test_its_supervisor_holds_nothing_of_the_callers(name: str, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    argv = [*MYCONTAINER, "run", "-d", "--name", name, "busybox", "sleep", "60"]
    subprocess.run(argv, pass_fds=[writer], cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    os.close(writer)
    os.set_blocking(reader, False)
    assert os.read(reader, 1) == b"", "somebody has it open still"  # it would raise BlockingIOError
    os.close(reader)
    one = state.find(name)
    for pid in (keeper(one), parent(one.pid)):
        assert os.getsid(pid) not in (os.getsid(0), os.getpid())
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
    held = {os.readlink(f"/proc/{keeper(one)}/fd/{fd}") for fd in os.listdir(f"/proc/{keeper(one)}/fd")}
    held = {re.sub(r"\[\d+\]", "", target) for target in held}
    assert held <= {"/dev/null", "pipe:", one.path, f"{one.path}/log", "anon_inode:[pidfd]"}
    assert os.readlink(f"/proc/{one.pid}/fd/0").startswith("/dev/null")


def test_inside_it_is_as_in_the_foreground(name: str) -> None:
    look = ("id -u; hostname | wc -c; pwd; umask; ls /proc/1/fd; "
            "grep -E '^(Sig(Blk|Ign|Cgt)|Cap|NoNewPrivs|Seccomp)' /proc/1/status; "
            "env | sort | grep -v HOSTNAME")
    foreground = mycontainer("run", "busybox", "sh", "-c", look, stdin=subprocess.DEVNULL)
    one = detached(name, look)
    assert one.wait(5) == 0
    assert mycontainer("logs", name).stdout == foreground.stdout


@pytest.mark.parametrize(("words", "code"), [
    (["busybox", "nope"], 127), (["busybox", "/etc"], 126), (["nope"], 125), (["-w", "x", "busybox"], 125),
    (["-h", "a_b", "busybox"], 125), (["--rootfs", "/nowhere", "sh"], 125),
    (["-v", "/no/such:/a", "busybox"], 125),
])
def test_what_fails_is_told_as_in_the_foreground(words: list[str], code: int, name: str) -> None:
    foreground = mycontainer("run", *words)
    done = mycontainer("run", "-d", "--name", name, *words)
    assert done.returncode == foreground.returncode == code
    assert (done.stdout, done.stderr) == ("", foreground.stderr)
    assert ps(name, "-a") == []
    assert not any(one.name == name for one in state.containers())


def test_volumes_and_paths_from_where_the_caller_was(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("hello")
    for directory in (tmp_path, *tmp_path.parents[:2]):
        directory.chmod(0o755)
    mycontainer("run", "-d", "--name", name, "-v", "./file:/file", "busybox", "cat", "/file", cwd=tmp_path)
    assert state.find(name).wait(5) == 0
    assert mycontainer("logs", name).stdout == "hello"


def test_of_several_with_one_name_one_wins(name: str) -> None:
    argv = [*MYCONTAINER, "run", "-d", "--name", name, "busybox", "sleep", "60"]
    several = [subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
               for _ in range(5)]
    answers = [(*process.communicate(timeout=30), process.returncode) for process in several]
    winner = state.find(name).id
    refusal = f"mycontainer: the name {name} is taken by container {winner[:12]}\n"
    assert sorted(code for _, _, code in answers) == [0, 125, 125, 125, 125]
    for out, err, code in answers:
        assert out == (f"{winner}\n" if code == 0 else "")
        assert err.startswith(refusal if code else "")


# ---- how it ends

def test_its_exit_code_stays_until_it_is_removed(name: str) -> None:
    detached(name, "sleep 0.2; exit 3")
    assert mycontainer("wait", name).stdout == "3\n"
    assert ps(name) == []
    assert ps(name, "-a")[4].startswith("Exited (3) ")
    done = mycontainer("rm", name)
    assert (done.stdout, done.returncode) == (f"{name}\n", 0)
    assert ps(name, "-a") == []


def test_with_rm_it_is_gone_and_who_waited_knows_its_code(name: str) -> None:
    detached(name, "sleep 0.5; exit 4", "--rm")
    assert mycontainer("wait", name).stdout == "4\n"
    assert ps(name, "-a") == []


def test_stop_lets_it_say_goodbye(name: str) -> None:
    detached(name, f'trap "echo bye; exit 9" TERM; echo ready; {LOOP}')
    assert eventually(lambda: mycontainer("logs", name).stdout)
    done = mycontainer("stop", name)
    assert (done.stdout, done.stderr, done.returncode) == (f"{name}\n", "", 0)
    assert ps(name, "-a")[4].startswith("Exited (9) ")
    assert mycontainer("logs", name).stdout == "ready\nbye\n"
    assert mycontainer("stop", name).returncode == 0  # it is stopped, as was asked for


def test_who_ignores_sigterm_is_killed_and_several_share_the_grace(name: str) -> None:
    for number in (1, 2, 3):
        detached(f"{name}-{number}", LOOP)
    began = time.monotonic()
    done = mycontainer("stop", "-t", "1", f"{name}-1", f"{name}-2", f"{name}-3")
    assert 1 <= time.monotonic() - began < 2.5
    assert done.stdout.splitlines() == [f"{name}-1", f"{name}-2", f"{name}-3"]
    assert done.stderr.count("has no handler for SIGTERM and will not hear it") == 3
    assert ps(f"{name}-1", "-a")[4].startswith("Exited (137) ")
    detached(name, LOOP)
    began = time.monotonic()
    assert mycontainer("stop", "-t", "0", name).stderr == ""
    assert time.monotonic() - began < 2


def test_kill_sends_any_signal(name: str) -> None:
    one = detached(name, f'trap "echo usr1" USR1; trap "exit 5" HUP; echo ready; {LOOP}')
    assert eventually(lambda: mycontainer("logs", name).stdout)
    assert mycontainer("kill", "-s", "SIGUSR1", name).stdout == f"{name}\n"
    assert eventually(lambda: "usr1" in mycontainer("logs", name).stdout)
    mycontainer("kill", "--signal=1", one.id[:10])
    assert one.wait(5) == 5
    done = mycontainer("kill", name)
    assert (done.returncode, done.stderr) == (1, f"mycontainer: {name} is not running\n")


def test_what_fails_for_one_is_done_for_the_others(name: str) -> None:
    detached(f"{name}-1", "exit 0")
    detached(f"{name}-2", LOOP)
    assert state.find(f"{name}-1").wait(5) == 0
    done = mycontainer("rm", "nobody", f"{name}-2", f"{name}-1")
    assert (done.returncode, done.stdout) == (1, f"{name}-1\n")
    complaints = [line for line in done.stderr.splitlines() if line.startswith("mycontainer: ")]
    assert complaints == ["mycontainer: no such container: nobody",
                          f"mycontainer: cannot remove {name}-2: it is running"]
    assert mycontainer("rm", "-f", f"{name}-2").returncode == 0
    assert ps(f"{name}-2", "-a") == []


def cgroups_of(one: Container) -> list[Path]:
    """The directories of its cgroup: in each tree of version 1, or the one of version 2."""
    rows = Path(f"/proc/{one.pid}/cgroup").read_text().splitlines()
    own = next(path for path in (row.split(":")[2] for row in rows) if "/run-" in path)
    return [Path(f"{tree}{own}") for tree in (cgroups.ROOT, *cgroup_v1.hierarchies().values())]


@needs_cgroups
def test_its_cgroup_goes_with_it(name: str) -> None:
    one = detached(name, LOOP, "--pids-limit", "9")
    places = cgroups_of(one)
    assert any(place.exists() for place in places)
    mycontainer("rm", "-f", name)
    assert not any(place.exists() for place in places)


# ---- in the foreground

def test_one_in_the_foreground_is_listed_and_can_be_ended(name: str) -> None:
    argv = [*MYCONTAINER, "run", "--name", name, "busybox", "sh", "-c", f"echo ready; {LOOP}"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        assert ps(name)[4].startswith("Up ")
        assert "it runs in the foreground" in mycontainer("logs", name).stderr
        assert mycontainer("run", "--name", name, "busybox").stderr.startswith(
            f"mycontainer: the name {name} is taken")
        assert mycontainer("rm", "-f", name).returncode == 0
        assert process.wait(5) == 137
    assert ps(name, "-a") == []


def test_its_host_name_is_its_id(name: str) -> None:
    one = detached(name, "hostname")
    assert one.wait(5) == 0
    assert mycontainer("logs", name).stdout == f"{one.id[:12]}\n"


# ---- ps and logs

def test_ps_in_other_words(name: str) -> None:
    one = detached(name, LOOP)
    assert one.id[:12] in mycontainer("ps", "-q").stdout.split()
    assert one.id in mycontainer("ps", "-q", "--no-trunc").stdout.split()
    whole = ps(name, "--no-trunc")
    assert whole[0] == one.id
    assert whole[2] == f'"sh -c {LOOP}"'
    found = [json.loads(line) for line in mycontainer("ps", "--format", "json").stdout.splitlines()]
    mine = next(each for each in found if each["Names"] == name)
    assert (mine["ID"], mine["Image"], mine["State"]) == (one.id[:12], "busybox", "running")


def test_a_command_cannot_write_on_the_screen_of_who_lists_it(name: str) -> None:
    detached(name, "true # \x1b[2J\n")
    assert state.find(name).wait(5) == 0
    assert "true # ?[2J?" in mycontainer("ps", "-a").stdout


@pytest.mark.parametrize(("seconds", "words"), [
    (0, "Less than a second"), (1, "1 second"), (59, "59 seconds"), (60, "About a minute"),
    (119, "About a minute"), (120, "2 minutes"), (3599, "59 minutes"), (3600, "About an hour"),
    (7200, "2 hours"), (86400, "24 hours"), (172800, "2 days"), (14 * 86400, "2 weeks"),
    (70 * 86400, "2 months"), (800 * 86400, "2 years"),
])
def test_how_long_ago(seconds: int, words: str) -> None:
    assert verbs.ago(time.time() - seconds - 0.5) == words


def test_logs_keep_the_streams_apart(name: str) -> None:
    one = detached(name, "echo out; echo err >&2; echo again; printf end")
    assert one.wait(5) == 0
    done = mycontainer("logs", name)
    assert (done.stdout, done.stderr) == ("out\nagain\nend", "err\n")
    assert mycontainer("logs", "--tail", "1", name).stdout == "end"
    stamped = mycontainer("logs", "-t", "-n", "2", name).stdout
    assert re.fullmatch(r"\S+Z again\n\S+Z end", stamped)


def test_logs_follow_until_the_end(name: str) -> None:
    detached(name, "for i in 1 2 3 4 5; do echo $i; sleep 0.1; done")
    began = time.monotonic()
    assert mycontainer("logs", "-f", name).stdout == "1\n2\n3\n4\n5\n"
    assert time.monotonic() - began > 0.2


def test_a_chatty_one_fills_no_disk_and_is_not_held_up(name: str) -> None:
    one = detached(name, "yes 'all work and no play' | head -c 31500000; echo end")
    assert one.wait(25) == 0
    size = sum(file.stat().st_size for file in Path(one.path).glob("log*"))
    assert log.LIMIT < size < 3 * log.LIMIT
    assert mycontainer("logs", "-n", "1", name).stdout == "end\n"


# ---- exec

def test_exec_is_one_more_process_in_there(name: str) -> None:
    one = detached(name, LOOP, "-e", "A=1", "-w", "/tmp")
    look = "id -u; pwd; echo $A $B; hostname; ls /proc/self/fd; for n in cgroup ipc mnt net pid user uts; do "
    look += "readlink /proc/$$/ns/$n; done; cat /proc/self/uid_map"
    done = mycontainer("exec", "-e", "B=2", name, "sh", "-c", look)
    lines = done.stdout.splitlines()
    assert lines[:8] == ["0", "/tmp", "1 2", one.id[:12], "0", "1", "2", "3"]  # 3: of ls
    assert lines[8:15] == [os.readlink(f"/proc/{one.pid}/ns/{kind}")
                           for kind in ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")]
    assert lines[15].split() == Path(f"/proc/{one.pid}/uid_map").read_text().split()[:3]
    assert "sh -c while" in mycontainer("exec", name, "ps").stdout


@pytest.mark.parametrize(("words", "code", "line"), [
    (["sh", "-c", "exit 7"], 7, ""), (["sh", "-c", "kill -9 $$"], 137, ""),
    (["nope"], 127, "cannot run nope: no such command in the PATH of the container"),
    (["/etc"], 126, "cannot run /etc: Permission denied"),
    ([], 125, "which command?"),
])
def test_exec_ends_as_its_command(words: list[str], code: int, line: str, name: str) -> None:
    detached(name, LOOP)
    done = mycontainer("exec", name, *words)
    assert done.returncode == code
    assert done.stderr.splitlines()[:1] == ([f"mycontainer: {line}"] if line else [])


def test_exec_passes_input_and_signals_and_ends_with_the_container(name: str) -> None:
    detached(name, LOOP)
    assert mycontainer("exec", "-i", name, "cat", input="through\n").stdout == "through\n"
    script = f'trap "echo got it; exit 9" TERM; echo ready; {LOOP}'
    for end, code in ((lambda process: process.terminate(), 9),
                      (lambda process: mycontainer("stop", "-t", "0", name), 137)):
        argv = [*MYCONTAINER, "exec", name, "sh", "-c", script]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            assert process.stdout.readline() == "ready\n"
            end(process)
            assert process.wait(5) == code
    done = mycontainer("exec", name, "true")
    assert (done.returncode, done.stderr) == (1, f"mycontainer: {name} is not running\n")


def test_exec_on_a_terminal(name: str) -> None:
    detached(name, LOOP)
    code, shown = drive("exec", "-it", name, "sh", steps=[("# ", b"[ -t 0 ] && exit 5\n")])
    assert code == 5, shown


def test_kill_9_of_exec_leaves_nothing_of_it(name: str) -> None:
    detached(name, LOOP)
    marker = f"59.{os.getpid()}"
    with subprocess.Popen([*MYCONTAINER, "exec", name, "sleep", marker]) as process:
        assert eventually(lambda: running(f"sleep {marker}"))
        process.kill()
    assert eventually(lambda: not running(f"sleep {marker}"))
    assert ps(name)[4].startswith("Up ")


@needs_cgroups
def test_exec_shares_the_limits(name: str) -> None:
    one = detached(name, LOOP, "--pids-limit", "12")
    place = next(place for place in cgroups_of(one) if (place / "pids.max").exists())
    marker = f"58.{os.getpid()}"
    process = subprocess.Popen([*MYCONTAINER, "exec", name, "sleep", marker])
    try:
        assert eventually(lambda: running(f"sleep {marker}"))
        assert running(f"sleep {marker}")[0] in (place / "cgroup.procs").read_text().split()
    finally:
        process.kill()
        process.wait()


# ---- kill -9

def gone(*pids: int) -> bool:
    return eventually(lambda: not any(state.started(pid) for pid in pids))


def test_without_its_supervisor_it_ends_and_nobody_says_0(name: str) -> None:
    one = detached(name, LOOP)
    runner = parent(one.pid)
    os.kill(keeper(one), signal.SIGKILL)
    assert gone(one.pid, runner)
    assert ps(name) == []
    assert ps(name, "-a")[4].startswith("Exited (unknown) ")
    assert mycontainer("wait", name).stdout == "unknown\n"
    assert mycontainer("rm", name).returncode == 0


@needs_cgroups
def test_without_its_supervisor_the_next_command_removes_its_cgroup(name: str) -> None:
    one = detached(name, LOOP, "--rm", "--pids-limit", "9")
    places = cgroups_of(one)
    assert any(place.exists() for place in places)
    os.kill(keeper(one), signal.SIGKILL)
    assert gone(one.pid)
    assert ps(name, "-a") == []
    assert not any(place.exists() for place in places)


@pytest.mark.parametrize(("victim", "code"), [("runner", "137"), ("process 1", "137")])
def test_whoever_is_killed_takes_the_rest_along(victim: str, code: str, name: str) -> None:
    one = detached(name, f"{LOOP} & {LOOP}")
    runner, supervisor = parent(one.pid), keeper(one)
    os.kill(runner if victim == "runner" else one.pid, signal.SIGKILL)
    assert gone(one.pid, runner, supervisor)
    assert ps(name, "-a")[4].startswith(f"Exited ({code}) ")


def test_supervisor_and_runner_killed_at_once(name: str) -> None:
    one = detached(name, LOOP)
    os.kill(keeper(one), signal.SIGSTOP)  # so that it cannot see the other die
    os.kill(parent(one.pid), signal.SIGKILL)
    os.kill(keeper(one), signal.SIGKILL)
    assert eventually(lambda: not one.alive)
    assert ps(name, "-a")[4].startswith("Exited (unknown) ")
    assert gone(one.pid)


@pytest.mark.parametrize("moment", range(10))
def test_kill_9_of_the_caller_at_any_moment(moment: int, name: str) -> None:
    """Either it has not come so far, or the container runs and is listed: never is it nobody's."""
    marker = f"{60 + moment}.{os.getpid()}"
    argv = [*MYCONTAINER, "run", "-d", "--name", name, "busybox", "sleep", marker]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    time.sleep(0.03 + moment * 0.009)
    process.kill()
    process.wait()
    reserved = Path(paths.runtime_dir(), "names", name)
    assert eventually(lambda: ps(name) or not reserved.is_symlink())
    assert bool(running(f"sleep {marker}")) == bool(ps(name)) == reserved.is_symlink()
    mycontainer("rm", "-f", name)
    assert eventually(lambda: not running(f"sleep {marker}"))


def running(command: str) -> list[str]:
    """The pids of those who run this command line."""
    return [pid for pid in os.listdir("/proc") if cmdline(pid) == command]


def cmdline(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return ""


# ---- in the lab

@needs_lab
def test_in_the_lab_it_all_works_and_ends_with_the_lab() -> None:
    script = """
        set -e
        mycontainer() { "$PYTHON" -m mycontainer.cli.main "$@"; }
        mycontainer run -d --name web busybox sh -c 'echo hi; exec sleep 61.5' >/dev/null
        mycontainer run -d --name stays busybox sleep 62.5 >/dev/null
        mycontainer ps | grep -c 'Up .* web$'
        until mycontainer logs web | grep hi; do sleep 0.1; done
        mycontainer stop -t 0 web
        mycontainer ps -a | grep -o 'Exited (137)'
        mycontainer rm web"""
    argv = [*MYCONTAINER, "lab", "env", f"PYTHON={sys.executable}", "sh", "-c", script]
    env = {**os.environ, "JUPYTER_SERVER_URL": "none"}  # a lab of our own, and not one that happens to run
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, env=env)
    assert done.stdout.split("\n") == ["1", "hi", "web", "Exited (137)", "web", ""], done.stderr
    assert eventually(lambda: not running("sleep 62.5"))
    with pytest.raises(ContainerError):
        state.find("stays")
