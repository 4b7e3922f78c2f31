"""Chapter 0: a first wall, and what the kernel keeps apart between two processes without any."""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from mycontainer import container, namespaces, syscalls
from mycontainer.lab.exercise import Exercise, Prediction, Wrong
from mycontainer.lab.probe import Mismatch, Probe, Process
from mycontainer.lab.result import Failure

# ── first_wall ───────────────────────────────────────────────────────────────────────────────────────

def first_wall(name: str) -> None:
    """Give this process a host name of its own."""
    syscalls.unshare(syscalls.CLONE_NEWUTS)
    syscalls.sethostname(name)


def host_name() -> str:
    """What uname(2) says."""
    return os.uname().nodename


def probe_first_wall(p: Probe) -> None:
    name, before = p.token(), p.world.inside(host_name)
    with p.child(name) as process:
        p.expect("the host name out here, afterwards", p.world.inside(host_name), before,
                 cause="Everybody's name has changed: your process still shares it with all others. It "
                       "needs a name of its own first, and the order of the two lines counts.",
                 look="man 7 uts_namespaces")
        own = process.ns("uts") != p.world.ns("uts")
        p.expect("the host name that your process sees", process.inside(host_name), name,
                 cause="The wall is there, but behind it nobody has set the name: it begins with a copy of "
                       "the old one." if own else "There is no wall, and no new name either.",
                 look="man 2 sethostname" if own else "man 2 unshare, CLONE_NEWUTS")


FIRST_WALL = Exercise(
    id="start.first_wall", title="Your first wall", difficulty=1, minutes=2, lines=2,
    syscalls=("unshare", "sethostname"),
    hints=("Two system calls, one a line: first stop sharing, then set the name.",
           "syscalls.unshare takes one flag: what shall no longer be shared. The kernel calls names UTS.",
           "The flag is syscalls.CLONE_NEWUTS. What sets the name you have seen in the cell above."),
    reference=first_wall, probe=probe_first_wall,
    fast_track="The second line is in the cell above; only the unshare is new.",
    stub='''
        def my_wall(name):
            """Give this process a host name of its own."""
            ...
        ''',
    wrong=(
        Wrong('''
            def my_wall(name):
                syscalls.sethostname(name)
            ''', says="Everybody's name has changed"),
        Wrong('''
            def my_wall(name):
                syscalls.unshare(syscalls.CLONE_NEWUTS)
            ''', says="behind it nobody has set the name"),
        Wrong('''
            def my_wall(name):
                os.environ["HOSTNAME"] = name
                print(os.environ.get("HOSTNAME"))
            ''', says="There is no wall, and no new name either"),
    ),
)


# ── find_it ──────────────────────────────────────────────────────────────────────────────────────────

def find_it(argv: list[str]) -> int:
    """The pid, on this side, of the process that runs exactly ``argv``; LookupError if there is none."""
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/cmdline") as file:
                if file.read().split("\0")[:-1] == argv:
                    return int(name)
        except OSError:  # it ended while we looked
            pass
    raise LookupError(f"nobody runs {argv}")


