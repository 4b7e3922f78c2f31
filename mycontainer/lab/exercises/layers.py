"""Chapter 4: file systems in layers.

Our solutions stand first, then what the checks look at, then the exercises and the predictions.
Sources: docs.kernel.org/filesystems/overlayfs.html; OCI image-spec, layer.md.
"""

from __future__ import annotations

import io
import os
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Callable, Mapping, Sequence

from mycontainer import chroot, layers, syscalls
from mycontainer.lab.exercise import Exercise, Prediction, Wrong
from mycontainer.lab.probe import Child, Probe

OVERLAYFS = "docs.kernel.org/filesystems/overlayfs.html"
LAYER_SPEC = "the OCI image-spec, layer.md"


# ── our solutions ────────────────────────────────────────────────────────────────────────────────────

def stack(layers: Sequence[str], root: str, upper: str, work: str) -> None:
    """Mount layers, the lowest first, as one tree at root; what is changed goes to upper."""
    lower = ":".join(reversed(layers))
    options = f"lowerdir={lower},upperdir={upper},workdir={work},userxattr"
    syscalls.mount("overlay", root, "overlay", 0, options)


def hide(upper: str, path: str) -> None:
    """Make the mark in upper that says: what lower layers have at path is deleted."""
    mark = os.path.join(upper, path)
    os.makedirs(os.path.dirname(mark), exist_ok=True)
    os.mknod(mark, stat.S_IFCHR)  # with no third argument: the device 0:0


def commit(upper: str, archive: str, latest: int) -> str:
    """Write what upper holds to a tar, in the same bytes for the same changes; returns its DiffID."""
    with tarfile.open(archive, "w") as tar:
        for above, directories, files in os.walk(upper):
            directories.sort()
            for name in sorted(directories + files):
                path = os.path.join(above, name)
                entry = tar.gettarinfo(path, os.path.relpath(path, upper))
                if layers.is_whiteout(path):
                    entry = tarfile.TarInfo(os.path.relpath(os.path.join(above, f".wh.{name}"), upper))
                entry.uname = entry.gname = ""
                entry.mtime = min(int(entry.mtime), latest)
                with open(path if entry.isreg() and entry.size else os.devnull, "rb") as content:
                    tar.addfile(entry, content)
    return layers.digest(archive)


def recover(archives: Sequence[str]) -> dict[str, bytes]:
    """What the layers, the lowest first, hold of the files that one of them deletes: path and content."""
    there: dict[str, bytes] = {}
    deleted = {}
    for archive in archives:
        with tarfile.open(archive) as tar:
            for entry in tar:
                above, name = os.path.split(entry.name)
                path = os.path.join(above, name.removeprefix(".wh."))
                if name.startswith(".wh.") and path in there:
                    deleted[path] = there.pop(path)
                elif entry.isreg():
                    there[path] = tar.extractfile(entry).read()  # type: ignore[union-attr]
    return deleted


def unpack(archive: str, directory: str) -> None:
    """Unpack a stranger's tar into directory; ValueError for an entry that leads out of it."""
    top = os.path.realpath(directory)
    with tarfile.open(archive) as tar:
        tar.extraction_filter = lambda entry, _: entry  # Python shall not help
        for entry in tar:
            for path in [entry.name, *([entry.linkname] if entry.islnk() else [])]:
                if entry.issym():  # a link may say what it likes; where it lies must be inside
                    path = os.path.dirname(path)
                leads_to = os.path.realpath(os.path.join(top, path))
                if os.path.commonpath([top, leads_to]) != top:
                    raise ValueError(f"{entry.name} leads out")
            tar.extract(entry, top)


def side_by_side(base: str, versions: Sequence[str], roots: Sequence[str], place: str) -> None:
    """Mount base with one of versions on top at each of roots; what is written to one no other sees."""
    for number, (version, root) in enumerate(zip(versions, roots, strict=True)):
        mine = os.path.join(place, str(number))
        os.mkdir(mine)
        upper, work = layers.make_upper(mine)
        layers.stack([base, version], root, upper, work)


def where(path: str, lower: Sequence[str], upper: str, volumes: Mapping[str, str]) -> str | None:
    """Where the file is, out here, that a container sees at path; None if it sees none."""
    for inside, outside in volumes.items():
        if path.startswith(f"{inside}/"):
            found = outside + path.removeprefix(inside)
            return found if os.path.lexists(found) else None
    for layer in [upper, *reversed(lower)]:
        so_far, hides, names = layer, False, path.split("/")[1:]
        for depth, name in enumerate(names, 1):
            hides = hides or layers.is_opaque(so_far)  # a directory that was deleted, and made anew
            so_far = os.path.join(so_far, name)
            if not os.path.lexists(so_far):
                break
            if layers.is_whiteout(so_far):
                return None
            if depth < len(names) and not os.path.isdir(so_far):
                return None  # a file in place of a directory: nothing lies below it
        else:
            return so_far
        if hides:
            return None
    return None


# ── what the checks look at ──────────────────────────────────────────────────────────────────────────

def apart() -> None:
    """Leave the world's mount namespace, so that what is mounted ends with this process."""
    syscalls.unshare(syscalls.CLONE_NEWNS)
    chroot.make_private()


