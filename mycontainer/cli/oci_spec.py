"""What `mycontainer-oci` tells about itself: a configuration to begin with, its features, its version."""

from __future__ import annotations

import json
import os
from collections.abc import Callable

from mycontainer import __version__
from mycontainer.cli.options import Command, Option
from mycontainer.engine import config, config_process
from mycontainer.engine.config_linux import KINDS
from mycontainer.engine.config_mounts import FLAGS, PROPAGATION, RECURSIVE
from mycontainer.engine.config_seccomp import ACTIONS, ARCHITECTURES, OPERATORS
from mycontainer.engine.config_seccomp import FLAGS as FILTER_FLAGS
from mycontainer.errors import ContainerError, explain

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SPEC = Command("mycontainer-oci spec [OPTIONS]", "Write a config.json to begin with.",
               Option("bundle", "into this directory (default: this one)", "DIR", "b"),
               Option("rootless", "for an ordinary user: with a user namespace"))
FEATURES = Command("mycontainer-oci features", "Tell what this runtime can do, as JSON.")

PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
RIGHTS = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
MASKED = ["/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
          "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware", "/proc/scsi"]
READ_ONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]
QUIET = ["nosuid", "noexec", "nodev"]


def version_text() -> str:
    """In the three lines that dockerd looks for."""
    return f"mycontainer-oci version {__version__}\ncommit: none\nspec: {config.VERSION}"


def example(rootless: bool) -> dict[str, Any]:
    """A configuration for a shell in a directory called rootfs."""
    mounts = [
        ("/proc", "proc", "proc", []),
        ("/dev", "tmpfs", "tmpfs", ["nosuid", "strictatime", "mode=755", "size=65536k"]),
        ("/dev/pts", "devpts", "devpts", ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620",
                                          *["gid=5"] * (not rootless)]),
        ("/dev/shm", "tmpfs", "shm", [*QUIET, "mode=1777", "size=65536k"]),
        ("/dev/mqueue", "mqueue", "mqueue", QUIET),
        ("/sys", "none", "/sys", ["rbind", *QUIET, "ro"]) if rootless else
        ("/sys", "sysfs", "sysfs", [*QUIET, "ro"]),
        ("/sys/fs/cgroup", "cgroup", "cgroup", [*QUIET, "relatime", "ro"]),
    ]
    kinds = ["pid", "ipc", "uts", "mount", *(["user"] if rootless else ["network"])]
    linux: dict[str, Any] = {"namespaces": [{"type": kind} for kind in kinds], "maskedPaths": MASKED,
                             "readonlyPaths": READ_ONLY}
    if rootless:
        linux |= {f"{kind}Mappings": [{"containerID": 0, "hostID": ours, "size": 1}]
                  for kind, ours in (("uid", os.geteuid()), ("gid", os.getegid()))}
    else:
        linux["resources"] = {"devices": [{"allow": False, "access": "rwm"}]}
    return {
        "ociVersion": config.VERSION,
        "process": {
            "terminal": True, "user": {"uid": 0, "gid": 0}, "args": ["sh"], "env": [PATH, "TERM=xterm"],
            "cwd": "/", "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), RIGHTS),
            "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}], "noNewPrivileges": True},
        "root": {"path": "rootfs", "readonly": True}, "hostname": "mycontainer",
        "mounts": [{"destination": where, "type": kind, "source": source, "options": words}
                   for where, kind, source, words in mounts],
        "linux": linux}


def spec(root: str, arguments: list[str]) -> int:
    given, words = SPEC.parse(arguments)
    if "help" in given or words:
        print(SPEC.help(), end="")
        return 0 if "help" in given else 1
    path = os.path.join(given.get("bundle", ["."])[-1], config.FILE)
    try:
        with open(path, "x") as file:
            json.dump(example("rootless" in given), file, indent=2)
            file.write("\n")
    except FileExistsError:
        raise ContainerError(f"{path} is there already", hint="Give another --bundle.") from None
    except OSError as error:
        raise explain(f"cannot write {path}", error) from error
    return 0


def features(root: str, arguments: list[str]) -> int:
    """runtime-spec, features.md."""
    words = sorted({*FLAGS, *RECURSIVE, *PROPAGATION})
    print(json.dumps({
        "ociVersionMin": "1.0.0", "ociVersionMax": config.VERSION, "hooks": list(config.HOOKS),
        "mountOptions": words,
        "linux": {
            "namespaces": sorted(KINDS), "capabilities": list(config_process.CAPABILITIES),
            "cgroup": {"v1": True, "v2": True, "systemd": False, "systemdUser": False, "rdma": False},
            "seccomp": {"enabled": True, "actions": list(ACTIONS), "operators": list(OPERATORS),
                        "archs": list(ARCHITECTURES), "supportedFlags": list(FILTER_FLAGS)},
            "apparmor": {"enabled": False}, "selinux": {"enabled": False},
            "intelRdt": {"enabled": False},
            "mountExtensions": {"idmap": {"enabled": False}}},
    }, indent=2))
    return 0


VERBS: dict[str, Callable[[str, list[str]], int]] = {"spec": spec, "features": features}
