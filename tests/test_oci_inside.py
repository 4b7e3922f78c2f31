"""What a command finds inside a bundle's container, compared with what runc makes of the same file."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bundle import Oci, needs_busybox
from needs import needs_root, needs_tool, needs_userns, needs_v1

pytestmark = [needs_userns, needs_busybox]

LOOK = """cat /proc/self/mountinfo; echo ==; cat /proc/self/status; echo ==; cat /proc/self/cgroup; echo ==
    ls -la /dev /dev/pts; echo ==; env; umask; pwd; id; hostname; ulimit -n; cat /proc/self/oom_score_adj
    echo ==
    ls -l /proc/1/fd"""


@pytest.fixture
def oci(tmp_path: Path) -> Iterator[Oci]:
    tmp_path.chmod(0o755)
    one = Oci(tmp_path / "oci")
    yield one
    one.clean()


def with_spec_of(tool: str, oci: Oci) -> None:
    """The configuration that another runtime writes; unchanged but for command, terminal and cgroup."""
    (oci.bundle / "config.json").unlink()
    options = ["--rootless"] * (os.geteuid() != 0)
    subprocess.run([tool, "spec", *options], cwd=oci.bundle, check=True, capture_output=True)
    oci.write(oci.config)  # with a cgroupsPath
    oci.change("process", "terminal", value=False)
    oci.shell(LOOK)


def run_by(tool: str, oci: Oci) -> str:
    """The same bundle by somebody else."""
    state = oci.directory / "theirs"
    argv = [tool, "--root", str(state), "run", "--bundle", str(oci.bundle), f"{oci.id}-theirs"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    return done.stdout


def comparable(shown: str, oci: Oci) -> dict[str, Any]:
    """Without what differs from start to start."""
    mounts, status, cgroup, devices, process, fds = shown.split("==\n")
    rows = {}
    for line in mounts.splitlines():
        fields = line.partition(" - ")[0].split()
        rows[fields[4]] = (fields[3].replace("-theirs", ""), fields[5], line.partition(" - ")[2])
    facts = dict(line.split(":\t", 1) for line in status.splitlines())
    for name in [name for name in facts if re.search("Pid|pid|ctxt|^Vm|^Rss|SigQ|Hugetlb|Tgid|NStgid", name)]:
        del facts[name]
    devices = re.sub(r"\w{3} +\d+ \d\d:\d\d", "", devices)
    return {"mounts": rows, "status": facts, "devices": devices, "process": sorted(process.splitlines()),
            "cgroup": [line for line in cgroup.splitlines() if not line.startswith("0::")],
            "fds": len(fds.splitlines())}


@pytest.mark.parametrize("tool", ["runc", "crun"])
def test_the_bundle_of_another_runtime_runs_unchanged(tool: str, oci: Oci) -> None:
    """As root and as an ordinary user: the very file, run under a terminal's stand-in by its own command."""
    if not shutil.which(tool):
        pytest.skip(f"needs the program {tool} (Debian package {tool})")
    with_spec_of(tool, oci)
    oci.shell("id -u; hostname; exit 5")
    done = oci.run()
    assert (done.stdout, done.returncode) == (f"0\n{tool}\n", 5), done.stderr


@needs_root
@needs_v1
@needs_tool("runc", "runc")
def test_inside_it_is_as_with_runc(oci: Oci) -> None:
    """But for /sys/fs/cgroup itself, which runc leaves writable, and a hybrid machine's empty version 2."""
    with_spec_of("runc", oci)
    oci.change("process", "oomScoreAdj", value=200)
    oci.change("process", "user", value={"uid": 7, "gid": 7, "additionalGids": [5, 9], "umask": 0o27})
    oci.change("process", "cwd", value="/made/for/it")
    theirs, done = comparable(run_by("runc", oci), oci), oci.run()
    assert done.returncode == 0, done.stderr
    ours = comparable(done.stdout, oci)
    assert theirs["mounts"].pop("/sys/fs/cgroup")[1] == "rw,nosuid,nodev,noexec,relatime"
    assert ours["mounts"].pop("/sys/fs/cgroup")[1] == "ro,nosuid,nodev,noexec,relatime"
    assert ours == theirs