def write(path: str, text: str = "") -> str:
    """Write a file, and its directory if need be."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(text)
    return "written"


def read(path: str) -> str:
    """The text of a file."""
    with open(path, errors="replace") as file:
        return file.read()


def kind(path: str) -> str:
    """What is at a path, without following it, in a word."""
    kinds = {stat.S_IFREG: "a file", stat.S_IFDIR: "a directory", stat.S_IFLNK: "a symlink",
             stat.S_IFCHR: "a device"}
    try:
        return kinds.get(stat.S_IFMT(os.lstat(path).st_mode), "something else")
    except FileNotFoundError:
        return "nothing"


def remake(directory: str) -> str:
    """Delete a directory with all that is in it, and make it anew."""
    shutil.rmtree(directory)
    os.mkdir(directory)
    return "made anew"


def takes_notes(directory: str) -> bool:
    """Whether files here may carry attributes of the kind user.*: on a tmpfs since Linux 6.6."""
    try:
        os.setxattr(directory, "user.trial", b"y")
        os.removexattr(directory, "user.trial")
        return True
    except OSError:
        return False


def prepared(p: Probe, prepare: Callable[[], object]) -> object:
    """Let a process of the world make files; returns what it returns."""
    with p.child(run=prepare, before=apart) as process:
        return process.value


def overlay_at(process: Child, root: str) -> bool:
    """Whether an overlay is mounted at root, as the kernel lists it for this process."""
    return (root, "overlay") in process.mounts()


# ── stack ────────────────────────────────────────────────────────────────────────────────────────────

def probe_stack(p: Probe) -> None:
    place, token = f"/tmp/{p.token()}", p.token()
    names = [f"{place}/{name}" for name in (p.token(), p.token(), p.token())]
    root, upper, work = f"{place}/root", f"{place}/upper", f"{place}/work"

    def prepare() -> bool:
        for number, layer in enumerate(names):
            write(f"{layer}/same", f"{number}-{token}")
            write(f"{layer}/only-{number}", token)
        write(f"{names[0]}/dir/old", token)
        for directory in (root, upper, work):
            os.mkdir(directory)
        return takes_notes(upper)

    notes = prepared(p, prepare)
    with p.child(names, root, upper, work, before=apart, may_raise=True) as process:
        if process.error:
            p.fail("how your mount went", f"{process.error}", "no error", cause=_why_no_stack(process),
                   look=f"{OVERLAYFS}, \"Upper and Lower\"")
        p.expect("whether an overlay is mounted at root", overlay_at(process, root), True, look="man 2 mount",
                 cause="Nothing of that kind is in the list of mounts, /proc/PID/mountinfo.")
        both = [process.inside(read, f"{root}/only-{number}") == token for number in range(3)]
        p.expect("whether the lowest, the middle and the topmost layer are seen", both, [True] * 3,
                 cause="Each file that only one layer has must show.", look=OVERLAYFS)
        seen = process.inside(read, f"{root}/same")
        p.expect("the file that all layers have", seen, f"2-{token}",
                 cause="That is not the topmost layer's. In lowerdir= the first one lies on top.",
                 look=f"{OVERLAYFS}, \"Multiple lower layers\"")
        p.expect("writing to a file of the tree", process.inside(write, f"{root}/same", "new"), "written",
                 cause="Without a place for changes the tree is read-only.", look=OVERLAYFS)
        p.expect("where that change went", process.inside(read, f"{upper}/same"), "new",
                 cause="It is not in upper.", look=OVERLAYFS)
        p.expect("the same file in the topmost layer", process.inside(read, f"{names[2]}/same"),
                 f"2-{token}", cause="A layer has changed: it may be used by others.", look=OVERLAYFS)
        if notes:
            p.expect("deleting a directory of a lower layer, and making it anew",
                     process.inside(remake, f"{root}/dir"), "made anew", look=f"{OVERLAYFS}, \"userxattr\"",
                     cause="The kernel wants to note that the new one hides the old one, in an attribute of "
                           "a kind that only the machine's root may write. One option chooses another kind.")


def _why_no_stack(process: Child) -> str:
    if process.error and process.error.kind == "OSError":
        return ("overlayfs says no more than that. An upper needs a work directory, empty and on the same "
                "file system; all options are one text, with a comma and no blank in between.")
    return " ".join(process.error.notes) if process.error else ""


STACK = Exercise(
    id="layers.stack", title="Stack", difficulty=2, minutes=5, lines=3, syscalls=("mount",),
    reference="mycontainer.lab.exercises.layers.stack", forbid=("mycontainer.layers.stack",),
    probe=probe_stack,
    stub='''
        def my_stack(layers, root, upper, work):
            """Mount layers (a list of directories, the lowest first) as one tree at root."""
            ...
        ''',
    hints=(
        "One mount of the kind \"overlay\", as in the cell above. Only its last argument is new: a text.",
        ("lowerdir= takes all layers, with colons in between. Which one lies on top, the first or the last? "
         "Look at the cell with two directories, and turn your list around if need be."),
        "upperdir= and workdir= have one directory each. And do not forget what cured the I/O error.",
    ),
    fast_track="Two layers are a lowerdir= with one colon: write that, and let the check tell you the rest.",
    wrong=(
        Wrong('''
            def my_stack(layers, root, upper, work):
                syscalls.mount("overlay", root, "overlay", 0,
                               f"lowerdir={':'.join(layers)},upperdir={upper},workdir={work},userxattr")
            ''', says="the first one lies on top"),
        Wrong('''
            def my_stack(layers, root, upper, work):
                syscalls.mount("overlay", root, "overlay", 0, f"lowerdir={':'.join(layers[::-1])},userxattr")
            ''', says="the tree is read-only"),
        Wrong('''
            def my_stack(layers, root, upper, work):
                syscalls.mount("overlay", root, "overlay", 0,
                               f"lowerdir={':'.join(layers[::-1])},upperdir={upper},userxattr")
            ''', says="overlayfs says no more than that"),
        Wrong('''
            def my_stack(layers, root, upper, work):
                syscalls.mount("overlay", root, "overlay", 0,
                               f"lowerdir={':'.join(layers[::-1])},upperdir={upper},workdir={work}")
            ''', says="One option chooses another kind"),
    ))


# ── whiteout ─────────────────────────────────────────────────────────────────────────────────────────

def probe_whiteout(p: Probe) -> None:
    place, name, token = f"/tmp/{p.token()}", p.token(), p.token()
    lower, upper, work, root = (f"{place}/{one}" for one in ("lower", "upper", "work", "root"))

    def prepare() -> None:
        write(f"{lower}/a/{name}", token)
        write(f"{lower}/a/beside", token)
        for directory in (upper, work, root):
            os.mkdir(directory)

    def look() -> tuple[str, list[str], str]:
        apart()
        layers.stack([lower], root, upper, work)
        return kind(f"{root}/a/{name}"), sorted(os.listdir(f"{root}/a")), read(f"{lower}/a/{name}")

    prepared(p, prepare)
    with p.child(upper, f"a/{name}") as process:
        found = process.inside(look)
        if isinstance(found, str):
            p.fail("mounting your upper over a layer", found, "a tree", look=OVERLAYFS,
                   cause="The directory above the mark must be a directory in upper as well.")
        there, names, below = found
        p.expect("the file in the layer below", below, token, cause="A layer is never touched.")
        p.expect("what a container sees at that path", there, "nothing", cause=_why_seen(there, names, name),
                 look=f"{OVERLAYFS}, \"whiteouts and opaque directories\"")
        p.expect("what else is seen in that directory", names, ["beside"], look=OVERLAYFS,
                 cause="Only that one file shall be hidden.")


def _why_seen(there: str, names: list[str], name: str) -> str:
    if any(one.startswith(".wh.") for one in names):
        return "Your .wh. file is a file like any other here: it means something in a tar, and nowhere else."
    if there == "a symlink":
        return "The name leads to something else now. It shall not be there at all."
    if there == "a device":
        return "A device is seen. One pair of device numbers stands for \"deleted\", and it is another."
    return "Upper has a file there, and that is what is seen. It takes another kind of file." \
        if there == "a file" else "It is a directory now."


WHITEOUT = Exercise(
    id="layers.whiteout", title="Whiteout", difficulty=2, minutes=4, lines=3, syscalls=("mkdir", "mknod"),
    reference="mycontainer.lab.exercises.layers.hide", probe=probe_whiteout,
    stub='''
        def my_hide(upper, path):
            """Nothing is mounted yet. Make the mark in upper that deletes path ("a/b") from the layers."""
            ...
        ''',
    hints=(
        "You have seen what the kernel leaves in upper when a file is deleted. Make the same by hand.",
        ("It is a device node, and Python's os.mknod(path, mode, device) makes one; stat.S_IFCHR is the mode "
         "that says \"character device\"."),
        "The numbers of the device are 0 and 0. The directory above it may be missing in upper: os.makedirs.",
    ),
    fast_track="One line with os.mknod; the check tells you what is missing before it.",
    wrong=(
        Wrong('''
            def my_hide(upper, path):
                above, name = os.path.split(path)
                os.makedirs(os.path.join(upper, above), exist_ok=True)
                open(os.path.join(upper, above, ".wh." + name), "w").close()
            ''', says="it means something in a tar"),
        Wrong('''
            def my_hide(upper, path):
                os.makedirs(os.path.dirname(os.path.join(upper, path)), exist_ok=True)
                open(os.path.join(upper, path), "w").close()
            ''', says="It takes another kind of file"),
        Wrong('''
            def my_hide(upper, path):
                os.makedirs(os.path.dirname(os.path.join(upper, path)), exist_ok=True)
                os.symlink("/dev/null", os.path.join(upper, path))
            ''', says="leads to something else"),
    ))


# ── commit ───────────────────────────────────────────────────────────────────────────────────────────

def probe_commit(p: Probe) -> None:
    place, token, latest = f"/tmp/{p.token()}", p.token(), 1_000_000_000
    uppers = [f"{place}/{name}" for name in ("one", "two")]
    names = ["b", "a", "dir/z", "dir/c", "early/x"]

    def prepare() -> None:
        for upper, order in zip(uppers, (names, names[::-1]), strict=True):
            for name in order:
                write(f"{upper}/{name}", f"{name} {token}")
            os.mknod(f"{upper}/gone", stat.S_IFCHR)
            os.mknod(f"{upper}/dir/gone", stat.S_IFCHR)
            os.utime(f"{upper}/a", (500, 500))
        os.utime(f"{uppers[1]}/b", (latest + 7, latest + 7))

    prepared(p, prepare)
    found = []
    for number, upper in enumerate(uppers):
        archive = f"{place}/{number}.tar"
        with p.child(upper, archive, latest) as process:
            entries = process.inside(_entries, archive)
            if isinstance(entries, str):
                p.fail("reading your tar", entries, "a tar", cause="There is none, or it is damaged.",
                       look="the documentation of Python's tarfile")
            _see_the_layer(p, entries, names, token, latest)
            digest = process.inside(layers.digest, archive)
            p.expect("what your function returned", process.value, digest,
                     cause="The DiffID is the digest of the finished tar: after it has been closed.",
                     look="lab.source(layers.digest)")
            found.append((entries, digest))
    (one, digest), (two, other) = found
    p.expect("whether the tars of the same changes, made in another order, are the same bytes",
             digest == other, True, look="https://reproducible-builds.org/docs/archives/",
             cause="The entries stand in the order in which the directory lists them: that depends on who "
                   "made what first, and on the file system." if [e[0] for e in one] != [e[0] for e in two]
             else "Something in the headers differs.")


def _entries(archive: str) -> list[tuple[str, str, int, str, str]]:
    """Of each entry: name, kind, time, the name of its owner, and its content."""
    kinds = {tarfile.REGTYPE: "a file", tarfile.DIRTYPE: "a directory", tarfile.CHRTYPE: "a device"}
    with tarfile.open(archive) as tar:
        return [(os.path.normpath(one.name), kinds.get(one.type, "something else"), int(one.mtime),
                 one.uname + one.gname, _text_of(tar, one))
                for one in tar if os.path.normpath(one.name) != "."]


def _text_of(tar: tarfile.TarFile, entry: tarfile.TarInfo) -> str:
    content = tar.extractfile(entry) if entry.isreg() else None
    return content.read().decode(errors="replace") if content else ""


def _see_the_layer(p: Probe, entries: list[tuple[str, str, int, str, str]], names: list[str], token: str,
                   latest: int) -> None:
    """Whether the tar holds what the upper does."""
    by_name = {entry[0]: entry for entry in entries}
    marks = sorted(name for name in by_name if "gone" in name)
    p.expect("what your tar has for the two deleted files", marks, [".wh.gone", "dir/.wh.gone"],
             cause="A device is in there. In a tar a deleted file is an empty file with another name."
             if any(by_name[mark][1] == "a device" for mark in marks) else
             "The deletions are not in it: whoever unpacks it over the layers still has the files.",
             look=f"{LAYER_SPEC}, \"Whiteouts\"")
    p.expect("the kind of the two marks in your tar", {by_name[mark][1] for mark in marks}, {"a file"},
             cause="It has the right name, and must be an empty file.", look=f"{LAYER_SPEC}, \"Whiteouts\"")
    contents = {name: by_name[name][4] if name in by_name else "missing" for name in names}
    p.expect("what your tar has of the other files", contents, {name: f"{name} {token}" for name in names},
             cause="Each file is an entry, with its content and its path below upper.", look=LAYER_SPEC)
    owners = {entry[3] for entry in entries} - {""}
    p.expect("whether a name of a user or a group is in your tar", bool(owners), False,
             cause="A name of this machine is in it. On another machine the same number has another name, or "
                   "none.", look="tarfile.TarInfo, uname and gname")
    late = sorted(entry[0] for entry in entries if entry[2] > latest)
    p.expect("entries later than latest", late, [],
             cause="They say when they were made: nobody who does it again gets these bytes.",
             look="tarfile.TarInfo, mtime")
    p.expect("the time of the file that is older than latest", by_name["a"][2], 500,
             cause="It was older, and shall stay so: latest is a limit.", look="tarfile.TarInfo, mtime")


COMMIT = Exercise(
    id="layers.commit", title="Commit", difficulty=3, minutes=9, lines=7, syscalls=("openat",),
    reference="mycontainer.lab.exercises.layers.commit", forbid=("mycontainer.layers.diff",),
    probe=probe_commit,
    stub='''
        def my_commit(upper, archive, latest):
            """Write what upper holds to a tar: same changes, same bytes. Return its DiffID."""
            with tarfile.open(archive, "w") as tar:
                for above, directories, files in os.walk(upper):
                    for name in directories + files:
                        path = os.path.join(above, name)
                        entry = tar.gettarinfo(path, os.path.relpath(path, upper))
                        with open(path if entry.isreg() and entry.size else os.devnull, "rb") as content:
                            tar.addfile(entry, content)
            return layers.digest(archive)
        ''',
    hints=(
        ("It works, and is wrong four times: the mark of a deletion, the names of owners, the times, the "
         "order. The check names them one by one."),
        ("layers.is_whiteout(path) tells the mark. Then the entry is another one: tarfile.TarInfo(name) is "
         "an empty file, and its name begins with .wh. in the same directory."),
        ("entry.uname, entry.gname and entry.mtime can be set before addfile. os.walk descends into "
         "directories in the order that the list has by then: sort it in place."),
    ),
    fast_track="The mark of a deletion first: three lines; then do what the check says.",
    wrong=(
        Wrong('''
            import tarfile
            from mycontainer import layers

            def my_commit(upper, archive, latest):
                with tarfile.open(archive, "w") as tar:
                    for above, directories, files in os.walk(upper):
                        directories.sort()
                        for name in sorted(directories + files):
                            path = os.path.join(above, name)
                            entry = tar.gettarinfo(path, os.path.relpath(path, upper))
                            entry.uname = entry.gname = ""
                            entry.mtime = min(int(entry.mtime), latest)
                            with open(path if entry.isreg() else os.devnull, "rb") as content:
                                tar.addfile(entry, content)
                return layers.digest(archive)
            ''', says="A device is in there"),
        Wrong('''
            import tarfile
            from mycontainer import layers

            def my_commit(upper, archive, latest):
                with tarfile.open(archive, "w") as tar:
                    for above, directories, files in os.walk(upper):
                        directories.sort()
                        for name in sorted(directories + files):
                            path = os.path.join(above, name)
                            entry = tar.gettarinfo(path, os.path.relpath(path, upper))
                            if layers.is_whiteout(path):
                                continue
                            with open(path if entry.isreg() else os.devnull, "rb") as content:
                                tar.addfile(entry, content)
                return layers.digest(archive)
            ''', says="The deletions are not in it"),
        Wrong('''
            import tarfile
            from mycontainer import layers

            def my_commit(upper, archive, latest):
                with tarfile.open(archive, "w") as tar:
                    for above, directories, files in os.walk(upper):
                        directories.sort()
                        for name in sorted(directories + files):
                            path = os.path.join(above, name)
                            entry = tar.gettarinfo(path, os.path.relpath(path, upper))
                            if layers.is_whiteout(path):
                                entry = tarfile.TarInfo(os.path.relpath(f"{above}/.wh.{name}", upper))
                            entry.mtime = min(int(entry.mtime), latest)
                            with open(path if entry.isreg() and entry.size else os.devnull, "rb") as content:
                                tar.addfile(entry, content)
                return layers.digest(archive)
            ''', says="A name of this machine"),
        Wrong('''
            import tarfile
            from mycontainer import layers

            def my_commit(upper, archive, latest):
                with tarfile.open(archive, "w") as tar:
                    for above, directories, files in os.walk(upper):
                        directories.sort()
                        for name in sorted(directories + files):
                            path = os.path.join(above, name)
                            entry = tar.gettarinfo(path, os.path.relpath(path, upper))
                            if layers.is_whiteout(path):
                                entry = tarfile.TarInfo(os.path.relpath(f"{above}/.wh.{name}", upper))
                            entry.uname = entry.gname = ""
                            with open(path if entry.isreg() and entry.size else os.devnull, "rb") as content:
                                tar.addfile(entry, content)
                return layers.digest(archive)
            ''', says="They say when they were made"),
        Wrong('''
            import tarfile
            from mycontainer import layers

            def my_commit(upper, archive, latest):
                with tarfile.open(archive, "w") as tar:
                    for above, directories, files in os.walk(upper):
                        for name in directories + files:
                            path = os.path.join(above, name)
                            entry = tar.gettarinfo(path, os.path.relpath(path, upper))
                            if layers.is_whiteout(path):
                                entry = tarfile.TarInfo(os.path.relpath(f"{above}/.wh.{name}", upper))
                            entry.uname = entry.gname = ""
                            entry.mtime = min(int(entry.mtime), latest)
                            with open(path if entry.isreg() and entry.size else os.devnull, "rb") as content:
                                tar.addfile(entry, content)
                return layers.digest(archive)
            ''', says="the order in which the directory lists them"),
    ))


# ── recover_secret ───────────────────────────────────────────────────────────────────────────────────

def write_tar(path: str, *entries: tuple[str, bytes, str]) -> None:
    """A tar of (name, kind, content or target of a link)."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, kind, text in entries:
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = kind, 0o755 if kind == tarfile.DIRTYPE else 0o644
            entry.size = len(text) if kind == tarfile.REGTYPE else 0
            entry.linkname = "" if kind == tarfile.REGTYPE else text
            tar.addfile(entry, io.BytesIO(text.encode()) if entry.size else None)


