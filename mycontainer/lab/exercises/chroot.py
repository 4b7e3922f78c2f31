"""Chapter 1: a root directory of one's own, the walk out of it, and the cage that holds."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress

from mycontainer import chroot, lab, syscalls
from mycontainer.lab.exercise import Exercise, Prediction, Wrong
from mycontainer.lab.probe import Mismatch, Probe, Process, Root


def _same(one: str, other: str) -> bool:
    """Whether both paths lead to the same file; a path that leads nowhere is the same as no other."""
    with suppress(OSError):
        return os.path.samefile(one, other)
    return False


# ── enter ────────────────────────────────────────────────────────────────────────────────────────────

def probe_enter(p: Probe) -> None:
    root = p.fresh_root()
    with p.child(root.path, may_raise=True) as process:
        moved = process.has(root.canary)
        if process.error:
            late = moved and process.error.kind == "FileNotFoundError"
            cause = "The new root is in place, and this path is looked up in it: there it leads nowhere."
            raise Mismatch(f"your function raised {process.error}", look="man 7 path_resolution",
                           cause=cause if late else " ".join(process.error.notes),
                           learners=process.error.told)
        stands = _same(f"/proc/{process.pid}/cwd", f"/proc/{p.world.pid}/root{root.path}")
        p.expect("the root directory of your process (/proc/PID/root), from outside",
                 root.path if moved else process.link("root"), root.path, look="man 2 chroot",
                 cause="It stands in the directory, and that is all: / is what it was." if stands else
                       "It is what it was.")
        p.expect("the working directory of your process (/proc/PID/cwd), from outside",
                 root.path if stands else process.link("cwd"), root.path, look="man 2 chroot",
                 cause="The root has moved, but your process still stands where it stood, outside: a path "
                       "without / in front starts there.")


ENTER = Exercise(
    id="chroot.enter", title="Enter", difficulty=1, minutes=4, lines=2, syscalls=("chroot", "chdir"),
    reference="mycontainer.chroot.enter", probe=probe_enter,
    stub='''
        def my_enter(root):
            """Make root the root directory of this process, and stand in it."""
            ...
        ''',
    hints=(
        "Two system calls. One moves what / means. Read in man 2 chroot what that call does not change.",
        ("A process has two places: its root directory, where paths with / in front start, and its working "
         "directory, where all others start. Both must lie inside."),
        "Which path names the new root, once it is in place? Not the one that you were given.",
    ),
    fast_track="Write the first call only, run the check, and let its message tell you the second.",
    wrong=(
        Wrong('''
            def my_enter(root):
                syscalls.chroot(root)
            ''', says="still stands where it stood"),
        Wrong('''
            def my_enter(root):
                syscalls.chdir(root)
            ''', says="and that is all"),
        Wrong('''
            def my_enter(root):
                syscalls.chroot(root)
                syscalls.chdir(root)
            ''', says="there it leads nowhere"),
    ))


# ── why_enoent ───────────────────────────────────────────────────────────────────────────────────────

def bring(root: str, program: str) -> None:
    """Copy a program of this machine into ``root``, and all that it needs to start. man 1 ldd."""
    needed = lab.sh(["ldd", program]).stdout.split()
    for path in [program, *needed]:
        if path.startswith("/"):
            os.makedirs(os.path.dirname(root + path), exist_ok=True)
            shutil.copy(path, root + path)


def _run_in(root: str, argv: Sequence[str]) -> tuple[int, str, str]:
    """Run a program with ``root`` as its root directory: exit code, output, errors."""
    with open(os.devnull) as nothing:
        os.chroot(root)
        os.chdir("/")
        done = subprocess.run(argv, stdin=nothing, capture_output=True, env={}, timeout=5)
    return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")


def probe_why_enoent(p: Probe) -> None:
    for name, argument in (("cat", "canary"), ("ls", "")):
        program, root = shutil.which(name) or f"/bin/{name}", p.fresh_root()
        with p.child(root.path, program):
            path = root.canary if argument else ""
            seen = p.world.inside(_run_in, root.path, [program, f"/{path}"])
            there = p.world.inside(os.path.exists, root.path + program)
        what = f"{program} /{path}, run with your directory as its root"
        if isinstance(seen, str):  # it did not even start
            p.fail(what, seen, "it runs", look="man 2 execve, ERRORS", cause=_why_not(seen, there))
        code, out, errors = seen
        p.expect(f"the exit code of {what}", code, 0, look="man 8 ld.so",
                 cause=f"The program was started, and its loader says why it gives up: {errors.strip()}")
        p.expect(f"what came from {what}", root.content in out or root.canary in out, True,
                 cause="It is not the program that you were given.")


def _why_not(seen: str, there: bool) -> str:
    if seen == "PermissionError":
        return "The file is there and may not be executed: the copy has another mode than the original."
    if not there:
        return "The program is not there: it must have the same path inside as outside."
    return "The program is there. So it speaks of another file, one that the program names in itself."


WHY_ENOENT = Exercise(
    id="chroot.why_enoent", title="No such file?", difficulty=2, minutes=6, lines=5, syscalls=("execve",),
    reference="mycontainer.lab.exercises.chroot.bring", probe=probe_why_enoent,
    stub='''
        def my_bring(root, program):
            """Copy program into root, to the same path, and every file that it needs to start."""
            ...
        ''',
    hints=(
        ("ldd tells which files a program needs. Run it in a cell of its own and look: "
         'lab.sh(["ldd", "/bin/cat"], show=True). Of its words you want those that start with a /.'),
        "A file PATH of the lab goes to root + PATH. The directory for it may be missing: os.makedirs.",
        ("shutil.copy keeps the mode of a file, shutil.copyfile does not. The line of ldd without => is the "
         "loader; it is one of the files as well."),
    ),
    fast_track="Copy only the program, run the check, read what it says; then read lab.solution and go on.",
    wrong=(
        Wrong('''
            import shutil

            def my_bring(root, program):
                os.makedirs(os.path.dirname(root + program), exist_ok=True)
                shutil.copy(program, root + program)
            ''', says="it speaks of another file"),
        Wrong('''
            import shutil

            def my_bring(root, program):
                loader = lab.sh(["ldd", program]).stdout.split("\\n")[-2].split()[0]
                for path in (program, loader):
                    os.makedirs(os.path.dirname(root + path), exist_ok=True)
                    shutil.copy(path, root + path)
            ''', says="its loader says why"),
        Wrong('''
            import shutil

            def my_bring(root, program):
                for path in [program, *lab.sh(["ldd", program]).stdout.split()]:
                    if path.startswith("/"):
                        os.makedirs(os.path.dirname(root + path), exist_ok=True)
                        shutil.copyfile(path, root + path)
            ''', says="may not be executed"),
        Wrong('''
            import shutil

            def my_bring(root, program):
                for path in [program, *lab.sh(["ldd", program]).stdout.split()]:
                    if path.startswith("/"):
                        shutil.copy(path, root)
            ''', says="the same path inside"),
    ))


# ── escape ───────────────────────────────────────────────────────────────────────────────────────────

def probe_escape(p: Probe) -> None:
    root = p.fresh_root()
    with p.child(before=lambda: chroot.enter(root.path)) as process:
        here, top = f"/proc/{process.pid}", f"/proc/{p.world.pid}/root"
        p.expect("the root directory of your process (/proc/PID/root), from outside",
                 "the real one" if _same(f"{here}/root", top) else "another one", "the real one",
                 cause=_still_inside(process, root, _same(f"{here}/cwd", top)),
                 look="man 2 chroot; man 7 path_resolution")


def _still_inside(process: Process, root: Root, stands_on_top: bool) -> str:
    if process.has(root.canary):
        return "It is still the jail's. From where you stand, \"..\" leads up to the root directory at most."
    if stands_on_top:
        return "Your process stands on the real top already, but / does not mean that place yet."
    if process.has(os.path.basename(root.path)):
        return "The root is outside of the jail, but not on top: the walk was too short."
    return "The root was moved down, and you went along: it must be left behind, with you standing above it."


ESCAPE = Exercise(
    id="chroot.escape", title="Escape", difficulty=2, minutes=6, lines=5,
    syscalls=("mkdir", "chroot", "chdir"), reference="mycontainer.chroot.escape", probe=probe_escape,
    stub='''
        def my_escape():
            """Called as root inside of a chroot: when it returns, / is the real root again."""
            ...
        ''',
    hints=(
        ("\"..\" stops at the root directory, and only there. Where must the root directory be, so that the "
         "way from where you stand up to the top does not pass it?"),
        "You may call chroot once more, for a directory that you make. It does not change where you stand.",
        ("Now \"..\" goes up as far as there is an up, and too often does no harm. In the end you stand in "
         "the right place, and / is still the wrong one."),
    ),
    fast_track="Write the first two lines (a directory, a second chroot), then read lab.solution.",
    wrong=(
        Wrong('''
            def my_escape():
                for _ in range(64):
                    os.chdir("..")
                syscalls.chroot(".")
            ''', says="still the jail's"),
        Wrong('''
            def my_escape():
                os.makedirs("/tmp/deeper", exist_ok=True)
                syscalls.chroot("/tmp/deeper")
                for _ in range(64):
                    os.chdir("..")
            ''', says="does not mean that place yet"),
        Wrong('''
            def my_escape():
                os.makedirs("/tmp/deeper", exist_ok=True)
                syscalls.chroot("/tmp/deeper")
                os.chdir("..")
                syscalls.chroot(".")
            ''', says="the walk was too short"),
        Wrong('''
            def my_escape():
                os.makedirs("/tmp/deeper", exist_ok=True)
                chroot.enter("/tmp/deeper")
                for _ in range(64):
                    os.chdir("..")
                syscalls.chroot(".")
            ''', says="you went along"),
    ))


# ── cage ─────────────────────────────────────────────────────────────────────────────────────────────

def cage(root: str) -> None:
    """Lock this process up in ``root``: nothing else is mounted for it any more. man 2 pivot_root."""
    syscalls.unshare(syscalls.CLONE_NEWNS)
    syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    syscalls.mount(root, root, None, syscalls.MS_BIND | syscalls.MS_REC)
    syscalls.chdir(root)
    syscalls.pivot_root(".", ".")
    syscalls.umount2(".", syscalls.MNT_DETACH)


def _try_to_escape() -> None:
    with suppress(OSError):
        chroot.escape()


def probe_cage(p: Probe) -> None:
    root, volume = p.fresh_root(), p.token()

    def mount_a_volume() -> None:
        syscalls.mount("tmpfs", f"{root.path}/etc", "tmpfs")
        os.mkdir(f"{root.path}/etc/{volume}")

    with p.child(run=mount_a_volume):
        outside = p.world.read("mountinfo")
    with p.child(root.path) as process:
        _expect_apart(p, process, outside)
        p.expect("whether your directory is the root of your process", process.has(root.canary), True,
                 cause="Nothing has made it the root.", look="man 2 pivot_root")
        others = {point for point, _ in process.mounts()} - {"/", "/etc"}
        p.expect("whether anything is mounted but your root and what is below it", bool(others), False,
                 cause="The old root is still mounted: it lies on top of yours, and \"..\" leads there.",
                 look='man 2 pivot_root, "pivot_root(".", ".")"')
        p.expect("whether the file system that was mounted on etc below your root is still there",
                 process.has(f"etc/{volume}"), True, look="man 2 mount, \"Creating a bind mount\"",
                 cause="Your root was bound alone, without the mounts below it.")
        p.expect("whether your process stands in the new root",
                 _same(f"/proc/{process.pid}/cwd", f"/proc/{process.pid}/root"), True, look="man 2 chdir")
    with p.child(root.path, after=_try_to_escape) as process:
        p.expect("where the root directory is after the walk of six lines",
                 "in the cage" if process.has(root.canary) else "outside", "in the cage",
                 cause="It walked out. The old files are still mounted above your root, so there is an up.",
                 look="man 2 chroot")


def _expect_apart(p: Probe, process: Process, outside: str) -> None:
    apart = process.ns("mnt") != p.world.ns("mnt")
    p.expect("whether your process has a mount namespace of its own", apart, True,
             cause="It has that of the world around it: what you mount and unmount, you do for everybody.",
             look="man 7 mount_namespaces")
    unchanged = p.world.read("mountinfo") == outside
    p.expect("whether the mounts of the world outside are as before", unchanged, True,
             cause="Your mounts appeared out there as well: the two namespaces are linked.",
             look="man 7 mount_namespaces, SHARED SUBTREES")


CAGE = Exercise(
    id="chroot.cage", title="Cage", difficulty=3, minutes=8, lines=6,
    syscalls=("unshare", "mount", "chdir", "pivot_root", "umount2"),
    reference="mycontainer.lab.exercises.chroot.cage",
    forbid=("mycontainer.chroot.pivot", "mycontainer.chroot.make_private"), probe=probe_cage,
    stub='''
        def my_cage(root):
            """Make root the root of a mount namespace of our own, in which nothing else is mounted."""
            ...
        ''',
    hints=(
        ("Six calls. First the list of mounts becomes your own, in two steps: a copy, and no link back to "
         "the original."),
        "pivot_root wants a mount point. Bind root onto itself, with everything below it, and step into it.",
        ("With \".\" for both of its paths, pivot_root lays the old root on top of the new one, where you "
         "stand. It is busy, so detach it: umount2 has a flag for that."),
    ),
    fast_track="unshare and the MS_PRIVATE mount stand in who_sees; add the four of the last try, in order.",
    wrong=(
        Wrong('''
            def my_cage(root):
                syscalls.unshare(syscalls.CLONE_NEWNS)
                syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
                syscalls.mount(root, root, None, syscalls.MS_BIND | syscalls.MS_REC)
                syscalls.chroot(root)
                syscalls.chdir("/")
            ''', says="It walked out"),
        Wrong('''
            def my_cage(root):
                syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
                syscalls.mount(root, root, None, syscalls.MS_BIND | syscalls.MS_REC)
                syscalls.chdir(root)
                syscalls.pivot_root(".", ".")
                syscalls.umount2(".", syscalls.MNT_DETACH)
            ''', says="you do for everybody"),
        Wrong('''
            def my_cage(root):
                syscalls.unshare(syscalls.CLONE_NEWNS)
                syscalls.mount(root, root, None, syscalls.MS_BIND | syscalls.MS_REC)
                syscalls.chdir(root)
                syscalls.pivot_root(".", ".")
                syscalls.umount2(".", syscalls.MNT_DETACH)
            ''', says="mounts here still propagate"),
        Wrong('''
            def my_cage(root):
                syscalls.unshare(syscalls.CLONE_NEWNS)
                syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
                syscalls.mount(root, root, None, syscalls.MS_BIND | syscalls.MS_REC)
                syscalls.chdir(root)
                syscalls.pivot_root(".", ".")
            ''', says="The old root is still mounted"),
    ))


# ── leak_hunter ──────────────────────────────────────────────────────────────────────────────────────

def hunt(suspects: Sequence[int]) -> int | None:
    """Close the one descriptor that is a directory outside of our root; returns its number. man 3 getcwd."""
    for fd in suspects:
        try:
            os.fchdir(fd)
            os.getcwd()
        except NotADirectoryError:
            continue
        except FileNotFoundError:  # there is no way from / to where we stand
            os.close(fd)
            os.chdir("/")
            return fd
    return None


def _make_suspects(root: str, numbers: Sequence[int], leak: int) -> None:
    """Cage this process, with descriptors open: the leak, and what is harmless, at these numbers."""
    outside = os.open("/usr", os.O_RDONLY | os.O_DIRECTORY)
    syscalls.unshare(syscalls.CLONE_NEWNS)
    chroot.make_private()
    chroot.pivot(root)
    pipe = os.pipe()
    inside = {0: os.open("/tmp", os.O_RDONLY), 1: os.open("/", os.O_RDONLY), 2: pipe[0], 3: pipe[1]}
    for at, number in enumerate(numbers):
        os.dup2(outside if number == leak else inside[at % 4], number)
    for fd in (outside, *inside.values()):
        os.close(fd)


def probe_leak_hunter(p: Probe) -> None:
    root = p.fresh_root()
    numbers = sorted(random.sample(range(50, 200), 7))
    leak = random.choice(numbers[2:6])

    def before() -> None:
        _make_suspects(root.path, numbers, leak)

    with p.child(list(numbers), before=before, may_end=True) as process:
        if process.error:
            raise Mismatch(f"your function raised {process.error}", learners=process.error.told)
        p.expect("whether your process can go on", not process.ended and not process.program, True,
                 cause="You closed more than the suspects, or ended the process: others are needed.")
        still = {int(name) for name in os.listdir(f"/proc/{process.pid}/fd")}
        closed = [number for number in numbers if number not in still and number != leak]
        if len(closed) == 1 and leak in still:
            p.fail("the descriptor that you closed", "one of the others", "the leak", look="man 2 fchdir",
                   cause="It was harmless. A directory may also be one inside your root.")
        p.expect("how many of the other descriptors are closed", len(closed), 0,
                 cause="You closed more than the leak, and the others are needed.")
        p.expect("whether the leak is closed", leak not in still, True, look="man 2 close",
                 cause="You named the right one, but it is still open." if process.value == leak else
                       "You named another one, or none, and closed nothing.")
        stands_outside = _same(f"/proc/{process.pid}/cwd", f"/proc/{p.world.pid}/root/usr")
        p.expect("whether your process itself stands outside", stands_outside, False, look="man 2 chdir",
                 cause="The descriptor is closed, but you went there to look, and did not come back.")
        p.expect("what your function returned", process.value, leak,
                 cause="The leak is closed, and its number was asked for.")


LEAK_HUNTER = Exercise(
    id="chroot.leak_hunter", title="Leak hunter", difficulty=3, minutes=7, lines=8,
    syscalls=("fchdir", "getcwd", "close"),
    reference="mycontainer.lab.exercises.chroot.hunt", probe=probe_leak_hunter,
    stub='''
        def my_hunt(suspects):
            """Of these open descriptors one is a directory outside. Close it, and return its number."""
            ...
        ''',
    hints=(
        ("There is no /proc in the cage. But a process can go to a directory that it holds open: os.fchdir. "
         "For a pipe or a file that raises NotADirectoryError."),
        ("Stand there, and ask for the path from / to where you stand: os.getcwd. What should it say, if "
         "there is no such path? The cell above has asked."),
        "Close what you found with os.close. And mind where you stand when you are done.",
    ),
    fast_track="Take the cell above: it goes to one descriptor and asks. Put that into a loop.",
    wrong=(
        Wrong('''
            def my_hunt(suspects):
                for fd in suspects:
                    os.close(fd)
                return suspects[0]
            ''', says="the others are needed"),
        Wrong('''
            def my_hunt(suspects):
                for fd in suspects:
                    try:
                        os.fchdir(fd)
                        os.getcwd()
                    except NotADirectoryError:
                        continue
                    except FileNotFoundError:
                        os.chdir("/")
                        return fd
            ''', says="it is still open"),
        Wrong('''
            import stat

            def my_hunt(suspects):
                for fd in suspects:
                    if stat.S_ISDIR(os.fstat(fd).st_mode):
                        os.close(fd)
                        return fd
            ''', says="It was harmless"),
        Wrong('''
            def my_hunt(suspects):
                for fd in suspects:
                    try:
                        os.fchdir(fd)
                        os.getcwd()
                    except NotADirectoryError:
                        continue
                    except FileNotFoundError:
                        os.close(fd)
                        return fd
            ''', says="did not come back"),
    ))


# ── volume ───────────────────────────────────────────────────────────────────────────────────────────

def volume(source: str, target: str) -> None:
    """Show the directory ``source`` at ``target``, read-only. man 2 mount_setattr."""
    syscalls.mount(source, target, None, syscalls.MS_BIND | syscalls.MS_REC)
    syscalls.mount_setattr(syscalls.AT_FDCWD, target, syscalls.AT_RECURSIVE, set_=syscalls.MOUNT_ATTR_RDONLY)


def _apart() -> None:
    syscalls.unshare(syscalls.CLONE_NEWNS)
    chroot.make_private()


def _try_to_write(path: str) -> str:
    with open(path, "w") as file:
        file.write("changed")
    return "written"


def probe_volume(p: Probe) -> None:
    source, target, name = f"/tmp/{p.token()}", f"/tmp/{p.token()}", p.token()

    def prepare() -> None:
        os.makedirs(f"{source}/below")
        os.mkdir(target)
        syscalls.mount("tmpfs", f"{source}/below", "tmpfs")
        for path in (f"{source}/{name}", f"{source}/below/{name}"):
            os.close(os.open(path, os.O_CREAT))

    with p.child(run=prepare):
        pass
    with p.child(source, target, before=_apart) as process:
        def inside(look: Callable[..., object], *paths: str) -> object:
            return process.inside(look, *paths)

        there = inside(os.path.exists, f"{target}/{name}")
        p.expect("whether a file of the source is at the target", there, True, look="man 2 mount",
                 cause="Nothing of the source is shown there.")
        same = inside(os.path.samefile, f"{source}/{name}", f"{target}/{name}")
        p.expect("whether it is the same file at both places", same, True, look="man 2 mount",
                 cause="It is a copy: what the source writes later is not seen.")
        below = inside(os.path.exists, f"{target}/below/{name}")
        p.expect("whether what is mounted below the source is shown too", below, True,
                 cause="One mount was bound, without the mounts below it.",
                 look='man 2 mount, "Creating a bind mount"')
        p.expect("writing to the target", inside(_try_to_write, f"{target}/{name}"), "OSError",
                 cause="Read-only was not asked for, or asked in the call that binds: there it is ignored.",
                 look='man 2 mount, "Creating a bind mount"')
        p.expect("writing below the target", inside(_try_to_write, f"{target}/below/{name}"), "OSError",
                 cause="Read-only holds for the top, and not for the file systems below it.",
                 look="man 2 mount_setattr, AT_RECURSIVE")
        p.expect("writing to the source", inside(_try_to_write, f"{source}/{name}"), "written",
                 cause="The original has become read-only for you as well.", look="man 2 mount_setattr")


VOLUME = Exercise(
    id="chroot.volume", title="Volume", difficulty=2, minutes=5, lines=2, syscalls=("mount", "mount_setattr"),
    reference="mycontainer.lab.exercises.chroot.volume", forbid=("mycontainer.chroot.bind",),
    probe=probe_volume,
    stub='''
        def my_volume(source, target):
            """Show the directory source at target, read-only, with everything that is mounted below it."""
            ...
        ''',
    hints=(
        "A bind mount shows the same files under a second name. Two flags: bind, and what is below too.",
        ("Read-only is a second call: the one that binds ignores MS_RDONLY. Look at the signature: "
         "lab.source(syscalls.mount_setattr)"),
        ("mount_setattr takes AT_FDCWD and a path; one AT_ flag lets it reach the mounts below, and set_ is "
         "one of MOUNT_ATTR_."),
    ),
    fast_track="Write the bind only, and let the check tell you what is left to do.",
    equivalent_mutants={
        "without syscalls.AT_FDCWD in syscalls.mount_setattr(syscalls.AT_FDCWD, target, "
        "syscalls.AT_RECURSIVE, set_=syscalls.MOUNT_ATTR_RDONLY)":
        "the path is absolute, so it does not matter from where it starts"},
    wrong=(
        Wrong('''
            def my_volume(source, target):
                syscalls.mount(source, target, None, syscalls.MS_BIND | syscalls.MS_REC | syscalls.MS_RDONLY)
            ''', says="there it is ignored"),
        Wrong('''
            def my_volume(source, target):
                syscalls.mount(source, target, None, syscalls.MS_BIND | syscalls.MS_REC)
                MS_REMOUNT = 0x20
                syscalls.mount(None, target, None, MS_REMOUNT | syscalls.MS_BIND | syscalls.MS_RDONLY)
            ''', says="not for the file systems below"),
        Wrong('''
            import shutil

            def my_volume(source, target):
                shutil.copytree(source, target, dirs_exist_ok=True)
            ''', says="It is a copy"),
    ))

EXERCISES = [ENTER, WHY_ENOENT, ESCAPE, CAGE, LEAK_HUNTER, VOLUME]


PREDICTIONS = [
    Prediction(
        id="chroot.enoent",
        question="cat is copied into an empty root directory, and may be executed. The kernel says \"No such "
                 "file or directory\". Which file is missing?",
        choices={"a": "cat itself: after chroot its path is another one",
                 "b": "none: the kernel means that it may not execute it",
                 "c": "a file that cat asks for",
                 "d": "the file that cat shall print"},
        answer="c",
        why="A program linked dynamically names its loader, by an absolute path. The kernel starts the "
            "loader, which loads the program; and it is the loader that does not exist in there.",
        misconceptions={
            "a": "The cell looked it up at that very path, and found it.",
            "b": "That has a message of its own, \"Permission denied\" (EACCES).",
            "d": "That would be cat's own message, and cat never ran."}),
    Prediction(
        id="chroot.jail",
        question="A process is root in a chroot that holds nothing but busybox. What does it need to reach "
                 "the files outside?",
        choices={"a": "it cannot: outside its root there is nothing that it could name",
                 "b": "a mistake in the kernel, or one in busybox",
                 "c": "a helper outside, who passes it an open file",
                 "d": "a few lines that any root may run, and nothing else"},
        answer="d",
        why="chroot changes where look-ups start, and no more than that. The files are mounted as before, "
            "root may call chroot again, and the way up is barred at one directory only.",
        misconceptions={
            "a": "chroot is security: but it only says where / is. Nothing has been taken away.",
            "b": "No mistake is needed: the manual page of chroot describes the walk (man 2 chroot).",
            "c": "That works too. You meet it at the end of this chapter, and it is not needed here."}),
    Prediction(
        id="chroot.who_sees",
        question="A process moves to a new mount namespace and mounts something there. Who sees it?",
        choices={"a": "only that process and its children: it is a namespace of its own",
                 "b": "everybody: there is one table of mounts",
                 "c": "it depends on the mount that it is mounted on"},
        answer="c",
        why="The new namespace is a copy, and where a mount is shared, the copies stay linked: what is "
            "mounted below one appears below all. Where it is private, nobody else sees it.",
        misconceptions={
            "a": "That is what one wants, and what one gets only after MS_PRIVATE.",
            "b": "There is one table for each mount namespace."}),
]
