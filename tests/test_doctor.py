"""The doctor: each trial works here, and can fail; the cure fits the machine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mycontainer.cli import doctor as cli_doctor
from mycontainer.engine import idmap
from mycontainer.errors import ContainerError
from mycontainer.lab import doctor, limits, trials
from mycontainer.lab.doctor import Finding, Need
from mycontainer.lab.machine import INSTALL, PACKAGES, Machine
from needs import needs_subids, needs_tool, needs_user, needs_userns

PROJECT = Path(__file__).parents[1]
DOCTOR = [sys.executable, "-m", "mycontainer.lab.doctor"]
USERNS, MOUNT, NET = doctor.USERNS, doctor.MOUNT, doctor.NET


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(PROJECT))
    monkeypatch.delenv("MYCONTAINER_LAB", raising=False)


def by_need(findings: list[Finding]) -> dict[str, Finding]:
    return {finding.need: finding for finding in findings}


# ---- the examination

@needs_userns
def test_the_first_chapters_work_here_and_it_takes_less_than_three_seconds() -> None:
    began = time.monotonic()
    findings = doctor.examine()
    assert time.monotonic() - began < 3
    assert [finding.chapter for finding in findings] == sorted(finding.chapter for finding in findings)
    assert [finding.need for finding in findings] == [need.what for need in doctor.NEEDS]
    broken = [finding for finding in findings if finding.chapter <= 2 and finding.works is False]
    assert [finding for finding in broken if finding.need != "the packages of the course"] == []
    for finding in findings:
        assert finding.detail, finding
        assert not (finding.works and finding.cure), finding


@needs_userns
def test_it_can_be_asked_from_a_process_with_threads_such_as_a_notebooks() -> None:
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    try:
        assert by_need(doctor.examine())[USERNS].works
    finally:
        stop.set()
        thread.join()


def test_an_examination_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "interpreter", lambda: "/bin/false")
    with pytest.raises(ContainerError, match="cannot examine this machine"):
        doctor.examine()
    monkeypatch.setattr(doctor, "interpreter", lambda: "/nowhere")
    with pytest.raises(ContainerError, match="cannot examine this machine"):
        doctor.examine()


def test_a_trial_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PATIENCE", 0.2)
    began = time.monotonic()

    def sleep() -> str:
        time.sleep(30)
        return "awake"

    found = doctor.try_out(Need(0, "sleep", sleep, doctor.always("wake up")), Machine())
    assert time.monotonic() - began < 5
    assert (found.works, found.cure) == (False, "wake up")
    assert found.detail.startswith("no answer: gave up after")


@needs_userns
def test_a_trial_that_hangs_inside_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PATIENCE", 0.3)

    def hang() -> str:
        trials.inside(lambda: time.sleep(30), "user", "pid")
        return ""

    assert doctor.try_out(Need(0, "hang", hang, doctor.always("")), Machine()).works is False


def test_what_stands_on_something_broken_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> str:
        raise ContainerError("no")

    monkeypatch.setattr(doctor, "NEEDS", (
        Need(0, "ground", fail, doctor.always("dig")),
        Need(0, "nice to have", fail, doctor.always("get it"), essential=False),
        Need(1, "house", lambda: "stands", doctor.always(""), stands_on=("ground",)),
        Need(1, "tree", lambda: "stands", doctor.always("")),
        Need(2, "roof", lambda: "stands", doctor.always(""), stands_on=("tree", "house")),
    ))
    assert doctor.examine_here(Machine()) == [
        (0, "ground", False, "no", "dig"), (0, "nice to have", None, "no", "get it"),
        (1, "house", None, "not tried; it needs ground", ""), (1, "tree", True, "stands", ""),
        (2, "roof", None, "not tried; it needs house", "")]


# ---- each trial can fail: machines that lack something, simulated in namespaces of our own

LACKING: list[tuple[str, str, bool | None, str]] = [
    ("echo 0 > /proc/sys/user/max_user_namespaces", USERNS, False, "sysctl -w user.max_user_namespaces="),
    ("echo 0 > /proc/sys/user/max_mnt_namespaces", MOUNT, False, "/proc/sys/user"),
    ("echo 0 > /proc/sys/user/max_net_namespaces", NET, False, "kernel"),
    ("echo 0 > /proc/sys/user/max_uts_namespaces", NET, False, "kernel"),
    ("echo 0 > /proc/sys/user/max_pid_namespaces", NET, False, "kernel"),
    ("echo 0 > /proc/sys/user/max_ipc_namespaces", NET, False, "kernel"),
    ("echo 0 > /proc/sys/user/max_cgroup_namespaces", NET, False, "kernel"),
    ("echo 0 > /proc/sys/user/max_time_namespaces", "clocks of its own", None, "Linux 5.6"),
    ("mount --bind /dev/null /proc/meminfo", "a /proc of its own", False, ""),
    ("mount -t tmpfs none /sys/kernel", "a /sys of its own", False, ""),
    ("mount -t tmpfs none /dev", "a /dev of its own", False, ""),
    ("mount -t tmpfs none /etc; touch /etc/passwd", "more than one user id in the lab", None, ""),
]


@needs_userns
@needs_tool("unshare", "util-linux")
@pytest.mark.parametrize(("lack", "need", "works", "cure"), LACKING, ids=[row[0][-40:] for row in LACKING])
def test_what_a_machine_lacks_is_found(lack: str, need: str, works: bool | None, cure: str) -> None:
    argv = ["unshare", "-Urm", "sh", "-ec", f'{lack}; exec "$@"', "sh", *DOCTOR]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    findings = by_need([Finding(*row) for row in json.loads(done.stdout)])
    assert findings[need].works is works, findings[need]
    assert cure in findings[need].cure
    tried_in_vain = [one.need for one in findings.values() if one.works is False and one.chapter <= 2]
    assert tried_in_vain == ([need] if works is False else []), "one cause, one complaint"


@needs_userns
@needs_tool("bwrap", "bubblewrap")
def test_a_sandbox_that_forbids_user_namespaces_is_found() -> None:
    argv = ["bwrap", "--unshare-user", "--disable-userns", "--dev-bind", "/", "/", *DOCTOR]
    done = subprocess.run(argv, capture_output=True, text=True)
    if "Unknown option" in done.stderr or "disable-userns" in done.stderr:
        pytest.skip(f"needs a bwrap that knows --disable-userns: {done.stderr.strip()}")
    assert by_need([Finding(*row) for row in json.loads(done.stdout)])[USERNS].works is False


@needs_user
@needs_subids
def test_without_newuidmap_the_lab_has_one_id_and_the_cure_is_a_package() -> None:
    env = {**os.environ, "PATH": "/nowhere"}
    done = subprocess.run(DOCTOR, env=env, capture_output=True, text=True)
    found = by_need([Finding(*row) for row in json.loads(done.stdout)])["more than one user id in the lab"]
    assert found.works is None
    assert "newuidmap" in found.detail
    assert found.cure == Machine().install("newuidmap")


@needs_userns
@pytest.mark.parametrize(("trial", "program", "cure"), [
    (trials.wires, "ip", "install iproute"), (trials.nat, "nft", "install nftables")], ids=["ip", "nft"])
def test_a_missing_program_is_told_from_a_kernel_that_lacks_something(
        trial: Callable[[], str], program: str, cure: str, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch) -> None:
    debian = pretend(tmp_path, {"etc/os-release": "ID=debian"})
    need = next(need for need in doctor.NEEDS if need.attempt is trial)
    monkeypatch.setattr(trials, "PATH", "/nowhere")
    monkeypatch.setattr(doctor, "PATH", "/nowhere")
    found = doctor.try_out(need, debian)
    assert (found.works, program in found.detail, cure in found.cure) == (False, True, True), found
    monkeypatch.setattr(trials, "shell", raiser(ContainerError("Operation not supported")))
    monkeypatch.setattr(doctor, "PATH", str(tmp_path))
    (tmp_path / program).write_text("")
    (tmp_path / program).chmod(0o755)
    found = doctor.try_out(need, debian)
    assert (found.works, "modprobe" in found.cure) == (False, True)


def raiser(error: Exception) -> Callable[..., object]:
    def fail(*_: object, **__: object) -> object:
        raise error

    return fail


@needs_userns
def test_a_kernel_without_overlayfs_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from mycontainer import syscalls
    real = syscalls.mount

    def without(source: str | None, target: str, fstype: str | None = None, *more: object) -> None:
        real(source, target, "no-such-fs" if fstype == "overlay" else fstype, *more)  # type: ignore[arg-type]

    assert trials.overlay() == "overlay on tmpfs"
    monkeypatch.setattr(syscalls, "mount", without)
    with pytest.raises(ContainerError, match="No such device"):
        trials.overlay()


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "PACKAGES", ("sys", "no_such_package"))
    with pytest.raises(ContainerError, match="no_such_package") as caught:
        trials.packages()
    assert "sys" not in str(caught.value)


def test_no_static_busybox_is_no_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from mycontainer.images import base
    monkeypatch.setattr(base, "find_static_busybox", lambda: None)
    need = next(need for need in doctor.NEEDS if need.attempt is trials.static_busybox)
    found = doctor.try_out(need, pretend(tmp_path, {"etc/os-release": "ID=ubuntu\nID_LIKE=debian"}, uid=1000))
    assert (found.works, found.cure) == (None, "sudo apt install busybox-static")


def test_a_machine_without_cgroups_of_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(limits, "CGROUPS", str(tmp_path))
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ContainerError, match="nobody lets us make one"):
        trials.own_cgroup()
    assert "rlimit" in trials.limits()


def test_a_kvm_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that is no KVM stands in for it; without the device there is nothing to open."""
    real = os.open
    for device, complaint in (("/dev/null", "ioctl"), ("/nowhere", "No such file")):
        monkeypatch.setattr(os, "open", lambda _, flags, device=device: real(device, flags))
        with pytest.raises(OSError, match=complaint):
            trials.kvm()