FILE, HARD_LINK, SYMLINK, DIRECTORY = tarfile.REGTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE


def probe_recover(p: Probe) -> None:
    place, above, name, other = f"/tmp/{p.token()}", p.token(), p.token(), p.token()
    old, new, second, plain = p.token(), p.token(), p.token(), p.token()
    archives = [f"{place}/{number}.tar" for number in range(4)]

    def prepare() -> None:
        write_tar(archives[0], (above, DIRECTORY, ""), (f"{above}/{name}", FILE, old), ("motd", FILE, plain))
        write_tar(archives[1], (f"{above}/{name}", FILE, new), (other, FILE, second))
        write_tar(archives[2], (f"{above}/.wh.{name}", FILE, ""), ("motd", FILE, f"{plain} again"))
        write_tar(archives[3], (above, DIRECTORY, ""), (f".wh.{other}", FILE, ""))

    prepared(p, prepare)
    with p.child(archives) as process:
        got, deleted = process.value, {f"{above}/{name}": new.encode(), other: second.encode()}
        if got != deleted:
            p.fail("what your function found in four layers, two files of which were deleted", got, deleted,
                   cause=_why_not_recovered(got, deleted, old.encode()), look=f"{LAYER_SPEC}, \"Whiteouts\"")


def _why_not_recovered(got: object, deleted: Mapping[str, bytes], old: bytes) -> str:
    if not isinstance(got, dict):
        return "It shall be a dict: path to content, as bytes."
    if not got:
        return ("In the layer that deletes a file there is nothing but the mark, and in the whole unpacked "
                "there is not even that. Where was the file before?")
    if not all(isinstance(content, bytes) for content in got.values()):
        return "Content as bytes: do not decode it."
    if any(str(path).startswith("/") for path in got):
        return "Paths as they stand in the tar, without a slash in front."
    if any(".wh." in str(path) for path in got):
        return "That is the mark's own name, and its own content: none."
    if set(got) > set(deleted):
        return "Some of these nobody has deleted: they are not secret, or they were only replaced."
    if old in got.values():
        return "That is an older version: a layer in between has replaced it before it was deleted."
    if {os.path.basename(path) for path in deleted} == set(got):
        return "The names are right, but where are the files? A path begins at the root of the layer."
    return "Each mark deletes what the layers below it hold: one of them has the content."


