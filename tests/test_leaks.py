"""Negative controls of the leak check: a deliberate leak of each sort fails the test that made it.

Each control is a pytest run of its own in a throw-away sandbox (user, mount, PID and network namespaces,
an empty /run), so that what it leaks dies with it.
"""

from __future__ import annotations

import json
import os
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import leaks
from needs import needs_module, needs_root, needs_tool, needs_userns

pytestmark = [needs_userns, needs_tool("ip", "iproute2")]
HERE = Path(__file__).parent
SANDBOX = (
    "unshare",
    "--user",
    "--map-root-user",
    "--mount",
    "--net",
    "--pid",
    "--fork",
    "--mount-proc",
    "--kill-child",
)
# A shell stays as PID 1, so that orphans are given to it and not to the pytest under test.
INIT = 'mount -t tmpfs tmpfs /run; ip link set lo up; "$@"; exit $?'

Inner = Callable[..., pytest.RunResult]


@pytest.fixture
def inner(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Inner:
    """Run pytest on `source` inside the sandbox, under the leak check."""
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # a second less each
    monkeypatch.delenv("MYCONTAINER_TEST_RUN", raising=False)

    def run(source: str, *arguments: str, patience: float = 0.3) -> pytest.RunResult:
        pytester.makeconftest(f"""
            import leaks
            leaks.PATIENCE = {patience}
            def pytest_configure(config): leaks.install(config)
        """)
        if source:
            pytester.makepyfile(test_inner=textwrap.dedent(source))
        command = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments)
        return pytester.run(*SANDBOX, "sh", "-c", INIT, "sh", *command)

    return run


LEAKS = {
    "mount": (
        "subprocess.run(['mount', '-t', 'tmpfs', 'leaky', '/mnt'], check=True)",
        "mount: tmpfs on /mnt",
    ),
    "process": ("subprocess.Popen(['sleep', '60'])", "process: pid * sleep 60"),
    "daemon": ("subprocess.run('setsid sleep 61 &', shell=True)", "process: pid * sleep 61"),
    "container whose parent died": (
        "subprocess.run('unshare -pf env -i sleep 62 & sleep 0.3; kill -9 $!', shell=True)",
        "process: pid * sleep 62",
    ),
    "zombie": ("os.fork() or os._exit(0)", "process: pid * a zombie, never waited for"),
    "network device": (
        "subprocess.run(['ip', 'link', 'add', 'br9', 'type', 'bridge'], check=True)",
        "*device: * br9",
    ),
    "named network namespace": (
        "subprocess.run(['ip', 'netns', 'add', 'lost'], check=True)",
        "*namespace: /run/netns/lost",
    ),
    "namespace kept by a bind mount": (
        "subprocess.run('touch /run/u; unshare --uts=/run/u true', shell=True, check=True)",
        "mount: nsfs on /run/u",
    ),
    "namespace kept by a descriptor": ("os.open('/proc/self/ns/uts', os.O_RDONLY)", "descriptor: * -> uts:*"),
    "own namespace": ("ctypes.CDLL(None).unshare(0x04000000)", "test process: its uts namespace is now *"),
    "descriptor": ("os.open('/etc/passwd', os.O_RDONLY)", "descriptor: * -> /etc/passwd"),
    "directory": ("os.chdir('/')", "test process: its directory is now /"),
    "umask": ("os.umask(0o077)", "test process: its umask is now 0077"),
    "file": ("open('/tmp/mycontainer-leak-control', 'w').close()", "file: /tmp/mycontainer-leak-control"),
}


@pytest.mark.parametrize("sort", LEAKS)
def test_each_sort_of_leak_is_caught_and_named(inner: Inner, sort: str, forgotten_file: Path) -> None:
    code, expected = LEAKS[sort]
    result = inner(f"import ctypes, os, subprocess\ndef test_leaky():\n    {code}\ndef test_tidy(): pass\n")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["LEAK: test_inner.py::test_leaky leaves behind", f"  {expected}*"])


