"""What the steps of a bundle stand on: descriptors, pids, and whatever else only shows up on the way."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence

from mycontainer import namespaces, spawn, syscalls
from mycontainer.engine import bundle_cgroup, bundle_state, calls, cgroup_v1, console, hooks, idmap, rights
from mycontainer.engine.config import Config, Hook
from mycontainer.engine.config_process import Capabilities, Rlimit, User
from mycontainer.engine.config_seccomp import Seccomp
from mycontainer.engine.plan import Journal
from mycontainer.engine.reader import Unsupported
from mycontainer.engine.state import to_json
from mycontainer.errors import ContainerError, explain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

GO_ON = b"g"        # `start` to PID 1
ABOUT_TO = "exec"   # PID 1 to `start`: if nothing follows, it has become the command


class Ground:
    """``directory`` is where its state lies, ``kept`` how many descriptors the command keeps, ``stays``
    whether we stay until its end, and it ends with us. ``cgroup`` is empty where there can be none.
    """

    def __init__(self, config: Config, identity: str, bundle: str, directory: str, console_socket: str = "",
                 kept: int = 3, stays: bool = False) -> None:
        self.config, self.id, self.bundle, self.directory = config, identity, bundle, directory
        self.console_socket, self.kept, self.stays = console_socket, kept, stays
        self.journal = Journal(f"{directory}/journal")
        self.version_1 = cgroup_v1.in_use()
        self.cgroup = self._choose_cgroup()
        self.pid = self.runner = 0
        self.report: Callable[[], object] = lambda: None  # PID 1 calls it when it leaves the outside
        self.listener = self.console = self.channel = -1
        self.program = b""
        self.rights: tuple[int, int, bool] = (0, 0, False)

    def _choose_cgroup(self) -> str:
        """An ordinary user has none: with a limit that is an error, without one nobody misses it."""
        linux = self.config.linux
        if idmap.real_root():
            return bundle_cgroup.place(linux.cgroups_path, self.id)
        if linux.resources.limited:
            raise Unsupported(f"linux.resources ({linux.resources.limited[0]})",
                              "not supported: limits for an ordinary user")
        return ""

    # ---- outside

    def listen(self, path: str) -> None:
        """Make the socket at which PID 1 waits for `start`."""
        name = f"/proc/self/fd/{(fd := os.open(os.path.dirname(path), os.O_PATH))}/{os.path.basename(path)}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as one:
            one.bind(name)
            one.listen(8)
            self.listener = one.detach()
        os.close(fd)

    def connect_console(self, path: str) -> None:
        """Reach whoever wants to have the other end of the terminal; without a path it is ourselves."""
        if path:
            self.console = console.connect(path)

    def set_clocks(self, clocks: Sequence[tuple[str, int, int]]) -> None:
        """Set the clocks of the time namespace of the runner's children. man 7 time_namespaces."""
        with open(f"/proc/{self.runner}/timens_offsets", "w") as file:
            file.write("".join(f"{name} {seconds} {nanoseconds}\n" for name, seconds, nanoseconds in clocks))

    def process_record(self) -> dict[str, Any]:
        return bundle_state.process_record(self.pid)

    def note(self) -> None:
        """The record is all there is to do: from now on the next command can find PID 1."""

    def join_cgroup(self, path: str) -> None:
        bundle_cgroup.join(path, self.pid)

    def raise_limits(self, limits: tuple[Rlimit, ...]) -> None:
        rights.raise_limits(self.pid, limits)

    def set_oom_score(self, score: int) -> None:
        rights.set_oom_score(self.pid, score)

    def call_hooks(self, moment: str, these: Sequence[Hook]) -> None:
        """Call hooks, on either side; inside, our pid is 1."""
        inside = moment in ("createContainer", "startContainer")
        told = self.facts(os.getpid() if inside else self.pid)
        told["status"] = bundle_state.CREATED if moment == "startContainer" else bundle_state.CREATING
        hooks.call(moment, these, to_json(told))

    def facts(self, pid: int) -> dict[str, Any]:
        """What is told about it: runtime.md, "State"."""
        return {"ociVersion": self.config.version, "id": self.id, "pid": pid, "bundle": self.bundle,
                "rootfs": self.config.root.path, "annotations": dict(self.config.annotations)}

    def compile_filter(self, filter: Seccomp) -> None:
        """Compile the filter of system calls, which the command will be under."""
        from mycontainer.engine import seccomp  # not everybody has one

        self.program = seccomp.compile_filter(filter)

    # ---- runner

    def join(self, joined: Mapping[str, str]) -> None:
        """Join namespaces of others, in the order that the rights ask for."""
        fds = []
        for kind in (kind for kind in namespaces.ORDER if kind in joined):
            try:
                fds.append((kind, os.open(joined[kind], os.O_RDONLY | os.O_CLOEXEC)))
            except OSError as error:
                raise explain(f"cannot join the {kind} namespace", error) from error
        for kind, fd in fds:
            try:
                syscalls.setns(fd, namespaces.FLAGS[kind])
            except OSError as error:
                raise explain(f"cannot join the {kind} namespace {joined[kind]}", error) from error
            os.close(fd)
            if kind == "user":
                namespaces.become_root()

    # ---- inside

    def look(self) -> None:
        """Look at our rights, as long as there is a /proc that we can trust; and load nothing from here on.

        What an import, or a codec's first use, finds after the root has changed is a file of the image, which
        would be executed with all that we may.
        """
        sys.meta_path.clear()
        self.rights = (*rights.held(), rights.may_set_groups())

    def open_terminal(self, uid: int, size: tuple[int, int] | None) -> None:
        console.open_terminal(self.console, uid, size)
        console.show_as_console()

    def let_go(self, waits: bool) -> None:
        """Close what is not the command's. For a caller that leaves, we must not die with our parent."""
        if not self.stays:
            syscalls.prctl(syscalls.PR_SET_PDEATHSIG, 0)
        self.report()
        if waits:  # closing the pipes of spawn.py tells the outside that all is done
            os.dup2(self.listener, self.kept, inheritable=False)
            self.listener = self.kept
            syscalls.close_range(self.kept + 1, 0x7FFFFFFF, 0)
        else:
            close_all_but(self.kept, spawn._ends)

    def wait_for_start(self) -> None:
        """Wait until somebody says go; who connects and says nothing only looked whether we wait."""
        with socket.socket(fileno=self.listener) as listener:
            while self.channel < 0:
                one, _ = listener.accept()
                if one.recv(1) == GO_ON:
                    self.channel = one.detach()
                one.close()
            self.listener = listener.detach()

    def become(self, user: User, wanted: Capabilities) -> None:
        have, bounding, groups = self.rights
        rights.become(user, wanted, have, bounding, groups)

    def filter_calls(self, flags: int) -> None:
        calls.seccomp(self.program, flags)

    def execute(self, args: Sequence[str], env: Sequence[str]) -> None:
        """Become the command."""
        named = dict(pair.split("=", 1) for pair in env)
        if "HOME" not in named and self.config.process:
            named["HOME"] = rights.home(os.getuid())
        if self.channel >= 0:
            os.close(self.listener)  # not left to exec: who is told that we run must not find us waiting
            spawn._say(self.channel, ABOUT_TO)
        spawn.execute(args, named, self.kept, admin=True)

    def fail(self, error: BaseException) -> None:
        """Tell `start` why it did not work, and end."""
        told = error if isinstance(error, ContainerError) else explain("cannot start the container", error)
        spawn._say(self.channel, spawn.FAILED, str(told.exit_code), told.what, told.reason, told.hint)


def close_all_but(first: int, others: Sequence[int]) -> None:
    """Close all descriptors from ``first`` on but these: one of a directory of ours leads out of any root."""
    for fd in sorted(others):
        if fd > first:
            syscalls.close_range(first, fd - 1, 0)
        first = max(first, fd + 1)
    syscalls.close_range(first, 0x7FFFFFFF, 0)