@needs_tool("runc", "runc")
@pytest.mark.skipif(os.geteuid() == 0, reason="needs an ordinary user")
def test_inside_it_is_as_with_runc_for_an_ordinary_user(oci: Oci) -> None:
    with_spec_of("runc", oci)
    theirs, done = comparable(run_by("runc", oci), oci), oci.run()
    assert done.returncode == 0, done.stderr
    ours = comparable(done.stdout, oci)
    for one in (ours, theirs):  # of the machine's own cgroups each shows another part, read-only
        one["mounts"] = {path: row for path, row in one["mounts"].items() if "cgroup" not in path}
    assert ours == theirs


# ---- each property


def shown(oci: Oci, script: str) -> str:
    oci.shell(script)
    done = oci.run()
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_mounts_are_what_their_options_say(oci: Oci) -> None:
    source = oci.directory / "volume"
    (source / "below").mkdir(parents=True)
    (source / "file").write_text("of the host\n")
    source.chmod(0o777)
    oci.change("mounts", value=[
        *oci.config["mounts"],
        {"destination": "/a", "source": str(source), "options": ["rbind", "ro", "nosuid", "noexec"]},
        {"destination": "/b", "source": str(source), "options": ["rbind", "rro"]},
        {"destination": "/c", "source": str(source / "file"), "options": ["bind"]},
        {"destination": "/d", "type": "tmpfs", "source": "tmpfs",
         "options": ["size=4k", "mode=711", "noatime"]},
    ])
    script = """cat /a/file /c; touch /a/x || echo refused; touch /b/x || echo refused
        grep ' /[abcd] ' /proc/self/mountinfo; stat -c %a /d"""
    rows = shown(oci, script).splitlines()
    assert rows[:4] == ["of the host", "of the host", "refused", "refused"]
    options = {row.split()[4]: set(row.split()[5].split(",")) for row in rows[4:-1]}
    assert options["/a"] >= {"ro", "nosuid", "noexec"}
    assert "ro" in options["/b"]
    assert "rw" in options["/c"]
    assert "noatime" in options["/d"]
    assert rows[-1] == "711"


def test_a_bind_mount_of_what_is_not_there_is_told(oci: Oci) -> None:
    oci.change("mounts", value=[*oci.config["mounts"],
                                {"destination": "/a", "source": "/no/such", "options": ["bind"]}])
    assert "cannot show /no/such as /a: No such file or directory" in oci.run().stderr


def test_a_symlink_of_the_image_leads_nowhere_out_here(oci: Oci) -> None:
    """The classic: a mount point of the image is a link to a directory of the host's."""
    target, rootfs = oci.directory / "target", oci.bundle / "rootfs"
    target.mkdir()
    (rootfs / "link").symlink_to(target)
    oci.change("mounts", value=[*oci.config["mounts"], {"destination": "/link/x", "type": "tmpfs",
                                                        "source": "tmpfs"}])
    assert "cannot mount on /link/x" in oci.run().stderr
    assert not list(target.iterdir())
    (rootfs / str(target).lstrip("/")).mkdir(parents=True)  # now it leads somewhere in there
    assert f"{target}/x" in shown(oci, "cut -d' ' -f5 /proc/self/mountinfo").split()
    assert not list(target.iterdir())


def test_masked_and_read_only_paths(oci: Oci) -> None:
    oci.change("root", "readonly", value=False)
    (oci.bundle / "rootfs" / "secret").write_text("secret")
    (oci.bundle / "rootfs" / "hidden").mkdir()
    (oci.bundle / "rootfs" / "hidden" / "x").touch()
    (oci.bundle / "rootfs" / "fixed").mkdir()
    oci.change("linux", "maskedPaths", value=["/secret", "/hidden", "/not/there"])
    oci.change("linux", "readonlyPaths", value=["/fixed", "/not/there"])
    script = "cat /secret; ls /hidden; touch /fixed/x || touch /x && echo only there"
    assert shown(oci, script) == "only there\n"


def test_a_read_only_root(oci: Oci) -> None:
    script = "touch /x || echo refused; touch /dev/shm/x && echo but there"
    assert shown(oci, script) == "refused\nbut there\n"


