"""Chapter 6, the summit: a whole container, of the learner's own parts.

Our solutions stand first; together they are the container of sixty lines. Then what the checks look at, then
the exercises and the predictions. Sources: pivot_root(2), pid_namespaces(7), user_namespaces(7), setsid(2),
PR_SET_PDEATHSIG in prctl(2).
"""

from __future__ import annotations

import errno
import os
import random
import select
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from mycontainer import chroot, namespaces, network, syscalls
from mycontainer.cgroups import Cgroup
from mycontainer.engine.devices import gateways
from mycontainer.lab.child import begin
from mycontainer.lab.exercise import Exercise, Prediction, Wrong
from mycontainer.lab.exercises.chroot import cage
from mycontainer.lab.exercises.layers import read, stack, write
from mycontainer.lab.exercises.namespaces import host_name, kinds_shared, pids, pids_in_proc
from mycontainer.lab.exercises.network import alone, device, first_page, kinds, wire
from mycontainer.lab.probe import Checkpoint, Child, Probe, Process, fail
from mycontainer.layers import make_upper

KINDS = ("user", "mnt", "pid", "uts", "ipc", "net")  # of namespaces, each of them new


# ── our solutions ────────────────────────────────────────────────────────────────────────────────────

def root(image: Sequence[str], place: str) -> None:
    """Make the layers of image, with a fresh upper above them, our root directory: in a furnished cage."""
    chroot.make_private()
    syscalls.mount("tmpfs", place, "tmpfs", 0, "mode=755")
    upper, work = make_upper(place)
    stack(image, place, upper, work)
    chroot.furnish(place)
    cage(place)


def spawn(inside: Callable[[], object], outside: Callable[[int], object]) -> tuple[int, int]:
    """Call inside() in process 1 of new namespaces; before that outside(pid) here, while it waits.

    Returns the pids of process 1 and of the runner, which ends with the exit code of process 1.
    """
    orders, order = os.pipe()
    news, tell = os.pipe()
    runner = os.fork()
    if runner == 0:  # the runner
        code = 125
        try:
            namespaces.create(KINDS)
            os.write(tell, b"unshared\n")
            os.read(orders, 1)
            one = os.fork()
            if one == 0:  # process 1
                syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
                os.read(orders, 1)
                inside()
                os._exit(0)
            os.write(tell, f"{one}\n".encode())
            code = os.waitstatus_to_exitcode(os.waitpid(one, 0)[1])
        except BaseException as error:
            os.write(2, f"{error}\n".encode())
        finally:
            os._exit(code if code >= 0 else 128 - code)
    os.close(tell)
    with open(news) as lines:  # outside
        lines.readline()
        namespaces.write_map(runner, [(0, os.getuid(), 1)], [(0, os.getgid(), 1)])
        os.write(order, b"m")
        pid = int(lines.readline())
    outside(pid)
    os.write(order, b"g")
    return pid, runner


def plug(pid: int, name: str, ip: str) -> None:
    """Give the network namespace of pid a cable, in the bridge br0 out here, and the address ip."""
    wire(name, pid)
    network.ask(network.plug(name, "br0"))
    with network.inside(pid):
        network.ask(network.up("lo"), network.up("eth0"), network.address("eth0", f"{ip}/16"))
        network.ask(network.default_route("10.88.0.1"))


def container(argv: Sequence[str], image: Sequence[str], name: str, ip: str,
              group: Cgroup | None = None) -> tuple[int, int]:
    """Start a command in a container of its own; returns the pids of process 1 and of the runner."""
    def inside() -> None:
        os.setsid()
        syscalls.sethostname(name)
        root(image, "/tmp/root")
        try:
            os.execvpe(argv[0], [*argv], {"PATH": "/bin:/sbin:/usr/bin:/usr/sbin", "HOME": "/root"})
        except FileNotFoundError:
            os._exit(127)

    def outside(pid: int) -> None:
        if group:
            group.join(pid)
        plug(pid, name, ip)

    return spawn(inside, outside)


# ── what the checks look at ──────────────────────────────────────────────────────────────────────────

PLACE = "/tmp/root"  # where the notebook's containers put their root directory together


def in_process_1() -> None:
    """Go on in process 1 of a new PID namespace and a new mount namespace; its parent ends as it does."""
    namespaces.create(("mnt", "pid"))
    one = os.fork()
    if one:  # the parent, who is not in the PID namespace
        os.closerange(3, 4096)
        os._exit(os.waitstatus_to_exitcode(os.waitpid(one, 0)[1]) & 0xFF)
    begin()


