"""All subjects there are, by name; each is loaded when it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib import import_module

from mycontainer.bench.subject import Subject
from mycontainer.errors import ContainerError


def _lazily(module: str, name: str) -> Callable[[], Subject]:
    def make() -> Subject:
        subject: Subject = getattr(import_module(f"mycontainer.bench.{module}"), name)()
        return subject
    return make


# In the order of a table: the lightest first.
ALL: dict[str, Callable[[], Subject]] = {
    "process": _lazily("plain", "Process"),
    "chroot": _lazily("plain", "Chroot"),
    "unshare": _lazily("plain", "Unshare"),
    "bubblewrap": _lazily("plain", "Bubblewrap"),
    "ours-api": _lazily("ours", "Api"),
    "ours-cli": _lazily("ours", "CommandLine"),
    "ours-image": _lazily("ours", "FromImage"),
    "crun": _lazily("engines", "Crun"),
    "runc": _lazily("engines", "Runc"),
    "lxc": _lazily("systems", "Lxc"),
    "nspawn": _lazily("systems", "Nspawn"),
    "podman": _lazily("managers", "Podman"),
    "docker": _lazily("managers", "Docker"),
    "vm-micro": _lazily("machines", "Micro"),
    "vm-debian": _lazily("machines", "Debian"),
    "vm-web": _lazily("machines", "Web"),
    "firecracker": _lazily("machines", "Firecracker"),
    "cloud-hypervisor": _lazily("machines", "CloudHypervisor"),
}


def named(names: Iterable[str]) -> list[Subject]:
    """The subjects of these names, in the order given. Raises ContainerError for a name that none has."""
    from difflib import get_close_matches

    found = []
    for name in dict.fromkeys(names):
        if name not in ALL:
            close = get_close_matches(name, ALL, n=1)
            hint = f"Did you mean {close[0]}?" if close else f"There are: {', '.join(ALL)}"
            raise ContainerError(f"no such subject: {name}", hint=hint)
        found.append(ALL[name]())
    return found
