"""System calls that the engine needs and no chapter does: rights, and what a process takes along.

As those of syscalls.py, whose numbers these join: so the recording double of the tests sees them, too.
"""

from __future__ import annotations

import ctypes
import os
import struct

from mycontainer import syscalls

# linux/prctl.h
PR_SET_DUMPABLE, PR_SET_KEEPCAPS, PR_SET_NO_NEW_PRIVS = 4, 8, 38
PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, PR_CAP_AMBIENT_CLEAR_ALL = 47, 2, 4
SECCOMP_SET_MODE_FILTER = 1  # linux/seccomp.h
_LINUX_CAPABILITY_VERSION_3 = 0x20080522  # linux/capability.h

syscalls.NUMBERS["x86_64"] |= {"capset": 126, "personality": 135, "setdomainname": 171, "seccomp": 317}
syscalls.NUMBERS["aarch64"] |= {"capset": 91, "personality": 92, "setdomainname": 162, "seccomp": 277}


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Set three of our sets of capabilities, a bit for each. man 2 capset."""
    header = struct.pack("=Ii", _LINUX_CAPABILITY_VERSION_3, 0)  # 0: ourselves
    halves = [each >> shift & 0xFFFFFFFF for shift in (0, 32) for each in (effective, permitted, inheritable)]
    syscalls._call("capset", header, struct.pack("=6I", *halves))


def ambient(operation: int, capability: int = 0) -> None:
    """Change our ambient capabilities, which survive exec of an ordinary program. man 2 prctl."""
    syscalls._call("prctl", PR_CAP_AMBIENT, operation, capability, 0, 0)


def personality(domain: int) -> None:
    """The kernel's behaviour that is expected: a 32-bit machine's, for one. man 2 personality."""
    syscalls._call("personality", domain)


def setdomainname(name: str) -> None:
    """Set the NIS domain name of this UTS namespace. man 2 setdomainname."""
    syscalls._call("setdomainname", name, len(os.fsencode(name)))


def seccomp(program: bytes, flags: int) -> None:
    """From now on let ``program`` decide on each system call of ours, and of our children. man 2 seccomp."""
    filters = ctypes.create_string_buffer(program)  # an instruction has 8 bytes
    syscalls._call("seccomp", SECCOMP_SET_MODE_FILTER, flags,
                   struct.pack("HxxxxxxQ", len(program) // 8, ctypes.addressof(filters)))
