"""engine/seccomp.py: the filter of system calls, as the kernel applies it."""

from __future__ import annotations

import ctypes.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bundle import Oci, needs_busybox
from mycontainer.engine import seccomp
from mycontainer.engine.config_seccomp import Condition, read_seccomp
from mycontainer.engine.reader import Reader
from needs import needs_userns

pytestmark = pytest.mark.skipif(
    not ctypes.util.find_library("seccomp"), reason="needs libseccomp (Debian package libseccomp2)")

LINUX_NO_MKDIR = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
    {"names": ["mkdir", "mkdirat", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]}


@pytest.fixture
def oci(tmp_path: Path) -> Iterator[Oci]:
    tmp_path.chmod(0o755)
    one = Oci(tmp_path / "oci")
    yield one
    one.clean()


def compiled(document: dict[str, Any]) -> bytes:
    found = read_seccomp(Reader(document, "linux.seccomp"))
    assert found is not None
    return seccomp.compile_filter(found)


@needs_busybox
@needs_userns
@pytest.mark.parametrize("gains", [False, True], ids=["no_new_privs", "without"])
def test_a_call_fails_as_the_filter_says_and_only_with_it(oci: Oci, gains: bool) -> None:
    """Both ways to install it: after no_new_privs, or before the rights are given away."""
    oci.change("process", "noNewPrivileges", value=not gains)
    oci.shell("mkdir /dev/shm/x; grep Seccomp: /proc/self/status")
    without = oci.run()
    assert (without.stdout, without.stderr) == ("Seccomp:\t0\n", "")
    oci.change("linux", "seccomp", value=LINUX_NO_MKDIR)
    under = oci.run()
    assert under.stdout == "Seccomp:\t2\n", under.stderr
    assert "No space left on device" in under.stderr


@needs_busybox
@needs_userns
def test_exec_is_under_the_same_filter(oci: Oci) -> None:
    oci.change("linux", "seccomp", value=LINUX_NO_MKDIR)
    oci.command("sleep", "1000")
    try:
        assert oci.create().returncode == 0
        assert oci("start", oci.id).returncode == 0
        done = oci("exec", oci.id, "mkdir", "/dev/shm/x")
        assert (done.returncode, "No space left on device" in done.stderr) == (1, True)
    finally:
        oci("delete", "-f", oci.id)


def test_a_rule_that_says_what_happens_anyway_is_left_out() -> None:
    """libseccomp refuses it; and a call that no kernel of ours has is passed over."""
    same = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ALLOW"}]}
    assert compiled(same) == compiled({"defaultAction": "SCMP_ACT_ALLOW"})
    assert len(compiled(LINUX_NO_MKDIR)) > len(compiled(same))


def test_two_conditions_on_one_argument_are_two_rules() -> None:
    one, other, third = (Condition(*each) for each in ((0, 4, 1, 0), (0, 4, 2, 0), (1, 4, 2, 0)))
    assert list(seccomp._alternatives((one, third))) == [(one, third)]
    assert list(seccomp._alternatives((one, other))) == [(one,), (other,)]
    assert list(seccomp._alternatives(())) == [()]


def test_a_machine_without_libseccomp_is_told_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr("ctypes.CDLL", refuse)
    with pytest.raises(Exception, match="libseccomp is not installed") as refused:
        compiled(LINUX_NO_MKDIR)
    assert "libseccomp2" in refused.value.hint  # type: ignore[attr-defined]
