"""A container as a person asks for it: an image, a command, a few wishes.

The chapters' functions do what they are told; here is decided what they are told: which namespaces, whose
ids, where the new root is put together, what the environment holds. `mycontainer run` and the notebooks
stand on this.
"""

from __future__ import annotations

import fcntl
import os
import termios
from collections.abc import Callable, Iterable, Mapping, Sequence

from mycontainer import container, images, namespaces, paths
from mycontainer.engine import idmap
from mycontainer.errors import EXIT_NOT_FOUND, ContainerError, explain
from mycontainer.spawn import Process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from mycontainer.engine.limits import Limits
    from mycontainer.engine.outlet import Outlet
    from mycontainer.engine.ports import Port
    from mycontainer.engine.router import Plug
    from mycontainer.engine.state import Container

OF_ANOTHER = "container:"  # the network of another container: container:NAME
Volume = container.Volume
LEAST_MEMORY = 6 << 20  # bytes, as Docker's: with less not even the start succeeds


def run(image: str | None, argv: Sequence[str], **wishes: object) -> int:
    """Run a command in a container to its end and return its exit code: `start`, then `Process.wait`."""
    return start(image, argv, **wishes).wait()  # type: ignore[arg-type]


def start(image: str | None, argv: Sequence[str], *, rootfs: str | None = None, hostname: str | None = None,
          env: Mapping[str, str] | None = None, workdir: str = "/", volumes: Iterable[Volume] = (),
          network: str = "", publish: Iterable[str] = (), name: str | None = None, mtu: int = 1500,
          find_pid: Callable[[str], int] | None = None,
          tell_ports: Callable[[list[Port]], object] | None = None,
          tell_outlets: Callable[[list[Outlet], list[ContainerError]], object] | None = None,
          terminal: int | None = None,
          memory: int | None = None, cpus: float | None = None, pids_limit: int | None = None) -> Process:
    """Start a command in a container of its own, and return it running.

    The root file system is a throw-away copy of ``image``; or, with image None, the directory ``rootfs``
    itself, whose changes stay. ``hostname`` is by default a random id, as Docker's; ``env`` is added to
    the default environment. ``network`` "none", the default, is a loopback device and nothing else, "host"
    the host's, "container:NAME" that of another (``find_pid`` tells a container's pid), and any other word
    the network of that name, made if it is not there: "bridge" is the default with ``publish``. Those are
    ports as Docker writes them; ``tell_ports`` is called with what they are then, and in a lab
    ``tell_outlets`` with where they are outside of it, and why they are not. In a network others find this
    container by its host name and by ``name``; and *this process moves into it for good*
    (engine/router.py), so it must be one that starts a single container. ``mtu`` is in bytes.
    There is always a user namespace, for root too: as long as no capability is dropped (chapter 9), it is
    what keeps root inside from being root out here. ``terminal`` is the descriptor of a pseudo-terminal's
    inner end, which becomes the command's terminal. ``memory`` (bytes), ``cpus`` and ``pids_limit`` are
    limits; the cgroup that they take is removed by `Process.wait`. Raises ContainerError.
    """
    publish = list(publish)
    network = network or ("bridge" if publish else "none")
    if publish and not _is_bridged(network):
        raise ContainerError(f"cannot publish a port with the network {network}",
                             hint="Leave --network out, or give the name of a network: --network bridge.")
    if not argv or not argv[0]:
        raise ContainerError("cannot run nothing", "the command has no name", exit_code=EXIT_NOT_FOUND)
    hostname = _checked_hostname(hostname or os.urandom(6).hex())
    workdir = _absolute(workdir, "working directory")
    own_net = network == "none" or _is_bridged(network)
    kinds = [kind for kind in container.KINDS if kind != "net" or own_net]
    if image is None and terminal is not None:
        raise ContainerError("cannot have a terminal in a root directory of your own", "not built yet",
                             "Leave out -t, or start from an image.")
    root, unpack = _rootfs(rootfs) if image is None else _fresh(image, hostname, workdir, terminal)
    shown = [_checked_volume(volume) for volume in volumes]
    limits = _limits(memory, cpus, pids_limit)
    if limits and "net" in kinds:  # there is a /sys
        shown = limits.volumes() + shown
    root_outside = idmap.choose_maps()[0][0][1]
    try:
        plug = _join(network, [name or hostname, hostname], publish, mtu, find_pid)
        process = _start(limits, plug, argv, root, kinds=kinds, unpack=unpack, workdir=workdir,
                         hostname=hostname, env={**_environment(hostname), **(env or {})}, volumes=shown)
        if plug and tell_ports:
            tell_ports(plug.published)
        if plug and tell_outlets:
            tell_outlets(plug.outlets, plug.refusals)
        return process
    except BaseException as error:
        if limits:
            limits.remove()
        if isinstance(error, ContainerError) and rootfs and not error.hint:
            error.hint = (f"Root of the container is user {root_outside} out here, who must be able to get "
                          f"to {rootfs}, and finds proc, sys and dev there or may make them.")
        raise


def _is_bridged(network: str) -> bool:
    return network not in ("none", "host") and not network.startswith(OF_ANOTHER)


def _join(network: str, names: Sequence[str], publish: Sequence[str], mtu: int,
          find_pid: Callable[[str], int] | None) -> Plug | None:
    """Enter the network that is asked for, where that is one to enter."""
    if _is_bridged(network):
        from mycontainer.engine.router import Plug

        return Plug(network, names, publish, mtu)
    if network.startswith(OF_ANOTHER):
        if find_pid is None:
            raise ContainerError(f"cannot use the network {network}", "nobody here knows containers by name",
                                 "To share one with others: --network NAME, the same for all.")
        try:
            namespaces.enter(find_pid(network.removeprefix(OF_ANOTHER)),
                             ["net"] if idmap.real_root() else ["user", "net"])
        except OSError as error:
            raise explain(f"cannot enter the network of {network}", error) from error
    return None


