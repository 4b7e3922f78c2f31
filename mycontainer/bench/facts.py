"""What the times depend on: this machine, as far as it can be asked."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from typing import Any


def machine() -> dict[str, Any]:
    """Facts for a run's JSON: nothing that tells whose machine it is."""
    return {
        "kernel": platform.release(), "architecture": platform.machine(), "distribution": _distribution(),
        "cpus": len(os.sched_getaffinity(0)), "cpu": _row("/proc/cpuinfo", "model name"), "memory": _memory(),
        "load": round(os.getloadavg()[0], 2), "cgroups": _cgroups(), "python": platform.python_version(),
        "user": "root" if os.geteuid() == 0 else "user",
        "clock": _text("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
        "governor": _text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")}


def _text(path: str) -> str:
    with suppress(OSError), open(path) as file:
        return file.read().strip()
    return ""


def _row(path: str, name: str) -> str:
    with suppress(OSError), open(path) as rows:
        for row in rows:
            if row.partition(":")[0].strip() == name:
                return row.partition(":")[2].strip()
    return ""


def _memory() -> int:
    """Of the machine, in bytes."""
    return int((_row("/proc/meminfo", "MemTotal") or "0").split()[0]) << 10


def _distribution() -> str:
    with suppress(OSError):
        return platform.freedesktop_os_release().get("PRETTY_NAME", "")
    return ""


def _cgroups() -> str:
    """Which version the controllers are in."""
    from mycontainer.engine import cgroup_v1

    return "v1" if cgroup_v1.in_use() else "v2"
