"""A small chapter of exercises, to prove the machinery with: not part of the course."""

from __future__ import annotations

import os

from mycontainer import syscalls
from mycontainer.lab.exercise import Exercise, Prediction, Wrong
from mycontainer.lab.probe import Probe


def rename(name: str) -> None:
    """Give this process a host name of its own."""
    syscalls.unshare(syscalls.CLONE_NEWUTS | syscalls.CLONE_NEWIPC)
    syscalls.sethostname(name)


def host_name() -> str:
    return os.uname().nodename


def probe_rename(p: Probe) -> None:
    name = p.token()
    outside = p.world.inside(host_name)
    with p.child(name) as process:
        p.expect("the host name of the world outside", p.world.inside(host_name), outside,
                 cause="The name was changed for everybody: your process still shares its names.",
                 look="man 7 uts_namespaces")
        apart = process.ns("uts") != p.world.ns("uts")
        p.expect("the host name inside", process.inside(host_name), name,
                 cause="The namespace is new, but nobody has set a name in it." if apart else
                       "Nothing has changed: no namespace, no name.",
                 look="man 2 sethostname")
        p.expect("the IPC namespace is another", process.ns("ipc") != p.world.ns("ipc"), True,
                 cause="Messages are still shared.", look="man 7 ipc_namespaces")


def first(job: object) -> int:
    """Call job as process 1 of a new PID namespace; returns its pid out here."""
    syscalls.unshare(syscalls.CLONE_NEWPID)
    pid = os.fork()
    if pid == 0:  # inside, PID 1
        job()  # type: ignore[operator]
        os._exit(0)
    return pid


def probe_first(p: Probe) -> None:
    here = p.checkpoint()
    with p.child(here) as process:
        stands = here.arrived(cause="The job was never called.")
        p.expect("the pids of the process that called the job", stands.status("NSpid").split()[1:], ["1"],
                 cause="It is the process that called unshare: that one keeps its pid."
                 if stands.pid == process.pid else "The process is a child, but in the old namespace.",
                 look="man 7 pid_namespaces")
        p.expect("what your function returned", process.value, stands.pid, cause="Not the pid outside.")
        here.release()
        p.expect("the exit code of process 1", stands.exit_status(), 0, cause="It went on after the job.")


EXERCISES = [
    Exercise(
        id="demo.rename", title="A host name of its own", difficulty=1, minutes=2, lines=2,
        syscalls=("unshare", "sethostname"), hints=("Which namespace?", "Then the name."),
        reference="kit_demo.rename", probe=probe_rename, fast_track="Only the unshare.",
        stub='''
            def my_rename(name):
                """Give this process a host name of its own."""
                ...
            ''',
        wrong=(
            Wrong('''
                def my_rename(name):
                    syscalls.sethostname(name)
                ''', says="changed for everybody"),
            Wrong('''
                def my_rename(name):
                    syscalls.unshare(syscalls.CLONE_NEWUTS)
                ''', says="nobody has set a name"),
            Wrong('''
                def my_rename(name):
                    print(name)
                ''', says="no namespace, no name"),
            Wrong('''
                def my_rename(name):
                    raise ValueError("no idea")
                ''', says="ValueError: no idea"),
        ),
    ),
    Exercise(
        id="demo.first", title="Process 1", difficulty=2, minutes=5, lines=5, syscalls=("unshare", "clone"),
        hints=("unshare moves only children.",), reference="kit_demo.first", probe=probe_first,
        fast_track="The fork is given.",
        stub='''
            def my_first(job):
                pid = os.fork()
                if pid == 0:
                    ...
                    os._exit(0)
                return pid
            ''',
        wrong=(
            Wrong('''
                def my_first(job):
                    syscalls.unshare(syscalls.CLONE_NEWPID)
                    job()
                ''', says="keeps its pid"),
            Wrong('''
                def my_first(job):
                    pid = os.fork()
                    if pid == 0:
                        job()
                        os._exit(0)
                    return pid
                ''', says="in the old namespace"),
        ),
    ),
]

PREDICTIONS = [
    Prediction(id="demo.where", question="Where is it?",
               choices={"a": "in a small machine", "b": "on the host"},
               answer="b", why="It is a process.",
               misconceptions={"a": "A container has no kernel of its own."}),
]