@contextmanager
def sleeping_container(argv: list[str]) -> Iterator[tuple[int, set[int]]]:
    """A container that runs ``argv``, between processes that have the same words in their command lines."""
    def bystander(*words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", *words])

    starter = bystander("run", "busybox", *argv)  # as `mycontainer run` has it
    process = container.start(argv)
    late = subprocess.Popen([argv[0], f"{argv[1]}0"])
    try:
        yield process.pid, {starter.pid, late.pid}
    finally:
        for other in (starter, late):
            other.kill()
            other.wait()
        process.kill()
        process.wait()


def probe_find_it(p: Probe) -> None:
    argv = ["sleep", str(100_000 + secrets.randbelow(900_000))]
    with sleeping_container(argv) as (pid, others), p.child(argv) as process:
        got = process.value
        cause = "This pid belongs to something else."
        if got == 1:
            cause = "That is its pid in its own numbering, behind the wall. Out here 1 is somebody else."
        elif got in others:
            cause = ("The process with this pid has these words in its command line among others, as the "
                     "program that started the container has. Compare all of the command.")
        elif got == process.pid:
            cause = "That is the process which looks, not the one you look for."
        elif got == str(pid):
            cause = "The right one, but as text. A pid is a number: int()."
        elif got is None:
            cause = "No process matched, or nothing was returned. Each word in cmdline ends with a zero byte."
        p.expect(f"the pid that you found for {' '.join(argv)}", got, pid, cause=cause,
                 look="man 5 proc, /proc/pid/cmdline")


FIND_IT = Exercise(
    id="start.find_it", title="Find a container from outside", difficulty=2, minutes=4, lines=5,
    syscalls=("openat", "read"),
    hints=("Every process is a directory in /proc, and the directory's name is its pid.",
           ("/proc/PID/cmdline holds the words of a command, each ended by a zero byte: text.split('\\0') "
            "gives them, and an empty one at the end."),
           ("Go through os.listdir('/proc'), skip names that are not digits, and compare the whole list of "
            "words with argv. A process may end while you look: then opening its file raises an OSError.")),
    reference=find_it, probe=probe_find_it,
    fast_track='One line: pgrep -x -f "the words" prints the pid; lab.sh runs it.',
    stub='''
        def my_find(argv):
            """Return the pid, on this side, of the process that runs argv (a list of words)."""
            ...
        ''',
    wrong=(
        Wrong('''
            def my_find(argv):
                return 1 if argv else print()
            ''', says="in its own numbering, behind the wall"),
        Wrong('''
            def my_find(argv):
                for name in sorted(filter(str.isdigit, os.listdir("/proc")), key=int):
                    try:
                        if argv[1] in open(f"/proc/{name}/cmdline").read():
                            return int(name)
                    except OSError:
                        pass
            ''', says="Compare all of the command"),
        Wrong('''
            def my_find(argv):
                return subprocess.run(["pgrep", "-x", "-f", " ".join(argv)], capture_output=True,
                                      text=True).stdout.strip()
            ''', says="A pid is a number: int()"),
        Wrong('''
            def my_find(argv):
                return os.getpid()
            ''', says="the process which looks"),
    ),
)


# ── peek ─────────────────────────────────────────────────────────────────────────────────────────────

def peek(pid: int, address: int, size: int) -> bytes | None:
    """The ``size`` bytes at ``address`` in the memory of process ``pid``; None if the kernel refuses."""
    try:
        with open(f"/proc/{pid}/mem", "rb") as memory:
            memory.seek(address)
            return memory.read(size)
    except PermissionError:
        return None


def probe_peek(p: Probe) -> None:
    size = 16
    memory = ctypes.create_string_buffer(64)  # made before any fork: everybody has something at this address
    address = ctypes.addressof(memory)
    memory.value = b"!your own memory"
    secret = p.token(size).encode()

    def keep_a_secret() -> None:
        memory.value = secret

    with p.child(run=keep_a_secret) as other, p.child(other.pid, address, size, may_raise=True) as process:
        _say_why(process.error, "reading a process that you may read", {
            errno.EIO: "Nothing is mapped where you read. In /proc/PID/mem the place in the file is the "
                       "address: move there first.",
            "UnicodeDecodeError": "Memory is bytes, not text, and a file can be opened for either.",
        }, "man 5 proc, /proc/pid/mem")
        got = process.value
        cause = "These bytes are not the ones at that address."
        if got is None:
            cause = "Nothing, though this one may be read. Is a failure swallowed that is no refusal?"
        elif got == memory.value:
            cause = "The same address, but of your own memory. Ask for the other's: it has the pid."
        p.expect("the bytes in the other process", got, secret, cause=cause, look="man 5 proc, /proc/pid/mem")

    # We ourselves are on the other side of a user namespace: whoever is root in there has no rights out here.
    with p.child(os.getpid(), address, size, may_raise=True) as process:
        _say_why(process.error, "reading a process that you may not read", {
            errno.EACCES: "The kernel refuses this one, as it should. Your function is to say so by "
                          "returning None."}, "man 2 ptrace, Ptrace access mode checking")
        p.expect("what you return when the kernel refuses", process.value, None,
                 cause="There is nothing to return: nothing was read.")


def _say_why(error: Failure | None, what: str, causes: dict[int | str, str], look: str) -> None:
    """End the check with the learner's own traceback, and what this errno or exception means here."""
    if error:
        cause = causes.get(error.errno or error.kind, "")
        raise Mismatch(f"{what}: your function raised {error}", cause=cause, look=look, learners=error.told)


PEEK = Exercise(
    id="start.peek", title="Read another's memory", difficulty=2, minutes=4, lines=6,
    syscalls=("openat", "lseek", "read"),
    hints=("The memory of process 42 is a file: /proc/42/mem. Open it for reading, as bytes.",
           "In this file the position is the address: seek() goes there, read() takes so many bytes.",
           "A refusal is a PermissionError, raised when the file is opened. Catch that one and no other."),
    reference=peek, probe=probe_peek,
    fast_track="Three lines: open, seek, read. Let the check tell you what is missing then.",
    stub='''
        def my_peek(pid, address, size):
            """Return size bytes of that process's memory, from address on; None if the kernel refuses."""
            ...
        ''',
    wrong=(
        Wrong('''
            def my_peek(pid, address, size):
                import ctypes
                return ctypes.string_at(address, size)
            ''', says="but of your own memory"),
        Wrong('''
            def my_peek(pid, address, size):
                with open(f"/proc/{pid}/mem", "rb") as memory:
                    return memory.read(size)
            ''', says="the place in the file is the address"),
        Wrong('''
            def my_peek(pid, address, size):
                with open(f"/proc/{pid}/mem", "rb") as memory:
                    memory.seek(address)
                    return memory.read(size)
            ''', says="The kernel refuses this one, as it should"),
        Wrong('''
            def my_peek(pid, address, size):
                try:
                    with open(f"/proc/{pid}/mem", "rb") as memory:
                        return memory.read(size)
                except Exception:
                    return None
            ''', says="Is a failure swallowed"),
    ),
)


# ── collide ──────────────────────────────────────────────────────────────────────────────────────────

def collide(port: int) -> socket.socket:
    """Listen on 127.0.0.1 and ``port`` though somebody else does: in a network of our own."""
    syscalls.unshare(syscalls.CLONE_NEWNET)
    namespaces.raise_loopback()
    server = socket.socket()
    server.bind(("127.0.0.1", port))
    server.listen()
    return server


def listen(port: int) -> socket.socket:
    """Listen on 127.0.0.1 and ``port``, in the network that is there."""
    server = socket.socket()
    server.bind(("127.0.0.1", port))
    server.listen()
    return server


def listening(process: Process) -> list[str]:
    """Where this process itself listens: its own sockets, found in the table of its network."""
    try:
        fds = os.listdir(f"/proc/{process.pid}/fd")
    except OSError:
        return []
    own = {process.link(f"fd/{fd}") for fd in fds}
    found = []
    for row in process.read("net/tcp").splitlines()[1:]:
        local, state, inode = (row.split()[at] for at in (1, 3, 9))
        if state == "0A" and f"socket:[{inode}]" in own:  # TCP_LISTEN
            address, port = bytes.fromhex(local[:8]), int(local[9:], 16)
            found.append(f"{socket.inet_ntoa(address[::-1])}:{port}" if sys.byteorder == "little" else
                         f"{socket.inet_ntoa(address)}:{port}")
    return found


def knock(port: int) -> str:
    """What becomes of a call to 127.0.0.1 and ``port``."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=3).close()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    return "connected"


LO_IS_OFF = "A new network has its device lo switched off, and with it all of 127.0.0.1."


def probe_collide(p: Probe) -> None:
    port = 20_000 + secrets.randbelow(10_000)
    with p.child(port, run=listen), p.child(port, may_raise=True) as process:
        apart = process.ns("net") != p.world.ns("net")
        _say_why(process.error, "listening on the same address and port", {
            errno.EADDRINUSE: "You have a network of your own, but a socket stays in the one it was made in."
                              if apart else "In this network the pair is taken, and SO_REUSEPORT would need "
                              "the other's consent. There can be more than one network.",
            errno.EADDRNOTAVAIL: LO_IS_OFF,
        }, "man 7 network_namespaces")
        got = [one.replace("0.0.0.0", "127.0.0.1") for one in listening(process)]  # "all" has it in it
        cause = "A server needs socket, bind, listen; and the socket closes when nobody keeps it: return it."
        if got:
            cause = "That pair is free, for it is another one. The task is the very same address and port."
        p.expect("where your process listens", got, [f"127.0.0.1:{port}"], cause=cause,
                 look="man 7 ip, man 2 listen")
        p.expect("a call to it from its own network", process.inside(knock, port), "connected",
                 cause=LO_IS_OFF, look="man 7 network_namespaces")


COLLIDE = Exercise(
    id="start.collide", title="The same port, twice", difficulty=2, minutes=4, lines=6,
    syscalls=("unshare", "socket", "bind", "listen"),
    hints=("The kernel looks whether the pair is taken in *this network*. What if there were another?",
           ("unshare again, with another flag: syscalls.CLONE_NEWNET. A new network is empty, and its own "
            "loopback device is off: namespaces.raise_loopback() switches it on."),
           ("Then three lines as in the cell above: socket.socket(), bind, listen. Return the socket, or it "
            "is closed at the end of your function. The unshare comes first: a socket stays in the network "
            "in which it was made.")),
    reference=collide, probe=probe_collide,
    fast_track="Call listen() from the cell above; two lines go in front of that.",
    stub='''
        def my_listen(port):
            """Listen on 127.0.0.1 and port, which is taken here; return the socket."""
            ...
        ''',
    wrong=(
        Wrong('''
            def my_listen(port):
                import socket
                server = socket.socket()
                server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                server.bind(("127.0.0.1", port))
                server.listen()
                return server
            ''', says="In this network the pair is taken"),
        Wrong('''
            def my_listen(port):
                import socket
                server = socket.socket()
                server.bind(("127.0.0.2", port))
                server.listen()
                return server
            ''', says="for it is another one"),
        Wrong('''
            def my_listen(port):
                import socket
                syscalls.unshare(syscalls.CLONE_NEWNET)
                server = socket.socket()
                server.bind(("127.0.0.1", port))
                server.listen()
                return server
            ''', says="has its device lo switched off"),
        Wrong('''
            def my_listen(port):
                import socket
                syscalls.unshare(syscalls.CLONE_NEWNET)
                namespaces.raise_loopback()
                server = socket.socket()
                server.bind(("127.0.0.1", port))
                server.listen()
            ''', says="the socket closes when nobody keeps it"),
    ),
)

EXERCISES = [FIRST_WALL, FIND_IT, PEEK, COLLIDE]


# ── predictions ──────────────────────────────────────────────────────────────────────────────────────

PREDICTIONS = [
    Prediction(
        id="start.where", question="A command runs in a container. Where is it?",
        choices={"a": "in a small virtual machine, on a kernel of its own",
                 "b": "inside an object of the kernel that is called a container",
                 "c": "in the ordinary list of processes, next to all others"},
        answer="c", why="It is an ordinary process, wrapped: on the one kernel that there is.",
        misconceptions={
            "a": "Nothing was booted: the boot ids are equal, so it is one kernel for all. A virtual machine "
                 "has a kernel of its own, and chapter 10 measures what that costs and brings.",
            "b": "The kernel knows processes, and a dozen properties that a process can have for itself. "
                 "\"Container\" is our word for a process that has many of them.",
        }),
    Prediction(
        id="start.memory",
        question="Two processes of the same user, no container. Can one read a password that the other "
                 "keeps in its memory?",
        choices={"a": "no: every process has an address space of its own",
                 "b": "yes: the kernel reads it for whoever is allowed to ask",
                 "c": "only if the two agreed on shared memory before"},
        answer="b", why="An address means nothing in another process. But the kernel can look there, and it "
                        "does for a debugger: for root and, by default, for the same user.",
        misconceptions={
            "a": "True of addresses, and often concluded too far: apart is not the same as secret.",
            "c": "Shared memory is one way, and needs both. /proc/PID/mem needs only permission.",
        }),
    Prediction(
        id="start.port",
        question="A server listens on 127.0.0.1, port 8000. Who else can listen on port 8000 here?",
        choices={"a": "nobody", "b": "a server on another address, or in another network",
                 "c": "anybody who is root"},
        answer="b", why="What can be taken is an address together with a port, in one network. A container "
                        "usually has a network of its own.",
        misconceptions={
            "a": "The port alone is never taken: 127.0.0.2 is free, and so is every other network. Two "
                 "servers may even share the pair if both ask for SO_REUSEPORT.",
            "c": "Root may use ports below 1024 and much else. A pair that is taken is taken for root, too.",
        }),
]
