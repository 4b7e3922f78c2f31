"""The filter of system calls in an OCI configuration. Runtime-spec, config-linux.md, "Seccomp".

The names and numbers are libseccomp's: seccomp.h, man 3 seccomp_init.
"""

from __future__ import annotations

from typing import NamedTuple

from mycontainer.engine.reader import UINT64, Reader

EPERM = 1
ACTIONS = {
    "SCMP_ACT_KILL": 0x0, "SCMP_ACT_KILL_THREAD": 0x0, "SCMP_ACT_KILL_PROCESS": 0x80000000,
    "SCMP_ACT_TRAP": 0x30000, "SCMP_ACT_ERRNO": 0x50000, "SCMP_ACT_TRACE": 0x7FF00000,
    "SCMP_ACT_LOG": 0x7FFC0000, "SCMP_ACT_ALLOW": 0x7FFF0000}
WITH_ERRNO = ("SCMP_ACT_ERRNO", "SCMP_ACT_TRACE")  # the lower 16 bits are what the call fails with
OPERATORS = {"SCMP_CMP_NE": 1, "SCMP_CMP_LT": 2, "SCMP_CMP_LE": 3, "SCMP_CMP_EQ": 4, "SCMP_CMP_GE": 5,
             "SCMP_CMP_GT": 6, "SCMP_CMP_MASKED_EQ": 7}
ARCHITECTURES = tuple(f"SCMP_ARCH_{name}" for name in (
    "X86", "X86_64", "X32", "ARM", "AARCH64", "LOONGARCH64", "M68K", "MIPS", "MIPS64", "MIPS64N32", "MIPSEL",
    "MIPSEL64", "MIPSEL64N32", "PPC", "PPC64", "PPC64LE", "S390", "S390X", "SH", "SHEB", "PARISC", "PARISC64",
    "RISCV64"))
# linux/seccomp.h
FLAGS = {"SECCOMP_FILTER_FLAG_TSYNC": 0x1, "SECCOMP_FILTER_FLAG_LOG": 0x2,
         "SECCOMP_FILTER_FLAG_SPEC_ALLOW": 0x4}


class Condition(NamedTuple):
    """What an argument of the call must be: its number, how it is compared, and with what."""

    argument: int
    operator: int
    value: int
    second: int


class Rule(NamedTuple):
    """What happens with these calls if all of the conditions are met."""

    names: tuple[str, ...]
    action: int
    conditions: tuple[Condition, ...]


class Seccomp(NamedTuple):
    """``default`` happens with all calls that no rule fits; architectures are libseccomp's words."""

    default: int
    architectures: tuple[str, ...]
    flags: int
    rules: tuple[Rule, ...]


def read_seccomp(seccomp: Reader) -> Seccomp | None:
    """The object ``linux.seccomp``."""
    if not seccomp:
        return None
    seccomp["listenerPath"].refuse("an agent that is asked about system calls")
    for item in seccomp["flags"].items():
        if item.value == "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV":
            item.refuse("an agent that is asked about system calls")
    flags = 0
    for item in seccomp["flags"].items():
        flags |= FLAGS[item.required().choice(FLAGS)]
    names = [item.required().choice(ARCHITECTURES) for item in seccomp["architectures"].items()]
    return Seccomp(_action(seccomp["defaultAction"], seccomp["defaultErrnoRet"]),
                   tuple(name.removeprefix("SCMP_ARCH_").lower() for name in names), flags,
                   seccomp["syscalls"].each(_rule))


def _action(action: Reader, error: Reader) -> int:
    name = action.required().string()
    if name == "SCMP_ACT_NOTIFY":
        action.refuse("an agent that is asked about system calls")
    action.choice(ACTIONS)
    number = error.optional_integer((0, 0xFFFF))
    if name in WITH_ERRNO:
        return ACTIONS[name] | (EPERM if number is None else number)
    if number:
        error.fail(f"{name} takes none")
    return ACTIONS[name]


def _rule(rule: Reader) -> Rule:
    names = rule["names"].required().strings()
    if not names:
        rule["names"].fail("is empty")
    return Rule(names, _action(rule["action"], rule["errnoRet"]), rule["args"].each(_condition))


def _condition(argument: Reader) -> Condition:
    return Condition(argument["index"].required().integer((0, 5)),
                     OPERATORS[argument["op"].required().choice(OPERATORS)],
                     argument["value"].required().integer(UINT64), argument["valueTwo"].integer(UINT64))
