"""The process of an OCI configuration: what runs, as whom, with which rights. Runtime-spec, config.md,
"Process"; the same object is what `exec` gets by itself.
"""

from __future__ import annotations

from typing import NamedTuple

from mycontainer.engine.reader import INT32, UINT32, UINT64, Reader

# linux/capability.h, in the order of their numbers.
CAPABILITIES = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL",
    "CAP_SETGID", "CAP_SETUID", "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT", "CAP_SYS_ADMIN", "CAP_SYS_BOOT",
    "CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD", "CAP_LEASE",
    "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG",
    "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE")
SETS = ("bounding", "effective", "inheritable", "permitted", "ambient")
# asm-generic/resource.h, in the order of their numbers.
RLIMITS = (
    "RLIMIT_CPU", "RLIMIT_FSIZE", "RLIMIT_DATA", "RLIMIT_STACK", "RLIMIT_CORE", "RLIMIT_RSS", "RLIMIT_NPROC",
    "RLIMIT_NOFILE", "RLIMIT_MEMLOCK", "RLIMIT_AS", "RLIMIT_LOCKS", "RLIMIT_SIGPENDING", "RLIMIT_MSGQUEUE",
    "RLIMIT_NICE", "RLIMIT_RTPRIO", "RLIMIT_RTTIME")
# linux/sched.h; those that need no more than a priority
POLICIES = {"SCHED_OTHER": 0, "SCHED_FIFO": 1, "SCHED_RR": 2, "SCHED_BATCH": 3, "SCHED_IDLE": 5}
REAL_TIME = ("SCHED_FIFO", "SCHED_RR")


class User(NamedTuple):
    """Ids in the container. ``umask`` None: what we have ourselves."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()
    umask: int | None = None


class Capabilities(NamedTuple):
    """Five sets of capabilities, each a number with a bit for each. ``unknown`` are names that this kernel
    interface does not have: they are told, and no failure. man 7 capabilities.
    """

    bounding: int = 0
    effective: int = 0
    inheritable: int = 0
    permitted: int = 0
    ambient: int = 0
    unknown: tuple[str, ...] = ()


class Rlimit(NamedTuple):
    """A limit of the process itself: its number in getrlimit(2), the soft and the hard value."""

    number: int
    soft: int
    hard: int

    @property
    def name(self) -> str:
        return RLIMITS[self.number]


class Scheduler(NamedTuple):
    """A number of sched_setscheduler(2) with its priority, and niceness."""

    policy: int
    priority: int
    nice: int


class Process(NamedTuple):
    """What becomes of PID 1, or is executed beside it."""

    args: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str
    user: User
    terminal: bool = False
    console_size: tuple[int, int] | None = None  # lines, columns
    capabilities: Capabilities = Capabilities()
    rlimits: tuple[Rlimit, ...] = ()
    no_new_privileges: bool = False
    oom_score_adj: int | None = None
    scheduler: Scheduler | None = None

    @property
    def environment(self) -> dict[str, str]:
        """The environment by name; of two with one name the last counts, as for the other runtimes."""
        return dict(pair.split("=", 1) for pair in self.env)


def read_process(process: Reader) -> Process:
    """The object ``process``."""
    args = process["args"].required().strings()
    if not args:
        process["args"].fail("is empty: the first is the command")
    if not args[0]:
        process["args"].fail("the command has no name")
    process["selinuxLabel"].refuse("SELinux")
    process["apparmorProfile"].refuse("AppArmor")
    process["ioPriority"].refuse("a priority of input and output")
    process["execCPUAffinity"].refuse("a CPU affinity for exec")
    process["commandLine"].refuse("a command line, which is for Windows")
    return Process(
        args, read_environment(process["env"]), process["cwd"].absolute(), _user(process["user"]),
        process["terminal"].boolean(), _console_size(process["consoleSize"]),
        _capabilities(process["capabilities"]), _rlimits(process["rlimits"]),
        process["noNewPrivileges"].boolean(), process["oomScoreAdj"].optional_integer((-1000, 1000)),
        _scheduler(process["scheduler"]) if process["scheduler"] else None)


def read_environment(env: Reader) -> tuple[str, ...]:
    """An array of ``NAME=VALUE``."""
    for item in env.items():
        if "=" not in item.required().string()[1:]:
            item.fail(f"not NAME=VALUE: {item.shown()}")
    return env.strings()


def _user(user: Reader) -> User:
    user["username"].refuse("a user's name, which is for Windows")
    groups = tuple(item.required().integer(UINT32) for item in user["additionalGids"].items())
    return User(user["uid"].integer(UINT32), user["gid"].integer(UINT32), groups,
                user["umask"].optional_integer((0, 0o777)))


def _console_size(size: Reader) -> tuple[int, int] | None:
    if not size:
        return None
    lines, columns = (size[name].required().integer((0, 65535)) for name in ("height", "width"))
    return lines, columns


def _capabilities(capabilities: Reader) -> Capabilities:
    unknown: list[str] = []

    def read_set(kind: str) -> int:
        names = set(capabilities[kind].strings())
        unknown.extend(names.difference(CAPABILITIES))
        return sum(1 << number for number, name in enumerate(CAPABILITIES) if name in names)

    bounding, effective, inheritable, permitted, ambient = map(read_set, SETS)
    return Capabilities(bounding, effective, inheritable, permitted, ambient, tuple(sorted({*unknown})))


def _rlimits(rlimits: Reader) -> tuple[Rlimit, ...]:
    found = []
    for each in rlimits.items():
        name = each.required()["type"].required().choice(RLIMITS)
        soft, hard = (each[kind].required().integer(UINT64) for kind in ("soft", "hard"))
        if soft > hard:
            each["soft"].fail(f"{soft} is more than the hard limit {hard}")
        found.append(Rlimit(RLIMITS.index(name), soft, hard))
    rlimits.unique([limit.name for limit in found], "the limit")
    return tuple(found)


def _scheduler(scheduler: Reader) -> Scheduler:
    policy = scheduler["policy"].required().string()
    if policy in ("SCHED_DEADLINE", "SCHED_ISO"):
        scheduler["policy"].refuse(policy)
    scheduler["policy"].choice(POLICIES)
    for name in ("flags", "runtime", "deadline", "period"):
        if scheduler[name].value:
            scheduler[name].refuse("what only SCHED_DEADLINE has")
    priority = scheduler["priority"].integer(INT32)
    if (policy in REAL_TIME) != bool(priority) or not 0 <= priority <= 99:
        scheduler["priority"].fail(f"{priority} is no priority for {policy}")
    return Scheduler(POLICIES[policy], priority, scheduler["nice"].integer((-20, 19)))