RECOVER = Exercise(
    id="layers.recover_secret", title="Recover a secret", difficulty=3, minutes=8, lines=9,
    syscalls=("openat", "read"), reference="mycontainer.lab.exercises.layers.recover", probe=probe_recover,
    stub='''
        def my_recover(archives):
            """Layers as tars, the lowest first: {path: content} of every file that one of them deletes."""
            ...
        ''',
    hints=(
        ("Go through the tars from the lowest up, as an engine would; but keep everything that you have "
         "seen. with tarfile.open(archive) as tar: for entry in tar: …"),
        ("Two dicts: what is there so far, and what was deleted. tar.extractfile(entry).read() is the "
         "content of an entry for which entry.isreg() is true."),
        ("A mark has the name of the file behind .wh., in the same directory: split entry.name with "
         "os.path.split, and put it together again."),
    ),
    fast_track="Print the names of all entries first; the rest is one dict. Or read lab.solution.",
    wrong=(
        Wrong('''
            import tarfile

            def my_recover(archives):
                with tarfile.open(archives[-1]) as tar:
                    return {one.name: tar.extractfile(one).read() for one in tar
                            if one.isreg() and not os.path.basename(one.name).startswith(".wh.")}
            ''', says="Where was the file before"),
        Wrong('''
            import tarfile

            def my_recover(archives):
                found = {}
                for archive in archives:
                    with tarfile.open(archive) as tar:
                        found.update({one.name: tar.extractfile(one).read() for one in tar if one.isreg()
                                      and not os.path.basename(one.name).startswith(".wh.")})
                return found
            ''', says="nobody has deleted"),
        Wrong('''
            import tarfile

            def my_recover(archives):
                there, deleted = {}, {}
                for archive in archives:
                    with tarfile.open(archive) as tar:
                        for entry in tar:
                            path = entry.name.replace(".wh.", "")
                            if path != entry.name:
                                deleted[path] = there[path]
                            elif entry.isreg():
                                there.setdefault(path, tar.extractfile(entry).read())
                return deleted
            ''', says="an older version"),
        Wrong('''
            import tarfile

            def my_recover(archives):
                there, deleted = {}, {}
                for archive in archives:
                    with tarfile.open(archive) as tar:
                        for entry in tar:
                            name = os.path.basename(entry.name)
                            if name.startswith(".wh."):
                                deleted[name[4:]] = there[name[4:]]
                            elif entry.isreg():
                                there[name] = tar.extractfile(entry).read()
                return deleted
            ''', says="A path begins at the root"),
        Wrong('''
            import tarfile

            def my_recover(archives):
                there, deleted = {}, {}
                for archive in archives:
                    with tarfile.open(archive) as tar:
                        for entry in tar:
                            path = entry.name.replace(".wh.", "")
                            if path != entry.name:
                                deleted[path] = there[path]
                            elif entry.isreg():
                                there[path] = tar.extractfile(entry).read().decode()
                return deleted
            ''', says="Content as bytes"),
        Wrong('''
            import tarfile

            def my_recover(archives):
                there, deleted = {}, {}
                for archive in archives:
                    with tarfile.open(archive) as tar:
                        for entry in tar:
                            path = "/" + entry.name.replace(".wh.", "")
                            if path != "/" + entry.name:
                                deleted[path] = there[path]
                            elif entry.isreg():
                                there[path] = tar.extractfile(entry).read()
                return deleted
            ''', says="without a slash in front"),
    ))