def test_a_missing_qemu_and_a_closed_kvm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ContainerError, match="no qemu-system"):
        trials.qemu()
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert "usermod -aG kvm" in doctor.allow_kvm(pretend(tmp_path, {"dev/kvm": ""}, uid=1000))
    assert "firmware" in doctor.allow_kvm(pretend(tmp_path / "none", {}))


# ---- cures

def pretend(root: Path, files: dict[str, str], uid: int = 0) -> Machine:
    """A machine that has these files."""
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return Machine(str(root), uid)


HAS_USERNS = {"proc/self/ns/user": "", "proc/self/mountinfo": "22 1 8:1 / / rw - ext4 /dev/vda rw",
              "proc/self/status": "Name:\tx\nSeccomp:\t0\n", "proc/sys/kernel/osrelease": "6.1.0-13-amd64"}
FILTERED = {"proc/self/status": "Name:\tx\nSeccomp:\t2\n"}
RESTRICTED = {"proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1\n"}

CAUSES: list[tuple[dict[str, str], int, str]] = [
    ({"proc/sys/kernel/osrelease": "4.4.0-19041-Microsoft"}, 1000, "wsl --set-version DISTRIBUTION 2"),
    ({**FILTERED, ".dockerenv": ""}, 0, "--security-opt seccomp=unconfined"),
    ({**FILTERED, "run/.containerenv": ""}, 0, "--security-opt seccomp=unconfined"),
    ({"proc/sys/user/max_user_namespaces": "0"}, 1000, "sudo sysctl -w user.max_user_namespaces=15000 "),
    ({"proc/sys/user/max_user_namespaces": "0", ".dockerenv": ""}, 0, "sysctl -w user.max_user_namespaces="),
    ({"proc/sys/kernel/unprivileged_userns_clone": "0"}, 1000,
     "sudo sysctl -w kernel.unprivileged_userns_clone=1 "),
    (RESTRICTED, 1000, "/project/tools/apparmor/install.sh /project/.venv"),
    ({"proc/self/mountinfo": "30 22 0:5 / /dev rw - devtmpfs udev rw"}, 0, "We are in a chroot"),
    (FILTERED, 1000, "A seccomp filter is in force"),
    ({"proc/sys/kernel/osrelease": "5.15.0-microsoft-standard-WSL2"}, 1000, "/proc/sys/user"),
    ({"proc/sys/kernel/unprivileged_userns_clone": "0", **RESTRICTED}, 0, "/proc/sys/user"),  # root may
]