def bridge_here() -> None:
    """Make the bridge of the notebook, 10.88.0.1."""
    network.ask(network.bridge("br0"), network.up("br0"))
    network.ask(network.address("br0", "10.88.0.1/16"))


def walk_out(secret: str) -> str:
    """Try the walk out of a chroot, and look whether the file outside is to be seen then."""
    with suppress(OSError):
        chroot.escape()
    return "outside" if os.path.lexists(secret) else "in the cage"


def throws_away(path: str) -> str:
    """What becomes of what is written to a path: "thrown away" if it is the null device."""
    with open(path, "w") as file:
        file.write("x")
    return "thrown away" if os.path.exists(path) and not os.path.isfile(path) else "kept in a file"


def stands_in(process: Child) -> tuple[Process, Process]:
    """The runner and process 1, found below the learner's process; missing ones end the check."""
    for runner in process.children():
        for one in runner.children():
            return runner, Process(one.pid, KINDS)
    fail("who is below your process", "nobody, or no child of a child", "the runner, and process 1 below it",
         "Both have to be there while outside is at work.", "man 2 fork")


def soon(p: Probe, holds: Callable[[], bool], seconds: float = 2.0) -> bool:
    """Whether it comes true in so many seconds."""
    end = time.monotonic() + seconds * p.patience
    while not holds() and time.monotonic() < end:
        time.sleep(0.01)
    return holds()


# ── root ─────────────────────────────────────────────────────────────────────────────────────────────

def probe_root(p: Probe) -> None:
    base, place, top, secret = p.fresh_root(), f"/tmp/{p.token()}", f"/tmp/{p.token()}", f"/tmp/{p.token()}"
    old, new = p.token(), p.token()

    def prepare() -> None:
        write(f"{base.path}/etc/which", old)
        write(f"{top}/etc/which", new)
        write(secret)
        os.mkdir(place)

    with p.child(run=prepare):
        mounts = p.world.read("mountinfo")
    with p.child([base.path, top], place, before=in_process_1, may_raise=True) as process:
        if process.error:
            p.fail("how your function went", f"it raised {process.error}", "it comes to its end",
                   _why_no_root(process), "man 2 pivot_root; man 7 user_namespaces")
        one = process.children()[0]
        p.expect("whether the mounts of the world outside are as before",
                 p.world.read("mountinfo") == mounts, True,
                 "What you mount appears out there as well. A new mount namespace stays linked to the old "
                 "one until somebody cuts the link, and that comes before the first mount.",
                 "man 7 mount_namespaces, \"SHARED SUBTREES\"")
        p.expect("a file of the lowest layer", one.inside(read, f"/{base.canary}"), base.content,
                 "The root directory is not the stack of layers.", "chapter 4")
        p.expect("a file that two layers have", one.inside(read, "/etc/which"), new,
                 "That is the lower one's.", "chapter 4")
        p.expect("what the directory for the root holds, out here", p.world.inside(os.listdir, place), [],
                 "The upper lies in a directory of the world outside, and is still there when the container "
                 "is gone. On which file system would it vanish by itself?", "man 5 tmpfs")
        p.expect("writing to a file inside", one.inside(write, "/etc/which", "changed"), "written",
                 "Nothing takes changes: there is no upper.", "chapter 4")
        p.expect("the same file in its layer", p.world.inside(read, f"{top}/etc/which"), new,
                 "A layer has changed: others may use it.", "chapter 4")
        found = one.inside(pids_in_proc)
        p.expect("the processes that ps shows inside", found, [1],
                 "There is no /proc." if found == [] else "That is another /proc, or none.",
                 "man 5 proc; chapter 1, furnish")
        p.expect("what is written to /dev/null inside", one.inside(throws_away, "/dev/null"), "thrown away",
                 "There is no such device: the root directory is not furnished.", "chapter 1, furnish")
        p.expect("where the six-line walk of chapter 1 leads", one.inside(walk_out, secret), "in the cage",
                 "It walked out: the old files are still mounted above.", "man 2 pivot_root")


def _why_no_root(process: Child) -> str:
    assert process.error
    if process.children() and ("/", "overlay") in process.children()[0].mounts()[:1]:
        return ("The cage is closed, and then something is mounted. /proc and /sys may be mounted only while "
                "an old one is in sight, and in your cage there is none.")
    return " ".join(process.error.notes)