def execute(one: Container, argv: Sequence[str], *, env: Mapping[str, str] | None = None,
            workdir: str | None = None, terminal: int | None = None) -> Process:
    """Start one more command in a container that runs (`state.find`), with its environment, limits and all.

    ``env`` is added; the others are as for `start`. Raises ContainerError.
    """
    from mycontainer.engine import join

    return join.start(one, argv, {**_environment(one.hostname), **one.env, **(env or {})},
                      _absolute(workdir or one.workdir, "working directory"),
                      None if terminal is None else lambda: _take(terminal))


def _limits(memory: int | None, cpus: float | None, pids: int | None) -> Limits | None:
    """The cgroup that is asked for, if any."""
    there = os.cpu_count() or 1
    if memory is not None and memory < LEAST_MEMORY:
        raise ContainerError(f"not enough memory: {memory} bytes", hint="6m is the least.")
    if cpus is not None and not 0.01 <= cpus <= there:
        raise ContainerError(f"cannot have {cpus} CPUs", hint=f"From 0.01 to {there}, as many as there are.")
    if pids is not None and pids <= 0:
        pids = None
    if (memory, cpus, pids) == (None, None, None):
        return None
    from mycontainer.engine.limits import Limits  # nobody else should pay for loading it

    return Limits(os.urandom(6).hex(), memory, cpus, pids)


def _start(limits: Limits | None, plug: Plug | None, argv: Sequence[str], root: str,
           volumes: Sequence[Volume], **how: Any) -> Process:
    """`container.start` in the cgroup of ``limits`` and with the cable of ``plug``, which go with it."""
    uid_map, gid_map = idmap.choose_maps()  # here: in a network an ordinary user is root of a user namespace
    try:
        process = container.start(argv, root, cgroup=limits.cgroup if limits else None,
                                  connect=plug.connect if plug else None, uid_map=uid_map, gid_map=gid_map,
                                  volumes=[*(plug.volumes() if plug else []), *volumes], **how)
    except BaseException as error:
        if plug:
            plug.leave()
        if isinstance(error, OSError):
            raise explain("cannot start the container", error) from error
        raise

    def at_end() -> None:
        if plug:
            plug.leave()
        if limits:
            limits.remove()

    process.at_end = at_end
    return process


def _fresh(image: str, hostname: str, workdir: str,
           terminal: int | None) -> tuple[str, Callable[[str], None]]:
    """The place where a fresh root is mounted, and what fills it.

    The tar is read out here, by us: root of the container may have no right to walk to it.
    """
    tar = _read(_find_or_build(image))

    def fill(root: str) -> None:
        images.unpack(tar, root)
        _write(root, "etc/hostname", "w", f"{hostname}\n")
        _write(root, "etc/hosts", "a", f"127.0.0.1\t{hostname}\n")  # many a server looks itself up
        with paths.target(root, workdir):
            pass  # it makes what is missing
        if terminal is not None:
            _take(terminal)

    return _mount_point(), fill


def _find_or_build(image: str) -> str:
    """The path of an image; the base image is built when it is asked for and was not yet there."""
    if image in ("busybox", "busybox:latest") and "busybox" not in images.names():
        from mycontainer.images import base  # slow to load, and needed once

        return base.build()
    return images.find(image)


def _take(terminal: int) -> None:
    """Make a terminal the one of this process, which leads a session without one. man 4 tty_ioctl."""
    fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
    for fd in (0, 1, 2):
        os.dup2(terminal, fd)


def _write(root: str, path: str, mode: str, text: str) -> None:
    with paths.target(root, path, directory=False) as file, open(file, mode) as stream:
        stream.write(text)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except OSError as error:
        raise explain("cannot read the image", error) from error


def _mount_point() -> str:
    """A directory to mount a fresh root on; in the container's own mount namespace, so one serves for all."""
    path = os.path.join(paths.runtime_dir(), "root")
    try:
        os.makedirs(path, mode=0o755, exist_ok=True)
    except OSError as error:
        raise explain("cannot make the place for the new root", error) from error
    return path


def _rootfs(directory: str | None) -> tuple[str, None]:
    if not directory:
        raise ContainerError("nothing to start from", "no image and no root directory")
    if not os.path.isdir(directory):
        raise ContainerError(f"cannot use {directory} as a root file system", "not a directory")
    return os.path.abspath(directory), None


def _environment(hostname: str) -> dict[str, str]:
    """What a command finds in its environment: of ours only the terminal's kind, if any."""
    env = {**container.ENVIRONMENT, "HOSTNAME": hostname}
    if os.isatty(0) and "TERM" in os.environ:
        env["TERM"] = os.environ["TERM"]
    return env


def _checked_hostname(name: str) -> str:
    letters = name.replace("-", "").replace(".", "")
    if not (name.isascii() and letters.isalnum() and len(name) <= 64 and (name[0] + name[-1]).isalnum()):
        raise ContainerError(f"not a host name: {name}",
                             hint="Up to 64 letters, digits, '-' and '.', the latter two not at its ends.")
    return name


def _absolute(path: str, what: str) -> str:
    if not path.startswith("/"):
        raise ContainerError(f"not an absolute path: {path}",
                             hint=f"The {what} is a path inside the container, from its root on.")
    return path


def _checked_volume(volume: Volume) -> Volume:
    source, inside, readonly = volume
    if not os.path.lexists(source):
        raise ContainerError(f"no such file or directory: {source}",
                             hint="A volume shows something of yours inside, so it has to be there.")
    return os.path.abspath(source), _absolute(inside, "second part of a volume"), readonly