@pytest.fixture
def forgotten_file() -> Iterator[Path]:
    """The one leak that the sandbox does not take along: /tmp is the machine's."""
    path = Path("/tmp/mycontainer-leak-control")
    yield path
    path.unlink(missing_ok=True)


@needs_root
def test_a_cgroup_left_behind_is_caught(inner: Inner) -> None:
    root = next(
        (Path(p) for p in ("/sys/fs/cgroup/pids", "/sys/fs/cgroup") if Path(p, "cgroup.procs").exists()), None
    )
    if root is None or not os.access(root, os.W_OK):
        pytest.skip("needs a cgroup hierarchy that root may write to")
    mine = root / "mycontainer" / "leak-control"
    had_parent = mine.parent.exists()
    try:
        result = inner(f"import os\ndef test_leaky(): os.makedirs({str(mine)!r})\n")
    finally:
        mine.rmdir()
        if not had_parent:
            mine.parent.rmdir()
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines([f"*cgroup: {mine}"])


def test_what_goes_by_itself_within_a_second_is_no_leak(inner: Inner) -> None:
    result = inner(
        """
        import subprocess
        def test_slow_to_go(): subprocess.run("sleep 0.4 &", shell=True)
    """,
        patience=leaks.PATIENCE,
    )
    result.assert_outcomes(passed=1)


def test_a_wider_fixture_may_keep_what_it_takes_away_in_the_end(inner: Inner) -> None:
    result = inner("""
        import subprocess, pytest
        @pytest.fixture(scope="module")
        def server():
            with subprocess.Popen(["sleep", "60"]) as process:
                yield process
                process.kill()
        def test_one(server): pass
        def test_two(server): pass
    """)
    result.assert_outcomes(passed=2)


def test_a_wider_fixture_that_takes_nothing_away_is_named(inner: Inner) -> None:
    result = inner("""
        import os, pytest
        @pytest.fixture(scope="session")
        def forgetful(): return os.open("/etc/passwd", os.O_RDONLY)
        def test_one(forgetful): pass
        def test_last(forgetful): pass
    """)
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(
        ["*test_last leaves behind", "*passwd (made by the session fixture forgetful)"]
    )


def test_a_leak_is_told_even_when_the_tear_down_fails(inner: Inner) -> None:
    result = inner("""
        import os, pytest
        @pytest.fixture
        def broken():
            yield
            raise ValueError("broken tear-down")
        def test_one(broken): os.open("/etc/passwd", os.O_RDONLY)
    """)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*broken tear-down*", "*test_one leaves behind", "*/etc/passwd*"])


def write_notebook(path: Path, *sources: str) -> None:
    cells = [
        {
            "cell_type": "code",
            "execution_count": n,
            "id": f"c{n}",
            "metadata": {},
            "outputs": [],
            "source": source,
        }
        for n, source in enumerate(sources, 1)
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path.write_text(json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}))


@needs_module("nbval")
def test_a_notebook_may_keep_things_from_cell_to_cell(inner: Inner, pytester: pytest.Pytester) -> None:
    start = "import subprocess; process = subprocess.Popen(['sleep', '60'])"
    write_notebook(pytester.path / "tidy.ipynb", start, "process.kill(); code = process.wait()")
    result = inner("", "-p", "nbval.plugin", "--nbval", "tidy.ipynb")
    result.assert_outcomes(passed=2)


@needs_module("nbval")
def test_a_notebook_that_leaks_fails_and_the_cell_is_named(inner: Inner, pytester: pytest.Pytester) -> None:
    start = "import subprocess; process = subprocess.Popen(['sleep', '63'], start_new_session=True)"
    write_notebook(pytester.path / "leaky.ipynb", "one = 1", start, "two = 2")
    result = inner("", "-p", "nbval.plugin", "--nbval", "leaky.ipynb")
    result.assert_outcomes(passed=3, errors=1)
    result.stdout.fnmatch_lines(["*leaky.ipynb leaves behind", "*sleep 63 (first seen after *Cell 1*)"])
