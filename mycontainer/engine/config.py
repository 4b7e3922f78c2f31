"""The configuration of a container as all engines write it: ``config.json`` of the OCI runtime-spec.

It says what the kernel must do; what a person asked for (an image, ports, a name) is another noun (api.py).
Read here into plain values, each checked once, so that whatever executes it need not doubt them. What is
wrong is told with its place, ``process.args[0]: expected a string, got 3``; what is right and cannot be done
here is refused by name; what the specification does not know is ignored, as it demands.

https://github.com/opencontainers/runtime-spec, config.md and config-linux.md, versions 1.0 to 1.2.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

from mycontainer.engine.config_linux import Linux, read_linux
from mycontainer.engine.config_mounts import Mount, read_mount
from mycontainer.engine.config_process import Process, read_environment, read_process
from mycontainer.engine.reader import INT64, Reader, parse
from mycontainer.errors import explain

FILE = "config.json"
VERSION = "1.2.0"  # of the specification, that we know
LONGEST_HOSTNAME = 64  # man 2 sethostname

# When hooks are called: config.md, "POSIX-platform Hooks".
HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")


class Root(NamedTuple):
    """The root directory, as a path out here."""

    path: str
    readonly: bool = False


class Hook(NamedTuple):
    """A program that somebody wants to have called; ``timeout`` in seconds, None: as long as it takes."""

    path: str
    args: tuple[str, ...]
    env: tuple[str, ...]
    timeout: int | None


class Config(NamedTuple):
    """All of it. ``process`` may be missing: such a container can be created, and never started."""

    version: str
    root: Root
    process: Process | None
    mounts: tuple[Mount, ...]
    linux: Linux
    hostname: str = ""
    domainname: str = ""
    hooks: Mapping[str, tuple[Hook, ...]] = MappingProxyType({})
    annotations: Mapping[str, str] = MappingProxyType({})


def load(bundle: str) -> tuple[Config, bytes]:
    """Read the configuration of a bundle, a directory; returns it and its text, which is kept: what is
    written to the file later must not count. Raises ContainerError.
    """
    try:
        with open(os.path.join(bundle, FILE), "rb") as file:
            text = file.read()
    except OSError as error:
        raise explain(f"cannot read the configuration of {bundle}", error,
                      f"A bundle is a directory with {FILE}: mycontainer-oci spec makes one.") from error
    return read(text, bundle), text


def read(text: bytes | str, bundle: str = "/") -> Config:
    """Read and check a configuration; paths in it that are relative count from ``bundle``."""
    document = parse(text, FILE)
    if not isinstance(document.value, dict):
        document.expected("an object")
    linux = read_linux(document["linux"].required())
    found = Config(
        _version(document["ociVersion"]), _root(document["root"].required(), bundle),
        read_process(document["process"]) if document["process"] else None,
        tuple(_in_bundle(mount, bundle) for mount in document["mounts"].each(read_mount)), linux,
        _name(document["hostname"], linux), _name(document["domainname"], linux),
        {name: document["hooks"][name].each(_hook) for name in HOOKS if document["hooks"][name].value},
        _annotations(document["annotations"]))
    for mount, place in zip(found.mounts, document["mounts"].items(), strict=True):
        if mount.idmap and not mount.uid_map and "user" not in linux.namespaces:
            place["options"].fail(f"{mount.idmap} needs mappings: its own, or those of a user namespace")
    return found


def _version(version: Reader) -> str:
    text = version.required().string()
    numbers = text.partition("-")[0].partition("+")[0].split(".")
    if len(numbers) != 3 or not all(number.isascii() and number.isdecimal() for number in numbers):
        version.fail(f"not a version such as {VERSION}: {version.shown()}")
    if numbers[0] != "1":
        version.refuse(f"version {text} of the specification: 1.x is")
    return text


def _root(root: Reader, bundle: str) -> Root:
    path = root["path"].required().string()
    if not path:
        root["path"].fail("is empty")
    return Root(os.path.normpath(os.path.join(bundle, path)), root["readonly"].boolean())


def _in_bundle(mount: Mount, bundle: str) -> Mount:
    if mount.is_bind and not mount.source.startswith("/"):
        return mount._replace(source=os.path.normpath(os.path.join(bundle, mount.source)))
    return mount


def _name(name: Reader, linux: Linux) -> str:
    """A name for this machine, which nobody may give to the whole machine."""
    text = name.string()
    if len(os.fsencode(text)) > LONGEST_HOSTNAME:
        name.fail(f"longer than {LONGEST_HOSTNAME} bytes")
    if text and "uts" not in linux.namespaces:
        name.fail("needs a uts namespace: it would rename the machine")
    return text


def _hook(hook: Reader) -> Hook:
    timeout = hook["timeout"].optional_integer(INT64)
    if timeout is not None and timeout <= 0:
        hook["timeout"].fail(f"{timeout} s is no time")
    path = hook["path"].absolute()
    return Hook(path, hook["args"].strings() or (path,), read_environment(hook["env"]), timeout)


def _annotations(annotations: Reader) -> dict[str, str]:
    found = annotations.texts()
    if "" in found:
        annotations.fail("one of them has no name")
    return found