# ── zip_slip ─────────────────────────────────────────────────────────────────────────────────────────

def probe_zip_slip(p: Probe) -> None:
    place, name = f"/tmp/{p.token()}", p.token()
    _see_the_honest(p, place, name)
    for attack in _attacks(place, name):
        _see_the_attack(p, place, name, attack)


def _see_the_honest(p: Probe, place: str, name: str) -> None:
    """An image as they are: with links, also such that begin with a slash."""
    top, archive = f"{place}/honest", f"{place}/honest.tar"
    entries = [("./", DIRECTORY, ""), ("usr", DIRECTORY, ""), ("usr/bin", DIRECTORY, ""),
               ("bin", SYMLINK, "/usr/bin"), ("usr/bin/busybox", FILE, name),
               ("usr/bin/sh", SYMLINK, "/bin/busybox"), ("lib64", SYMLINK, "usr/bin"),
               ("usr/bin/a..b", FILE, name), ("usr/bin/ls", HARD_LINK, "usr/bin/busybox"),
               ("lib64/more", FILE, name)]

    def look() -> dict[str, str]:
        found = {}
        for path in ("usr/bin/busybox", "usr/bin/a..b", "usr/bin/ls", "usr/bin/more"):
            found[path] = read(f"{top}/{path}") if os.path.exists(f"{top}/{path}") else "missing"
        for path in ("bin", "usr/bin/sh"):
            found[path] = os.readlink(f"{top}/{path}") if os.path.islink(f"{top}/{path}") else "no link"
        return found

    def prepare() -> None:
        write_tar(archive, *entries)
        os.mkdir(top)

    prepared(p, prepare)
    with p.child(archive, top, may_raise=True) as process:
        if process.error:
            p.fail("an honest image, unpacked by your function", str(process.error), "no error",
                   cause="Nothing of it leads out. An honest image has links, also absolute ones: they mean "
                         "the container's root, and are followed only in there. "
                         "And a..b is a name like any other.", look=LAYER_SPEC)
        p.expect("what it holds", process.inside(look), {
            **dict.fromkeys(("usr/bin/busybox", "usr/bin/a..b", "usr/bin/ls", "usr/bin/more"), name),
            "bin": "/usr/bin", "usr/bin/sh": "/bin/busybox"},
            cause="Some of it is missing, or something else. Was more left out than what leads out?",
            look="the documentation of Python's tarfile, TarFile.extract")


Attack = tuple[str, list[tuple[str, bytes, str]], str]
BESIDE = "{beside}"  # stands for the directory beside the learner's, in which there is a file to protect


def _attacks(place: str, name: str) -> list[Attack]:
    """(what it is called, its entries, what to tell whom it has fooled)."""
    victim = f"{BESIDE}/{name}"
    return [
        ("../", [(f"../{victim}", FILE, "theirs")], "A name with .. in it leads up, and out."),
        ("a/../../", [("a", DIRECTORY, ""), (f"a/../../{victim}", FILE, "theirs")],
         "A name with .. in the middle leads up, and out."),
        ("an absolute name", [(f"{place}/{victim}", FILE, "theirs")],
         "A name that begins with / does not care for your directory: os.path.join drops what is before it."),
        ("a symlink, then a name below it",
         [("in", SYMLINK, f"{place}/{BESIDE}"), (f"in/{name}", FILE, "theirs")],
         ("It went through a link that the same tar had made before. The name alone looked harmless: ask "
         "where it leads now.")),
        ("a symlink, then a file of that name", [("it", SYMLINK, f"../{victim}"), ("it", FILE, "theirs")],
         "The last part of the name was the link, and opening it for writing followed it."),
        ("a hard link, then a file of that name",
         [("it", HARD_LINK, f"../{victim}"), ("it", FILE, "theirs")],
         ("A hard link gives a second name to a file outside: what is written to it is written there. Such "
          "an entry has two names in it, and both can lead out.")),
        (SAME_LETTERS, [(f"../{victim}", FILE, "theirs")],
         ("The directory beside yours begins with the same letters as yours, and so does its path: that "
          "alone does not mean below.")),
    ]