ROOT = Exercise(
    id="container.root", title="A root directory", difficulty=2, minutes=8, lines=6,
    syscalls=("mount", "unshare", "pivot_root", "umount2"),
    reference="mycontainer.lab.exercises.container.root", probe=probe_root,
    forbid=("mycontainer.container.change_root",),
    stub='''
        def my_root(image, place):
            """Make the layers of image (directories, the lowest first) our root directory.

            We are process 1, in a new mount namespace. `place` is an empty directory of the outside.
            """
            ...
        ''',
    hints=(
        ("In this order: cut the link to the mounts outside (chroot.make_private), a file system of our own "
         "at place, an upper on it, the stack, the furniture, the cage."),
        ("The file system that vanishes by itself is a tmpfs: syscalls.mount(\"tmpfs\", place, \"tmpfs\", 0, "
         "\"mode=755\"). make_upper(place) makes the two directories on it, and returns their paths."),
        ("stack(image, place, upper, work) may lie right on place. chroot.furnish(place) has to come before "
         "the last step, cage(place)."),
    ),
    fast_track="The first hint is the whole list; write a line for each.",
    wrong=(
        Wrong("""
            def my_root(image, place):
                from mycontainer.lab.exercises.container import cage, make_upper, stack
                chroot.make_private()
                stack(image, place, *make_upper(place))
                chroot.furnish(place)
                cage(place)
            """, says="On which file system would it vanish"),
        Wrong("""
            def my_root(image, place):
                from mycontainer.lab.exercises.container import cage, make_upper, stack
                chroot.make_private()
                syscalls.mount("tmpfs", place, "tmpfs", 0, "mode=755")
                stack(image, place, *make_upper(place))
                cage(place)
                chroot.furnish("/")
            """, says="only while an old one is in sight"),
        Wrong("""
            def my_root(image, place):
                from mycontainer.lab.exercises.container import make_upper, stack
                chroot.make_private()
                syscalls.mount("tmpfs", place, "tmpfs", 0, "mode=755")
                stack(image, place, *make_upper(place))
                chroot.furnish(place)
                chroot.enter(place)
            """, says="It walked out"),
        Wrong("""
            def my_root(image, place):
                from mycontainer.lab.exercises.container import cage, make_upper, stack
                syscalls.mount("tmpfs", place, "tmpfs", 0, "mode=755")
                stack(image, place, *make_upper(place))
                chroot.furnish(place)
                cage(place)
            """, says="comes before the first mount"),
    ),
)


# ── spawn ────────────────────────────────────────────────────────────────────────────────────────────

ORDER = "man 7 user_namespaces; man 7 pid_namespaces"


def probe_spawn(p: Probe) -> None:
    gate, here, name, code = p.checkpoint(), p.checkpoint(), f"w-{p.token()}", random.randrange(2, 100)

    def outside(pid: int) -> None:
        network.ask(network.veth(name, pid))
        gate()

    with p.child(here, outside) as process:
        caller = gate.arrived("outside was not called.", ORDER)
        p.expect("whether the process that called your function calls outside", caller.pid == process.pid,
                 True, "Somebody in the new namespaces called it: in there they are nobody out here, and may "
                 "not touch our network.", ORDER)
        early = bool(select.select([here], [], [], 0.3)[0])
        p.expect("whether inside is called while outside is still at work", early, False,
                 "Process 1 does not wait for its byte: it would start with no network, and no limits.",
                 "man 2 read; man 7 pipe")
        runner, one = stands_in(process)
        p.expect("the network devices of process 1, after a cable for the pid that outside got",
                 one.inside(kinds), {"eth0": "veth"}, "The pid that you gave to outside is not that of "
                 "process 1, or it has no network namespace of its own.", ORDER)
        gate.release()
        stands = here.arrived("inside was not called. What does process 1 wait for?", ORDER)
        p.expect("the pid inside, of the process that called inside", pids(stands) or ["none"], ["1"],
                 "It is not the first child that was born after the new PID namespace.",
                 "man 2 unshare, \"CLONE_NEWPID\"")
        p.expect("the namespaces that it shares with the world", kinds_shared(stands, p.world, KINDS), [],
                 "Those are still the old ones.", "man 7 namespaces")
        p.expect("uid_map of process 1, first and last number", _ends(stands.read("uid_map")), [0, 1],
                 "Nobody has written the map, or another one.", "man 7 user_namespaces")
        value = process.finish()
        p.expect("what your function returned", value, (one.pid, runner.pid),
                 "It shall be two pids as seen from here: of process 1, and of the runner.", "man 2 fork")
        here.release(code)
        p.expect(f"the exit code of the runner, after inside ended with os._exit({code})",
                 runner.exit_status(), code, "It does not pass on how process 1 ended.", "man 2 waitpid")
    see_the_ends(p)


