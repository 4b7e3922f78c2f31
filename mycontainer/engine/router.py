"""One router a network: a network namespace with the bridge in it, and nothing on the host.

    the host's network           the router                          a container
    listeners of -p ─ relay ───► bridge 10.88.0.1 ═══ veth ═════════ eth0 10.88.0.2

Whoever starts a container moves into the router: they wait there until it ends. So the router lives as long
as somebody needs it, and with the last of them bridge, cables, addresses and rules are gone, however they
ended. No device, rule or sysctl of the host is touched, so an ordinary user can have all of it. They need a
user namespace around it that owns the router and all its containers' namespaces: who may put one end of a
cable here and the other there is root over both (rtnetlink asks for CAP_NET_ADMIN twice).

A process cannot leave it again. This is for one that is there for a single container.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Sequence
from contextlib import suppress

from mycontainer import namespaces, network, paths, syscalls
from mycontainer.engine import idmap, leases, outlet, ports, uplink
from mycontainer.engine.leases import ROUTER, Lease, Network
from mycontainer.engine.outlet import Outlet
from mycontainer.engine.ports import Listener
from mycontainer.engine.state import started
from mycontainer.errors import ContainerError, explain

BRIDGE = "bridge0"
PR_SET_DUMPABLE = 4  # linux/prctl.h
LEAST_MTU, MOST_MTU = 1280, 65535  # bytes: IPv6 asks for the one, the other is what a packet's length can say


class Plug:
    """A container's place in a network, and its published ports; `leave` gives everything back.

    ``names`` are those by which the others find it. This process moves into the router. Raises
    ContainerError. In a lab the ports are led out of it too: ``outlets``, and why not, ``refusals``.
    """

    def __init__(self, name: str, names: Sequence[str], publish: Iterable[str] = (), mtu: int = 1500) -> None:
        if not LEAST_MTU <= mtu <= MOST_MTU:
            raise ContainerError(f"cannot have packets of {mtu} bytes", hint=f"{LEAST_MTU} to {MOST_MTU}.")
        self.mtu, self.relay, self.listeners = mtu, 0, list[Listener]()
        self.outlets, self.refusals = list[Outlet](), list[ContainerError]()
        wanted = [port for text in publish for port in ports.parse(text)]
        paths.pin()
        leases.sweep()
        self.network = Network(name)
        self.listeners = ports.open_all(wanted)  # out here: in the router they would be the router's
        self._lead_out()
        try:
            with self.network.locked():
                enter(self.network, mtu)
                self.place = self.network.take(names)
        except BaseException:
            self._close()
            leases.sweep()  # or an empty directory would stay
            raise
        try:
            self._start_relay()
        except BaseException:
            self.leave()
            raise

    def _lead_out(self) -> None:
        """In a lab: to the machine around it as well, as far as that is granted."""
        for port in outlet.worth_asking(self.published) if outlet.in_lab() else []:
            try:
                self.outlets.append(outlet.ask(port.outside, port.addresses[0]))
            except ContainerError as error:
                self.refusals.append(error)

    def _close(self) -> None:
        ports.close(self.listeners)
        for one in self.outlets:
            one.lease.close()

    @property
    def published(self) -> list[ports.Port]:
        """The open ports, with their real numbers."""
        return [listener.port for listener in self.listeners]

    def volumes(self) -> list[tuple[str, str, bool]]:
        """The network's files, for the container to have mounted."""
        return [(self.network.hosts, "/etc/hosts", True), (self.network.resolv, "/etc/resolv.conf", True)]

    def connect(self, pid: int) -> None:
        """Put a cable between the bridge and the network namespace of ``pid``, with addresses and a route."""
        name = f"veth{os.urandom(4).hex()}"
        place, own = self.place, [f"{self.place.ip}/{leases.PREFIX}"]
        routers = [ROUTER.ip]
        if has_ipv6():
            own, routers = [*own, f"{place.ip6}/{leases.PREFIX6}"], [*routers, ROUTER.ip6]
        try:  # locked: whoever joins the router by our pid must not find us in the container's namespace
            with self.network.locked():
                network.ask(network.veth(name, pid, mac=place.mac, mtu=self.mtu), network.plug(name, BRIDGE))
                with network.inside(pid):
                    network.ask(network.up("lo"), network.up("eth0"),
                                *(network.address("eth0", address) for address in own),
                                *(network.default_route(router) for router in routers))
        except OSError as error:
            raise explain(f"cannot plug the container into the network {self.network.name}", error) from error

    def _start_relay(self) -> None:
        """Fork the process that leads callers of the published ports to the container."""
        if not self.listeners:
            return
        starter = os.getpid()
        self.relay = os.fork()
        if self.relay == 0:  # the relay
            try:
                syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
                if os.getppid() == starter:
                    _relay(self.listeners, self.place.ip, [one.lease.fileno() for one in self.outlets])
            finally:
                os._exit(125)
        self._close()

    def leave(self) -> None:
        """End the relay and give the address back. Done twice is fine."""
        if self.relay:
            with suppress(ProcessLookupError):
                os.kill(self.relay, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(self.relay, 0)
            self.relay = 0
        with self.network.locked():
            if self.place in self.network.held:
                self.network.give_back(self.place)


def has_ipv6() -> bool:
    """Whether this kernel has IPv6 and it is switched on."""
    with suppress(OSError), open("/proc/sys/net/ipv6/conf/all/disable_ipv6") as file:
        return file.read().strip() == "0"
    return False


# ---- the router ------------------------------------------------------------------------------------------


def enter(there: Network, mtu: int = 1500) -> None:
    """Move this process into the router of a network, which must be `locked`; it is made if nobody has it."""
    if members := there.leases():
        there.belong()
        join(there, members)
        return
    there.belong()
    program = uplink.find()
    way_out = uplink.Uplink(program, there.members, f"{there.path}/{program}.log", mtu) if program else None
    try:
        if not idmap.real_root():
            own_user_namespace()
        namespaces.create(["net"])
        network.ask(network.up("lo"), network.bridge(BRIDGE, ROUTER.mac, mtu))
        network.ask(network.up(BRIDGE), network.address(BRIDGE, f"{ROUTER.ip}/{leases.PREFIX}"))
        if has_ipv6():
            network.ask(network.address(BRIDGE, f"{ROUTER.ip6}/{leases.PREFIX6}"))
        there.say_names(open_way_out(way_out, program))
    except OSError as error:
        raise explain(f"cannot make the network {there.name}", error) from error


def open_way_out(way_out: uplink.Uplink | None, program: str) -> str:
    """Let the router pass on what is for the world; returns what to tell its containers about names.

    Containers reach each other without it, so a network that has none is no failure.
    """
    if way_out is None:
        return leases.NO_WAY_OUT.format("neither slirp4netns nor pasta is installed")
    if not way_out.attach():
        return leases.NO_WAY_OUT.format(f"{program} could not make one")
    try:
        network.forward()
        network.masquerade(leases.NETWORK)
        network.masquerade(leases.NETWORK6)
    except (OSError, ContainerError) as error:
        return leases.NO_WAY_OUT.format(" ".join(str(error).split()))
    return f"nameserver {uplink.NAME_SERVER}\n"


def join(there: Network, members: Iterable[Lease]) -> None:
    """Move to where a member is. It may end while we look: then the next one."""
    failure: BaseException | None = None
    for member in members:
        try:
            if started(member.pid) == member.started:
                elsewhere = not namespaces.shared(member.pid)["user"]
                namespaces.enter(member.pid, ["user", "net"])
                if elsewhere:
                    become_root()
                return
        except OSError as error:
            failure = error
    raise explain(f"cannot join the network {there.name}", failure or ProcessLookupError(
        3, "whoever was in it has just left"), "Try once more.")


def own_user_namespace() -> None:
    """A user namespace with all ids that we have, whose root we become.

    Its maps have to be written from outside, so a child stays there for it. man 7 user_namespaces.
    """
    uid_map, gid_map = idmap.choose_maps()
    waits, say = os.pipe()
    hears, answer = os.pipe()
    us = os.getpid()
    child = os.fork()
    if child == 0:  # outside, to write the maps
        code = 1
        try:
            os.close(say)
            if os.read(waits, 1):
                namespaces.write_map(us, uid_map, gid_map)
                code = 0
        except BaseException as error:
            told = error if isinstance(error, ContainerError) else explain("cannot map ids", error)
            os.write(answer, "\t".join([told.what, told.reason, told.hint]).encode())
        finally:
            os._exit(code)
    os.close(waits)
    os.close(answer)
    with open(hears) as news:
        try:
            namespaces.create(["user"])
            os.write(say, b"u")
        finally:
            os.close(say)
            refusal = news.read()
            os.waitpid(child, 0)
    if refusal:
        what, reason, hint = refusal.split("\t")
        raise ContainerError(what, reason, hint)
    become_root()


def become_root() -> None:
    """Be root of the user namespace we are in, as the next member has to find us: our /proc files ours."""
    namespaces.become_root()
    syscalls.prctl(PR_SET_DUMPABLE, 1)


# ---- the relay -------------------------------------------------------------------------------------------


def _relay(listeners: Sequence[Listener], ip: str, leases: Iterable[int]) -> None:
    """The relay's whole life; it ends by a signal. While it has the ``leases``, a lab's outlets are open."""
    from mycontainer.engine.datagrams import Desk
    from mycontainer.engine.relay import Relay

    os.setpgid(0, 0)  # Ctrl-C is for the container
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):  # a pipe of the caller's must see its end without us
        os.dup2(null, fd)
    keep = {listener.socket.fileno() for listener in listeners} | {*leases}
    for fd in map(int, os.listdir("/proc/self/fd")):
        if fd > 2 and fd not in keep:
            with suppress(OSError):  # the one that we list with
                os.close(fd)
    desks: list[Desk] = []

    def expire() -> None:
        for desk in desks:
            desk.expire()

    relay = Relay(expire if any(port.protocol == "udp" for _, port in listeners) else None)
    for listener, port in listeners:
        if port.protocol == "udp":
            desks.append(Desk(relay.selector, listener, (ip, port.inside)))
        else:
            relay.publish(listener, (ip, port.inside))
    relay.run()
