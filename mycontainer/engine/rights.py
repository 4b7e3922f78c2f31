"""Who the command is and what it may do, from the last moments before it runs.

The order is what makes it hard: the bounding set needs CAP_SETPCAP, a change of user drops capabilities, and
a group cannot be taken on without CAP_SETGID. So: limits, the bounding set, groups, user, the rest of the
capabilities; no_new_privs last. man 7 capabilities, man 2 capset.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Sequence

from mycontainer import spawn, syscalls
from mycontainer.engine import calls
from mycontainer.engine.config_process import CAPABILITIES, Capabilities, Rlimit, Scheduler, User
from mycontainer.errors import EXIT_CANNOT_RUN, EXIT_NOT_FOUND, ContainerError, explain

INFINITY = (1 << 64) - 1  # as 64 bits say it, where Python says -1


def raise_limits(pid: int, limits: tuple[Rlimit, ...]) -> None:
    """From out here: let a process have hard limits higher than ours, which takes CAP_SYS_RESOURCE here."""
    for limit in limits:
        soft, hard = resource.prlimit(pid, limit.number)
        if hard != resource.RLIM_INFINITY and limit.hard > hard:
            try:
                resource.prlimit(pid, limit.number, (soft, _value(limit.hard)))
            except (PermissionError, ValueError) as error:
                raise ContainerError(f"cannot raise {limit.name} to {limit.hard}", f"it is {hard} here",
                                     "To raise it takes CAP_SYS_RESOURCE.") from error


def set_limits(limits: tuple[Rlimit, ...]) -> None:
    """Inside: exactly these limits. man 2 setrlimit."""
    for limit in limits:
        try:
            resource.setrlimit(limit.number, (_value(limit.soft), _value(limit.hard)))
        except (OSError, ValueError) as error:
            raise ContainerError(f"cannot set {limit.name} to {limit.soft}", str(error)) from error


def _value(limit: int) -> int:
    return resource.RLIM_INFINITY if limit == INFINITY else limit


def set_oom_score(pid: int, score: int) -> None:
    """How readily the kernel kills this one when memory is short. man 5 proc_pid_oom_score_adj."""
    try:
        with open(f"/proc/{pid}/oom_score_adj", "w") as file:
            file.write(str(score))
    except PermissionError as error:
        raise explain(f"cannot set oom_score_adj to {score}", error,
                      "To go below what it is takes CAP_SYS_RESOURCE.") from error


def schedule(scheduler: Scheduler) -> None:
    """man 2 sched_setscheduler, man 2 setpriority."""
    os.sched_setscheduler(0, scheduler.policy, os.sched_param(scheduler.priority))
    os.setpriority(os.PRIO_PROCESS, 0, scheduler.nice)


def held() -> tuple[int, int]:
    """Our own permitted capabilities and our bounding set: what is asked for beyond them is left out."""
    with open("/proc/self/status") as rows:
        sets = dict(row.split() for row in rows if row.startswith("Cap"))
    return int(sets["CapPrm:"], 16), int(sets["CapBnd:"], 16)


def may_set_groups() -> bool:
    """False in a user namespace whose maker was nobody special: man 7 user_namespaces."""
    with open("/proc/self/setgroups") as answer:
        return answer.read().strip() == "allow"


def become(user: User, wanted: Capabilities, have: int, bounding: int, groups: bool) -> None:
    """Be this user, with these capabilities of those that we ``have``; ``groups`` tells `may_set_groups`."""
    for number in range(64):
        if bounding >> number & 1 and not wanted.bounding >> number & 1:
            syscalls.prctl(syscalls.PR_CAPBSET_DROP, number)
    if groups:
        os.setgroups(user.groups)
    elif user.groups:
        raise ContainerError("cannot take on more groups", "this user namespace denies setgroups(2)")
    syscalls.prctl(calls.PR_SET_KEEPCAPS, 1)
    os.setresgid(user.gid, user.gid, user.gid)
    os.setresuid(user.uid, user.uid, user.uid)
    permitted = wanted.permitted & have
    inheritable = wanted.inheritable & have
    calls.capset(wanted.effective & permitted, permitted, inheritable)
    calls.ambient(calls.PR_CAP_AMBIENT_CLEAR_ALL)
    for number in range(len(CAPABILITIES)):
        if wanted.ambient & permitted & inheritable & 1 << number:
            calls.ambient(calls.PR_CAP_AMBIENT_RAISE, number)
    os.umask(0o022 if user.umask is None else user.umask)


def gain_nothing() -> None:
    """Let no exec bring new rights, a set-user-id bit's for one. Kernel: userspace-api/no_new_privs.rst"""
    syscalls.prctl(calls.PR_SET_NO_NEW_PRIVS, 1)


def home(uid: int) -> str:
    """The home directory of a user in the container: its /etc/passwd is only text to us."""
    try:
        fd = os.open("/etc/passwd", os.O_RDONLY | os.O_NONBLOCK)
        try:
            rows = os.read(fd, 1 << 20).decode(errors="surrogateescape").splitlines()
        finally:
            os.close(fd)
    except OSError:
        return "/"
    found = (row.split(":") for row in rows)
    return next((row[5] for row in found if len(row) > 5 and row[2] == str(uid)), "") or "/"


def find_command(name: str, env: Sequence[str]) -> None:
    """See whether the command can be there at all: so that who creates a container learns it, and not who
    starts it. The engines look for these very words to tell 127 from 126.
    """
    path = next((pair[5:] for pair in env if pair.startswith("PATH=")), spawn.PATH)
    found = [f"{directory}/{name}" for directory in path.split(":")] if "/" not in name else [name]
    there = [each for each in found if os.path.exists(each)]
    if not there:
        raise ContainerError(f"cannot run {name}", "no such file or directory" if "/" in name else
                             "executable file not found in $PATH", exit_code=EXIT_NOT_FOUND)
    if not any(os.path.isfile(each) and os.stat(each).st_mode & 0o111 for each in there):
        raise ContainerError(f"cannot run {name}", "permission denied", "A directory, or a file without the "
                             "right to be executed: chmod +x", EXIT_CANNOT_RUN)


def work_in(path: str) -> None:
    """Go to the working directory, which must be one inside: by a descriptor that leads out of here,
    ``/proc/self/fd/7``, it could be somewhere else.
    """
    try:
        os.chdir(path)
        os.getcwd()  # fails if our root does not reach it
    except OSError as error:
        raise explain(f"cannot work in {path}", error) from error