def see_the_ends(p: Probe) -> None:
    """Whether each end of process 1 is told, and whether nobody stays behind."""
    here = p.checkpoint()
    with p.child(here, nothing) as process:
        here.arrived()
        runner, one = stands_in(process)
        here.release()
        p.expect("the exit code of the runner, after inside returned", runner.exit_status(), 0,
                 "A child that comes back from inside has to end there, and well.", "man 2 _exit")
    here = p.checkpoint()
    with p.child(here, nothing) as process:
        here.arrived()
        runner, one = stands_in(process)
        os.kill(one.pid, signal.SIGKILL)
        p.expect("the exit code of the runner, after SIGKILL to process 1", runner.exit_status(), 137,
                 "A process that a signal ended has no exit code; a shell, and Docker, say 128 + its number.",
                 "man 1 bash, \"EXIT STATUS\"")
    here = p.checkpoint()
    with p.child(here, nothing) as process:
        here.arrived()
        runner, one = stands_in(process)
        os.kill(runner.pid, signal.SIGKILL)
        p.expect("whether process 1 is gone, after SIGKILL to the runner",
                 soon(p, lambda: not one.alive()), True,
                 "It lives on, and nobody is left who knows of it. A process can ask for a signal for when "
                 "its parent ends.", "man 2 prctl, \"PR_SET_PDEATHSIG\"")
    with p.child(print, nothing, before=no_more_namespaces, may_raise=True) as process:
        p.expect("how your function went, where no namespace can be made", bool(process.error), True,
                 "The runner failed, and your function returned as if nothing were.", "man 2 unshare")


def nothing(pid: int) -> None:
    """Nothing is to be done outside."""


def no_more_namespaces() -> None:
    """From here on nobody in this world can make a user namespace. man 7 namespaces, "limits"."""
    with open("/proc/sys/user/max_user_namespaces", "w") as limit:
        limit.write("0")


def _ends(id_map: str) -> list[int]:
    return [int(word) for word in id_map.split()][::2]


