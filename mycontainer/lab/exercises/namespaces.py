"""Chapter 2: names of one's own.

The reference solutions stand first, then what the checks look at, then the exercises and the predictions.
Sources: namespaces(7), pid_namespaces(7), user_namespaces(7), time_namespaces(7), setns(2).
"""

from __future__ import annotations

import ctypes
import os
import random
import signal
import struct
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from mycontainer import container, namespaces, syscalls
from mycontainer.lab.exercise import Exercise, Prediction, Wrong
from mycontainer.lab.probe import Checkpoint, Child, Probe, Process

Job = Callable[[], object]
Started = AbstractContextManager[Child]


# ── our solutions ────────────────────────────────────────────────────────────────────────────────────

def rename(name: str) -> None:
    """Give this process a host name of its own."""
    syscalls.unshare(syscalls.CLONE_NEWUTS)
    syscalls.sethostname(name)


def first_pid(job: Job) -> int:
    """Call job in process 1 of a new PID namespace; returns the exit code of that process."""
    syscalls.unshare(syscalls.CLONE_NEWPID)
    pid = os.fork()
    if pid == 0:  # inside, process 1
        job()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def fix_ps(job: Job) -> int:
    """Like first_pid, but with a /proc that shows the new PID namespace."""
    syscalls.unshare(syscalls.CLONE_NEWPID | syscalls.CLONE_NEWNS)
    pid = os.fork()
    if pid == 0:  # inside, process 1: what is mounted from here on nobody else sees
        syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
        syscalls.mount("proc", "/proc", "proc")
        job()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def map_me(uid: int, gid: int) -> None:
    """Be user uid and group gid of a new user namespace."""
    my_uid, my_gid = os.getuid(), os.getgid()  # now: in there nobody can tell us any more
    syscalls.unshare(syscalls.CLONE_NEWUSER)
    steps = [("uid_map", f"{uid} {my_uid} 1"), ("setgroups", "deny"), ("gid_map", f"{gid} {my_gid} 1")]
    for name, text in steps:
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def join(pid: int, job: Job) -> int:
    """Call job in a process inside the container whose process 1 we know as pid."""
    fds = [os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY) for kind in ("user", "uts", "pid", "mnt")]
    for fd in fds:
        syscalls.setns(fd)
    child = os.fork()
    if child == 0:  # inside
        job()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def two_clocks(job: Job, seconds: int) -> int:
    """Call job in a process for which the machine booted that many seconds earlier."""
    syscalls.unshare(syscalls.CLONE_NEWTIME)
    with open("/proc/self/timens_offsets", "w") as file:
        file.write(f"monotonic {seconds} 0\nboottime {seconds} 0\n")
    pid = os.fork()
    if pid == 0:  # with the new clocks
        job()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


# ── what the checks look at ──────────────────────────────────────────────────────────────────────────

def host_name() -> str:
    """What uname(2) says."""
    return os.uname().nodename


def pids_in_proc() -> list[int]:
    """The processes that ps would show here, without the one that looks."""
    return sorted(int(name) for name in os.listdir("/proc") if name.isdigit() and name != str(os.getpid()))


def proc_is_ours() -> bool:
    """Whether /proc shows the PID namespace of the process that looks."""
    return os.readlink("/proc/self") == str(os.getpid())


def pids(process: Process) -> list[str]:
    """The pids of a process in each PID namespace that it is in below ours, the innermost last."""
    return process.status("NSpid").split()[1:]


def kinds_shared(one: Process, other: Process, kinds: tuple[str, ...]) -> list[str]:
    """The kinds of namespaces that the two have in common."""
    return [kind for kind in kinds if one.ns(kind) == other.ns(kind)]


