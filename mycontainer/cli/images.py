"""`mycontainer images`: what can be run here."""

from __future__ import annotations

import os
from collections.abc import Sequence

from mycontainer import images
from mycontainer.cli.options import Command

IMAGES = Command("mycontainer images", "List the images that are here.")


def main(arguments: Sequence[str]) -> int:
    """List the images: name, size, where the file is."""
    given, _ = IMAGES.parse(arguments)
    if "help" in given:
        print(IMAGES.help(), end="")
        return 0
    if not images.names():
        print(f"No images yet. {images.HOW_TO_BUILD}")
        return 0
    print(f"{'IMAGE':20} {'SIZE':>9}  FILE")
    for name in images.names():
        path = images.find(name)
        print(f"{name + ':latest':20} {os.stat(path).st_size / 1e6:6.1f} MB  {path}")
    return 0
