"""The kernel that virtual machines boot: Debian's for the cloud, unpacked into our cache, never installed.

It comes from the machine's own apt sources, checked by apt as any package. Of some 100 MB we keep the kernel
and the few modules that a guest needs: Debian's cloud kernel has ext4 built in, and virtio as modules.

Sources: apt-get(8) "download", dpkg-deb(1), modinfo(8) (each module names those it needs in its section
.modinfo), https://docs.kernel.org/driver-api/virtio/virtio.html
"""

from __future__ import annotations

import json
import lzma
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from mycontainer import paths
from mycontainer.errors import ContainerError

WHAT = "cannot prepare the kernel of the virtual machines"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}  # of uname(2), and Debian's name for it
# Debian's for virtual machines; what Ubuntu has in its place; Debian's for everything.
PACKAGES = ("linux-image-cloud-{}", "linux-image-virtual", "linux-image-{}")
# The devices of a guest: their bus, a disk, a network, the machine type microvm's bus.
MODULES = ("virtio_pci", "virtio_mmio", "virtio_blk", "virtio_net")


class Kernel(NamedTuple):
    """An unpacked kernel: its release as uname -r has it, the file to boot, its modules in loading order."""

    release: str
    image: str
    modules: tuple[str, ...]
    package: str


def machines_dir() -> Path:
    """Where all that is made once for virtual machines is kept; the lab sees it, read-only."""
    return Path(paths.data_dir(), "bench", "machines")


def architecture() -> str:
    """Debian's name of this machine's architecture. Raises ContainerError if there is no guest for it."""
    machine = os.uname().machine
    if machine not in ARCHITECTURES:
        raise ContainerError("cannot run virtual machines", f"there is no guest for {machine}",
                             f"We have one for {' and '.join(ARCHITECTURES)}.")
    return ARCHITECTURES[machine]


def find() -> Kernel | None:
    """The kernel that is prepared, the newest if there are several; None if there is none."""
    found = sorted(machines_dir().glob("kernel/*/kernel.json"), key=lambda path: path.stat().st_mtime)
    if not found:
        return None
    here = found[-1].parent
    told = json.loads(found[-1].read_text())
    modules = tuple(str(here / name) for name in told["modules"])
    return Kernel(told["release"], str(here / "vmlinuz"), modules, told["package"])


def fetch(report: Callable[[str], None], part: Path) -> Kernel:
    """Download and unpack the kernel, unless that is done. ``part`` is an empty directory for the work,
    on the file system of `machines_dir`. Raises ContainerError."""
    if (kernel := find()) is not None:
        report(f"kernel {kernel.release}: here already")
        return kernel
    package = _package()
    report(f"kernel: fetching {package}, {_size(package) >> 20} MB (unpacked into a cache, not installed)")
    tree = part / "tree"
    _unpack(package, part, tree)
    image = next(iter(sorted((tree / "boot").glob("vmlinuz-*"))), None)
    if image is None:
        raise ContainerError(WHAT, f"the package {package} has no boot/vmlinuz-*")
    release = image.name.removeprefix("vmlinuz-")
    library = tree / "lib/modules" / release
    if not library.is_dir():  # Debian 13 and Ubuntu: below /usr
        library = tree / "usr/lib/modules" / release
    if not library.is_dir():  # Ubuntu: a package of their own
        _unpack(f"linux-modules-{release}", part, tree)
    return _keep(package, release, image, library, part)


def _keep(package: str, release: str, image: Path, library: Path, part: Path) -> Kernel:
    """Copy what a guest needs to a directory of its own, which gets its name when it is whole."""
    kept = part / "kept"
    kept.mkdir()
    shutil.copyfile(image, kept / "vmlinuz")
    names = []
    for number, module in enumerate(loading_order(library, MODULES)):
        names.append(f"{number:02}-{module.name.partition('.')[0]}.ko")
        (kept / names[-1]).write_bytes(_plain(module))
    told = {"release": release, "package": package, "modules": names}
    (kept / "kernel.json").write_text(json.dumps(told, indent=1) + "\n")
    home = machines_dir() / "kernel" / release
    publish(kept, home)
    kernel = find()
    assert kernel is not None
    return kernel


