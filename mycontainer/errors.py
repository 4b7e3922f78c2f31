"""One error for everything that a person should read: what failed, why, and what to try.

>>> print(ContainerError("cannot mount proc on /proc", "Operation not permitted"))
cannot mount proc on /proc: Operation not permitted
"""

from __future__ import annotations

import errno

# Exit codes as Docker has them, so that scripts written for it need no change.
EXIT_OURS = 125        # the runtime itself failed, the command never ran
EXIT_CANNOT_RUN = 126  # the command was found and could not be executed
EXIT_NOT_FOUND = 127   # the command was not found


class ContainerError(Exception):
    """A failure with a reason and, where we know one, a way out.

    ``what`` is verb and object ("cannot mount proc on /proc"), ``reason`` usually the kernel's own
    words, ``hint`` one sentence on the likely cause and its cure, ``exit_code`` what a command line
    should end with (125 to 127, see docker-run(1), "Exit Status").
    """

    def __init__(self, what: str, reason: str = "", hint: str = "", exit_code: int = EXIT_OURS) -> None:
        super().__init__(what, reason, hint, exit_code)
        self.what, self.reason, self.hint, self.exit_code = what, reason, hint, exit_code

    def __str__(self) -> str:
        return f"{self.what}: {self.reason}" if self.reason else self.what


def explain(what: str, error: BaseException, hint: str = "", exit_code: int = EXIT_OURS) -> ContainerError:
    """Turn any failure into a ContainerError; a system call tells which it was, and its own hint serves."""
    reason = str(error) or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        reason = f"{error.strerror} ({error.filename})" if error.filename else error.strerror
    return ContainerError(what, reason, hint or " ".join(getattr(error, "__notes__", [])), exit_code)


def explain_exec(name: str, error: OSError, exists: bool) -> ContainerError:
    """Why a command did not start: with the exit code of a shell, and a guess where people stumble.

    execve(2) says "No such file or directory" in three cases: the file is missing, or its interpreter (the
    path in a script's first line), or its dynamic loader (a program from another distribution). ``exists``
    tells the first from the others.
    """
    what = f"cannot run {name}"
    if error.errno == errno.ENOENT and exists:
        return ContainerError(what, "its interpreter or its dynamic loader is not in this root file system",
                              "A script names it in its first line; for a program ask: readelf -l FILE",
                              EXIT_NOT_FOUND)
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        where = "" if "/" in name else " in the PATH of the container"
        return ContainerError(what, f"no such command{where}", "", EXIT_NOT_FOUND)
    hint = {errno.EACCES: "A directory, or a file without the right to be executed: chmod +x",
            errno.ENOEXEC: "Neither a program for this processor nor a script that starts with #!"}
    return ContainerError(what, error.strerror or "", hint.get(error.errno or 0, ""), EXIT_CANNOT_RUN)


# What a call's errno most often means, for people who meet it for the first time.
_LIKELY_CAUSE = {
    ("cgroup", errno.EACCES): "This cgroup is not ours. And who moves a process must be allowed to write to "
                              "cgroup.procs of the nearest cgroup above both places.",
    ("cgroup", errno.EBUSY): "No internal processes: a cgroup has processes, or passes controllers on to the "
                             "cgroups below it, never both. Move its processes into one below it first.",
    ("cgroup", errno.ENOENT): "This cgroup has no such file: its controller is not passed on from above "
                              "(cgroup.subtree_control), or the kernel does not have it.",
    ("cgroup", errno.ESRCH): "There is no such process.",
    ("chroot", errno.EPERM): "chroot needs CAP_SYS_CHROOT: be root, or root of a user namespace.",
    ("mount", errno.EPERM): "Mounting needs root in the user namespace that owns this mount namespace; a new "
                            "proc also needs a PID namespace of its own, a new sysfs a network namespace.",
    ("mount", errno.EINVAL): "A file system that does not take these flags or options, or a bind mount "
                             "without MS_REC of a tree whose inner mounts must stay.",
    ("mount", errno.ENODEV): "This kernel does not have that file system.",
    ("netlink", errno.EPERM): "That needs CAP_NET_ADMIN in the owner of this network namespace, and of the "
                              "other, for a device that goes there.",
    ("netlink", errno.EOPNOTSUPP): "This kernel does not know that kind of device: its module (veth, bridge) "
                                   "is missing, or only root can load it, with modprobe.",
    ("netlink", errno.EEXIST): "There is one by this name, or with this address, already.",
    ("netlink", errno.ENODEV): "There is no such device in this network namespace.",
    ("netlink", errno.ESRCH): "There is no such process.",
    ("netlink", errno.ENETUNREACH): "The gateway is no neighbour: no device that is switched on has an "
                                    "address of the same network.",
    ("netlink", errno.EHOSTUNREACH): "The gateway is no neighbour: no device that is switched on has an "
                                     "address of the same network.",
    ("netlink", errno.EACCES): "IPv6 is switched off on this device (disable_ipv6).",
    ("netlink", errno.ERANGE): "The name of a device has at most 15 letters.",
    ("pivot_root", errno.EINVAL): "The new root is not a mount point, or mounts here still propagate: bind "
                                  "it onto itself, and make everything MS_PRIVATE first.",
    ("pivot_root", errno.EBUSY): "The new root is the current root, or lies on the same mount.",
    ("pivot_root", errno.EPERM): "pivot_root needs CAP_SYS_ADMIN in the owner of this mount namespace.",
    ("sethostname", errno.EPERM): "This host name is not yours to change: unshare(CLONE_NEWUTS) first.",
    ("setns", errno.EINVAL): "Already in that user namespace, a thread besides this one, or a namespace of "
                             "another kind.",
    ("setns", errno.EPERM): "Joining needs CAP_SYS_ADMIN in that namespace's owner: enter its user "
                            "namespace first.",
    ("umount2", errno.EINVAL): "Not a mount point, or one that came locked from another user namespace.",
    ("unshare", errno.EINVAL): "A user namespace cannot be made by a process with several threads; a "
                               "notebook kernel has many: use lab.run.",
    ("unshare", errno.EPERM): "Without root only CLONE_NEWUSER is allowed, alone or with the others. If "
                              "that was asked for: user namespaces are restricted here ('mycontainer "
                              "doctor' says how), or this process is in a chroot.",
    ("unshare", errno.ENOSPC): "The limit on namespaces is reached: see /proc/sys/user.",
}


def likely_cause(call: str, error: int) -> str:
    """What this errno of this system call most often means, in a sentence; empty where we do not know."""
    return _LIKELY_CAUSE.get((call, error), "")
