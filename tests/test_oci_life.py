"""`mycontainer-oci`: the life of a container, from create to delete, and what is left of it: nothing."""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from bundle import OCI, Oci, environment, eventually, needs_busybox
from mycontainer.cli import oci as cli
from needs import needs_root, needs_tool, needs_userns

pytestmark = [needs_userns, needs_busybox]
PR_SET_CHILD_SUBREAPER = 36


@pytest.fixture
def oci(tmp_path: Path) -> Iterator[Oci]:
    tmp_path.chmod(0o755)
    one = Oci(tmp_path / "oci")
    yield one
    one.clean()


@pytest.fixture
def subreaper() -> Iterator[None]:
    """We are what conmon is to a runtime: orphans come to us."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    yield
    libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
    with suppress(ChildProcessError):  # whoever a failed test has not waited for
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


# ---- run


@pytest.mark.parametrize(("script", "code"), [("exit 0", 0), ("exit 7", 7), ("no-such", 127)])
def test_run_ends_with_the_exit_code_of_the_command(oci: Oci, script: str, code: int) -> None:
    oci.shell(script)
    assert oci.run().returncode == code
    assert not list(oci.root.iterdir()), "run deletes what it created"


def test_a_command_that_is_not_there_is_told_and_nothing_is_left(oci: Oci) -> None:
    oci.command("no-such-command")
    done = oci.run()
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "mycontainer-oci: cannot run no-such-command: executable file not found in $PATH\n"
    assert not list(oci.root.iterdir())


def test_a_signal_to_run_is_one_to_the_command(oci: Oci) -> None:
    oci.shell("trap 'echo caught; exit 3' TERM; echo ready; while :; do sleep 0.05; done")
    argv = [*OCI, "--root", str(oci.root), "run", "-b", str(oci.bundle), oci.id]
    env = environment()
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=env) as process:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        assert process.stdout.read() == "caught\n"
    assert process.returncode == 3


# ---- create, start, and the rest


def test_the_whole_life(oci: Oci, subreaper: None) -> None:
    """As conmon and podman call it: create, start, kill, delete; the exit code is the caller's to learn."""
    oci.shell("trap 'exit 9' TERM; echo runs; while :; do sleep 0.02; done")
    pid_file = oci.directory / "pid"
    created = oci.create("--pid-file", str(pid_file))
    assert (created.returncode, created.stdout, created.stderr) == (0, "", "")
    told = oci.state()
    assert told["pid"] == int(pid_file.read_text())
    assert {"ociVersion", "id", "status", "pid", "bundle", "annotations"} <= told.keys()
    assert (told["status"], told["bundle"], told["id"]) == ("created", str(oci.bundle), oci.id)
    assert oci.output == "", "the command does not run yet"
    assert oci("start", oci.id).returncode == 0
    assert eventually(lambda: oci.output == "runs\n")
    assert oci.status() == "running"
    refused = oci("delete", oci.id)
    assert (refused.returncode, "it is running, not stopped" in refused.stderr) == (1, True)
    again = oci("start", oci.id)
    assert (again.returncode, "it is running, not created" in again.stderr) == (1, True)
    assert oci("kill", oci.id, "TERM").returncode == 0
    assert os.waitstatus_to_exitcode(os.waitpid(told["pid"], 0)[1]) == 9
    assert oci.status() == "stopped"
    assert oci("kill", oci.id, "KILL").returncode == 1
    assert oci("delete", oci.id).returncode == 0
    gone = oci("state", oci.id)
    assert (gone.returncode, gone.stderr) == (1, f"mycontainer-oci: container {oci.id} does not exist\n")


def test_a_zombie_has_stopped(oci: Oci, subreaper: None) -> None:
    oci.command("true")
    oci.create()
    pid = oci.state()["pid"]
    oci("start", oci.id)
    assert eventually(lambda: oci.status() == "stopped"), "nobody has waited for it"
    os.waitpid(pid, 0)


def test_delete_force_ends_what_runs_and_does_not_mind_what_is_not_there(oci: Oci, subreaper: None) -> None:
    oci.shell("trap '' TERM; while :; do sleep 1; done")
    oci.create()
    oci("start", oci.id)
    pid = oci.state()["pid"]
    assert oci("delete", "--force", oci.id).returncode == 0
    os.waitpid(pid, 0)
    assert oci("delete", "--force", oci.id).returncode == 0
    assert oci("delete", oci.id).returncode == 1


