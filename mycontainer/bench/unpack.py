"""How long does it take to unpack a layer, and how much of the disk does it take? (The question "layers".)

The same layer (layer.py) for everybody, each a process that begins with the compressed blob and ends with the
files on the disk. Who checks that the bytes are what was promised, and who does not, is said as a difference.
Nobody waits for the disk; before each turn what is still to be written is written, and is not timed.

These subjects are programs that unpack, not ones that start something: `SUBJECTS`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from mycontainer import __version__, layers
from mycontainer.bench import facts, layer, scratch
from mycontainer.bench.layer import TAG, Layer
from mycontainer.bench.measure import Progress, Settings, interleaved, prepared, silent
from mycontainer.bench.plain import version
from mycontainer.bench.run import Run, Sample
from mycontainer.bench.subject import Instance, Missing, NotReady, Subject, Task
from mycontainer.bench.twin import Twin

MEGABYTES, QUICK_MEGABYTES = 256, 24
NO_DIGESTS = "checks no digest"

OURS = """
import sys
from mycontainer.images.store import Store
directory, blob, digest, diff_id = sys.argv[1:]
store = Store(directory, durable=False)
with store.lease() as lease, open(blob, "rb", buffering=0) as source:
    store.add_layer(source, lease, digest=digest, diff_id=diff_id)
"""


class Unpacker(Subject):
    """A program that unpacks a layer into a directory."""

    kind = "tool"
    can = ()
    program, package = "", ""
    root_only = False
    layer: Layer

    def available(self) -> Missing | None:
        if self.program and not shutil.which(self.program):
            return Missing(f"no {self.program}", f"apt install {self.package or self.program}")
        if self.root_only and os.geteuid() != 0:
            return Missing("here it is measured as root only", "be root")
        return None

    def versions(self) -> Mapping[str, str]:
        return {self.program: version(self.program, "--version")}

    @abstractmethod
    def command(self, target: Path) -> list[str]:
        """What unpacks it into ``target``, an empty directory, and nothing elsewhere."""

    def start(self, task: Task) -> Instance:
        raise NotReady(f"{self.name} unpacks, and starts nothing")

    def unpack(self, target: Path, deadline: float) -> float:
        """Do it; seconds. Raises NotReady."""
        argv = self.command(target)
        unhurt = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        began = time.perf_counter_ns()
        try:
            done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                                  timeout=deadline,
                                  env=unhurt)
        except subprocess.TimeoutExpired:
            raise NotReady(f"it was not done after {deadline:g} s") from None
        took = time.perf_counter_ns() - began
        if done.returncode:
            raise NotReady((done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1])
        return took / 1e9


class Ours(Unpacker):
    name, label = "ours-store", "mycontainer"
    differences = ("checks both digests",)

    def versions(self) -> Mapping[str, str]:
        return {"mycontainer": __version__}

    def command(self, target: Path) -> list[str]:
        one = self.layer
        return [sys.executable, "-c", OURS, str(target), str(one.blob), one.digest, one.diff_id]


class Tar(Unpacker):
    name = label = program = "tar"
    differences = (NO_DIGESTS,)

    def command(self, target: Path) -> list[str]:
        return ["tar", "-xzf", str(self.layer.blob), "-C", str(target)]


class Umoci(Unpacker):
    name = label = program = "umoci"
    differences = ("checks both digests",)

    def command(self, target: Path) -> list[str]:
        rootless = [] if os.geteuid() == 0 else ["--rootless"]
        return ["umoci", "raw", "unpack", *rootless, "--image", f"{self.layer.layout}:{TAG}",
                str(target / "root")]


class Storage(Unpacker):
    """Those who keep images in containers/storage. Its overlay driver mounts a directory onto itself, which
    is gone with a mount namespace of its own."""

    root_only = True
    differences = ("checks both digests", "writes down each file for later (tar-split)")

    def place(self, target: Path) -> list[str]:
        return ["--root", str(target / "root"), "--runroot", str(target / "run"), "--storage-driver",
                "overlay"]


class PodmanLoad(Storage):
    name, label, program = "podman-load", "podman load", "podman"

    def command(self, target: Path) -> list[str]:
        return ["unshare", "--mount", "podman", *self.place(target), "load", "-q", "-i",
                str(self.layer.archive)]


class PodmanImport(Storage):
    name, label, program = "podman-import", "podman import", "podman"
    differences = (NO_DIGESTS, "makes an image around it")

    def command(self, target: Path) -> list[str]:
        return ["unshare", "--mount", "podman", *self.place(target), "import", "-q", str(self.layer.blob)]


class Skopeo(Storage):
    name, label, program = "skopeo", "skopeo copy", "skopeo"

    def command(self, target: Path) -> list[str]:
        where = f"containers-storage:[overlay@{target / 'root'}+{target / 'run'}]localhost/{TAG}"
        return ["unshare", "--mount", "skopeo", "copy", "-q", f"oci:{self.layer.layout}:{TAG}", where]


SUBJECTS: dict[str, Callable[[], Unpacker]] = {
    one.name: one for one in (Tar, Ours, Umoci, PodmanLoad, PodmanImport, Skopeo)}


def measure(subjects: Sequence[Subject], settings: Settings, progress: Progress = silent) -> Run:
    """Unpack it with each of them, in turns. Of ``subjects`` only ours are taken; none: all."""
    run = Run("layers", settings=dict(settings._asdict()), machine=facts.machine())
    chosen = [one for one in subjects if isinstance(one, Unpacker)] or [make() for make in SUBJECTS.values()]
    with scratch.directory() as place:
        progress(0, 0, "making a layer")
        made = layer.make(scratch.room(place, "layer"), QUICK_MEGABYTES if settings.quick else MEGABYTES)
        run.settings["layer"] = {"tar": made.size, "blob": made.blob.stat().st_size, "entries": made.entries,
                                 "digest": made.digest, "diff_id": made.diff_id,
                                 "file_system": layers.file_system(str(place))}
        for one in chosen:
            one.layer = made

        def once(subject: Subject, number: int) -> Iterable[Sample]:
            return one_turn(subject, number, made, place, settings, run)

        with prepared(chosen, run, progress) as ready:
            twins = [Twin(one) for one in ready if one.name == "tar"]
            interleaved([*ready, *twins], settings, once, run, progress, "unpack")
    return run


def one_turn(subject: Subject, number: int, made: Layer, place: Path, settings: Settings,
             run: Run) -> list[Sample]:
    """Unpack once, look at the disk, and remove it again."""
    one = subject.other if isinstance(subject, Twin) else subject
    assert isinstance(one, Unpacker)
    target = scratch.room(place, "t")  # podman takes no long path
    series = "unpack" if one is subject else "aa-unpack"
    labels = {"tar": made.size}
    try:
        if not settings.quick:
            os.sync()
        took = one.unpack(target, settings.deadline)
        found = [Sample(subject.name, series, took, "s", number, run.clock(), labels)]
        if one is subject:
            found.append(Sample(subject.name, "space", on_disk(target), "bytes", number, run.clock(), labels))
        return found
    finally:
        shutil.rmtree(target, ignore_errors=True)


def on_disk(directory: Path) -> int:
    """Bytes that the files below it take on the disk, each inode once."""
    seen: dict[tuple[int, int], int] = {}
    for where, names, files in os.walk(directory):
        for name in (*names, *files):
            about = os.lstat(os.path.join(where, name))
            seen[about.st_dev, about.st_ino] = about.st_blocks * 512
    return sum(seen.values())