SAME_LETTERS = "../, to a directory whose name begins like yours"


def _see_the_attack(p: Probe, place: str, name: str, attack: Attack) -> None:
    """One hostile tar: whether anything beside the directory was changed by unpacking it."""
    (what, entries, cause), number = attack, p.token()
    top, archive = f"top-{number}", f"{place}/{number}.tar"
    beside = f"{top}-not" if what == SAME_LETTERS else f"beside-{number}"

    def prepare() -> None:
        os.mkdir(f"{place}/{top}")
        write(f"{place}/{beside}/{name}", "mine")
        write_tar(archive, *((path.replace(BESIDE, beside), kind, text.replace(BESIDE, beside))
                             for path, kind, text in entries))

    def look() -> tuple[str, int, list[str]]:
        path = f"{place}/{beside}/{name}"
        return read(path), os.stat(path).st_nlink, os.listdir(f"{place}/{beside}")

    prepared(p, prepare)
    with p.child(archive, f"{place}/{top}", may_raise=True) as process:
        p.expect(f"a file beside your directory, how many names it has, and what lies next to it, after a "
                 f"tar with {what}", process.inside(look), ("mine", 1, [name]), cause, LAYER_SPEC)


ZIP_SLIP = Exercise(
    id="layers.zip_slip", title="Zip slip", difficulty=4, minutes=10, lines=6, syscalls=("openat", "link"),
    reference="mycontainer.lab.exercises.layers.unpack",
    forbid=("mycontainer.layers.apply", "mycontainer.images.tar.unpack"), probe=probe_zip_slip,
    stub='''
        def my_unpack(archive, directory):
            """Unpack a stranger's tar into directory. Raise ValueError for an entry that leads out of it."""
            with tarfile.open(archive) as tar:
                tar.extraction_filter = lambda entry, _: entry  # newer Pythons would help: not here
                for entry in tar:
                    tar.extract(entry, directory)
        ''',
    hints=(
        ("Before each extract, ask where the name leads: os.path.realpath walks symlinks, and there may be "
        "some by now."),
        ("Compare with the real path of the directory. A text that begins with the same letters is not yet a "
         "path below it: os.path.commonpath compares part by part."),
        ("A hard link has a second name, entry.linkname, when entry.islnk(). A symlink's target may be "
         "anything: only the place where it lies counts."),
    ),
    fast_track="Refuse .. and absolute names, two lines, and see what still gets out.",
    wrong=(
        Wrong('''
            import tarfile

            def my_unpack(archive, directory):
                with tarfile.open(archive) as tar:
                    tar.extraction_filter = lambda entry, _: entry
                    for entry in tar:
                        if entry.name.startswith("/"):
                            raise ValueError(entry.name)
                        tar.extract(entry, directory)
            ''', says="A name with .. in it leads up"),
        Wrong('''
            import tarfile

            def my_unpack(archive, directory):
                with tarfile.open(archive) as tar:
                    tar.extraction_filter = lambda entry, _: entry
                    for entry in tar:
                        if entry.name.startswith("/") or ".." in entry.name.split("/"):
                            raise ValueError(entry.name)
                        tar.extract(entry, directory)
            ''', says="It went through a link"),
        Wrong('''
            import tarfile

            def my_unpack(archive, directory):
                with tarfile.open(archive) as tar:
                    tar.extraction_filter = lambda entry, _: entry
                    for entry in tar:
                        if entry.issym() or entry.islnk() or ".." in entry.name or entry.name[0] == "/":
                            raise ValueError(entry.name)
                        tar.extract(entry, directory)
            ''', says="Nothing of it leads out"),
        Wrong('''
            import tarfile

            def my_unpack(archive, directory):
                top = os.path.realpath(directory)
                with tarfile.open(archive) as tar:
                    tar.extraction_filter = lambda entry, _: entry
                    for entry in tar:
                        path = os.path.join(top, entry.name)
                        real = os.path.realpath(os.path.dirname(path) if entry.issym() else path)
                        if os.path.commonpath([top, real]) != top:
                            raise ValueError(entry.name)
                        tar.extract(entry, directory)
            ''', says="a second name to a file outside"),
        Wrong('''
            import tarfile

            def my_unpack(archive, directory):
                top = os.path.realpath(directory)
                with tarfile.open(archive) as tar:
                    tar.extraction_filter = lambda entry, _: entry
                    for entry in tar:
                        for name in [entry.name] + [entry.linkname] * entry.islnk():
                            path = os.path.join(top, name)
                            real = os.path.realpath(os.path.dirname(path) if entry.issym() else path)
                            if not real.startswith(top):
                                raise ValueError(entry.name)
                        tar.extract(entry, directory)
            ''', says="begins with the same letters"),
    ))


# ── two_libs ─────────────────────────────────────────────────────────────────────────────────────────

APP = "/usr/bin/app"
LIBRARY = "/usr/lib/greet.sh"
SCRIPTS = {APP: ". /usr/lib/greet.sh; greet", LIBRARY: "greet() { echo 'this is the base image'; }"}


def probe_two_libs(p: Probe) -> None:
    base, place, words = p.fresh_root(programs=True).path, f"/tmp/{p.token()}", (p.token(), p.token())
    versions, roots = [f"{place}/{one}" for one in words], [f"{place}/root-{one}" for one in words]

    def prepare() -> None:
        for path, script in SCRIPTS.items():
            write(base + path, script)
        for version, word in zip(versions, words, strict=True):
            write(version + LIBRARY, f"greet() {{ echo {word}; }}")
        for directory in (*roots, f"{place}/empty"):
            os.mkdir(directory)

    prepared(p, prepare)
    with p.child(base, versions, roots, f"{place}/empty", before=apart) as process:
        said = [process.inside(_run_in, root) for root in roots]
        p.expect("what the same program of the base image says in the two trees, each with its library",
                 said, list(words), cause=_why_said(said, words), look=OVERLAYFS)
        p.expect("whether both trees are overlays", [overlay_at(process, root) for root in roots],
                 [True, True], cause="It is a copy: a hundred of them take a hundred times the space.",
                 look="lab.source(layers.stack)")
        p.expect("writing to the first tree", process.inside(write, f"{roots[0]}/note", "mine"), "written",
                 cause="It has no place for changes: layers.make_upper makes one.",
                 look="lab.source(layers.make_upper)")
        p.expect("whether the second tree has what was written to the first",
                 process.inside(os.path.exists, f"{roots[1]}/note"), False,
                 cause="Both write to the same place. Each needs an upper of its own.", look=OVERLAYFS)
        p.expect("writing to the second tree", process.inside(write, f"{roots[1]}/note", "mine"), "written",
                 cause="The second one has no place for changes.", look="lab.source(layers.make_upper)")
        p.expect("whether the base has been changed", process.inside(os.path.exists, f"{base}/note"), False,
                 cause="The base is shared: it must stay as it is.", look=OVERLAYFS)