def publish(made: Path, home: Path) -> None:
    """Give what is complete its name: readable by all, on the disk first, and then all at once."""
    readable(home.parent)
    for path in [made, *made.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
        sync(path)
    if home.is_dir():
        shutil.rmtree(home)
    os.rename(made, home)


def sync(path: Path) -> None:
    """Wait until it is on the disk: a name that survives a power cut must not lead to half a file."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def readable(directory: Path) -> None:
    """Make a directory, and those above it, whatever the umask: a lab reads them under another user id."""
    if not directory.is_dir():
        readable(directory.parent)
        directory.mkdir(mode=0o755, exist_ok=True)
        directory.chmod(0o755)


# ---- packages ----------------------------------------------------------------------------------------------


def run(argv: Iterable[str], what: str, hint: str = "", cwd: Path | None = None) -> str:
    """What a program prints. Raises ContainerError with its last words, or with what brings the program."""
    argv = list(argv)
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              errors="replace", cwd=cwd)
    except FileNotFoundError as error:
        raise ContainerError(what, f"{argv[0]} is not installed", hint) from error
    if done.returncode != 0:
        words = [line for line in done.stderr.splitlines() if line.strip()]
        last = next((line for line in reversed(words) if line.startswith("E:")), words[-1] if words else "")
        last = last or f"exit code {done.returncode}"
        raise ContainerError(what, f"{os.path.basename(argv[0])}: {last}", hint)
    return done.stdout


def _package() -> str:
    """The package with the newest kernel: the one that a package without a version in its name leads to."""
    hint = ("It is fetched with apt: on Debian or Ubuntu, 'sudo apt-get update' brings the list of packages. "
            "Elsewhere the virtual machines are left out.")
    for pattern in PACKAGES:
        name = pattern.format(architecture())
        shown = run(["apt-cache", "depends", name], WHAT, hint) if _known(name, hint) else ""
        if found := re.search(r"Depends: (linux-image-\d\S+)", shown):
            return found[1]
    raise ContainerError(WHAT, "apt knows no package linux-image-cloud-" + architecture(), hint)


def _known(package: str, hint: str) -> bool:
    return bool(run(["apt-cache", "search", "--names-only", f"^{package}$"], WHAT, hint))


def _size(package: str) -> int:
    """Of the download, in bytes; 0 if apt does not say."""
    found = re.search(r"^Size: (\d+)", run(["apt-cache", "show", "--no-all-versions", package], WHAT), re.M)
    return int(found[1]) if found else 0


def _unpack(package: str, part: Path, tree: Path) -> None:
    """Fetch a package as any user may, and unpack its files without installing it."""
    debs = part / f"deb-{package}"
    debs.mkdir()
    run(["apt-get", "download", "-q", package], WHAT, "Is there a network? If so: 'sudo apt-get update', for "
        "a mirror keeps only the newest version.", cwd=debs)
    deb = next(debs.glob("*.deb"))
    run(["dpkg-deb", "--extract", str(deb), str(tree)], WHAT)
    deb.unlink()


# ---- modules -----------------------------------------------------------------------------------------------


def loading_order(library: Path, wanted: Iterable[str]) -> list[Path]:
    """The files of these modules and of all that they need, each behind those it needs.

    A name without a file is built into the kernel, or does not exist for this architecture: left out.
    """
    files: Mapping[str, Path] = {_name(path): path for path in sorted(library.rglob("*.ko*"))}
    order: list[Path] = []

    def add(name: str) -> None:
        path = files.get(name)
        if path is None or path in order:
            return
        for needed in _needs(path):
            add(needed)
        order.append(path)

    for name in wanted:
        add(name)
    return order


def _name(module: Path) -> str:
    return module.name.partition(".")[0].replace("-", "_")


def _needs(module: Path) -> list[str]:
    found = re.search(rb"\0depends=([^\0]*)\0", _plain(module))
    return [name.replace("-", "_") for name in found[1].decode().split(",") if name] if found else []


def _plain(module: Path) -> bytes:
    """A module as insmod of busybox takes it."""
    packed = module.read_bytes()
    if module.suffix == ".xz":  # Debian 13
        return lzma.decompress(packed)
    if module.suffix == ".zst":  # Ubuntu
        return subprocess.run(["zstd", "-dc", str(module)], capture_output=True, check=True).stdout
    return packed