SPAWN = Exercise(
    id="container.spawn", title="Three processes", difficulty=4, minutes=20, lines=9,
    syscalls=("unshare", "clone", "read", "write", "prctl", "wait4"),
    reference="mycontainer.lab.exercises.container.spawn", probe=probe_spawn,
    forbid=("mycontainer.spawn.spawn", "mycontainer.container.start"),
    stub='''
        def my_spawn(inside, outside):
            """Call inside() in process 1 of new namespaces; before that outside(pid) here, while it waits.

            Returns the pids of process 1 and of the runner, which ends with the exit code of process 1.
            """
            orders, order = os.pipe()      # we write: a byte means "go on"
            news, tell = os.pipe()         # the runner writes: a line each
            runner = os.fork()
            if runner == 0:                # the runner
                code = 125
                try:
                    ...                    # 1  new namespaces (KINDS); tell; read a byte: the map is written
                    one = os.fork()
                    if one == 0:           # process 1
                        ...                # 2  end with the runner; read a byte; inside(); end well
                    ...                    # 3  tell its pid; wait for its end: what is the code?
                except BaseException as error:
                    os.write(2, f"{error}\\n".encode())
                finally:
                    os._exit(code if code >= 0 else 128 - code)
            os.close(tell)                 # outside: we only read there
            with open(news) as lines:
                ...                        # 4  hear of 1; write the map, then the byte; hear the pid
            ...                            # 5  outside(pid), the second byte, and return both pids
        ''',
    hints=(
        ("Part 1 is three lines: namespaces.create(KINDS), os.write(tell, b\"unshared\\n\"), "
         "os.read(orders, 1). Part 4 is their other half: lines.readline(), namespaces.write_map(runner, "
         "[(0, os.getuid(), 1)], [(0, os.getgid(), 1)]), os.write(order, b\"m\")."),
        ("The pid of process 1 as we see it is what fork returned to the runner. It goes through the pipe as "
         "a line of text, f\"{one}\\n\".encode(), and comes out as int(lines.readline())."),
        ("End with the runner: syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL). End well: "
         "os._exit(0). The code: os.waitstatus_to_exitcode(os.waitpid(one, 0)[1])."),
    ),
    fast_track="Read the five parts, then our solution; it is the knot of every container runtime.",
    wrong=(
        Wrong("""
            def my_spawn(inside, outside):
                orders, order = os.pipe()
                news, tell = os.pipe()
                runner = os.fork()
                if runner == 0:
                    code = 125
                    try:
                        namespaces.create(("user", "mnt", "pid", "uts", "ipc", "net"))
                        os.write(tell, b"unshared\\n")
                        os.read(orders, 1)
                        one = os.fork()
                        if one == 0:
                            inside()
                            os._exit(0)
                        os.write(tell, f"{one}\\n".encode())
                        code = os.waitstatus_to_exitcode(os.waitpid(one, 0)[1])
                    finally:
                        os._exit(code if code >= 0 else 128 - code)
                os.close(tell)
                with open(news) as lines:
                    lines.readline()
                    namespaces.write_map(runner, [(0, os.getuid(), 1)], [(0, os.getgid(), 1)])
                    os.write(order, b"m")
                    pid = int(lines.readline())
                outside(pid)
                return pid, runner
            """, says="Process 1 does not wait for its byte"),
        Wrong("""
            def my_spawn(inside, outside):
                orders, order = os.pipe()
                news, tell = os.pipe()
                runner = os.fork()
                if runner == 0:
                    code = 125
                    try:
                        namespaces.create(("user", "mnt", "pid", "uts", "ipc", "net"))
                        os.write(tell, b"unshared\\n")
                        os.read(orders, 1)
                        one = os.fork()
                        if one == 0:
                            os.read(orders, 1)
                            inside()
                            os._exit(0)
                        os.write(tell, f"{one}\\n".encode())
                        code = os.waitstatus_to_exitcode(os.waitpid(one, 0)[1])
                    finally:
                        os._exit(code if code >= 0 else 128 - code)
                os.close(tell)
                with open(news) as lines:
                    lines.readline()
                    namespaces.write_map(runner, [(0, os.getuid(), 1)], [(0, os.getgid(), 1)])
                    os.write(order, b"m")
                    pid = int(lines.readline())
                outside(pid)
                os.write(order, b"g")
                return pid, runner
            """, says="nobody is left who knows of it"),
        Wrong("""
            def my_spawn(inside, outside):
                orders, order = os.pipe()
                news, tell = os.pipe()
                runner = os.fork()
                if runner == 0:
                    code = 125
                    try:
                        namespaces.create(("user", "mnt", "pid", "uts", "ipc", "net"))
                        os.write(tell, b"unshared\\n")
                        os.read(orders, 1)
                        one = os.fork()
                        if one == 0:
                            syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
                            os.read(orders, 1)
                            inside()
                            os._exit(0)
                        os.write(tell, f"{os.getpid()}\\n".encode())
                        code = os.waitstatus_to_exitcode(os.waitpid(one, 0)[1])
                    finally:
                        os._exit(code if code >= 0 else 128 - code)
                os.close(tell)
                with open(news) as lines:
                    lines.readline()
                    namespaces.write_map(runner, [(0, os.getuid(), 1)], [(0, os.getgid(), 1)])
                    os.write(order, b"m")
                    pid = int(lines.readline())
                outside(pid)
                os.write(order, b"g")
                return pid, runner
            """, says="two pids as seen from here"),
        Wrong("""
            def my_spawn(inside, outside):
                orders, order = os.pipe()
                runner = os.fork()
                if runner == 0:
                    namespaces.create(("user", "mnt", "pid", "uts", "ipc", "net"))
                    one = os.fork()
                    if one == 0:
                        os.read(orders, 1)
                        inside()
                        os._exit(0)
                    outside(one)
                    os.write(order, b"g")
                    os._exit(os.waitstatus_to_exitcode(os.waitpid(one, 0)[1]))
                return runner + 1, runner
            """, says="in there they are nobody out here"),
    ),
    equivalent_mutants={
        "without os.write(2, f'{error}\\n'.encode())": "it only says why it failed",
    },
)


# ── plug ─────────────────────────────────────────────────────────────────────────────────────────────

NEIGHBOURS = "man 8 ip-address; man 8 ip-route"


