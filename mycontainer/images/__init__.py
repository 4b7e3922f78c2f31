"""Images: the root file systems that containers start from.

An image is a tar in ``images/`` of `paths.data_dir`, found by its name: ``busybox``, or ``busybox:latest``.
"""

from __future__ import annotations

import os

from mycontainer import paths
from mycontainer.errors import ContainerError, explain
from mycontainer.images.tar import unpack as unpack

SUFFIX = ".tar"
HOW_TO_BUILD = "To build busybox: python -m mycontainer.images.base"


def names() -> list[str]:
    """The images that are there, sorted."""
    try:
        files = os.listdir(_directory())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise explain(f"cannot read {_directory()}", error) from error
    return sorted(name.removesuffix(SUFFIX) for name in files if name.endswith(SUFFIX) and name[0] != ".")


def find(name: str) -> str:
    """The path of the tar of an image. Raises ContainerError for a name that no image here has."""
    image = name.removesuffix(":latest")
    if image in names():  # a look into the list, for "../x" is a path but never a name
        return os.path.join(_directory(), image + SUFFIX)
    if not names():
        raise ContainerError(f"no such image: {name}", hint=f"Here is none yet. {HOW_TO_BUILD}")
    raise ContainerError(f"no such image: {name}",
                         hint=f"Here is: {', '.join(names())}. Pulling others comes with chapter 8.")


def _directory() -> str:
    return os.path.join(paths.data_dir(), "images")