def test_rights_are_those_of_the_configuration(oci: Oci) -> None:
    oci.change("process", "capabilities", value={
        "bounding": ["CAP_KILL", "CAP_CHOWN"], "permitted": ["CAP_KILL", "CAP_CHOWN"],
        "inheritable": ["CAP_KILL"], "effective": ["CAP_KILL"], "ambient": ["CAP_KILL"]})
    oci.change("process", "noNewPrivileges", value=False)
    rows = shown(oci, "grep -E 'Cap|NoNew' /proc/self/status").split()
    inheritable, permitted, effective, bounding, ambient = (int(word, 16) for word in rows[1:-2:2])
    assert (inheritable, permitted, bounding, ambient) == (0x20, 0x21, 0x21, 0x20)
    assert effective == 0x21, "exec gives root all that it is permitted"
    assert rows[-1] == "0"
    oci.change("process", "capabilities", value=None)
    rows = shown(oci, "grep -E 'Cap' /proc/self/status").split()
    assert set(rows[1::2]) == {"0" * 16}, "without capabilities there are none"


def test_a_capability_that_nobody_knows_is_no_failure(oci: Oci) -> None:
    oci.change("process", "capabilities", "bounding", value=["CAP_KILL", "CAP_OF_TOMORROW"])
    assert shown(oci, "echo fine") == "fine\n"


@needs_root
def test_the_user_in_there_has_its_ids_and_its_home(oci: Oci) -> None:
    oci.change("process", "user", value={"uid": 7, "gid": 8, "additionalGids": [9], "umask": 0o77})
    assert shown(oci, "id; umask; echo $HOME; cat /proc/self/loginuid >/dev/null; touch /dev/shm/x; "
                      "stat -c '%u %a' /dev/shm/x") == "uid=7(daemon) gid=8 groups=9\n0077\n/tmp\n7 600\n"