def probe_plug(p: Probe) -> None:
    name, ip = f"w-{p.token()}", f"10.88.{random.randrange(1, 200)}.{random.randrange(2, 250)}"
    with p.child(run=alone) as other, \
            p.child(other.pid, name, ip, before=bridge_here, may_raise=True) as process:
        if process.error:
            cause = " ".join(process.error.notes)
            if process.error.errno == errno.ENETUNREACH:
                cause = "The gateway must be a neighbour. How many bits of the address say who is one?"
            p.fail("how your requests went", f"it raised {process.error}", "all are granted", cause,
                   NEIGHBOURS)
        here, there = process.inside(device, name), other.inside(device, "eth0")
        p.expect("what kind of device eth0 is, in there", there.get("kind", "nothing"), "veth",
                 "It has got no cable.", "man 4 veth")
        p.expect("the bridge that its outer end is plugged into", here.get("bridge") or "none", "br0",
                 "The cable hangs out of the wall: nobody passes on what it brings.", "man 8 bridge")
        p.expect("whether lo is on, in there", other.inside(first_page, "127.0.0.1"), "ECONNREFUSED",
                 "The container cannot even call itself.", "man 7 netdevice")
        p.expect(f"the bridge, called from {ip}", other.inside(first_page, "10.88.0.1"), "ECONNREFUSED",
                 "It does not get there: eth0 must be on, and have the address.", NEIGHBOURS)
        p.expect("the address of eth0, in there", [one for one in there["addresses"] if ":" not in one],
                 [f"{ip}/16"], "It has another.", NEIGHBOURS)
        p.expect("who takes what is for nobody in the neighbourhood", other.inside(gateways), ["10.88.0.1"],
                 "There is no default route: it can call its neighbours, and nobody else.", NEIGHBOURS)


PLUG = Exercise(
    id="container.plug", title="A cable", difficulty=2, minutes=5, lines=5,
    syscalls=("socket", "sendto", "setns"),
    reference="mycontainer.lab.exercises.container.plug", probe=probe_plug,
    stub='''
        def my_plug(pid, name, ip):
            """Plug the network namespace of pid into the bridge br0 out here, as ip in 10.88.0.0/16.

            `name` is for the cable's outer end; inside it is eth0. The way to all others is 10.88.0.1.
            """
            ...
        ''',
    hints=(
        "Out here: wire(name, pid), and network.plug(name, \"br0\") in a network.ask of its own.",
        "In there (with network.inside(pid): …): lo up, eth0 up, an address, then a route.",
        "The address has its prefix: f\"{ip}/16\". network.default_route(\"10.88.0.1\") in another ask.",
    ),
    fast_track="It is the loop's body from exercise bridge of chapter 5, and a default route.",
    wrong=(
        Wrong("""
            def my_plug(pid, name, ip):
                network.ask(network.veth(name, pid))
                network.ask(network.up(name))
                with network.inside(pid):
                    network.ask(network.up("lo"), network.up("eth0"), network.address("eth0", f"{ip}/16"))
                    network.ask(network.default_route("10.88.0.1"))
            """, says="hangs out of the wall"),
        Wrong("""
            def my_plug(pid, name, ip):
                network.ask(network.veth(name, pid))
                network.ask(network.plug(name, "br0"))
                with network.inside(pid):
                    network.ask(network.up("lo"), network.up("eth0"), network.address("eth0", f"{ip}/24"))
                    network.ask(network.default_route("10.88.0.1"))
            """, says="must be a neighbour"),
        Wrong("""
            def my_plug(pid, name, ip):
                network.ask(network.veth(name, pid))
                network.ask(network.plug(name, "br0"))
                with network.inside(pid):
                    network.ask(network.up("lo"), network.up("eth0"), network.address("eth0", f"{ip}/16"))
            """, says="There is no default route"),
        Wrong("""
            def my_plug(pid, name, ip):
                network.ask(network.veth(name, pid))
                network.ask(network.plug(name, "br0"))
                network.ask(network.up("eth0"), network.address("eth0", f"{ip}/16"))
            """, says="no interface with this name"),
    ),
)


# ── mini ─────────────────────────────────────────────────────────────────────────────────────────────

class Group:
    """Stands where a cgroup would: notes who is to join, and holds whoever calls until we have looked."""

    def __init__(self, note: str, gate: Checkpoint) -> None:
        self.note, self.gate = note, gate

    def join(self, pid: int = 0) -> None:
        """As `Cgroup.join`."""
        write(self.note, str(pid))
        self.gate()