def test_one_that_was_only_created_can_be_deleted_by_force(oci: Oci, subreaper: None) -> None:
    oci.create()
    pid = oci.state()["pid"]
    assert oci("delete", oci.id).returncode == 1
    assert oci("delete", "-f", oci.id).returncode == 0
    os.waitpid(pid, 0)


def test_what_create_cannot_find_is_told_by_create(oci: Oci) -> None:
    """In the words by which engines tell 127 from 126."""
    oci.command("/no/such/command")
    assert oci.create().stderr == "mycontainer-oci: cannot run /no/such/command: no such file or directory\n"
    oci.command("/etc")
    assert "cannot run /etc: permission denied" in oci.create().stderr
    assert not list(oci.root.iterdir())


def test_what_start_cannot_run_is_told_by_start(oci: Oci, subreaper: None) -> None:
    (oci.bundle / "rootfs" / "script").write_text("#!/no/such/interpreter\n")
    (oci.bundle / "rootfs" / "script").chmod(0o755)
    oci.command("/script")
    assert oci.create().returncode == 0
    pid = oci.state()["pid"]
    done = oci("start", oci.id)
    assert done.returncode == 1
    assert "cannot run /script: its interpreter or its dynamic loader is not in this root" in done.stderr
    os.waitpid(pid, 0)
    assert oci.status() == "stopped"


def test_an_id_is_there_once(oci: Oci, subreaper: None) -> None:
    oci.create()
    pid = oci.state()["pid"]
    second = oci.create()
    assert (second.returncode, "exists already" in second.stderr) == (1, True)
    assert oci.status() == "created"
    oci("delete", "-f", oci.id)
    os.waitpid(pid, 0)


def test_what_is_written_to_the_configuration_later_does_not_count(oci: Oci, subreaper: None) -> None:
    oci.shell("echo as it was")
    oci.create()
    pid = oci.state()["pid"]
    (oci.bundle / "config.json").write_text("{}")
    assert oci("start", oci.id).returncode == 0
    os.waitpid(pid, 0)
    assert oci.output == "as it was\n"
    assert oci("delete", oci.id).returncode == 0


@pytest.mark.parametrize("wrong", ["../x", "", "a/b", ".", "x" * 300, "a\nb"])
def test_an_id_is_no_path(oci: Oci, wrong: str) -> None:
    done = oci("create", "-b", str(oci.bundle), wrong)
    assert (done.returncode, "not an id for a container" in done.stderr) == (1, True)
    assert not oci.root.exists() or not list(oci.root.iterdir())


# ---- exec, ps, list


@pytest.fixture
def running(oci: Oci, subreaper: None) -> Iterator[Oci]:
    """A container that sleeps; it is cleared away."""
    oci.command("sleep", "1000")
    assert oci.create().returncode == 0
    assert oci("start", oci.id).returncode == 0
    yield oci
    oci("kill", oci.id, "9")
    with suppress(ChildProcessError):  # all of them: PID 1 is not dead before whoever was executed beside it
        while os.waitpid(-1, 0)[0]:
            pass
    assert oci("delete", oci.id).returncode == 0


def test_exec_is_one_more_process_in_the_same_place(running: Oci) -> None:
    shown = running("exec", "--env", "A=b", "--cwd", "/tmp", running.id, "sh", "-c",
                    "pwd; echo $A; for kind in mnt pid uts; do readlink /proc/self/ns/$kind; done; exit 4")
    assert shown.returncode == 4, shown.stderr
    where, value, *spaces = shown.stdout.split()
    pid = running.state()["pid"]
    assert (where, value) == ("/tmp", "b")
    assert spaces == [os.readlink(f"/proc/{pid}/ns/{kind}") for kind in ("mnt", "pid", "uts")]


def test_exec_has_the_rights_of_the_container(running: Oci) -> None:
    rows = "grep -E 'Cap|NoNewPrivs|Seccomp' /proc/self/status; cat /proc/self/cgroup; ulimit -n"
    theirs = running("exec", running.id, "sh", "-c", rows.replace("self", "1")).stdout
    assert running("exec", running.id, "sh", "-c", rows).stdout == theirs
    assert "NoNewPrivs:\t1" in theirs