@pytest.mark.parametrize(("files", "uid", "cure"), CAUSES, ids=[row[2][:30] for row in CAUSES])
def test_the_cause_is_found_and_its_cure_is_exact(files: dict[str, str], uid: int, cure: str,
                                                  tmp_path: Path) -> None:
    assert cure in pretend(tmp_path, {**HAS_USERNS, **files}, uid).allow_user_namespaces("/project")


def test_a_kernel_without_user_namespaces(tmp_path: Path) -> None:
    assert "CONFIG_USER_NS" in pretend(tmp_path, {"proc/self/status": ""}).allow_user_namespaces()


def test_without_a_checkout_ubuntu_is_cured_by_its_sysctl(tmp_path: Path) -> None:
    machine = pretend(tmp_path, {**HAS_USERNS, **RESTRICTED}, 1000)
    assert "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0" in machine.allow_user_namespaces()


def test_this_machine_is_in_no_chroot() -> None:
    assert not Machine().in_chroot


@pytest.mark.parametrize(("os_release", "command"), [
    ('ID=debian\nVERSION_ID="12"', "apt install uidmap"),
    ("ID=ubuntu\nID_LIKE=debian", "apt install uidmap"),
    ('ID=linuxmint\nID_LIKE="ubuntu debian"', "apt install uidmap"),
    ("ID=fedora", "dnf install shadow-utils"),
    ('ID="rocky"\nID_LIKE="rhel centos fedora"', "dnf install shadow-utils"),
    ("ID=arch", "pacman -S shadow"),
    ("ID=alpine", "apk add shadow-uidmap"),
    ('ID="opensuse-leap"\nID_LIKE="suse opensuse"', "zypper install shadow"),
    ("ID=nixos", ""),
    ("", ""),
])
def test_the_package_of_this_distribution(os_release: str, command: str, tmp_path: Path) -> None:
    machine = pretend(tmp_path, {"etc/os-release": os_release}, uid=1000)
    assert machine.install("newuidmap") == (f"sudo {command}" if command
                                            else "Install the package that brings newuidmap.")