def probe_mini(p: Probe) -> None:
    base, top, note, secret = (p.fresh_root(programs=True), f"/tmp/{p.token()}", f"/tmp/{p.token()}",
                               f"/tmp/{p.token()}")
    name, page, ip = f"c-{p.token()}", p.token(), f"10.88.0.{random.randrange(2, 250)}"
    image = [base.path, top]

    def prepare() -> None:
        bridge_here()
        os.mkdir(PLACE)
        write(f"{top}/www/index.html", page)
        write(secret)

    with p.child(run=prepare):
        mounts, world_name = p.world.read("mountinfo"), p.world.inside(host_name)
    gate = p.checkpoint()
    server = ["httpd", "-f", "-p", "80", "-h", "/www"]
    with p.child(server, image, name, ip, Group(note, gate)) as process:
        gate.arrived("Nobody has joined the cgroup.", "chapter 3")
        runner, one = stands_in(process)
        p.expect("whether the command has started before it was in its cgroup",
                 _runs(one, server), False, "Limits come first: what it does before is not counted.")
        p.expect("which process was to join the cgroup", p.world.inside(read, note), str(one.pid),
                 "It is not process 1 of the container, as seen from here.", "man 7 cgroups")
        gate.release()
        p.expect("whether process 1 becomes the command", soon(p, lambda: _runs(one, server), 3.0), True,
                 "Process 1 is still your Python, or gone. See what it printed.", "man 2 execve")
        p.expect("what your function returned", process.finish(), (one.pid, runner.pid),
                 "It shall return what spawn returns.")
        p.expect("the host name of the world outside", p.world.inside(host_name), world_name,
                 "You have renamed everybody. Which of your functions runs in the container?",
                 "man 7 uts_namespaces")
        see_inside(p, one, name, base.canary, secret)
        soon(p, lambda: process.inside(first_page, ip) != "ECONNREFUSED")  # it is only just starting
        p.expect(f"the page at http://{ip}/, called from outside", process.inside(first_page, ip), page,
                 "The server runs, and is not reached: is it plugged in?", "chapter 5")
        os.kill(one.pid, signal.SIGKILL)
        runner.exit_status()
        left = soon(p, lambda: set(process.inside(kinds)) <= {"br0"})
        p.expect("whether the cable is gone, after the container's end", left, True,
                 "A device is left.", "man 4 veth")
        p.expect("whether the mounts of the world outside are as before",
                 p.world.read("mountinfo") == mounts, True, "Something of the container is still mounted.")
    see_the_code(p, image)


def _runs(one: Process, argv: Sequence[str]) -> bool:
    return one.read("cmdline").split("\0")[:-1] == list(argv)


def see_inside(p: Probe, one: Process, name: str, canary: str, secret: str) -> None:
    """Whether process 1 is in a world of its own."""
    p.expect("the pid of the command, inside", pids(one)[-1:], ["1"], "It is not the first.", ORDER)
    p.expect("the host name inside", one.inside(host_name), name, "Nobody has set it, or not inside.",
             "man 2 sethostname")
    p.expect("whether the image's files are at the root directory", one.has(canary), True,
             "The root directory is another.", "chapter 4")
    p.expect("the session that the command is in, by its number inside", one.status("NSsid").split()[-1:],
             ["1"], "It is in yours: it could type into your terminal (ioctl TIOCSTI).", "man 2 setsid")
    p.expect("where the six-line walk of chapter 1 leads", one.inside(walk_out, secret), "in the cage",
             "It walked out.", "man 2 pivot_root")


def see_the_code(p: Probe, image: Sequence[str]) -> None:
    """Whether the exit code is passed on, and what it is for a command that is not there."""
    code = random.randrange(2, 100)
    for argv, expected, cause in (
            (["sh", "-c", f"exit {code}"], code, "It is not passed on."),
            ([f"no-{p.token()}"], 127, (
                "A shell and Docker say 127 when there is no such command; what does your process 1 do when "
                "exec fails?"))):
        with p.child(argv, image, f"c-{p.token()}", "10.88.0.9") as process:
            runners = process.children()
            p.expect(f"the exit code of the runner, for the command {argv[0][:3]}…",
                     runners[0].exit_status() if runners else None, expected, cause, "man 2 execve")