def test_limits_and_scheduling(oci: Oci) -> None:
    oci.change("process", "rlimits", value=[{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
                                            {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}])
    oci.change("process", "scheduler", value={"policy": "SCHED_BATCH", "nice": 3})
    oci.change("process", "oomScoreAdj", value=700)
    rows = shown(oci, "ulimit -Sn; ulimit -Hn; ulimit -c; cat /proc/self/oom_score_adj; cat /proc/self/stat")
    *limits, stat = rows.splitlines()
    assert limits == ["100", "200", "0", "700"]
    fields = stat.rpartition(")")[2].split()
    assert (fields[16], fields[38]) == ("3", "3"), "nice, and the number of SCHED_BATCH"


def test_names_clocks_and_parameters(oci: Oci) -> None:
    config = oci.config
    config["linux"]["namespaces"] = [*config["linux"]["namespaces"], {"type": "time"}]
    config["linux"]["timeOffsets"] = {"boottime": {"secs": 1_000_000}}
    config["linux"]["sysctl"] = {"kernel.shmmax": "4711"}
    config |= {"hostname": "web", "domainname": "example.test"}
    oci.write(config)
    up, *rest = shown(oci, "cat /proc/uptime /proc/sys/kernel/hostname /proc/sys/kernel/domainname "
                           "/proc/sys/kernel/shmmax").splitlines()
    assert float(up.split()[0]) > 1_000_000
    assert rest == ["web", "example.test", "4711"]


@needs_root
def test_devices(oci: Oci) -> None:
    oci.change("linux", "devices", value=[
        {"path": "/dev/mine", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 7, "gid": 8},
        {"path": "/dev/pipe", "type": "p", "fileMode": 0o600}])
    oci.change("linux", "resources", "devices", value=[{"allow": False, "access": "rwm"}])
    rows = shown(oci, "stat -c '%F %a %u %g %t:%T' /dev/mine /dev/pipe; echo x > /dev/null && echo may; "
                      "ls -l /dev/console 2>/dev/null || true")
    assert rows.splitlines() == ["character special file 640 7 8 1:3", "fifo 600 0 0 0:0", "may"]


@needs_root
@needs_v1
def test_the_cgroup_has_the_limits_and_the_rules_for_devices(oci: Oci) -> None:
    oci.change("linux", "resources", value={
        "memory": {"limit": 64 << 20, "reservation": 32 << 20}, "pids": {"limit": 9},
        "cpu": {"quota": 50_000, "period": 100_000, "shares": 512, "cpus": "0"},
        "devices": [{"allow": False, "access": "rwm"},
                    {"allow": True, "type": "c", "major": 10, "minor": 200}]})
    at = "/sys/fs/cgroup"
    rows = shown(oci, f"cat {at}/memory/memory.limit_in_bytes {at}/memory/memory.soft_limit_in_bytes "
                      f"{at}/pids/pids.max {at}/cpu/cpu.cfs_quota_us {at}/cpu/cpu.shares "
                      f"{at}/cpuset/cpuset.cpus {at}/devices/devices.list").splitlines()
    assert rows[:6] == [str(64 << 20), str(32 << 20), "9", "50000", "512", "0"]
    assert {"c 10:200 rwm", "c 1:3 rwm", "c 136:* rwm"} <= set(rows[6:])
    assert "a *:* rwm" not in rows


@needs_root
def test_a_path_that_is_empty_or_relative_is_never_in_our_own_cgroup(oci: Oci) -> None:
    for path, seen in (("", f"/mycontainer/{oci.id}"), (f"{oci.id}/x", f"/mycontainer/{oci.id}/x")):
        oci.change("linux", "cgroupsPath", value=path)
        rows = shown(oci, "cat /proc/self/cgroup").splitlines()
        assert {row.split(":")[2] for row in rows if not row.startswith("0::")} <= {seen}


@needs_root
@needs_v1
def test_a_cgroup_namespace_hides_where_it_is(oci: Oci) -> None:
    config = oci.config
    config["linux"]["namespaces"] = [*config["linux"]["namespaces"], {"type": "cgroup"}]
    oci.write(config)
    script = "grep memory /proc/self/cgroup; grep cgroup/memory /proc/self/mountinfo | cut -d' ' -f4"
    named, mounted = shown(oci, script).splitlines()
    assert named.endswith(":/")
    assert mounted == "/"


def test_hooks_are_called_at_their_moments_with_the_state(oci: Oci) -> None:
    log = oci.directory / "log"
    script = f"{oci.directory}/hook"
    Path(script).write_text(f"#!/bin/sh\necho $1 $(cat) >> {log}\n")
    Path(script).chmod(0o755)
    moments = ("prestart", "createRuntime", "createContainer", "poststop")
    env = ["PATH=/usr/bin:/bin"]
    oci.change("hooks", value={moment: [{"path": script, "args": ["hook", moment], "env": env}]
                               for moment in moments}
               | {"startContainer": [{"path": "/bin/touch", "args": ["touch", "/dev/shm/started"]}]})
    assert shown(oci, "ls /dev/shm") == "started\n"
    rows = [line.split(" ", 1) for line in log.read_text().splitlines()]
    assert [moment for moment, _ in rows] == list(moments)
    told = [json.loads(state) for _, state in rows]
    assert {one["id"] for one in told} == {oci.id}
    assert [one["status"] for one in told] == ["creating", "creating", "creating", "stopped"]
    assert told[0]["pid"] > 1
    assert told[2]["pid"] == 1


def test_a_hook_that_fails_stops_the_start_and_nothing_is_left(oci: Oci) -> None:
    failing = {"path": "/bin/sh", "args": ["sh", "-c", "echo why >&2; exit 3"]}
    oci.change("hooks", value={"createRuntime": [failing]})
    done = oci.run()
    assert done.returncode == 1
    assert "hooks.createRuntime[0]: /bin/sh ended with 3: why" in done.stderr
    oci.change("hooks", value={"prestart": [{"path": "/bin/sleep", "args": ["sleep", "60"], "timeout": 1}]})
    assert "took longer than 1 s" in oci.run().stderr
    assert not list(oci.root.iterdir())


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_namespaces_of_others_are_joined(oci: Oci) -> None:
    config = oci.config
    with subprocess.Popen(["unshare", "--net", "--uts", "--ipc", "sleep", "60"]) as other:
        try:
            spaces = {"network": "net", "uts": "uts", "ipc": "ipc"}
            config["linux"]["namespaces"] = [{"type": "mount"}, {"type": "pid"}, *(
                {"type": kind, "path": f"/proc/{other.pid}/ns/{name}"} for kind, name in spaces.items())]
            del config["hostname"]
            oci.write(config)
            while os.readlink(f"/proc/{other.pid}/ns/ipc") == os.readlink("/proc/self/ns/ipc"):
                pass
            theirs = [os.readlink(f"/proc/{other.pid}/ns/{name}") for name in spaces.values()]
            script = "for kind in net uts ipc; do readlink /proc/self/ns/$kind; done"
            assert shown(oci, script).split() == theirs
            config["linux"]["namespaces"][2]["path"] = f"/proc/{other.pid}/ns/uts"
            oci.write(config)
            assert "cannot join the net namespace" in oci.run().stderr
        finally:
            other.kill()
