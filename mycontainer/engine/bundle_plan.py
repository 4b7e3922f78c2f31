"""The plan of a bundle: from its configuration to the steps, each with the arguments that it will have.

What only shows up on the way (the pid, descriptors) is kept in a `Ground`, whose methods are the steps that
need it. What is right in a configuration and cannot be done here is refused while the list is made, so before
anything is touched.
"""

from __future__ import annotations

from collections.abc import Iterator

from mycontainer import cgroups, chroot, container, namespaces, spawn
from mycontainer.engine import bundle_cgroup, calls, copy_up, hooks, idmap, rights, rootfs
from mycontainer.engine.bundle_ground import Ground
from mycontainer.engine.config import Config
from mycontainer.engine.config_mounts import Mount
from mycontainer.engine.config_process import Process
from mycontainer.engine.plan import (
    CREATED,
    GO,
    INSIDE,
    MAPPED,
    MOUNTED,
    NETWORKED,
    OUTSIDE,
    RUNNER,
    Plan,
    Step,
    meeting,
)
from mycontainer.engine.reader import Unsupported
from mycontainer.syscalls import MS_PRIVATE, MS_REC, Flags

MOMENTS = ("prestart", "createRuntime", "createContainer")  # hooks between the mounts and pivot_root


def make(config: Config, ground: Ground, waits: bool) -> Plan:
    """The steps of a start. With ``waits`` PID 1 stops before its command, until `start`."""
    steps = [*_outside(config, ground, waits), *_runner(config, ground), *_born(config, ground),
             *_mounts(config, ground), *_root(config, ground), *_last(config, ground, waits)]
    return Plan(steps, ground.journal)


def _outside(config: Config, ground: Ground, waits: bool) -> Iterator[Step]:
    if config.hooks:
        yield Step("get ready for hooks", 7, OUTSIDE, hooks.load)
    if config.linux.seccomp:
        yield Step("compile the filter", 9, OUTSIDE, ground.compile_filter, (config.linux.seccomp,))
    if path := ground.cgroup:
        yield Step("make the cgroup", 3, OUTSIDE, bundle_cgroup.make, (path,),
                   record=lambda: bundle_cgroup.missing(path))
        if config.linux.resources.limited:
            yield Step("set its limits", 3, OUTSIDE, bundle_cgroup.limit, (path, config.linux.resources))
        if idmap.real_root():
            yield Step("allow devices", 3, OUTSIDE, bundle_cgroup.allow_devices,
                       (path, config.linux.resources.devices))
    if waits:
        yield Step("listen for start", 7, OUTSIDE, ground.listen, (f"{ground.directory}/start",))
    if config.process and config.process.terminal:
        yield Step("reach the console", 7, OUTSIDE, ground.connect_console, (ground.console_socket,))


def _runner(config: Config, ground: Ground) -> Iterator[Step]:
    linux = config.linux
    if linux.joined:
        yield Step("join namespaces", 2, RUNNER, ground.join, (linux.joined,))
    yield Step("make namespaces", 2, RUNNER, namespaces.create, (linux.made,), spawned=True)
    yield meeting(CREATED, 2)
    if "user" in linux.made:
        uid_map, gid_map = (linux.uid_map, linux.gid_map) if linux.uid_map else idmap.choose_maps()
        yield Step("write the id maps", 2, OUTSIDE, namespaces.write_map,
                   ("the runner", list(uid_map), list(gid_map)), spawned=True)
    if linux.clocks:
        yield Step("set the clocks", 2, OUTSIDE, ground.set_clocks, (linux.clocks,))
    yield meeting(MAPPED, 2)
    if "user" in linux.made:
        yield Step("become root inside", 2, RUNNER, namespaces.become_root, spawned=True)


