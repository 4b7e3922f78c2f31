"""The user space that all of them run: busybox, from the course's base image, the same bytes for each."""

from __future__ import annotations

import os
from pathlib import Path

from mycontainer.bench.subject import Missing
from mycontainer.images import base, tar


def lack() -> Missing | None:
    """What hinders us from making one; None if nothing does."""
    if base.find_static_busybox():
        return None
    return Missing("no static busybox, of which the user space is made", "apt install busybox-static")


def image(place: Path) -> Path:
    """The base image's tar."""
    return Path(base.build(place / "busybox.tar"))


def unpacked(place: Path) -> Path:
    """The base image as a directory, ``place``/rootfs, into which everybody may look."""
    root = place / "rootfs"
    root.mkdir()
    tar.unpack(image(place), root)
    for name in ("proc", "sys", "dev"):
        (root / name).mkdir(exist_ok=True)
    (root / "tmp").mkdir(exist_ok=True)
    os.chmod(root / "tmp", 0o1777)
    os.chmod(root, 0o755)  # root of a container is a stranger out here, whatever the umask
    return root
