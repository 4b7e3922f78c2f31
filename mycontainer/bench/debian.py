"""The disk of a virtual machine: a Debian with systemd and nginx, made of this machine's own apt sources.

mmdebstrap unpacks and configures the packages, in a user namespace if it is not root who asks; mke2fs makes
a file system of the directory, without mounting anything. Nothing of ours is on the disk: what a task needs,
the initramfs puts into /run (see guest.py). nginx is there and not switched on.

Sources: mmdebstrap(1), mke2fs(8), apt-get(8) "indextargets",
https://reproducible-builds.org/specs/source-date-epoch/
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from mycontainer.bench.kernel import machines_dir, publish, run
from mycontainer.bench.subject import Missing
from mycontainer.errors import ContainerError

WHAT = "cannot prepare the disk of the virtual machines"
PACKAGES = ("systemd-sysv", "udev", "dbus", "iproute2", "busybox-static", "nginx-light")
SIZE = 640 << 20  # bytes; most of them are a hole in the file
UUID = "6d796374-0000-4000-8000-000000000001"  # fixed, as is the seed of its directories: the same disk again
EPOCH = "1700000000"
# In the directory $1 is mmdebstrap's archive, root.tar; the file system goes to $2. /dev stays empty: a user
# may not make devices, and every guest mounts its own. The disk gets an identity, or each start were a first
# one, with all that systemd does then; a host name; and no nginx among what is started.
ASSEMBLE = f"""\
set -e
cd "$1"
PATH=$PATH:/sbin:/usr/sbin
mkdir root
tar -xf root.tar -C root --exclude='./dev/*'
rm root.tar
echo {UUID.replace("-", "")} >root/etc/machine-id
echo debian >root/etc/hostname
rm -f root/etc/systemd/system/multi-user.target.wants/nginx.service
export E2FSPROGS_FAKE_TIME={EPOCH}
mke2fs -q -t ext4 -d root -U {UUID} -E hash_seed={UUID},lazy_itable_init=0 -L debian "$2" {SIZE >> 20}M
"""
TOOLS = {"mmdebstrap": "mmdebstrap", "mke2fs": "e2fsprogs", "apt-get": "apt", "tar": "tar"}


def path() -> Path:
    """Where it is kept."""
    return machines_dir() / "debian" / "disk.ext4"


def versions() -> dict[str, str]:
    """Of what matters on it."""
    told: dict[str, str] = json.loads(path().with_name("versions.json").read_text())
    return told


def build(report: Callable[[str], None], part: Path) -> None:
    """Make the disk, unless it is there. ``part`` is an empty directory beside it. Raises ContainerError."""
    if path().is_file():
        report("disk: here already")
        return
    if lack := missing():
        raise ContainerError(WHAT, lack.reason, lack.cure)
    suite, lines = sources()
    report(f"disk: Debian {suite} with systemd and nginx: fetches some 60 MB, makes a file of some 250 MB, "
           "takes a minute or two")
    made = part / "debian"
    made.mkdir()
    (part / "sources.list").write_text("".join(f"{line}\n" for line in lines))
    disk = made / "disk.ext4"
    _bootstrap(suite, part / "sources.list", disk)
    (made / "versions.json").write_text(json.dumps(_versions(disk, suite), indent=1) + "\n")
    publish(made, path().parent)


def sources() -> tuple[str, list[str]]:
    """The suite, and the lines of this machine's apt sources that are the distribution's own. Raises
    ContainerError if there is none, as where `apt-get update` never ran."""
    release = platform.freedesktop_os_release()
    wanted = "$(ORIGIN)|$(REPO_URI)|$(RELEASE)|$(COMPONENT)|$(SIGNED_BY)"
    shown = run(["apt-get", "indextargets", "--format", wanted, "Created-By: Packages"], WHAT)
    lines = []
    for origin, uri, suite, component, key in (line.split("|") for line in shown.splitlines()):
        if origin.lower() == release["ID"]:
            signed = f"[signed-by={key}] " if key.startswith("/") else ""
            lines.append(f"deb {signed}{uri} {suite} {component}")
    if not lines:
        raise ContainerError(WHAT, f"apt knows no package of {release['ID']} here", "sudo apt-get update")
    return release["VERSION_CODENAME"], sorted(set(lines))


def missing() -> Missing | None:
    """The first tool that lacks here."""
    for program, package in TOOLS.items():
        if not shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"):
            return Missing(f"{program} is not installed", f"apt install {package}")
    return None


def _bootstrap(suite: str, list_file: Path, disk: Path) -> None:
    """Make an archive of the packages, and the disk of the archive. mke2fs takes no archive before 1.47.1."""
    with _workplace() as here:
        mode = "root" if os.geteuid() == 0 else "unshare"
        _do(["mmdebstrap", f"--mode={mode}", "--variant=minbase", "--format=tar",
             f"--include={','.join(PACKAGES)}", *(f"--aptopt={line}" for line in _acquire()),
             *(f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale", "info")),
             suite, f"{here}/root.tar", str(list_file)], here)
        _do([*_as_root(), "sh", "-c", ASSEMBLE, "sh", here, str(disk)], here)


def _as_root() -> list[str]:
    """What makes a user root of a namespace in which the files of all owners can be made, and removed."""
    return ["unshare", "--map-root-user", "--map-auto"] if os.geteuid() else []


def _ends_with_us() -> list[str]:
    """What makes a step end when we are killed, with all that it started and mounted: for root, a process and
    a mount namespace of its own. As a user mmdebstrap makes these itself, and is told to tidy up."""
    if os.geteuid():
        return ["setpriv", "--pdeathsig", "TERM"]
    return ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child",
            "--mount-proc"]


def _do(argv: list[str], temporary: str) -> None:
    """Run a step. Raises ContainerError."""
    done = subprocess.run([*_ends_with_us(), *argv], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                          errors="replace", start_new_session=True,
                          env={**os.environ, "LC_ALL": "C.UTF-8", "SOURCE_DATE_EPOCH": EPOCH,
                               "TMPDIR": temporary})
    if done.returncode != 0:
        raise ContainerError(WHAT, _reason(done.stderr), _hint(done.stderr))


def _acquire() -> list[str]:
    """How this machine's apt reaches its mirrors, where that is special: proxies, certificates."""
    dump = run(["apt-config", "dump"], WHAT)
    return re.findall(r'^(Acquire::https?::\S+ ".+";)$', dump, re.M)