MINI = Exercise(
    id="container.mini", title="A container", difficulty=3, minutes=15, lines=13,
    syscalls=("setsid", "sethostname", "execve"),
    reference="mycontainer.lab.exercises.container.container", probe=probe_mini,
    forbid=("mycontainer.container.start", "mycontainer.spawn.spawn"),
    stub='''
        def my_container(argv, image, name, ip, group=None):
            """Start a command in a container of its own; return the pids of process 1 and of the runner.

            Its root directory is image, put together at /tmp/root; its host name is name, its address ip.
            With a group (a Cgroup), process 1 has joined it before the command starts.
            """
            def inside():                  # process 1
                ...

            def outside(pid):              # here, while process 1 waits
                ...

            return spawn(inside, outside)
        ''',
    hints=(
        ("inside: out of our session (os.setsid), the host name, root(image, \"/tmp/root\"), and last "
         "os.execvpe(argv[0], argv, environment)."),
        ("The environment is a dict. Without {\"PATH\": \"/bin:/sbin:/usr/bin:/usr/sbin\"} nobody finds the "
         "command. Not there at all is a FileNotFoundError: then os._exit(127)."),
        "outside: if there is a group, group.join(pid); then plug(pid, name, ip).",
    ),
    fast_track="Leave out setsid and 127; the check tells you when all the rest is right.",
    wrong=(
        Wrong("""
            def my_container(argv, image, name, ip, group=None):
                from mycontainer.lab.exercises import container as ours
                def inside():
                    os.setsid()
                    ours.root(image, "/tmp/root")
                    os.execvpe(argv[0], argv, {"PATH": "/bin:/sbin:/usr/bin:/usr/sbin"})
                def outside(pid):
                    if group:
                        group.join(pid)
                    ours.plug(pid, name, ip)
                syscalls.sethostname(name)
                return ours.spawn(inside, outside)
            """, says="You have renamed everybody"),
        Wrong("""
            def my_container(argv, image, name, ip, group=None):
                from mycontainer.lab.exercises import container as ours
                def inside():
                    os.setsid()
                    syscalls.sethostname(name)
                    ours.root(image, "/tmp/root")
                    os.execvpe(argv[0], argv, {"PATH": "/bin:/sbin:/usr/bin:/usr/sbin"})
                def outside(pid):
                    if group:
                        group.join(pid)
                    ours.plug(pid, name, ip)
                return ours.spawn(inside, outside)
            """, says="what does your process 1 do when exec fails"),
        Wrong("""
            def my_container(argv, image, name, ip, group=None):
                from mycontainer.lab.exercises import container as ours
                def inside():
                    syscalls.sethostname(name)
                    ours.root(image, "/tmp/root")
                    os.execvpe(argv[0], argv, {"PATH": "/bin:/sbin:/usr/bin:/usr/sbin"})
                def outside(pid):
                    if group:
                        group.join(pid)
                    ours.plug(pid, name, ip)
                return ours.spawn(inside, outside)
            """, says="could type into your terminal"),
        Wrong("""
            def my_container(argv, image, name, ip, group=None):
                from mycontainer.lab.exercises import container as ours
                def inside():
                    os.setsid()
                    syscalls.sethostname(name)
                    ours.root(image, "/tmp/root")
                    if group:
                        group.join(os.getpid())
                    os.execvpe(argv[0], argv, {"PATH": "/bin:/sbin:/usr/bin:/usr/sbin"})
                return ours.spawn(inside, lambda pid: ours.plug(pid, name, ip))
            """, says="as seen from here"),
        Wrong("""
            def my_container(argv, image, name, ip, group=None):
                from mycontainer.lab.exercises import container as ours
                def inside():
                    os.setsid()
                    syscalls.sethostname(name)
                    ours.root(image, "/tmp/root")
                    os.execve(argv[0], argv, {})
                def outside(pid):
                    if group:
                        group.join(pid)
                    ours.plug(pid, name, ip)
                return ours.spawn(inside, outside)
            """, says="still your Python, or gone"),
    ),
)


EXERCISES = [ROOT, SPAWN, PLUG, MINI]

PREDICTIONS = [
    Prediction(
        id="container.port",
        question="Two containers each have a server on port 80, and each needs another version of one "
                 "library. What keeps them from getting in each other's way?",
        choices={"a": "two copies of the whole image", "b": "a different port for one of them, inside",
                 "c": "a network namespace and a layer for each"},
        answer="c",
        why="Ports belong to a network namespace. The library is a file in a layer that only one of the two "
            "stacks has; all other files they share.",
        misconceptions={
            "a": "The image is on disk once, and in memory once: each has an upper of its own, and nothing "
                 "else (chapter 4).",
            "b": "Inside, both listen at port 80. Only ports out here must differ, and only if published.",
        }),
    Prediction(
        id="container.outside",
        question="A container runs. Somebody kills the process that started it, with SIGKILL. What becomes "
                 "of the container?",
        choices={"a": "it ends: whoever started it is gone", "b": "it lives on",
                 "c": "the kernel cleans up: mounts, cable and processes go"},
        answer="b",
        why="Runner and process 1 are processes like any others: they get another parent, and go on. Only "
            "the runner's death takes process 1 along, because process 1 has asked for that.",
        misconceptions={
            "a": "A child does not end with its parent. What ends with the shell in a terminal gets a signal "
                 "from the terminal, and this one has left that session.",
            "c": "It does so when the last process in the namespaces ends. It does not know that there is a "
                 "\"container\" which nobody wants any more.",
        }),
]
