"""A filter of system calls: compiled out here by libseccomp, installed inside at the last moment.

The kernel takes a program for a small machine (BPF) that looks at each call's number and arguments.
libseccomp writes that program; we call it as the shared library that it is. man 2 seccomp, man 3
seccomp_rule_add.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator

from mycontainer.engine.config_seccomp import Condition, Rule, Seccomp
from mycontainer.errors import ContainerError

UNKNOWN = -1  # __NR_SCMP_ERROR: no architecture has a call of this name


class ArgCmp(ctypes.Structure):
    """struct scmp_arg_cmp"""

    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("datum_a", ctypes.c_uint64),
                ("datum_b", ctypes.c_uint64))


def compile_filter(seccomp: Seccomp) -> bytes:
    """The program for the kernel. Raises ContainerError where libseccomp is missing, or refuses a rule."""
    library = _load()
    context = library.seccomp_init(seccomp.default)
    if not context:
        raise ContainerError("cannot make a seccomp filter", "libseccomp does not know the default action")
    try:
        for name in seccomp.architectures:
            token = library.seccomp_arch_resolve_name(name.encode())
            _check(library.seccomp_arch_add(context, token), f"the architecture {name}", errno.EEXIST)
        for rule in seccomp.rules:
            if rule.action != seccomp.default:  # there is nothing to tell, and libseccomp refuses it
                _add(library, context, rule)
        fd = os.memfd_create("seccomp")
        try:
            _check(library.seccomp_export_bpf(context, fd), "the whole")
            return os.pread(fd, os.fstat(fd).st_size, 0)
        finally:
            os.close(fd)
    finally:
        library.seccomp_release(context)


def _add(library: ctypes.CDLL, context: int, rule: Rule) -> None:
    for name in rule.names:
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number == UNKNOWN:
            continue  # lists are written for more kernels than one
        for conditions in _alternatives(rule.conditions):
            array = (ArgCmp * len(conditions))(*(ArgCmp(*each) for each in conditions))
            _check(library.seccomp_rule_add_array(context, rule.action, number, len(conditions), array), name)


def _alternatives(conditions: tuple[Condition, ...]) -> Iterator[tuple[Condition, ...]]:
    """One rule cannot look twice at an argument: then each condition is a rule, and one of them is enough.
    That is how all runtimes read it.
    """
    if len({condition.argument for condition in conditions}) == len(conditions):
        yield conditions
    else:
        yield from ((condition,) for condition in conditions)


def _load() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError as error:
        raise ContainerError("cannot make a seccomp filter", "libseccomp is not installed",
                             "It comes with the package libseccomp2 (Debian) or libseccomp.") from error
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = (ctypes.c_uint32,)
    library.seccomp_release.argtypes = (ctypes.c_void_p,)
    library.seccomp_arch_resolve_name.restype = ctypes.c_uint32
    library.seccomp_arch_add.argtypes = (ctypes.c_void_p, ctypes.c_uint32)
    library.seccomp_export_bpf.argtypes = (ctypes.c_void_p, ctypes.c_int)
    library.seccomp_rule_add_array.argtypes = (ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint,
                                               ctypes.c_void_p)
    return library


def _check(result: int, what: str, fine: int = 0) -> None:
    if result < 0 and result != -fine:
        raise ContainerError(f"cannot make a seccomp filter: {what}", os.strerror(-result))