def _run_in(root: str) -> str:
    """What the app says with ``root`` as its root directory."""
    with open(os.devnull) as nothing:
        os.chroot(root)
        os.chdir("/")
        done = subprocess.run(["/bin/sh", APP], stdin=nothing, capture_output=True, env={}, timeout=5)
    return (done.stdout or done.stderr).decode(errors="replace").strip()


def _why_said(said: Sequence[object], words: Sequence[str]) -> str:
    if all(word not in words and word != "this is the base image" for word in said):
        return "No program runs there: is anything mounted at the roots?"
    if "this is the base image" in said:
        return "The base has a library of that name, too, and hides the one that was meant."
    if said[0] == said[1]:
        return "Both found the same library: one version lies on top in both trees."
    if list(said) == list(words)[::-1]:
        return "They are exchanged."
    return "A tree needs the base, with its programs, and one version on top of it."


TWO_LIBS = Exercise(
    id="layers.two_libs", title="Two libraries", difficulty=2, minutes=6, lines=5,
    syscalls=("mkdir", "mount"), reference="mycontainer.lab.exercises.layers.side_by_side",
    probe=probe_two_libs,
    stub='''
        def my_side_by_side(base, versions, roots, place):
            """Mount base with versions[0] on top at roots[0], and with versions[1] at roots[1], writable."""
            ...
        ''',
    hints=(
        "A loop over zip(versions, roots). In it layers.stack, with two layers: which is the lower one?",
        ("Each tree needs an upper and a work directory. layers.make_upper(directory) makes both in a "
         "directory that is there."),
        "So make a directory in place for each tree first, with a name of its own: os.mkdir.",
    ),
    fast_track="Stack both without an upper, two lines; the check says what is still missing.",
    wrong=(
        Wrong('''
            def my_side_by_side(base, versions, roots, place):
                for version, root in zip(versions, roots):
                    os.mkdir(os.path.join(place, os.path.basename(root)))
            ''', says="No program runs there"),
        Wrong('''
            from mycontainer import layers

            def my_side_by_side(base, versions, roots, place):
                for version, root in zip(versions, roots):
                    layers.stack([version, base], root)
            ''', says="hides the one that was meant"),
        Wrong('''
            from mycontainer import layers

            def my_side_by_side(base, versions, roots, place):
                for root in roots:
                    layers.stack([base, *versions], root)
            ''', says="Both found the same library"),
        Wrong('''
            import shutil

            def my_side_by_side(base, versions, roots, place):
                for version, root in zip(versions, roots):
                    shutil.copytree(base, root, symlinks=True, dirs_exist_ok=True)
                    shutil.copytree(version, root, symlinks=True, dirs_exist_ok=True)
            ''', says="It is a copy"),
        Wrong('''
            from mycontainer import layers

            def my_side_by_side(base, versions, roots, place):
                for version, root in zip(versions, roots):
                    layers.stack([base, version], root)
            ''', says="It has no place for changes"),
        Wrong('''
            from mycontainer import layers

            def my_side_by_side(base, versions, roots, place):
                upper, work = layers.make_upper(place)
                for version, root in zip(versions, roots):
                    layers.stack([base, version], root, upper, work)
            ''', says="Each needs an upper of its own"),
    ))


# ── where_did_it_go ──────────────────────────────────────────────────────────────────────────────────

def probe_where(p: Probe) -> None:
    place, token = f"/tmp/{p.token()}", p.token()
    lower, upper = [f"{place}/{name}" for name in ("base", "app")], f"{place}/upper"
    volumes = {"/data": f"{place}/{token}"}

    def prepare() -> bool:
        for path in ("etc/conf", "etc/motd", "etc/gone", "old/a", "new/b", "new/deep/b", "turned/a"):
            write(f"{lower[0]}/{path}", token)
        write(f"{lower[1]}/etc/conf", token)
        os.mknod(f"{lower[1]}/etc/gone", stat.S_IFCHR)
        for path in ("etc/motd", "data-old/x", "data/hidden", "new/c", "new/deep/c", "turned"):
            write(f"{upper}/{path}", token)
        os.mknod(f"{upper}/old", stat.S_IFCHR)
        write(f"{volumes['/data']}/rows", token)
        notes = takes_notes(upper)
        if notes:
            os.setxattr(f"{upper}/new", "user.overlay.opaque", b"y")
        return notes

    notes = prepared(p, prepare)
    data, conf = f"{volumes['/data']}/rows", f"{lower[1]}/etc/conf"
    for path, expected, cause in [
        ("/data/rows", data, "It was written to a volume: a mount that lies over the tree."),
        ("/data-old/x", f"{upper}/data-old/x",
         "Its path begins with the letters of a volume's, and does not lie below it."),
        ("/data/hidden", None, "Upper has it, from a time without the volume, which now covers it."),
        ("/etc/motd", f"{upper}/etc/motd", "It has been changed: then the copy in upper counts."),
        ("/etc/conf", conf, "Two layers have it: the topmost that has it counts."),
        ("/etc/gone", None, "A layer has a mark for it, and the mark is not the file."),
        ("/old/a", None, "Its directory was deleted: the mark stands one step further up."),
        ("/never/was", None, "It is nowhere."),
        ("/turned/a", None, "Upper has a file where a layer has a directory: nothing lies below a file."),
        *([("/new/b", None, "Its directory was deleted, and made anew. What does the new one carry?"),
           ("/new/deep/b", None, "A directory above it hides what is below, however far down that is.")]
          if notes else []),
        ("/new/c", f"{upper}/new/c", "It lies in a directory that hides what is below, not what is in it."),
    ]:
        with p.child(path, lower, upper, volumes) as process:
            p.expect(f"where {path} is", process.value, expected, cause, look=OVERLAYFS)