def test_exec_as_engines_call_it(running: Oci) -> None:
    """conmon: exec --pid-file FILE --process FILE --detach ID; the process is its own to wait for."""
    process = running.config["process"] | {"args": ["sh", "-c", "exit 6"], "terminal": False}
    (running.directory / "process").write_text(json.dumps(process))
    pid_file = running.directory / "exec-pid"
    done = running("exec", "--pid-file", str(pid_file), "--process", str(running.directory / "process"),
                   "--detach", running.id)
    assert done.returncode == 0, done.stderr
    assert os.waitstatus_to_exitcode(os.waitpid(int(pid_file.read_text()), 0)[1]) == 6


def test_exec_of_nothing_and_in_nothing(running: Oci) -> None:
    assert "no such command" in running("exec", running.id, "no-such").stderr
    assert running("exec", running.id).returncode == 1
    assert "does not exist" in running("exec", "nobody", "true").stderr


def test_ps_lists_all_its_processes(running: Oci) -> None:
    pid = running.state()["pid"]
    assert json.loads(running("ps", "--format", "json", running.id).stdout) == [pid]
    assert re.search(rf"\b{pid}\b.*sleep 1000", running("ps", running.id).stdout)


def test_list(running: Oci) -> None:
    assert running("list", "-q").stdout == f"{running.id}\n"
    assert json.loads(running("list", "--format=json").stdout) == [running.state()]
    head, row = running("list").stdout.splitlines()
    assert head.split() == ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"]
    assert row.split()[:3] == [running.id, str(running.state()["pid"]), "running"]


@needs_root
def test_pause_and_resume(running: Oci) -> None:
    assert running("pause", running.id).returncode == 0
    assert running.status() == "paused"
    assert "it is paused" in running("exec", running.id, "true").stderr
    assert running("resume", running.id).returncode == 0
    assert running.status() == "running"
    assert running("resume", running.id).returncode == 1
    running("pause", running.id)
    assert running("kill", running.id, "9").returncode == 0
    assert eventually(lambda: running.status() == "stopped"), "a frozen process dies of SIGKILL, too"


@needs_root
def test_kill_all_reaches_everybody(running: Oci) -> None:
    nothing = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}  # it would keep a pipe open
    running("exec", "--detach", "--pid-file", f"{running.directory}/p", running.id, "sleep", "99", **nothing)
    pid = int((running.directory / "p").read_text())
    assert running("kill", "--all", running.id, "SIGKILL").returncode == 0
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    assert eventually(lambda: running.status() == "stopped")


# ---- terminals and descriptors


@needs_tool("script", "bsdutils")
def test_run_with_a_terminal_of_its_own(oci: Oci) -> None:
    """The bundle of `spec` as it is, under a terminal: script(1) is the person."""
    oci.change("process", "terminal", value=True)
    oci.shell("tty; [ -t 0 ] && [ -c /dev/console ] && echo yes; exit 3")
    line = " ".join([*OCI, "--root", str(oci.root), "run", "-b", str(oci.bundle), oci.id])
    done = subprocess.run(["script", "-qec", line, "/dev/null"], capture_output=True, text=True, timeout=30,
                          stdin=subprocess.DEVNULL, env=environment())
    shown = done.stdout.replace("^@", "").replace("^D", "").replace("\b", "").split()  # it has no input
    assert (shown, done.returncode) == (["/dev/pts/0", "yes"], 3)


def test_the_master_end_goes_to_the_console_socket(oci: Oci, subreaper: None) -> None:
    import array
    import socket

    oci.change("process", "terminal", value=True)
    oci.change("process", "consoleSize", value={"height": 33, "width": 77})
    oci.shell("stty size; readlink /proc/self/fd/0")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(oci.directory / "s"))
        server.listen()
        assert oci.create("--console-socket", str(oci.directory / "s")).returncode == 0
        one, _ = server.accept()
        with one:
            name, ancillary, _, _ = one.recvmsg(100, 100)
    master = array.array("i", ancillary[0][2])[0]
    pid = oci.state()["pid"]
    oci("start", oci.id)
    os.waitpid(pid, 0)
    assert os.read(master, 1000).decode().split() == ["33", "77", "/dev/pts/0"]
    assert name == b"/dev/pts/0"
    os.close(master)
    oci("delete", oci.id)


