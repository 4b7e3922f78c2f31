"""The project itself: what it declares, the promises of its layout, and its set-up scripts."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from needs import needs_module, needs_tool

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "mycontainer"
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())

# Floors 0 and 1: what a learner reads, all of it.
GROUND = ("syscalls", "paths")
CHAPTERS = ("chroot", "namespaces", "cgroups", "layers", "network", "spawn", "container")
LINES_A_FILE = 200
LINES_IN_ALL = {GROUND: 350, CHAPTERS: 1200}


# ---- the core stays small enough to read -----------------------------------------------------------------


def core_files(names: Iterable[str] = (*GROUND, *CHAPTERS)) -> list[Path]:
    return [path for name in names if (path := PACKAGE / f"{name}.py").exists()]


@pytest.mark.parametrize("path", core_files(), ids=lambda path: path.name)
def test_a_core_file_can_be_read_in_one_sitting(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= LINES_A_FILE, f"{lines} lines: what a learner need not read goes to engine/"


@pytest.mark.parametrize("names", LINES_IN_ALL)
def test_the_whole_core_fits_its_budget(names: tuple[str, ...]) -> None:
    assert len(core_files(names)) == len(names)
    assert sum(len(path.read_text().splitlines()) for path in core_files(names)) <= LINES_IN_ALL[names]


# ---- imports ---------------------------------------------------------------------------------------------


def loaded_by(statement: str) -> set[str]:
    """The names of all modules that `statement` loads in a fresh interpreter."""
    script = f"import sys; before = set(sys.modules); {statement}; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def packages() -> list[str]:
    return sorted(".".join(path.parent.relative_to(ROOT).parts) for path in PACKAGE.rglob("__init__.py"))


def test_importing_the_package_loads_nothing_else() -> None:
    """`import mycontainer` is paid by every start of a container."""
    assert loaded_by("import mycontainer") == {"mycontainer"}


@pytest.mark.parametrize("name", packages())
def test_a_package_loads_nothing_heavy(name: str) -> None:
    """A package is also what its smallest module pays for: `import mycontainer.lab.init` runs it."""
    heavy = {"IPython", "ipykernel", "ipywidgets", "matplotlib", "numpy", "jupyterlab", "asyncio"}
    assert not {module.partition(".")[0] for module in loaded_by(f"import {name}")} & heavy


def imported_top_levels(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


def test_the_runtime_stands_on_the_standard_library_alone() -> None:
    """Only the course (lab/, bench/) may use what its extra installs."""
    assert PROJECT["project"]["dependencies"] == []
    for path in PACKAGE.rglob("*.py"):
        if path.relative_to(PACKAGE).parts[0] not in ("lab", "bench"):
            foreign = imported_top_levels(path) - sys.stdlib_module_names - {"mycontainer"}
            assert not foreign, f"{path.relative_to(ROOT)} imports {foreign}"


def test_no_os_call_that_python_3_11_lacks() -> None:
    for path in PACKAGE.rglob("*.py"):
        assert not re.search(r"\bos\.(unshare|setns)\(", path.read_text()), path


@needs_module("importlinter")
def test_the_floors_are_held_against_an_upward_import(tmp_path: Path) -> None:
    """A control: the contract that `make lint` checks fails when a core module imports the lab."""
    copy = tmp_path / "copy"
    shutil.copytree(PACKAGE, copy / "mycontainer", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)

    def lint() -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.prefix, "bin", "lint-imports")), "--no-cache"]
        return subprocess.run(command, cwd=copy, capture_output=True, text=True)

    assert lint().returncode == 0, lint().stdout
    with (copy / "mycontainer" / "errors.py").open("a") as stream:
        stream.write("\nimport mycontainer.lab\n")
    broken = lint()
    assert broken.returncode == 1
    assert "mycontainer.errors is not allowed to import mycontainer.lab" in broken.stdout


# ---- pyproject.toml, environment.yml, Vagrantfile ----------------------------------------------------------


def test_the_version_has_one_home() -> None:
    import mycontainer

    assert PROJECT["project"]["dynamic"] == ["version"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", mycontainer.__version__)


# conda-forge's names of the same without a GUI, without LaTeX, and of Python's binding to a C library.
CONDA_NAMES = {"matplotlib": "matplotlib-base", "nbconvert": "nbconvert-core", "isal": "python-isal"}


def pip_requirements() -> dict[str, str]:
    extras = PROJECT["project"]["optional-dependencies"]
    return dict(split(line) for extra in ("course", "dev") for line in extras[extra])


def split(requirement: str) -> tuple[str, str]:
    """'nbval>=0.11' or 'nbval >=0.11' as ('nbval', '>=0.11')."""
    found = re.fullmatch(r"([\w-]+)\s*((?:>=[\w.]+(?:,<[\w.]+)?)?)", requirement)
    assert found, requirement
    return found[1], found[2]


@needs_module("yaml")
def test_conda_and_pip_tell_the_same_story() -> None:
    import yaml

    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    by_pip = next(entry["pip"] for entry in listed if isinstance(entry, dict))
    by_conda = dict(split(entry) for entry in listed if isinstance(entry, str))
    assert by_conda.pop("python") == PROJECT["project"]["requires-python"]
    by_conda.pop("pip")
    assert "-e ." in by_pip
    others = dict(split(entry) for entry in by_pip if entry != "-e .")
    wanted = {CONDA_NAMES.get(name, name): version for name, version in pip_requirements().items()}
    assert by_conda | others == wanted


@needs_module("yaml")
@needs_module("rattler")
def test_a_conda_parser_reads_every_line() -> None:
    import rattler
    import yaml

    for entry in yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]:
        if isinstance(entry, str):
            spec = rattler.MatchSpec(entry)
            assert spec.name is not None
            assert spec.name.normalized == split(entry)[0]
            assert str(spec.version or "") == split(entry)[1]
    with pytest.raises(Exception, match="version"):  # the parser can say no
        rattler.MatchSpec("jupyterlab >=>4.2")


@needs_tool("vagrant", "vagrant")
def test_vagrant_accepts_the_machine(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Vagrantfile", tmp_path)
    env = {**os.environ, "HOME": str(tmp_path), "VAGRANT_CHECKPOINT_DISABLE": "1"}
    done = subprocess.run(
        ["vagrant", "validate", "--ignore-provider"], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "validated successfully" in done.stdout


def test_vagrant_provisions_with_the_same_script_as_make() -> None:
    assert "mycontainer/tools/setup.sh" in (ROOT / "Vagrantfile").read_text()
    assert "tools/setup.sh" in (ROOT / "Makefile").read_text()


# ---- what is committed -----------------------------------------------------------------------------------


def committed_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("needs a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_nothing_at_the_top_without_need() -> None:
    top = {path.relative_to(ROOT).parts[0] for path in committed_files()}
    files = ".gitignore CONTRIBUTING.md LICENSE Makefile README.md Vagrantfile environment.yml pyproject.toml"
    allowed = {".ci", "mycontainer", "notebooks", "tests", "tools", *files.split()}
    assert top <= allowed


def test_shell_scripts_can_be_executed() -> None:
    for path in committed_files():
        if path.suffix == ".sh" or path == ROOT / ".ci" / "run":
            assert os.access(path, os.X_OK), path


def test_no_file_is_large() -> None:
    """Only small figures and notebooks: whoever clones pays for each byte for ever."""
    assert not [str(path) for path in committed_files() if path.stat().st_size > 1_000_000]


def test_without_qemu_the_virtual_machine_is_skipped_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "dirname").symlink_to("/usr/bin/dirname")
    env = {"PATH": str(tmp_path)}
    done = subprocess.run([ROOT / "tools" / "test-vm.sh"], env=env, capture_output=True, text=True)
    assert done.returncode == 77
    assert done.stdout.startswith("vm: skipped: qemu-system-x86_64 is not installed")


# ---- set-up ----------------------------------------------------------------------------------------------


def run_make(*words: str, **settings: str) -> subprocess.CompletedProcess[str]:
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    env |= settings  # we ourselves may be called by make, and it would say so
    return subprocess.run(["make", *words], cwd=ROOT, env=env, capture_output=True, text=True)


@needs_tool("make", "make")
def test_make_alone_lists_what_there_is() -> None:
    listed = [line.split()[1] for line in run_make().stdout.splitlines()]
    assert listed == ["help", "course", "demo", "test", "test-vm", "soak", "lint", "clean"]


def setup_with_path(directory: Path, script: str) -> subprocess.CompletedProcess[str]:
    """Run a part of tools/setup.sh: its functions are loaded, its last lines (the work) are not run."""
    functions = (ROOT / "tools" / "setup.sh").read_text().partition('\nmkdir -p "$here/.cache/setup"')[0]
    functions = functions.replace('cd "$(dirname "$0")/.."', f'cd "{ROOT}"')
    env = {"PATH": str(directory), "CI": "true", "HOME": str(directory)}
    shell = ["/bin/sh", "-c", f"{functions}\n{script}"]
    return subprocess.run(shell, env=env, capture_output=True, text=True)


@pytest.fixture
def bare_machine(tmp_path: Path) -> Path:
    """A PATH with coreutils and little else, as on a fresh machine."""
    for name in ("cat", "cksum", "cut", "dirname", "grep", "id", "ls", "sed", "tail", "awk", "mkdir"):
        (tmp_path / name).symlink_to(shutil.which(name) or f"/usr/bin/{name}")
    return tmp_path


def test_each_missing_package_is_named_with_its_reason(bare_machine: Path) -> None:
    script = 'has() { case $1 in /*) return 1 ;; esac; [ -e "$HOME/$1" ]; }; find_python() { return 0; }'
    done = setup_with_path(bare_machine, f'{script}; look_for_packages; printf "%s" "$reasons"')
    reasons = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert set(reasons) >= {"busybox-static", "uidmap", "iproute2", "procps", "strace", "python3"}
    assert "bubblewrap" not in reasons, "the tests' own tools are no need of a learner"
    assert all(len(reason) > 10 for reason in reasons.values())


def test_a_python_that_does_not_run_is_passed_over(bare_machine: Path) -> None:
    shim = bare_machine / "shim"
    shim.write_text("#!/bin/sh\necho 'pyenv: python3: command not found' >&2\nexit 127\n")
    shim.chmod(0o755)
    done = setup_with_path(bare_machine, f'PYTHON={shim}; find_python; echo "$python"')
    assert "shim" not in done.stdout
    assert Path(done.stdout.strip()).is_file()


def test_a_python_that_is_too_old_is_passed_over(bare_machine: Path) -> None:
    old = bare_machine / "old"
    body = "import sys; sys.version_info = (3, 10, 1); exec(sys.argv[2])"
    old.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c \'{body}\' "$@"\n')
    old.chmod(0o755)
    done = setup_with_path(bare_machine, f'PYTHON={old}; find_python; echo "$python"')
    assert str(old) not in done.stdout
    assert sys.executable not in done.stdout


def test_without_sudo_the_exact_command_is_printed_and_set_up_goes_on(bare_machine: Path) -> None:
    script = """
        is_root() { return 1; }; log=/dev/null; declined=/dev/null
        look_for_packages() { want uidmap 'gives ids'; }
        ln -s /bin/true "$HOME/apt-get"
        install_packages; echo went on"""
    (bare_machine / "ln").symlink_to("/usr/bin/ln")
    done = setup_with_path(bare_machine, script)
    assert done.returncode == 0, done.stderr
    assert "went on" in done.stdout
    assert "sudo apt-get install -y --no-install-recommends uidmap" in done.stderr


@needs_tool("install", "coreutils")
def test_the_apparmor_profile_is_for_our_launcher_alone(tmp_path: Path) -> None:
    """What Ubuntu would load. That AppArmor takes it is not tried here; that the copy of Python runs is."""
    subprocess.run(["/usr/bin/python3", "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    script = ROOT / "tools" / "apparmor" / "install.sh"
    done = subprocess.run([script, tmp_path / "venv", "--print"], capture_output=True, text=True, check=True)
    launcher = tmp_path / "venv" / "bin" / "mycontainer-lab-python"
    attached = re.findall(r'^profile \S+ "(.*)" flags=\(unconfined\) \{$', done.stdout, re.MULTILINE)
    assert attached == [str(launcher)]
    assert not launcher.is_symlink(), "AppArmor looks at the file that is executed: a symlink leads to Python"
    prefix = subprocess.run([launcher, "-c", "import sys; print(sys.prefix)"], capture_output=True, text=True)
    assert prefix.stdout.strip() == str(tmp_path / "venv"), prefix.stderr