WHERE = Exercise(
    id="layers.where_did_it_go", title="Where did it go?", difficulty=4, minutes=12, lines=15,
    syscalls=("lstat", "getxattr"), reference="mycontainer.lab.exercises.layers.where", probe=probe_where,
    stub='''
        def my_where(path, lower, upper, volumes):
            """Where out here is the file that a container sees at path ("/etc/motd")? None: it sees none.

            lower is a list of directories, the lowest first; volumes is {path inside: directory out here}.
            """
            ...
        ''',
    hints=(
        ("In which order would the kernel look? A mount covers whatever is below it. Then the upper, then "
         "the layers from the top down; the first that has the file, or a mark for it, decides."),
        ("A mark may stand for the file or for any directory above it. So walk: layer, layer/a, layer/a/b … "
         "and look at each step with layers.is_whiteout."),
        ("A directory that hides what is below it (layers.is_opaque) ends the search with its layer, found "
         "or not; so does a file in place of a directory. os.path.lexists tells whether there is anything "
         "at a path."),
    ),
    fast_track="Volumes, then upper, then the layers, without any marks: five lines. See how far it gets.",
    wrong=(
        Wrong('''
            def my_where(path, lower, upper, volumes):
                for layer in [upper, *lower[::-1]]:
                    if os.path.lexists(layer + path):
                        return layer + path
            ''', says="It was written to a volume"),
        Wrong('''
            def my_where(path, lower, upper, volumes):
                for inside, outside in volumes.items():
                    if path.startswith(inside):
                        return outside + path[len(inside):]
                for layer in [upper, *lower[::-1]]:
                    if os.path.lexists(layer + path):
                        return layer + path
            ''', says="begins with the letters of a volume"),
        Wrong('''
            def my_where(path, lower, upper, volumes):
                for place in [*volumes, upper, *lower]:
                    found = volumes[place] + path[len(place):] if place in volumes else place + path
                    if (place not in volumes or path.startswith(place + "/")) and os.path.lexists(found):
                        return found
                    if place in volumes and path.startswith(place + "/"):
                        return None
            ''', says="the topmost that has it counts"),
        Wrong('''
            def my_where(path, lower, upper, volumes):
                for inside, outside in volumes.items():
                    if path.startswith(inside + "/"):
                        found = outside + path[len(inside):]
                        return found if os.path.lexists(found) else None
                for layer in [upper, *lower[::-1]]:
                    if os.path.lexists(layer + path):
                        return layer + path
            ''', says="the mark is not the file"),
        Wrong('''
            from mycontainer import layers

            def my_where(path, lower, upper, volumes):
                for inside, outside in volumes.items():
                    if path.startswith(inside + "/"):
                        found = outside + path[len(inside):]
                        return found if os.path.lexists(found) else None
                for layer in [upper, *lower[::-1]]:
                    if os.path.lexists(layer + path):
                        return None if layers.is_whiteout(layer + path) else layer + path
            ''', says="the mark stands one step further up"),
        Wrong('''
            from mycontainer import layers

            def my_where(path, lower, upper, volumes):
                for inside, outside in volumes.items():
                    if path.startswith(inside + "/"):
                        found = outside + path[len(inside):]
                        return found if os.path.lexists(found) else None
                for layer in [upper, *lower[::-1]]:
                    so_far = layer
                    for name in path.split("/")[1:]:
                        so_far = os.path.join(so_far, name)
                        if not os.path.lexists(so_far):
                            break
                        if layers.is_whiteout(so_far):
                            return None
                    else:
                        return so_far
            ''', says="nothing lies below a file"),
    ))

EXERCISES = [STACK, WHITEOUT, COMMIT, RECOVER, ZIP_SLIP, TWO_LIBS, WHERE]


PREDICTIONS = [
    Prediction(
        id="layers.copies",
        question="An image takes 180 MB. A hundred containers are started from it. How much more space do "
                 "they take, before any of them has written anything?",
        choices={"a": "18,000 MB: each has a file system of its own",
                 "b": "about 180 MB: a second copy, which they share",
                 "c": "some, as a container copies each file when it is first read",
                 "d": "nothing that one could measure in MB"},
        answer="d",
        why="A container's tree is a mount over the image's own directories. It holds what the container has "
            "changed, and it has changed nothing.",
        misconceptions={
            "a": "From inside it looks as if every container had copied its image, as each can change what "
                 "it likes. But what nobody has changed need not be there twice.",
            "b": "The image's directories are used as they are, since nobody writes to them. No working copy "
                 "is needed.",
            "c": "Reading copies nothing: the file that is opened is the image's own, and so are its pages "
                 "in memory."}),
    Prediction(
        id="layers.append",
        question="One byte is appended to a file of 8 MB that lies in a lower layer. How much does the upper "
                 "directory take then?",
        choices={"a": "one byte", "b": "a page or a block, some 4 kB: the part of the file that has changed",
                 "c": "8 MB"},
        answer="c",
        why="overlayfs knows files, not blocks. Whoever opens a file of a lower layer for writing gets a "
            "copy of all of it, first: the copy-up.",
        misconceptions={
            "a": "It would have to put a file together from two layers. overlayfs takes each file from one.",
            "b": "Some file systems copy on write block by block (btrfs, XFS with reflinks). overlayfs lies "
                 "above file systems, and sees whole files. Where layer and upper lie on one such, it asks "
                 "that one for the copy, which then costs next to nothing."}),
    Prediction(
        id="layers.deleted",
        question="One step of a build writes a password to /root/key, the next step does its work with it, "
                 "the last one deletes it: three layers. Who can read the password?",
        choices={"a": "nobody: the file is deleted, and the image is smaller again",
                 "b": "whoever has root on the machine where it was built",
                 "c": "whoever has the image",
                 "d": "whoever runs a container of it, in that container"},
        answer="c",
        why="The image is its layers, and the first one holds the file. The last one adds a mark that hides "
            "it: the image has become larger, and the password has been sent along.",
        misconceptions={
            "a": "Deleting a file in a layer frees nothing. A layer below is never changed: its name is its "
                 "digest.",
            "b": "The layers leave that machine: they are what is pushed, pulled and kept in the registry.",
            "d": "In the container the mark hides it. The tar beside it hides nothing."}),
    Prediction(
        id="layers.stop",
        question="A container has written rows to /var/rows. Its process has ended: it is stopped. Where are "
                 "the rows?",
        choices={"a": "gone: a container lives only as long as its process",
                 "b": "in the image, which they have changed",
                 "c": "still there, in the container's upper directory, until the container is removed",
                 "d": "in memory, until the next start"},
        answer="c",
        why="The upper directory is a directory outside. Ending a process deletes no files. Started again on "
            "the same upper the container finds its rows; `rm` removes the upper, and the rows with it.",
        misconceptions={
            "a": "Not at stop: data is gone at rm. (With `run --rm` that is the same moment, as the engine "
                 "removes at once what has stopped. And what lay on a tmpfs of its own is gone at stop.)",
            "b": "The image is never written to, or the next container would find your rows.",
            "d": "In memory is only what lies on a tmpfs that the container mounted for itself, such as "
                 "/dev/shm: that is lost at stop."}),
]