def test_every_program_has_a_package_on_debian() -> None:
    assert all("debian" in packages for packages in PACKAGES.values())
    assert {family for packages in PACKAGES.values() for family in packages} <= set(INSTALL)


def test_root_of_a_lab_needs_sudo_for_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert pretend(tmp_path, {}).as_root("x") == "x"
    monkeypatch.setenv("MYCONTAINER_LAB", "1")
    assert pretend(tmp_path, {}).as_root("x") == "sudo x"


def test_in_the_lab_nobody_asks_a_device_that_the_lab_hides(tmp_path: Path,
                                                             monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MYCONTAINER_LAB", "1")
    need = next(need for need in doctor.NEEDS if need.attempt is trials.kvm)
    found = doctor.try_out(need, pretend(tmp_path, {}))
    assert (found.works, found.detail) == (None, "not tried: the lab hides /dev/kvm")
    assert "outside of the lab" in found.cure
    assert "firmware" not in found.cure


def test_more_ids_are_a_free_range_for_this_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(idmap, "free_range", lambda: 700000)
    monkeypatch.setattr(doctor, "_user_name", lambda: "ada")
    assert doctor.more_ids(pretend(tmp_path, {}, uid=1000)) == \
        "sudo usermod --add-subuids 700000-765535 --add-subgids 700000-765535 ada"


# ---- the command

WELL = [Finding(0, "air", True, "fresh", ""), Finding(2, "more", None, "little", "get more"),
        Finding(9, "water", False, "none", "rain")]


def test_table_and_exit_code(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(cli_doctor, "examine", lambda: WELL)
    assert cli_doctor.main([]) == 0
    assert capsys.readouterr().out == (
        "CHAPTER  HERE   NEEDS  FOUND\n"
        "      0  ok     air    fresh\n"
        "      2  -      more   little\n"
        "                cure: get more\n"
        "      9  FAILS  water  none\n"
        "                cure: rain\n"
        "\nChapters 0 to 6 and 10 can be done here.\n")
    monkeypatch.setattr(cli_doctor, "examine", lambda: [Finding(2, "air", False, "none", "open a window")])
    assert cli_doctor.main([]) == 1
    assert "cannot be done here yet" in capsys.readouterr().out
    monkeypatch.setenv("MYCONTAINER_LAB", "1")
    cli_doctor.main([])
    assert "outside of it" in capsys.readouterr().out


def test_json_is_for_programs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(cli_doctor, "examine", lambda: WELL)
    assert cli_doctor.main(["--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows[1] == {"chapter": 2, "need": "more", "works": None, "detail": "little", "cure": "get more"}
    assert len(rows) == 3


def test_without_cgroup_v2_chapter_3_shows_what_was_recorded() -> None:
    lacking = [Finding(3, doctor.CGROUPS, None, "v1 is mounted here", "boot")]
    assert doctor.verdict(lacking)[:2] == ["Chapters 0 to 6 and 10 can be done here.",
                                           "Chapter 3 shows recorded results: there is no cgroup v2 here."]


def test_without_qemu_chapter_10_can_be_done_with_what_was_recorded() -> None:
    need = next(need for need in doctor.NEEDS if need.what == doctor.MACHINES)
    assert (need.chapter, need.essential) == (10, False)
    lacking = [Finding(10, doctor.MACHINES, None, "no qemu-system", "apt install it")]
    assert doctor.good(lacking)
    told = "Chapter 10 shows recorded virtual machines only: there is no QEMU here."
    assert told in doctor.verdict(lacking)
    assert not any("QEMU" in one for one in doctor.verdict([Finding(10, doctor.MACHINES, True, "7.2", "")]))
