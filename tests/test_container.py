"""The first container: what it shows inside, what it answers outside, and that nothing outlives it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mycontainer import container, images, namespaces, spawn
from mycontainer.errors import ContainerError
from mycontainer.images import base
from needs import needs_root, needs_userns

pytestmark = needs_userns
Start = Callable[..., spawn.Process]
Run = Callable[..., tuple[int, str]]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(base.build(tmp_path_factory.mktemp("image") / "busybox.tar"))


@pytest.fixture
def start(image: str, tmp_path: Path) -> Start:
    """`start(*argv, **how)`: a container from the base image, in a fresh root."""
    mountpoint = tmp_path / "root"
    mountpoint.mkdir()

    def begin(*argv: str, **how: Any) -> spawn.Process:
        fresh: dict[str, Any] = {"root": str(mountpoint), "unpack": lambda root: images.unpack(image, root)}
        return container.start(argv, **fresh | how)
    return begin


@pytest.fixture
def run(start: Start, capfd: pytest.CaptureFixture[str]) -> Run:
    """`run(*argv)`: the exit code and what was printed."""
    def to_the_end(*argv: str, **how: Any) -> tuple[int, str]:
        code = start(*argv, **how).wait()
        return code, capfd.readouterr().out
    return to_the_end


def test_a_container_has_its_own_world(run: Run) -> None:
    script = "echo $$; hostname; id -u; ls /etc/os-release; pwd; ps | wc -l"
    code, out = run("sh", "-c", script, hostname="box")
    assert code == 0
    assert out.split() == ["1", "box", "0", "/etc/os-release", "/", "4"]  # header, sh, ps, wc
    assert "ID=mycontainer" in run("cat", "/etc/os-release")[1]


def test_a_root_of_layers_is_written_to_above_them(image: str, tmp_path: Path, run: Run) -> None:
    base, site = tmp_path / "base", tmp_path / "site"
    base.mkdir()
    site.mkdir()
    images.unpack(image, base)
    (base / "page").write_text("below")
    (site / "page").write_text("above")
    how: dict[str, Any] = {"layers": [str(base), str(site)], "unpack": lambda root: Path(root, "own").touch()}
    script = "cat page; echo; ls own; rm bin/ls && echo mine >page; cat page; ls upper work 2>&-"
    code, out = run("sh", "-c", script, **how)
    assert (code, out.split()) == (1, ["above", "own", "mine"])  # and neither bin/ls nor what is behind it
    assert (site / "page").read_text() == "above"
    assert (base / "bin/ls").is_symlink()
    assert run("cat", "page", **how) == (0, "above")  # the next one starts afresh


def test_without_a_path_in_its_environment_a_command_is_found_where_commands_are(run: Run) -> None:
    assert run("sh", "-c", "echo found", env={}) == (0, "found\n")


def test_every_kind_asked_for_is_new_and_no_other(start: Start) -> None:
    here = namespaces.identify()
    process = start("sleep", "30")
    there = namespaces.identify(process.pid)
    process.kill()
    assert process.wait() == 137
    assert {kind for kind in here if here[kind] != there[kind]} == set(container.KINDS)


@pytest.mark.parametrize("missing", ["uts", "ipc", "net", "cgroup", "pid"])
def test_each_kind_can_be_left_out(start: Start, missing: str) -> None:
    kinds = [kind for kind in container.KINDS if kind != missing]
    here = namespaces.identify()
    process = start("sleep", "30", kinds=kinds)
    there = namespaces.identify(process.pid)
    process.kill()
    process.wait()
    assert {kind for kind in here if here[kind] != there[kind]} == set(kinds)


@pytest.mark.parametrize(("script", "code"), [
    ("exit 0", 0), ("exit 7", 7), ("sh -c 'kill -9 $$'; exit $?", 137),
])
def test_the_exit_code_is_the_command_s(run: Run, script: str, code: int) -> None:
    assert run("sh", "-c", script)[0] == code


@pytest.mark.parametrize(("argv", "code", "words"), [
    (["no-such-command"], 127, "no such command in the PATH"),
    (["/no/such"], 127, "no such command"),
    (["/etc/passwd/x"], 127, "no such command"),
    (["/etc"], 126, "Permission denied"),
    (["/etc/passwd"], 126, "Permission denied"),
])
def test_a_command_that_does_not_start(start: Start, argv: list[str], code: int,
                                       words: str) -> None:
    with pytest.raises(ContainerError, match=words) as caught:
        start(*argv)
    assert caught.value.exit_code == code


def test_a_script_without_its_interpreter_and_one_without_a_first_line(
        start: Start, tmp_path: Path) -> None:
    (tmp_path / "lost").write_text("#!/no/such/interpreter\n")
    (tmp_path / "bare").write_text("echo hello\n")
    for script in ("lost", "bare"):
        (tmp_path / script).chmod(0o755)
    volumes = [(str(tmp_path), "/s", True)]
    with pytest.raises(ContainerError, match="interpreter") as lost:
        start("/s/lost", volumes=volumes)
    with pytest.raises(ContainerError, match="Exec format error") as bare:
        start("/s/bare", volumes=volumes)
    assert (lost.value.exit_code, bare.value.exit_code) == (127, 126)


def test_errors_of_ours_are_125_and_say_which_call_failed(start: Start) -> None:
    with pytest.raises(ContainerError, match=r'chdir\("/nowhere"\)') as caught:
        start("true", workdir="/nowhere")
    assert caught.value.exit_code == 125
    with pytest.raises(ContainerError, match="/no/such/volume"):
        start("true", volumes=[("/no/such/volume", "/v", False)])
    with pytest.raises(ContainerError, match="mount namespace"):
        start("true", kinds=["user"])


def test_signals_and_descriptors_are_as_for_any_command(run: Run, tmp_path: Path) -> None:
    with open(tmp_path / "leak", "w") as leak:
        os.set_inheritable(leak.fileno(), True)
        _, out = run("sh", "-c", "grep -E 'Sig(Blk|Ign|Cgt)' /proc/self/status; ls /proc/self/fd")
    blocked, ignored, caught = (int(line.split()[1], 16) for line in out.splitlines()[:3])
    assert (blocked, caught) == (0, 0)
    assert ignored >> 31 << 31 == ignored  # make(1) leaves 32 and 33 ignored, which glibc keeps for itself
    assert out.split()[-4:] == ["0", "1", "2", "3"]  # 3: ls reading the directory


def test_the_environment_is_only_what_was_given(run: Run) -> None:
    _, out = run("env", env={"PATH": "/bin:/usr/bin", "A": "b\nc"})
    assert out.splitlines() == ["PATH=/bin:/usr/bin", "A=b", "c"]


def test_the_caller_s_terminal_session_is_left(run: Run) -> None:
    assert run("sh", "-c", "cut -d' ' -f6 /proc/self/stat")[1].split() == ["1"]  # session: PID 1's own


def test_each_start_has_a_fresh_root(run: Run) -> None:
    assert run("sh", "-c", "rm -rf /bin/ls /etc; touch /mine; ls /etc")[0] != 0
    assert run("sh", "-c", "ls /etc/passwd; ls /mine")[1] == "/etc/passwd\n"


def test_the_root_of_the_caller_can_be_kept(run: Run) -> None:
    code, out = run("sh", "-c", "echo $$; ls /proc | grep -c '^[0-9]'", root=None, unpack=None,
                    kinds=["user", "mnt", "pid"])
    assert (code, out.split()[0]) == (0, "1")
    assert int(out.split()[1]) <= 4


def test_no_code_of_the_image_runs_in_the_runtime(start: Start, tmp_path: Path) -> None:
    """A traceback.py is planted wherever this Python looks: an error after pivot must not load it."""
    evil = "open('/srv/executed', 'w').write('by the runtime')\n"
    proof = tmp_path / "proof"
    proof.mkdir()
    planted = tmp_path / "planted"
    planted.mkdir()
    for name in ("traceback", "encodings", "linecache", "tokenize", "warnings", "codecs"):
        (planted / f"{name}.py").write_text(evil)
    searched = sorted(path for path in {*sys.path, os.getcwd()} if path and not path.endswith(".zip"))
    targets = [path for path in searched if not any(path.startswith(f"{other}/") for other in searched)]
    volumes = [(str(proof), "/srv", False), *((str(planted), path, True) for path in targets)]
    with pytest.raises(ContainerError, match="no such command"):
        start("nothing", volumes=volumes)
    with pytest.raises(ContainerError, match="chdir"):
        start("true", workdir="/nowhere", volumes=volumes)
    assert os.listdir(proof) == []


def gone(pid: int, within: float = 2.0) -> bool:
    """Is there no process `pid` any more, or only its zombie?"""
    end = time.monotonic() + within
    while time.monotonic() < end:
        try:
            if re.search(r"\) [ZX]", Path(f"/proc/{pid}/stat").read_text()):
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.01)
    return False


CALLER = """
import sys
from mycontainer import container, images
process = container.start(sys.argv[3:], sys.argv[1], unpack=lambda root: images.unpack(sys.argv[2], root))
print(process.runner, process.pid, flush=True)
sys.exit(process.wait())
"""


@pytest.mark.parametrize("victims", [
    ["caller"], ["runner"], ["pid 1"], ["caller", "runner"], ["runner", "caller"], ["caller", "pid 1"],
    ["runner", "pid 1"],
])
def test_whoever_is_killed_nothing_runs_on(image: str, tmp_path: Path, victims: list[str]) -> None:
    # a child in a session of its own: neither a process group nor a parent-death signal reaches it
    command = ["sh", "-c", "setsid sleep 60 & wait"]
    with subprocess.Popen([sys.executable, "-c", CALLER, str(tmp_path), image, *command],
                          stdout=subprocess.PIPE, text=True) as caller:
        assert caller.stdout
        runner, pid_1 = map(int, caller.stdout.readline().split())
        pids = {"caller": caller.pid, "runner": runner, "pid 1": pid_1}
        time.sleep(0.05)
        members = [int(p) for p in os.listdir("/proc") if p.isdigit() and in_namespace(int(p), pid_1)]
        assert len(members) == 2
        for victim in victims:
            try:
                os.kill(pids[victim], signal.SIGKILL)
            except ProcessLookupError:  # the first death has taken it along already
                pass
        assert [pid for pid in [runner, *members] if not gone(pid)] == []
        caller.kill()


def in_namespace(pid: int, other: int) -> bool:
    try:
        return os.readlink(f"/proc/{pid}/ns/pid") == os.readlink(f"/proc/{other}/ns/pid")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False


@needs_root
@pytest.mark.parametrize("victim", ["caller", "runner"])
def test_a_command_that_changes_its_user_is_ended_too(image: str, tmp_path: Path, victim: str) -> None:
    """setuid clears the parent-death signal (prctl(2)): the runner must take PID 1 along all the same."""
    code = CALLER.replace("root))", "root), uid_map=[(0, 700000, 1000)], gid_map=[(0, 700000, 1000)])")
    command = ["su", "-s", "/bin/sh", "nobody", "-c", "exec sleep 60"]
    passwd = tmp_path / "passwd"
    passwd.write_text("root:x:0:0:root:/root:/bin/sh\nnobody:x:99:99::/:/bin/sh\n")
    code = code.replace("gid_map=", f"volumes=[('{passwd}', '/etc/passwd', True)], gid_map=")
    for directory in (tmp_path, *tmp_path.parents[:2]):  # user 700000 must be able to come here
        directory.chmod(0o755)
    copy = shutil.copy(image, tmp_path)
    mountpoint = tmp_path / "root"
    mountpoint.mkdir(mode=0o755)
    with subprocess.Popen([sys.executable, "-c", code, str(mountpoint), copy, *command],
                          stdout=subprocess.PIPE, text=True) as caller:
        assert caller.stdout
        runner, pid_1 = map(int, caller.stdout.readline().split())
        end = time.monotonic() + 2
        while "Uid:\t700099" not in Path(f"/proc/{pid_1}/status").read_text() and time.monotonic() < end:
            time.sleep(0.01)
        assert "Uid:\t700099" in Path(f"/proc/{pid_1}/status").read_text()
        os.kill({"caller": caller.pid, "runner": runner}[victim], signal.SIGKILL)
        assert gone(runner)
        assert gone(pid_1)
        caller.kill()


@pytest.mark.timeout(20)
@pytest.mark.parametrize("where", [(namespaces, "write_map"), (spawn.Process, "__init__")])
def test_the_caller_fails_at_a_meeting_point(start: Start, monkeypatch: pytest.MonkeyPatch,
                                             where: tuple[Any, str]) -> None:
    """The others wait for a word that the caller will not say; it must not wait for them."""
    def fails(*_: object) -> None:
        raise OSError(24, "Too many open files")
    monkeypatch.setattr(where[0], where[1], fails)
    with pytest.raises(OSError, match="Too many"):
        start("sleep", "60")


@pytest.mark.parametrize("where", ["namespaces.write_map", "spawn.Process.__init__"])
def test_the_caller_dies_at_a_meeting_point(image: str, tmp_path: Path, where: str) -> None:
    """The runner waits for its maps, or PID 1 for its go; nobody will ever say it. The leak check looks."""
    at = f"{where} = lambda *_: (print(_[-1], flush=True), os.kill(os.getpid(), 9))\n"
    dies = "import os\nfrom mycontainer import namespaces, spawn\n" + CALLER.replace(
        "process =", at + "process =", 1)
    with subprocess.Popen([sys.executable, "-c", dies, str(tmp_path), image, "sleep", "60"],
                          stdout=subprocess.PIPE) as caller:
        assert caller.stdout
        assert caller.stdout.readline()
        assert caller.wait() == -signal.SIGKILL


def test_killed_at_any_moment_of_the_start(image: str, tmp_path: Path) -> None:
    """SIGKILL to the caller after 0, 2, 4 ... ms: the leak check around this test finds what stays."""
    for milliseconds in range(0, 80, 4):
        with subprocess.Popen([sys.executable, "-c", CALLER, str(tmp_path), image, "sleep", "60"],
                              stdout=subprocess.PIPE) as caller:
            time.sleep(0.04 + milliseconds / 1000)
            caller.kill()
    assert not os.path.ismount(tmp_path)


def test_the_runner_keeps_no_descriptor_of_the_caller(start: Start) -> None:
    reader, writer = os.pipe()
    process = start("sleep", "30")
    os.close(writer)
    assert os.read(reader, 1) == b""  # end of file: nobody else holds the writing end
    os.close(reader)
    assert set(os.listdir(f"/proc/{process.runner}/fd")) <= {"0", "1", "2"}
    process.kill()
    assert process.wait() == 137


def test_a_read_only_volume_cannot_be_made_writable_from_inside(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("ours")
    undo = "mount -o remount,bind,rw /v 2>&1; umount /v 2>&1; echo theirs >/v/file"
    _, out = run("sh", "-c", undo, volumes=[(str(tmp_path), "/v", True)])
    assert (tmp_path / "file").read_text() == "ours"
    assert out.count("ermi") == 2  # "Permission denied", "Operation not permitted"


def test_a_container_has_a_session_keyring_of_its_own(start: Start, tmp_path: Path) -> None:
    before = Path("/proc/keys").read_text()
    show = start("sh", "-c", "cat /proc/keys > /out/keys", volumes=[(str(tmp_path), "/out", False)])
    assert show.wait() == 0
    inside = map(str.split, (tmp_path / "keys").read_text().splitlines())
    assert [line[7:9] for line in inside if line[0] not in before] == [["keyring", "_ses:"]]


def test_many_starts_leave_no_descriptor_behind(run: Run) -> None:
    run("true")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        run("true")
        with pytest.raises(ContainerError):
            run("nothing")
    assert len(os.listdir("/proc/self/fd")) == before