@contextmanager
def _workplace() -> Iterator[str]:
    """A directory for mmdebstrap, where also root of a user namespace gets in; what a killed one left goes.

    Its files may belong to ids of a user's range, whom only root of such a namespace can remove.
    """
    for left in Path(tempfile.gettempdir()).glob("prepare-mycontainer-*"):
        pid = left.name.split("-")[2]
        if left.stat().st_uid == os.geteuid() and not os.path.exists(f"/proc/{pid}"):
            _remove(left)
    here = Path(tempfile.mkdtemp(prefix=f"prepare-mycontainer-{os.getpid()}-"))
    here.chmod(0o711)
    try:
        yield str(here)
    finally:
        _remove(here)


def _remove(directory: Path) -> None:
    subprocess.run([*_as_root(), "rm", "-rf", "--one-file-system", str(directory)], capture_output=True)


def _reason(said: str) -> str:
    """The last words that say what is wrong: apt's and mmdebstrap's errors begin with E."""
    lines = [line for line in said.splitlines() if line.strip()]
    errors = [line.replace("E: ", "").strip() for line in lines
              if line.startswith(("E: ", "unshare: ", "mke2fs: "))]
    return "; ".join(dict.fromkeys(errors[-3:])) or (lines or ["it said nothing"])[-1]


def _hint(said: str) -> str:
    if re.search(r"Failed to fetch|resolving|Could not connect|Unable to connect", said):
        return "Is there a network? The mirrors are those of this machine's apt."
    if os.geteuid() and re.search(r"unshare|newuidmap|/etc/sub[ug]id", said):
        return "It needs user namespaces and subordinate ids ('mycontainer doctor' tells), or root."
    return ""


def _versions(disk: Path, suite: str) -> dict[str, str]:
    """Read from the disk itself: what was asked for is not what must be there."""
    status = run(["env", "PATH=/sbin:/usr/sbin:/usr/bin:/bin", "debugfs", "-R", "cat /var/lib/dpkg/status",
                  str(disk)], WHAT)
    found = dict(re.findall(r"^Package: (\S+)\n(?:.+\n)*?Version: (\S+)$", status, re.M))
    if not {"systemd", "nginx-light"} <= set(found):
        raise ContainerError(WHAT, "the disk has no systemd or no nginx")
    return {"guest": f"{platform.freedesktop_os_release()['ID']} {suite}", "systemd": found["systemd"],
            "nginx": found["nginx-light"]}