def _born(config: Config, ground: Ground) -> Iterator[Step]:
    yield Step("note PID 1", 7, OUTSIDE, ground.note, record=ground.process_record)
    if ground.cgroup:
        yield Step("join the cgroup", 3, OUTSIDE, ground.join_cgroup, (ground.cgroup,))
    if (process := config.process) and process.rlimits:
        yield Step("raise hard limits", 7, OUTSIDE, ground.raise_limits, (process.rlimits,))
    if process and process.oom_score_adj is not None:
        yield Step("set the OOM score", 3, OUTSIDE, ground.set_oom_score, (process.oom_score_adj,))
    yield meeting(NETWORKED)
    kinds = tuple(kind for kind in config.linux.made if kind != "uts" or config.hostname)
    yield Step("settle in", 6, INSIDE, container.settle, (kinds, config.hostname, True))
    if config.domainname:
        yield Step("set the domain name", 2, INSIDE, calls.setdomainname, (config.domainname,))
    for name, value in config.linux.sysctl:
        yield Step(f"set {name}", 2, INSIDE, set_parameter, (name, value))
    if config.linux.propagation:
        spread = config.linux.propagation & ~MS_REC
        if spread != MS_PRIVATE:
            yield Step("receive mounts", 1, INSIDE, rootfs.propagate, ("/", Flags("MS_", spread | MS_REC)))


def _mounts(config: Config, ground: Ground) -> Iterator[Step]:
    root = config.root.path
    for number, mount in enumerate(config.mounts):
        _check(mount, f"mounts[{number}].options")
        yield _mount_step(root, mount, ground, "cgroup" in config.linux.namespaces)
    if not any(mount.is_bind and mount.destination == "/dev" for mount in config.mounts):
        yield Step("make devices", 1, INSIDE, rootfs.make_default_devices, (root,))
    for device in config.linux.devices:
        if device.path == "/dev/ptmx":
            continue  # the machine's own, which a privileged container is offered; it has one already
        yield Step(f"make {device.path}", 1, INSIDE, rootfs.make_device, (root, device))
    if config.process:
        yield Step("make the working directory", 1, INSIDE, rootfs.make_directory, (root, config.process.cwd))
    if any(config.hooks.get(moment) for moment in MOMENTS):
        yield from _hooks(config, ground)
    for path in config.linux.readonly:
        yield Step(f"protect {path}", 9, INSIDE, rootfs.make_read_only, (root, path))
    for path in config.linux.masked:
        yield Step(f"mask {path}", 9, INSIDE, rootfs.mask, (root, path))


def _check(mount: Mount, place: str) -> None:
    if mount.idmap:
        raise Unsupported(place, "not supported: mounts with translated ids")


def _mount_step(root: str, mount: Mount, ground: Ground, own_cgroups: bool) -> Step:
    name, flags = f"mount {mount.destination}", Flags("MS_", mount.flags)
    if mount.is_bind:
        again = bool(mount.flags & 0x20)  # MS_REMOUNT
        return Step(f"show {mount.destination}", 4, INSIDE, rootfs.bind,
                    (root, mount.destination, mount.source, bool(mount.flags & MS_REC), mount.attributes,
                     mount.recursive, again))
    if mount.copy_up:
        return Step(name, 4, INSIDE, copy_up.mount,
                    (root, mount.destination, mount.source, flags, mount.data))
    if mount.kind in ("cgroup", "cgroup2"):
        return _cgroup_step(name, root, mount, ground, own_cgroups)
    return Step(name, 1, INSIDE, rootfs.mount,
                (root, mount.destination, mount.kind, mount.source, flags, mount.data))


def _cgroup_step(name: str, root: str, mount: Mount, ground: Ground, own_namespace: bool) -> Step:
    """What shows the container its cgroup. Without one of its own it sees those of the machine, unchanged."""
    flags, where = Flags("MS_", mount.flags), mount.destination
    if not ground.cgroup or not ground.version_1:
        if own_namespace and not ground.version_1:
            return Step(name, 3, INSIDE, rootfs.mount, (root, where, "cgroup2", "cgroup", flags, ""))
        source = bundle_cgroup.directories(ground.cgroup)[0] if ground.cgroup else cgroups.ROOT
        return Step(name, 3, INSIDE, rootfs.bind, (root, where, source, True, (0, 0), (1, 0), False))
    if own_namespace:
        trees = bundle_cgroup.tree_controllers()
        return Step(name, 3, INSIDE, rootfs.mount_new_cgroups, (root, where, trees, flags))
    return Step(name, 3, INSIDE, rootfs.mount_cgroups,
                (root, where, bundle_cgroup.own_trees(ground.cgroup), flags))


