"""What a test needs of the machine. Every skip says which need was not met.

Use: `from needs import needs_root, needs_tool`, then `@needs_root` or `@needs_tool("lsns", "util-linux")`.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import pwd
import shutil
import subprocess
from pathlib import Path

import pytest

from mycontainer import cgroups
from mycontainer.cgroups import Cgroup
from mycontainer.engine import cgroup_v1
from mycontainer.errors import ContainerError


@functools.cache
def userns_refusal() -> str:
    """Why this user cannot make a user namespace and mount in it; empty when they can.

    A mount is tried, not only `unshare`: Ubuntu's AppArmor restriction and Docker's seccomp filter let the
    namespace be made and refuse what it is for.
    """
    unshare = shutil.which("unshare")
    if not unshare:
        return "unshare is not installed (util-linux)"
    trial = [unshare, "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    done = subprocess.run(trial, capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stderr.strip() or f"unshare exits with {done.returncode}"


def has_subids() -> bool:
    """Whether /etc/subuid and /etc/subgid hold a range for this user (subuid(5))."""
    names = {str(os.getuid())}
    try:
        names.add(pwd.getpwuid(os.getuid()).pw_name)
    except KeyError:  # a uid without an account has no range by name either
        pass
    return all(_owners(file) & names for file in ("/etc/subuid", "/etc/subgid"))


def _owners(file: str) -> set[str]:
    path = Path(file)
    return {line.partition(":")[0] for line in path.read_text().splitlines()} if path.exists() else set()


def needs_tool(name: str, package: str = "") -> pytest.MarkDecorator:
    """Skip unless the program `name` is on PATH; `package` tells the reader what brings it."""
    hint = f" (Debian package {package})" if package else ""
    return pytest.mark.skipif(not shutil.which(name), reason=f"needs the program {name}{hint}")


def needs_module(name: str) -> pytest.MarkDecorator:
    """Skip unless the Python module `name` can be imported; it is looked up, not imported."""
    missing = importlib.util.find_spec(name) is None
    return pytest.mark.skipif(missing, reason=f"needs the Python module {name}")


@functools.cache
def cgroups_refusal() -> str:
    """Why this user cannot make a cgroup and limit something in it; empty when they can. It is tried."""
    try:
        group = new_cgroup("trial")
    except (ContainerError, OSError) as error:
        return str(error)
    try:
        group.limit_memory(64 << 20)
        group.limit_processes(32)
        group.limit_cpu(50_000)
    except OSError as error:
        return str(error)
    finally:
        group.remove()
    return ""


def new_cgroup(name: str) -> Cgroup:
    """A cgroup of the version that this machine has."""
    name = f"test-{name}-{os.getpid()}"
    return cgroup_v1.create(name) if cgroup_v1.in_use() else cgroups.create(name)


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
needs_user = pytest.mark.skipif(os.geteuid() == 0, reason="needs an ordinary user")
needs_userns = pytest.mark.skipif(bool(userns_refusal()), reason=f"needs user namespaces: {userns_refusal()}")
needs_subids = pytest.mark.skipif(
    not has_subids() or not shutil.which("newuidmap"),
    reason="needs subordinate ids: lines in /etc/subuid and /etc/subgid, newuidmap (Debian package uidmap)",
)
_no_lab = userns_refusal() or ("" if importlib.util.find_spec("ipykernel") else "ipykernel is not installed")
needs_lab = pytest.mark.skipif(bool(_no_lab), reason=f"needs the lab: {_no_lab}")
needs_cgroups = pytest.mark.skipif(bool(cgroups_refusal()), reason=f"needs cgroups: {cgroups_refusal()}")
needs_v1 = pytest.mark.skipif(not cgroup_v1.in_use(), reason="needs a machine with cgroup version 1")
needs_v2 = pytest.mark.skipif(cgroup_v1.in_use(), reason="needs cgroup version 2: make test-vm has it")


# What a check makes of a cheat does not depend on who asks. `make test` has two lanes as root, and each takes
# a part of such tests; whoever runs pytest, or has one lane, has all of them.
_LANE = os.environ.get("MYCONTAINER_LANE")
first_lane = pytest.mark.skipif(_LANE == "second", reason="done in the first lane of this run")
second_lane = pytest.mark.skipif(_LANE == "first", reason="done in the second lane of this run")