def give_up_rights() -> None:
    """Drop all capabilities: from here on we are an ordinary user. man 2 capset."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = struct.pack("Ii", 0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3; 0 is this process
    if libc.capset(header, bytes(24)):
        raise OSError(ctypes.get_errno(), "capset")


def sleeper(name: str) -> int:
    """Start a container that sleeps; returns its pid as seen from here."""
    kinds = ("user", "uts", "pid", "mnt")
    return container.start(["sleep", "1000"], kinds=kinds, hostname=name).pid


def who_came(here: Checkpoint) -> Process:
    """The process that called the job; ends the check if nobody did."""
    return here.arrived("job was not called, or the child ended before it came to that: see what it printed.",
                        "man 2 fork")


STATUS = "man 2 fork; man 2 waitpid"


def ends_well(p: Probe, here: Checkpoint, process: Child, again: Callable[[Checkpoint], Started]) -> None:
    """What the function makes of the end of the job: one that returns, and ``again`` one that does not."""
    _waits_for_it(p, process)
    here.release()
    value = process.finish()
    came_back = value in (1, 1 << 8)  # what a child ends with that does (`child.attempt`)
    p.expect("what your function returned, after a job that returned", value, 0,
             cause="The child came back from your function as if it were the parent, by return or error: it "
                   "must end inside it." if came_back else NO_CODE, look=STATUS)
    p.expect("how many children your process has left behind", len(process.children()), 0,
             cause="They have not ended, or nobody has asked for their exit code.", look=STATUS)

    here, code = p.checkpoint(), random.randrange(2, 100)
    with again(here) as process:
        who_came(here)
        _waits_for_it(p, process)
        here.release(code)
        value = process.finish()
        cause = NO_CODE
        if value == code << 8:
            cause = "That is the status, which has the exit code in its upper byte: man 3 wait, WEXITSTATUS."
        elif value == 0:
            cause = "This job ended its process itself, with another code than 0. Only the status says so."
        p.expect(f"what your function returned, after a job that ended with os._exit({code})", value, code,
                 cause, STATUS)


NO_CODE = "That is not the exit code that the child ended with."


def _waits_for_it(p: Probe, process: Child) -> None:
    p.expect("whether your function has returned while job still runs", process.returned, False,
             cause="Nobody waits for the child: the parent goes on, and cannot know how it will end.",
             look=STATUS)


def parent(kinds: tuple[str, ...]) -> None:
    """Go into namespaces of these kinds, and have a child: it is the first of a new PID namespace."""
    namespaces.create(kinds)
    if os.fork() == 0:
        signal.pause()


def probe_rename(p: Probe) -> None:
    name = p.token()
    outside = p.world.inside(host_name)
    with p.child(name) as process:
        p.expect("the host name of everybody else", p.world.inside(host_name), outside,
                 cause="The name has changed for everybody: your process still shares its names with them.",
                 look="man 7 uts_namespaces")
        apart = process.ns("uts") != p.world.ns("uts")
        p.expect("the host name of your process", process.inside(host_name), name,
                 cause="Your process has names of its own, but nobody has set one: a new namespace "
                       "starts as a copy." if apart else "Nothing has changed: no namespace, and no name.",
                 look="man 2 sethostname")


def probe_first_pid(p: Probe) -> None:
    here = p.checkpoint()
    with p.child(here) as process:
        stands = who_came(here)
        if stands.pid == process.pid:
            cause = "job was called by the very process that called unshare. That one keeps its pid for life."
        elif process.ns("pid_for_children") == process.ns("pid"):
            cause = "The child was born before there was another PID namespace, or there is none."
        else:
            cause = "It is not the first child. Only the first one to be born in there is process 1."
        p.expect("the pid inside, of the process that called job", pids(stands) or ["none"], ["1"], cause,
                 look='man 2 unshare, "CLONE_NEWPID"')
        ends_well(p, here, process, p.child)


def probe_fix_ps(p: Probe) -> None:
    here = p.checkpoint()
    with p.child(here, may_raise=True) as process:
        if process.error:
            p.fail("how your function went", f"it raised {process.error}", "it does not",
                   cause="If it was the mount of proc: the process that called unshare still stands in the "
                         "old PID namespace, so it cannot make a /proc of the new one. Who can?",
                   look='man 7 pid_namespaces, "/proc and PID namespaces"')
        stands = who_came(here)
        p.expect("the pid inside, of the process that called job", pids(stands) or ["none"], ["1"],
                 cause="There is no new PID namespace, or the wrong process called job.",
                 look="man 7 pid_namespaces")
        apart = stands.ns("mnt") != p.world.ns("mnt")
        p.expect("whether /proc is still right for everybody else", p.world.inside(proc_is_ours), True,
                 cause="Your mount travelled out of your mount namespace: a new one starts as a copy "
                       "that stays linked." if apart else
                       "You have mounted it for everybody: their ps is broken now. Whose list of mounts "
                       "is it?",
                 look='man 7 mount_namespaces, "SHARED SUBTREES"')
        found = stands.inside(pids_in_proc)
        got = [1] if found == [1] else f"{len(found)} of them"
        p.expect("the processes that ps shows to job", got, [1],
                 cause="This is still the old /proc.",
                 look='man 7 pid_namespaces, "/proc and PID namespaces"')
        ends_well(p, here, process, p.child)


def probe_map_me(p: Probe) -> None:
    for uid, gid in ((0, 0), (random.randrange(1, 60000), random.randrange(1, 60000))):
        with p.child(uid, gid, may_raise=True) as process:
            see_the_maps(p, process, uid, gid)


def see_the_maps(p: Probe, process: Child, uid: int, gid: int) -> None:
    """Whether the process is uid and gid of a user namespace of its own."""
    raised = f"your function raised {process.error}" if process.error else ""
    p.expect("whether your process is in a user namespace of its own",
             process.ns("user") != p.world.ns("user"), True,
             cause="It is in the old one, whose maps are written already. A map is written once.",
             look="man 7 user_namespaces")
    got = ends_of(process.read("uid_map")) or raised or "empty"
    p.expect("uid_map of your process, first and last number", got, [uid, 1],
             cause="The middle number must be your own id on this side. In the new namespace it is "
                   "too late to ask: there getuid says 65534." if process.error else
                   f"A new user namespace has no ids at all until somebody writes its map. {UNHEARD}",
             look='man 7 user_namespaces, "Defining user and group ID mappings"')
    got = ends_of(process.read("gid_map")) or raised or "empty"
    p.expect("gid_map of your process, first and last number", got, [gid, 1],
             cause="The kernel refused it. Before a group map, something has to be given up for ever."
             if process.error else f"The user is mapped; the groups have a map of their own. {UNHEARD}",
             look='man 7 user_namespaces, "/proc/pid/setgroups"')
    p.expect("whether your function came to its end", raised or True, True,
             cause="The maps are right; what came after them failed.")


UNHEARD = ("You have written it? Then the kernel refused, and nobody heard: what is written to a file goes "
           "out when the file is closed, and without a with block an error at that moment is lost.")


def ends_of(id_map: str) -> list[int]:
    """The first and the last number of a map with one row; the middle one is different on every side."""
    numbers = [int(word) for word in id_map.split()]
    return numbers[::2] if len(numbers) == 3 else numbers


def probe_join(p: Probe) -> None:
    kinds = ("user", "uts", "pid", "mnt")
    here = p.checkpoint()
    with p.child(p.token(), run=sleeper) as starter:
        target = Process(starter.value)
        with p.child(target.pid, here, before=give_up_rights, may_raise=True) as process:
            if process.error:
                why_not_joined(p, process)
            stands = who_came(here)
            joined = kinds_shared(stands, target, kinds)
            if stands.pid == process.pid:
                cause = "The process that called setns called job. For pid, setns moves only its children."
            else:
                cause = "The others were not joined; or the child was born before they were."
            p.expect("what the process that called job shares with the container", joined, list(kinds),
                     cause, look='man 2 setns, "PID namespaces"')
            ends_well(p, here, process, lambda job: p.child(target.pid, job, before=give_up_rights))


def why_not_joined(p: Probe, process: Child) -> None:
    """Tell what the order had to do with the failure."""
    assert process.error
    kind = process.error.kind
    cause = {"PermissionError": "Your process has no rights of its own here. Where do they come from, and "
                                "have you been there yet?",
             "FileNotFoundError": "Once in the container's mount namespace, /proc is the "
                                  "container's. There this pid means nothing."}.get(kind, "")
    p.fail("how joining went", f"{process.error}", "all four are joined", cause=cause,
           look='man 2 setns; mycontainer.namespaces.ORDER')


def probe_who_shares(p: Probe) -> None:
    may_differ = [kind for kind in namespaces.ORDER if kind not in namespaces.FOR_CHILDREN]
    chosen = random.sample(may_differ, 4)  # two kinds apart in each, the other three shared by both
    with p.child((*chosen[:2], "pid"), run=parent) as one, p.child(chosen[2:], run=parent) as other:
        expected = {kind: kind not in chosen for kind in namespaces.ORDER}
        with p.child(one.pid, other.pid) as process:
            got = process.value
            if not isinstance(got, dict) or set(got) != set(expected):
                p.fail("what your function returned", got, "a dict with a key for each of namespaces.ORDER",
                       cause="Each kind is a key, each value True or False.")
            p.expect("who shares what", got, expected, cause=why_not_shared(got, expected, one, process),
                     look='man 7 namespaces, "The /proc/pid/ns/ directory"')


def why_not_shared(got: dict[str, bool], expected: dict[str, bool], one: Process, asker: Process) -> str:
    """The likely cause of a wrong answer."""
    with_me = {kind: one.ns(kind) == asker.ns(kind) for kind in expected}
    if all(got.values()):
        return "Every process has files of these names. The same name is not the same namespace."
    if got == with_me:
        return "You compare the first one with your own process. Nobody asked about that one."
    if got == {**expected, "pid": False}:
        return "One of them has called unshare for its children: pid_for_children. It is not in there itself."
    return "Not what /proc says."


def probe_two_clocks(p: Probe) -> None:
    seconds, here = random.randrange(3000, 90000), p.checkpoint()
    with p.child(here, seconds) as process:
        stands = who_came(here)
        if stands.ns("time") != p.world.ns("time"):
            cause = "The namespace is new, but nobody has set its clocks; or not both that can be set."
        elif stands.pid == process.pid:
            cause = "The process that called unshare called job. Its clocks stay; the next child's do not."
        else:
            cause = "The child is in the old time namespace: was it born before there was another?"
        for name, clock in (("monotonic", time.CLOCK_MONOTONIC), ("boot", time.CLOCK_BOOTTIME)):
            ahead = round(stands.inside(time.clock_gettime, clock) - time.clock_gettime(clock))
            p.expect(f"by how many seconds the {name} clock of job runs ahead",
                     seconds if abs(ahead - seconds) <= 2 else ahead, seconds, cause=cause,
                     look="man 7 time_namespaces")
        ends_well(p, here, process, lambda job: p.child(job, seconds))


# ── the exercises ────────────────────────────────────────────────────────────────────────────────────

EXERCISES = [
    Exercise(
        id="namespaces.rename", title="A host name of its own", difficulty=1, minutes=2, lines=2,
        syscalls=("unshare", "sethostname"),
        hints=("Two calls: leave the shared names, then set yours.",
               "The namespace of host names is called UTS; its flag is in syscalls, among the CLONE_NEW….",
               "syscalls.unshare takes a flag, syscalls.sethostname takes a name. In this order."),
        reference="mycontainer.lab.exercises.namespaces.rename",
        forbid=("mycontainer.namespaces.create",),
        stub='''
            def my_rename(name):
                """Give this process, and nobody else, the host name `name`."""
                ...
            ''',
        probe=probe_rename,
        fast_track="It is short enough: do it.",
        wrong=(
            Wrong("""
                def my_rename(name):
                    syscalls.sethostname(name)
                """, says="changed for everybody"),
            Wrong("""
                def my_rename(name):
                    syscalls.unshare(syscalls.CLONE_NEWUTS)
                """, says="nobody has set one"),
            Wrong("""
                def my_rename(name):
                    os.environ["HOSTNAME"] = name
                    print(name)
                """, says="no namespace, and no name"),
        ),
    ),
    Exercise(
        id="namespaces.first_pid", title="Process 1", difficulty=2, minutes=4, lines=6,
        syscalls=("unshare", "clone", "wait4"),
        hints=("unshare does not give you a new pid. Whom does it give one?",
               ("After unshare, fork: os.fork() returns 0 in the child. The child calls job, and ends with "
                "os._exit(0)."),
               ("The parent waits: os.waitpid(pid, 0) returns (pid, status); os.waitstatus_to_exitcode "
                "makes an exit code of the status.")),
        reference="mycontainer.lab.exercises.namespaces.first_pid",
        forbid=("mycontainer.namespaces.create", "mycontainer.container.start"),
        stub='''
            def my_first_pid(job):
                """Call job() in process 1 of a new PID namespace; return the exit code of that process."""
                ...
            ''',
        probe=probe_first_pid,
        fast_track="Copy what you need from the cell above, and put `job()` into the child.",
        wrong=(
            Wrong("""
                def my_first_pid(job):
                    syscalls.unshare(syscalls.CLONE_NEWPID)
                    job()
                    return 0
                """, says="keeps its pid for life"),
            Wrong("""
                def my_first_pid(job):
                    pid = os.fork()
                    if pid == 0:
                        syscalls.unshare(syscalls.CLONE_NEWPID)
                        job()
                        os._exit(0)
                    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                """, says="born before there was another"),
            Wrong("""
                def my_first_pid(job):
                    syscalls.unshare(syscalls.CLONE_NEWPID)
                    pid = os.fork()
                    if pid == 0:
                        job()
                    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) if pid else 0
                """, says="came back from your function"),
            Wrong("""
                def my_first_pid(job):
                    syscalls.unshare(syscalls.CLONE_NEWPID)
                    if os.fork() == 0:
                        job()
                        os._exit(0)
                    return 0
                """, says="Nobody waits for the child"),
            Wrong("""
                def my_first_pid(job):
                    syscalls.unshare(syscalls.CLONE_NEWPID)
                    pid = os.fork()
                    if pid == 0:
                        job()
                        os._exit(0)
                    return os.waitpid(pid, 0)[1]
                """, says="has the exit code in its upper byte"),
            Wrong("""
                def my_first_pid(job):
                    syscalls.unshare(syscalls.CLONE_NEWPID)
                    pid = os.fork()
                    if pid == 0:
                        job()
                        os._exit(0)
                    os.waitpid(pid, 0)
                    return 0
                """, says="ended its process itself"),
            Wrong("""
                def my_first_pid(job):
                    syscalls.unshare(syscalls.CLONE_NEWPID)
                    pid = os.fork()
                    if pid == 0:
                        job()
                        os.read(os.pipe()[0], 1)
                    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                """, says="for a child that never ends"),
        ),
    ),
    Exercise(
        id="namespaces.fix_ps", title="A ps that tells the truth", difficulty=3, minutes=5, lines=3,
        syscalls=("unshare", "clone", "mount", "wait4"),
        hints=("ps reads /proc. A fresh one is a mount: syscalls.mount(\"proc\", \"/proc\", \"proc\").",
               ("It shows the PID namespace of the process that mounts it. So which of the two has to call "
                "mount?"),
               ("Nobody else may see that mount: chapter 1 had the flag of unshare, and "
                "chroot.make_private, for it.")),
        reference="mycontainer.lab.exercises.namespaces.fix_ps",
        forbid=("mycontainer.namespaces.create", "mycontainer.container.start"),
        stub='''
            def my_fix_ps(job):
                """Like my_first_pid, but job finds a /proc in which only its own world is seen."""
                syscalls.unshare(syscalls.CLONE_NEWPID)
                pid = os.fork()
                if pid == 0:
                    job()
                    os._exit(0)
                return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            ''',
        probe=probe_fix_ps,
        fast_track="Only the mount of `proc`, in the right process; then read what the check says.",
        wrong=(
            Wrong("""
                def my_fix_ps(job):
                    syscalls.unshare(syscalls.CLONE_NEWPID)
                    pid = os.fork()
                    if pid == 0:
                        syscalls.mount("proc", "/proc", "proc")
                        job()
                        os._exit(0)
                    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                """, says="mounted it for everybody"),
            Wrong("""
                def my_fix_ps(job):
                    syscalls.unshare(syscalls.CLONE_NEWPID | syscalls.CLONE_NEWNS)
                    pid = os.fork()
                    if pid == 0:
                        syscalls.mount("proc", "/proc", "proc")
                        job()
                        os._exit(0)
                    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                """, says="travelled out of your mount namespace"),
            Wrong("""
                def my_fix_ps(job):
                    syscalls.unshare(syscalls.CLONE_NEWPID | syscalls.CLONE_NEWNS)
                    chroot.make_private()
                    syscalls.mount("proc", "/proc", "proc")
                    pid = os.fork()
                    if pid == 0:
                        job()
                        os._exit(0)
                    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                """, says="cannot make a /proc of the new one"),
            Wrong("""
                def my_fix_ps(job):
                    syscalls.unshare(syscalls.CLONE_NEWPID | syscalls.CLONE_NEWNS)
                    pid = os.fork()
                    if pid == 0:
                        chroot.make_private()
                        job()
                        os._exit(0)
                    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                """, says="still the old /proc"),
            Wrong("""
                def my_fix_ps(job):
                    syscalls.unshare(syscalls.CLONE_NEWPID | syscalls.CLONE_NEWNS)
                    pid = os.fork()
                    if pid == 0:
                        chroot.make_private()
                        syscalls.mount("proc", "/proc", "proc")
                        job()
                        os._exit(0)
                    return os.waitpid(pid, 0)[1]
                """, says="has the exit code in its upper byte"),
        ),
    ),
    Exercise(
        id="namespaces.map_me", title="Root, and nobody", difficulty=3, minutes=6, lines=6,
        syscalls=("unshare", "openat", "write"),
        hints=("Four steps: remember who you are, unshare, write the user map, write the group map.",
               ("A row of a map is three numbers: the first id inside, the first id outside, how many. "
                "Yours has one id."),
               ("The files are /proc/self/uid_map and /proc/self/gid_map. Before the second one may be "
                "written, /proc/self/setgroups wants the word deny.")),
        reference="mycontainer.lab.exercises.namespaces.map_me",
        forbid=("mycontainer.namespaces.write_map", "mycontainer.namespaces.create"),
        stub='''
            def my_map_me(uid, gid):
                """Be user `uid` and group `gid` of a new user namespace (0, 0: root)."""
                ...
            ''',
        probe=probe_map_me,
        fast_track="Only the user map: three lines. The check then says what is missing.",
        wrong=(
            Wrong("""
                def my_map_me(uid, gid):
                    syscalls.unshare(syscalls.CLONE_NEWUSER)
                """, says="no ids at all"),
            Wrong("""
                def my_map_me(uid, gid):
                    syscalls.unshare(syscalls.CLONE_NEWUSER)
                    with open("/proc/self/uid_map", "w") as file:
                        file.write(f"{uid} {os.getuid()} 1")
                """, says="it is too late to ask"),
            Wrong("""
                def my_map_me(uid, gid):
                    outside = os.getuid()
                    syscalls.unshare(syscalls.CLONE_NEWUSER)
                    with open("/proc/self/uid_map", "w") as file:
                        file.write(f"{uid} {outside} 1")
                """, says="the groups have a map of their own"),
            Wrong("""
                def my_map_me(uid, gid):
                    with open("/proc/self/uid_map", "w") as file:
                        file.write(f"{uid} {os.getuid()} 1")
                """, says="A map is written once"),
        ),
    ),
    Exercise(
        id="namespaces.who_shares", title="Who shares what", difficulty=2, minutes=4, lines=3,
        syscalls=("stat",),
        hints=("Look at /proc/PID/ns yourself: lab.sh(\"ls -l /proc/self/ns\", show=True).",
               ("Every file there leads to something with a number: os.readlink shows it, "
                "os.stat(…).st_ino is it."),
               "For each kind of namespaces.ORDER, compare what the two processes have there."),
        reference="mycontainer.namespaces.shared",
        forbid=("mycontainer.lab.figures.number_namespaces",),
        stub='''
            def my_who_shares(pid, other):
                """For each kind in namespaces.ORDER: are the two processes in the same one? {kind: bool}"""
                ...
            ''',
        probe=probe_who_shares,
        fast_track="One line, with `namespaces.identify`.",
        wrong=(
            Wrong("""
                def my_who_shares(pid, other):
                    names = os.listdir(f"/proc/{other}/ns")
                    return {kind: kind in names for kind in namespaces.ORDER}
                """, says="The same name is not the same namespace"),
            Wrong("""
                def my_who_shares(pid, other):
                    def look(one, kind):
                        return os.readlink(f"/proc/{one}/ns/{kind}")
                    return {kind: look(pid, kind) == look("self", kind) for kind in namespaces.ORDER}
                """, says="with your own process"),
            Wrong("""
                def my_who_shares(pid, other):
                    def look(one, kind):
                        name = "pid_for_children" if kind == "pid" else kind
                        return os.readlink(f"/proc/{one}/ns/{name}")
                    return {kind: look(pid, kind) == look(other, kind) for kind in namespaces.ORDER}
                """, says="for its children"),
            Wrong("""
                def my_who_shares(pid, other):
                    def look(one, kind):
                        return os.readlink(f"/proc/{one}/ns/{kind}")
                    return [kind for kind in namespaces.ORDER if look(pid, kind) == look(other, kind)]
                """, says="Each kind is a key"),
        ),
    ),
    Exercise(
        id="namespaces.join", title="In through the back door", difficulty=4, minutes=6, lines=8,
        syscalls=("openat", "setns", "clone", "wait4"),
        hints=("os.open(f\"/proc/{pid}/ns/uts\", os.O_RDONLY) is a descriptor; syscalls.setns takes it.",
               "Open all of them first, join afterwards: then it does not matter what becomes of /proc.",
               ("Which one gives you the right to join the others? And for whom does the pid namespace "
                "count?")),
        reference="mycontainer.lab.exercises.namespaces.join",
        forbid=("mycontainer.namespaces.enter",),
        equivalent_mutants={"without os.O_RDONLY in os.open(f'/proc/{pid}/ns/{kind}', os.O_RDONLY)":
                            "O_RDONLY is 0: the flag is there for the reader"},
        stub='''
            def my_join(pid, job):
                """Call job() inside the container whose process 1 is pid out here; return the exit code.

                Its kinds are user, uts, pid and mnt.
                """
                ...
            ''',
        probe=probe_join,
        fast_track="`user` and `uts` alone, in three lines; the check says how far you got.",
        wrong=(
            Wrong("""
                def my_join(pid, job):
                    for kind in ("uts", "pid", "mnt", "user"):
                        syscalls.setns(os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY))
                    child = os.fork()
                    if child == 0:
                        job()
                        os._exit(0)
                    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                """, says="have you been there yet"),
            Wrong("""
                def my_join(pid, job):
                    for kind in ("user", "mnt", "uts", "pid"):
                        syscalls.setns(os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY))
                    child = os.fork()
                    if child == 0:
                        job()
                        os._exit(0)
                    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                """, says="this pid means nothing"),
            Wrong("""
                def my_join(pid, job):
                    for kind in ("user", "uts", "pid", "mnt"):
                        syscalls.setns(os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY))
                    job()
                    return 0
                """, says="moves only its children"),
            Wrong("""
                def my_join(pid, job):
                    for kind in ("user", "uts", "mnt"):
                        syscalls.setns(os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY))
                    child = os.fork()
                    if child == 0:
                        job()
                        os._exit(0)
                    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                """, says="The others were not joined"),
            Wrong("""
                def my_join(pid, job):
                    for fd in [os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY)
                               for kind in ("user", "uts", "pid", "mnt")]:
                        syscalls.setns(fd)
                    if os.fork() == 0:
                        job()
                        os._exit(0)
                    return 0
                """, says="Nobody waits for the child"),
            Wrong("""
                def my_join(pid, job):
                    for fd in [os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY)
                               for kind in ("user", "uts", "pid", "mnt")]:
                        syscalls.setns(fd)
                    child = os.fork()
                    if child == 0:
                        job()
                        os._exit(0)
                    return os.waitpid(child, 0)[1]
                """, says="has the exit code in its upper byte"),
        ),
    ),
    Exercise(
        id="namespaces.two_clocks", title="Two clocks in one room", difficulty=3, minutes=5, lines=3,
        syscalls=("unshare", "openat", "write", "clone", "wait4"),
        hints=("The flag is CLONE_NEWTIME. Like CLONE_NEWPID it is about the next child.",
               ("Between unshare and fork, write to /proc/self/timens_offsets. Afterwards it is closed for "
                "ever."),
               "A line there: the clock's name (monotonic, boottime), seconds, nanoseconds. Two lines."),
        reference="mycontainer.lab.exercises.namespaces.two_clocks",
        forbid=("mycontainer.namespaces.set_clocks", "mycontainer.namespaces.create"),
        stub='''
            def my_two_clocks(job, seconds):
                """Call job() in a process whose monotonic and boot clocks run `seconds` ahead of yours."""
                pid = os.fork()
                if pid == 0:
                    job()
                    os._exit(0)
                return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            ''',
        probe=probe_two_clocks,
        fast_track="Leave it: nothing later stands on it.",
        wrong=(
            Wrong("""
                def my_two_clocks(job, seconds):
                    syscalls.unshare(syscalls.CLONE_NEWTIME)
                    pid = os.fork()
                    if pid == 0:
                        job()
                        os._exit(0)
                    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                """, says="nobody has set its clocks"),
            Wrong("""
                def my_two_clocks(job, seconds):
                    syscalls.unshare(syscalls.CLONE_NEWTIME)
                    with open("/proc/self/timens_offsets", "w") as file:
                        file.write(f"monotonic {seconds} 0\\nboottime {seconds} 0\\n")
                    job()
                    return 0
                """, says="Its clocks stay"),
            Wrong("""
                def my_two_clocks(job, seconds):
                    pid = os.fork()
                    if pid == 0:
                        syscalls.unshare(syscalls.CLONE_NEWTIME)
                        with open("/proc/self/timens_offsets", "w") as file:
                            file.write(f"monotonic {seconds} 0\\nboottime {seconds} 0\\n")
                        job()
                        os._exit(0)
                    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                """, says="born before there was another"),
            Wrong("""
                def my_two_clocks(job, seconds):
                    syscalls.unshare(syscalls.CLONE_NEWTIME)
                    with open("/proc/self/timens_offsets", "w") as file:
                        file.write(f"monotonic {seconds} 0\\nboottime {seconds} 0\\n")
                    pid = os.fork()
                    if pid == 0:
                        job()
                        os._exit(0)
                    os.waitpid(pid, 0)
                    return 0
                """, says="ended its process itself"),
        ),
    ),
]

PREDICTIONS = [
    Prediction(
        id="namespaces.object",
        question="A container is started. What does the kernel make for it?",
        choices={"a": "a container: an object with a name and a list of its processes",
                 "b": "a small system of its own, next to the running one",
                 "c": "a process with other answers to some questions, and nothing else"},
        answer="c",
        why="The kernel has no word for a container. A process points to one namespace of each kind; "
            "\"container\" is what people call a process for which enough of these differ.",
        misconceptions={
            "a": "What would its system call be? There is none to list containers, none to make one. "
                 "`docker ps` reads Docker's own notes.",
            "b": "One kernel, one list of processes: the pids differ by the side that you look from, not the "
                 "processes."}),
    Prediction(
        id="namespaces.unshare",
        question="A process calls unshare(CLONE_NEWPID), then asks for its pid. What does it get?",
        choices={"a": "1: it is the first in its new namespace", "b": "the same pid as before",
                 "c": "an error: a process cannot have two pids"},
        answer="b",
        why="A pid is for life: it may have been told to others already. Only the children to come are "
            "born into the new namespace, and the first of them is process 1.",
        misconceptions={
            "a": "unshare moves you for the host name and for mounts, but not for pids: your parent knows "
                 "you by a number, and that must not change under its hands.",
            "c": "A process has one pid in each PID namespace from its own up to the outermost; it "
                 "keeps all of them."}),
    Prediction(
        id="namespaces.ps",
        question="Process 1 of a new PID namespace runs ps. Which processes does it see?",
        choices={"a": "itself and what it has started", "b": "all, under the old pids", "c": "none: ps "
                                                                                             "fails"},
        answer="b",
        why="ps asks no system call for a list of processes: it reads the directory /proc. That is a "
            "mount, and it shows the PID namespace of whoever mounted it.",
        misconceptions={
            "a": "So it should be, and kill already works like that. But nobody has changed what is "
                 "mounted at /proc.",
            "c": "The old /proc is readable as before; only its numbers are of no use to this process."}),
    Prediction(
        id="namespaces.sigterm",
        question="You send SIGTERM to process 1 of a container. It has no handler for it. What happens?",
        choices={"a": "it ends: that is what SIGTERM does", "b": "nothing", "c": "everything in the "
                                                                                 "container ends"},
        answer="b",
        why="The kernel protects process 1: a signal that it has no handler for is dropped, SIGKILL and "
            "SIGSTOP from outside excepted. So `docker stop` on a careless image waits ten seconds, and "
            "then kills.",
        misconceptions={
            "a": "For any other process. The default action of a signal does not exist for process 1.",
            "c": "That is what happens when process 1 has ended, and SIGTERM does not achieve that here."}),
    Prediction(
        id="namespaces.shadow",
        question="Who owns /etc/shadow, as this notebook sees it?",
        choices={"a": "root, user 0: it is mine", "b": "user 65534, nobody", "c": "whoever started the lab"},
        answer="b",
        why="The owner is the machine's user 0, and that user has no id in here. What has no id in a user "
            "namespace is shown as 65534.",
        misconceptions={
            "a": "Ids are translated on their way to you. Your 0 is somebody else outside, and the "
                 "outside's 0 is nobody here.",
            "c": "The file did not change its owner for you, only the number under which you see it."}),
    Prediction(
        id="namespaces.root",
        question="A process is uid 0 in a user namespace of its own. What may it do?",
        choices={"a": "all that root may: uid 0 is uid 0", "b": "nothing special: the 0 is only painted on",
                 "c": "what root may, with things that belong to its namespace"},
        answer="c",
        why="Every namespace belongs to a user namespace, and every file to an id. Root in here rules "
            "over mounts, names and networks made in here, and over files of mapped ids. Clock, modules "
            "and the host's files belong to somebody else.",
        misconceptions={
            "a": "The kernel does not compare with 0. It asks whether you have a right in the user "
                 "namespace that owns the thing.",
            "b": "It can mount, make networks, change owners of files within its map. That is a lot of "
                 "kernel for an ordinary user to reach, which is why some systems switch user "
                 "namespaces off."}),
]