def test_a_terminal_needs_somebody_to_look_at_it(oci: Oci) -> None:
    oci.change("process", "terminal", value=True)
    assert "Give a --console-socket" in oci.create().stderr
    assert "the input here is no terminal" in oci.run().stderr
    oci.change("process", "terminal", value=False)
    assert "process.terminal is not true" in oci.create("--console-socket", "/none").stderr


def test_preserved_descriptors_and_no_others(oci: Oci) -> None:
    oci.shell("ls /proc/self/fd; cat <&3")
    (oci.directory / "third").write_text("of the caller's\n")
    third = os.open(oci.directory / "third", os.O_RDONLY)
    others = [os.dup(third) for _ in range(3)]
    for fd in others:
        os.set_inheritable(fd, True)
    run = [*OCI, "--root", str(oci.root), "run", "-b", str(oci.bundle), "--preserve-fds", "1", oci.id]
    script = f"exec {' '.join(run)} 3< {oci.directory}/third"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, pass_fds=others,
                          env=environment(), stdin=subprocess.DEVNULL)
    for fd in (third, *others):
        os.close(fd)
    assert done.stdout.split("\n")[:5] == ["0", "1", "2", "3", "4"], "the 4th is the directory that ls reads"
    assert done.stdout.split("\n")[5] == "of the caller's"


def test_a_descriptor_to_preserve_must_be_there(oci: Oci) -> None:
    """Or the next that we open, perhaps of a directory out here, would be the command's."""
    assert "cannot preserve descriptor 3" in oci.run("--preserve-fds", "1").stderr


# ---- how it tells what is wrong


def test_errors_are_logged_as_engines_read_them(oci: Oci) -> None:
    log = oci.directory / "log"
    done = oci("--log", str(log), "--log-format", "json", "start", "nobody")
    assert (done.returncode, done.stderr) == (1, "mycontainer-oci: container nobody does not exist\n")
    line = json.loads(log.read_text())
    assert (line["level"], line["msg"]) == ("error", "container nobody does not exist")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", line["time"])
    oci(f"--log={log}", "start", "nobody")
    assert 'level=error msg="container nobody does not exist"' in log.read_text().splitlines()[1]


def test_a_wrong_configuration_is_told_with_its_place_and_nothing_is_made(oci: Oci) -> None:
    oci.change("process", "args", value=[3])
    done = oci.create()
    assert (done.returncode, done.stderr) == (
        1, "mycontainer-oci: process.args[0]: expected a string, got 3\n")
    assert not oci.root.exists() or not list(oci.root.iterdir())


@pytest.mark.parametrize("verb", cli.NOT_YET)
def test_what_is_not_built_yet_says_so(oci: Oci, verb: str) -> None:
    done = oci(verb, "--resources", "-", oci.id)
    assert (done.returncode, done.stderr) == (1, f"mycontainer-oci: {verb} is not built yet\n")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["-v"], [], *(
    [verb, "--help"] for verb in ("create", "run", "start", "state", "kill", "delete", "exec", "ps", "list",
                                  "pause", "resume", "spec"))])
def test_help_and_version(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(arguments) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("Usage: mycontainer-oci") or re.match(
        r"mycontainer-oci version [\d.]+\ncommit: \w+\nspec: 1\.\d\.\d\n$", shown)


def test_spec_writes_what_runs(oci: Oci) -> None:
    (oci.bundle / "config.json").unlink()
    options = ["--rootless"] * (os.geteuid() != 0)
    assert oci("spec", "--bundle", str(oci.bundle), *options).returncode == 0
    assert "is there already" in oci("spec", "-b", str(oci.bundle)).stderr
    assert oci.config["process"]["args"] == ["sh"]
    oci.change("process", "terminal", value=False)
    oci.shell("id -u; hostname")
    assert oci.run().stdout == "0\nmycontainer\n"


def test_features_says_what_there_is(oci: Oci) -> None:
    told = json.loads(oci("features").stdout)
    assert told["linux"]["namespaces"] == ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"]
    assert {"ro", "rbind", "rro"} <= set(told["mountOptions"])
    assert told["ociVersionMin"] == "1.0.0"
