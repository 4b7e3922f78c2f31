"""The resources of an OCI configuration: what its cgroup limits.

They come in the words of version 1 of cgroups, with ``unified`` for the files of version 2. Runtime-spec,
config-linux.md, "Control groups"; how they are written is in bundle_cgroup.py.
"""

from __future__ import annotations

from typing import NamedTuple

from mycontainer.engine.reader import INT64, UINT64, Reader

MAJOR, MINOR = (-1, (1 << 12) - 1), (-1, (1 << 20) - 1)  # man 3 makedev; -1: all of them


class DeviceRule(NamedTuple):
    """May these devices be read, written, made (mknod)? None of major and minor is all of them."""

    allow: bool
    kind: str = "a"  # c, b or a for both
    major: int | None = None
    minor: int | None = None
    access: str = "rwm"

    def __str__(self) -> str:
        """As a file of the devices controller takes it: ``c 1:3 rwm``."""
        numbers = ("*" if number is None else number for number in (self.major, self.minor))
        return f"{self.kind} {':'.join(map(str, numbers))} {self.access}"


class Resources(NamedTuple):
    """The limits; None is none of that kind, and -1 expressly no limit. Memory is in bytes, ``swap`` together
    with the memory; quota and period are in µs.
    """

    memory: int | None = None
    reservation: int | None = None
    swap: int | None = None
    swappiness: int | None = None
    oom_killer: bool = True
    shares: int | None = None
    quota: int | None = None
    period: int | None = None
    cpus: str = ""
    mems: str = ""
    processes: int | None = None
    devices: tuple[DeviceRule, ...] = ()
    unified: tuple[tuple[str, str], ...] = ()

    @property
    def limited(self) -> tuple[str, ...]:
        """The names of the limits there are; rules for devices are not among them."""
        return tuple(name for name, value in self._asdict().items()
                     if name != "devices" and value != self._field_defaults[name])


def read_resources(resources: Reader) -> Resources:
    """The object ``linux.resources``. An engine writes 0, too, for what it does not limit."""
    memory, cpu = resources["memory"], resources["cpu"]
    for name in ("kernel", "kernelTCP"):
        if memory[name].integer(INT64) > 0:
            memory[name].refuse("a limit on the kernel's memory, which Linux has given up")
    for name in ("realtimePeriod", "realtimeRuntime", "idle", "burst"):
        if cpu[name].integer(INT64):
            cpu[name].refuse("this limit on the CPU")
    _refuse_others(resources)
    limit, swap = memory["limit"].integer(INT64), memory["swap"].integer(INT64)
    if limit > 0 and 0 < swap < limit:
        memory["swap"].fail(f"{swap} is less than the memory ({limit}), which it includes")
    if swap > 0 and limit <= 0:
        memory["swap"].fail("a limit on swap needs one on memory")
    return Resources(
        limit or None, memory["reservation"].integer(INT64) or None, swap or None,
        memory["swappiness"].optional_integer((0, 100)), not memory["disableOOMKiller"].boolean(),
        cpu["shares"].integer(UINT64) or None, cpu["quota"].integer(INT64) or None,
        cpu["period"].integer((0, 1_000_000)) or None, _cpu_list(cpu["cpus"]), _cpu_list(cpu["mems"]),
        resources["pids"]["limit"].required().integer(INT64) if resources["pids"] else None,
        resources["devices"].each(_device_rule), _unified(resources["unified"]))


def _refuse_others(resources: Reader) -> None:
    for name, value in resources["blockIO"].entries():
        if value.value:
            value.refuse(f"the limit {name} on disks")
    network = resources["network"]
    if network["classID"].integer(UINT64):
        network["classID"].refuse("a class for network packets")
    network["priorities"].refuse("priorities for network packets")
    resources["hugepageLimits"].refuse("a limit on huge pages")
    resources["rdma"].refuse("RDMA")


def _cpu_list(numbers: Reader) -> str:
    """``0-2,5``: man 7 cpuset, "List format"."""
    text = numbers.string()
    if text.strip("0123456789,- "):
        numbers.fail(f"not a list of numbers such as 0-2,5: {numbers.shown()}")
    return text.strip()


def _device_rule(rule: Reader) -> DeviceRule:
    access = rule["access"].string("rwm") or "rwm"
    if access.strip("rwm"):
        rule["access"].fail(f"expected letters of rwm, got {rule['access'].shown()}")
    kind = rule["type"].string("a") or "a"
    if kind not in ("a", "b", "c", "u"):
        rule["type"].fail(f"expected a, b or c, got {rule['type'].shown()}")
    major, minor = (None if number in (None, -1) else number for number in (
        rule["major"].optional_integer(MAJOR), rule["minor"].optional_integer(MINOR)))
    return DeviceRule(rule["allow"].required().boolean(), "c" if kind == "u" else kind, major, minor, access)


def _unified(unified: Reader) -> tuple[tuple[str, str], ...]:
    found = []
    for name, value in unified.entries():
        if "/" in name or "." not in name.strip(".") or not name.isprintable():
            value.fail("not the name of a file of a controller, such as memory.max")
        found.append((name, value.required().string()))
    return tuple(found)