def _hooks(config: Config, ground: Ground) -> Iterator[Step]:
    yield Step("say that all is mounted", 7, INSIDE, spawn.meet, (MOUNTED,))
    for moment in MOMENTS[:2]:
        if config.hooks.get(moment):
            yield Step(f"call {moment} hooks", 7, OUTSIDE, ground.call_hooks, (moment, config.hooks[moment]))
    yield meeting(MOUNTED)
    if these := config.hooks.get(MOMENTS[2]):
        yield Step(f"call {MOMENTS[2]} hooks", 7, INSIDE, ground.call_hooks, (MOMENTS[2], these))


def _root(config: Config, ground: Ground) -> Iterator[Step]:
    yield Step("look at our rights", 9, INSIDE, ground.look)
    yield Step("change the root", 1, INSIDE, chroot.pivot, (config.root.path,))
    for mount in config.mounts:
        for flags in mount.propagation:
            yield Step(f"spread {mount.destination}", 1, INSIDE, rootfs.propagate,
                       (mount.destination, Flags("MS_", flags)))
    if config.linux.propagation:
        spread = Flags("MS_", config.linux.propagation)
        yield Step("spread the root", 1, INSIDE, rootfs.propagate, ("/", spread))


def _last(config: Config, ground: Ground, waits: bool) -> Iterator[Step]:
    process = config.process
    if process and process.terminal:
        yield Step("open the terminal", 7, INSIDE, ground.open_terminal,
                   (process.user.uid, process.console_size))
    if process:
        yield Step("find the command", 6, INSIDE, rights.find_command, (process.args[0], process.env))
    yield Step("close the root", 1, INSIDE, rootfs.close_root, (config.root.readonly,))
    yield Step("let go of the outside", 7, INSIDE, ground.let_go, (waits,))
    if waits:
        yield meeting(GO)
        yield Step("wait for start", 7, INSIDE, ground.wait_for_start)
    if not process:
        return
    if config.hooks.get("startContainer"):
        yield Step("call startContainer hooks", 7, INSIDE, ground.call_hooks,
                   ("startContainer", config.hooks["startContainer"]))
    if config.linux.personality is not None:
        yield Step("take on a personality", 7, INSIDE, calls.personality, (config.linux.personality,))
    yield from take_rights(config, process, ground)


def take_rights(config: Config, process: Process, ground: Ground) -> Iterator[Step]:
    """The last steps of whoever becomes a command in a container, at its start or by `exec`."""
    yield Step("work in its directory", 1, INSIDE, rights.work_in, (process.cwd,))
    if process.scheduler:
        yield Step("schedule", 7, INSIDE, rights.schedule, (process.scheduler,))
    if process.rlimits:
        yield Step("limit the process", 7, INSIDE, rights.set_limits, (process.rlimits,))
    under = [Step("filter system calls", 9, INSIDE, ground.filter_calls, (config.linux.seccomp.flags,))
             ] if config.linux.seccomp else []
    if not process.no_new_privileges:
        yield from under  # now, as it takes CAP_SYS_ADMIN of those who might gain something
    yield Step("become the user", 9, INSIDE, ground.become, (process.user, process.capabilities))
    if process.no_new_privileges:
        yield Step("gain nothing", 9, INSIDE, rights.gain_nothing)
        yield from under
    yield Step("become the command", 6, INSIDE, ground.execute, (process.args, process.env))


def set_parameter(name: str, value: str) -> None:
    """Write a parameter of the kernel's that belongs to one of our new namespaces. man 8 sysctl."""
    with open("/proc/sys/" + name.replace(".", "/"), "w") as file:
        file.write(value)

