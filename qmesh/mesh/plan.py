"""Two `NodeState`s in, steps out; and `simulate_step`, the pure model of what a step does to a machine.

The law: folding `simulate_step` over `plan(desired, observed)` from `observed` settles at `desired`, and
`plan_steps` of a machine that is as desired is `()`. Order: the guard is loaded before anything of the
tunnel is touched, and is removed last.

Every step is a value with old and new, so that the same value is printed, logged and applied.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import reduce
from typing import TypeAlias

import msgspec

from qmesh.mesh.state import (
    AlteredGuard,
    Guard,
    NodeState,
    Peer,
    Tunnel,
    TunnelRoute,
    list_address_routes,
)
from qmesh.mesh.values import InterfaceKind, format_port_ranges


class LoadGuard(msgspec.Struct, frozen=True):
    """Load the guard, and remove what was there before, in one transaction."""

    old: Guard | AlteredGuard | None
    new: Guard
    kind = "load-guard"
    subject = "inet qmesh"


class UnloadGuard(msgspec.Struct, frozen=True):
    """Remove the guard: the worker ports are open to everyone after this."""

    old: Guard | AlteredGuard
    kind = "unload-guard"
    subject = "inet qmesh"


class CreateTunnel(msgspec.Struct, frozen=True):
    """Make the tunnel interface: bare, down."""

    subject: str
    interface_kind: InterfaceKind
    kind = "create-tunnel"


class DeleteTunnel(msgspec.Struct, frozen=True):
    """Remove the tunnel interface with all that is configured on it."""

    old: Tunnel
    kind = "delete-tunnel"

    @property
    def subject(self) -> str:
        """The interface."""
        return self.old.interface


class SetKey(msgspec.Struct, frozen=True):
    """Configure the machine's private key, named here by its public key."""

    subject: str
    old: str | None
    new: str | None
    kind = "set-key"


class SetListenPort(msgspec.Struct, frozen=True):
    """Set WireGuard's UDP listen port."""

    subject: str
    old: int
    new: int
    kind = "set-listen-port"


class RemoveAddress(msgspec.Struct, frozen=True):
    """Take an address off the interface."""

    subject: str
    old: str
    kind = "remove-address"


class AddAddress(msgspec.Struct, frozen=True):
    """Put an address, with its prefix length, on the interface."""

    subject: str
    new: str
    kind = "add-address"


class SetMtu(msgspec.Struct, frozen=True):
    """Set the interface's MTU, in octets."""

    subject: str
    old: int
    new: int
    kind = "set-mtu"


class SetUp(msgspec.Struct, frozen=True):
    """Bring the interface up, or down."""

    subject: str
    new: bool
    kind = "set-up"


class ReleaseTunnel(msgspec.Struct, frozen=True):
    """Take the interface out of another one, such as a VRF: with it go the routes to members."""

    subject: str
    old: str
    kind = "release-tunnel"


class RemoveRoute(msgspec.Struct, frozen=True):
    """Remove a route of the interface that another program made."""

    subject: str
    old: TunnelRoute
    kind = "remove-route"


class AddRoute(msgspec.Struct, frozen=True):
    """Add a route of the interface's own that is missing."""

    subject: str
    new: TunnelRoute
    kind = "add-route"


class RemovePeer(msgspec.Struct, frozen=True):
    """Take a peer out of WireGuard."""

    subject: str
    old: Peer
    kind = "remove-peer"


class SetPeer(msgspec.Struct, frozen=True):
    """Configure a peer whole: allowed IPs are replaced, an absent preshared key is cleared.

    An endpoint of None leaves whatever endpoint the peer has.
    """

    subject: str
    old: Peer | None
    new: Peer
    kind = "set-peer"


class ReservePorts(msgspec.Struct, frozen=True):
    """Keep just these ports out of the ephemeral range, on behalf of qmesh."""

    old: tuple[int, ...]
    new: tuple[int, ...]
    kind = "reserve-ports"
    subject = "net.ipv4.ip_local_reserved_ports"


DeviceStep: TypeAlias = SetKey | SetListenPort | SetMtu
PlaceStep: TypeAlias = RemoveAddress | AddAddress | SetUp | ReleaseTunnel | RemoveRoute | AddRoute
"""What changes where packets go."""
TunnelStep: TypeAlias = CreateTunnel | DeleteTunnel | RemovePeer | SetPeer | DeviceStep | PlaceStep
Step: TypeAlias = LoadGuard | UnloadGuard | ReservePorts | TunnelStep


def plan_steps(desired: NodeState, observed: NodeState) -> tuple[Step, ...]:
    """The steps that take a machine from `observed` to `desired`, in order."""
    return tuple(_state_steps(desired, observed))


def _state_steps(desired: NodeState, observed: NodeState) -> Iterator[Step]:
    if isinstance(desired.guard, Guard) and desired.guard != observed.guard:
        yield LoadGuard(observed.guard, desired.guard)
    if desired.reserved_ports != observed.reserved_ports:
        yield ReservePorts(observed.reserved_ports, desired.reserved_ports)
    yield from _tunnel_steps(desired.tunnel, observed.tunnel)
    if desired.guard is None and observed.guard is not None:
        yield UnloadGuard(observed.guard)


def _tunnel_steps(desired: Tunnel | None, observed: Tunnel | None) -> Iterator[Step]:
    if observed is not None and (desired is None or not _is_same_device(desired, observed)):
        yield DeleteTunnel(observed)
        observed = None
    if desired is None:
        return
    if observed is None:
        yield CreateTunnel(desired.interface, desired.kind)
        observed = bare_tunnel(desired.interface, desired.kind)
    device = tuple(_device_steps(desired, observed))
    yield from device
    yield from peer_steps(desired.interface, desired.peers, observed.peers)
    last = () if desired.up == observed.up else (SetUp(desired.interface, desired.up),)
    yield from last
    # With addresses, and going up, the kernel makes routes of itself; what it lacks then is for us to make.
    places = (step for step in (*device, *last) if isinstance(step, PlaceStep))
    yield from _route_steps(desired, reduce(_simulate_place_step, places, observed))


def _is_same_device(desired: Tunnel, observed: Tunnel) -> bool:
    return (desired.interface, desired.kind) == (observed.interface, observed.kind)


def bare_tunnel(interface: str, kind: InterfaceKind) -> Tunnel:
    """A tunnel interface just made."""
    return Tunnel(
        interface=interface,
        kind=kind,
        public_key=None,
        listen_port=0,
        addresses=(),
        mtu=0,
        up=False,
        routes=(),
    )


def _device_steps(desired: Tunnel, observed: Tunnel) -> Iterator[Step]:
    name = desired.interface
    if desired.master is None and observed.master is not None:
        yield ReleaseTunnel(name, observed.master)
    if desired.public_key != observed.public_key:
        yield SetKey(name, observed.public_key, desired.public_key)
    if desired.listen_port != observed.listen_port:
        yield SetListenPort(name, observed.listen_port, desired.listen_port)
    if desired.mtu != observed.mtu:
        yield SetMtu(name, observed.mtu, desired.mtu)
    yield from _address_steps(desired, observed)


def _address_steps(desired: Tunnel, observed: Tunnel) -> Iterator[Step]:
    # Deleting a primary address takes its secondaries with it, so where one goes, all go first.
    stays = observed.addresses if set(observed.addresses) <= set(desired.addresses) else ()
    for old in observed.addresses:
        if old not in stays:
            yield RemoveAddress(desired.interface, old)
    for new in desired.addresses:
        if new not in stays:
            yield AddAddress(desired.interface, new)


def _route_steps(desired: Tunnel, observed: Tunnel) -> Iterator[Step]:
    if desired.routes is None or observed.routes is None:
        return
    for old in observed.routes:
        if old not in desired.routes:
            yield RemoveRoute(desired.interface, old)
    missing = (route for route in desired.routes if route not in observed.routes)
    # The kernel takes an address for a source only once packets to it arrive.
    for new in sorted(missing, key=lambda route: not route.is_local):
        yield AddRoute(desired.interface, new)


def peer_steps(interface: str, desired: Iterable[Peer], observed: Iterable[Peer]) -> Iterator[Step]:
    """The steps that make these peers of an interface as desired, whether they are all of its or some."""
    wanted = {peer.public_key: peer for peer in desired}
    seen = {peer.public_key: peer for peer in observed}
    for key, peer in seen.items():
        if key not in wanted:
            yield RemovePeer(interface, peer)
    for key, peer in wanted.items():
        if not is_peer_as_desired(peer, seen.get(key)):
            yield SetPeer(interface, seen.get(key), peer)


def is_peer_as_desired(wanted: Peer, seen: Peer | None) -> bool:
    """Whether a peer is as wanted; a wanted endpoint of None is content with any."""
    return seen is not None and strip_peer_endpoint(wanted, seen) == wanted


def strip_peer_endpoint(wanted: Peer, seen: Peer) -> Peer:
    """`seen`, less the endpoint where `wanted` leaves it open."""
    return seen if wanted.endpoint is not None else msgspec.structs.replace(seen, endpoint=None)


def strip_open_endpoints(desired: NodeState, observed: NodeState) -> NodeState:
    """`observed`, less what `desired` leaves open: the endpoints of peers that will call us."""
    if desired.tunnel is None or observed.tunnel is None:
        return observed
    wanted = {peer.public_key: peer for peer in desired.tunnel.peers}
    peers = tuple(
        strip_peer_endpoint(wanted.get(peer.public_key, peer), peer) for peer in observed.tunnel.peers
    )
    return msgspec.structs.replace(observed, tunnel=msgspec.structs.replace(observed.tunnel, peers=peers))


def describe_step(step: Step) -> str:
    """What a step does, in words."""
    match step:
        case LoadGuard():
            done = "add" if step.old is None else "replace"
            ports = format_port_ranges(step.new.ports) or "none"
            others = format_port_ranges(step.new.guarded_ports)
            more = f"; other closed ports: {others}" if others else ""
            return f"{done} the guard; worker ports: {ports}{more}; control node: {step.new.control_address}"
        case UnloadGuard():
            return "remove the guard: any machine that reaches a worker port can then use the worker"
        case ReservePorts():
            old, new = format_port_ranges(step.old), format_port_ranges(step.new)
            return f"reserve {old or 'none'} -> {new or 'none'}"
        case CreateTunnel():
            how = "kernel" if step.interface_kind == "wireguard" else "userspace"
            return f"create the interface with {how} WireGuard"
        case DeleteTunnel():
            return f"delete the interface with {len(step.old.peers)} peers"
        case RemovePeer():
            return (
                f"remove peer {step.old.public_key} ({', '.join(step.old.allowed_ips) or 'no allowed IPs'})"
            )
        case SetPeer():
            done = "add" if step.old is None else "change"
            where = f" at {step.new.endpoint}" if step.new.endpoint else ""
            return f"{done} peer {step.new.public_key} ({', '.join(step.new.allowed_ips)}){where}"
        case SetKey() | SetListenPort() | SetMtu():
            return _describe_device_step(step)
        case _:
            return _describe_place_step(step)


def describe_route(route: TunnelRoute) -> str:
    """A route as ip(8) writes it: `10.77.0.0/20 src 10.77.0.2`."""
    words = (
        *(("local",) if route.is_local else ()),
        route.network,
        *(("via", route.gateway) if route.gateway else ()),
        *(() if route.is_local else ("src", route.source)),
    )
    return " ".join(words)


def _describe_device_step(step: DeviceStep) -> str:
    match step:
        case SetKey():
            return f"public key {step.old or 'none'} -> {step.new or 'none'}"
        case SetListenPort():
            return f"listen port {step.old or 'none'} -> {step.new}"
        case _:
            return f"MTU {step.old} -> {step.new}"


def _describe_place_step(step: PlaceStep) -> str:
    match step:
        case RemoveAddress():
            return f"remove address {step.old}"
        case AddAddress():
            return f"add address {step.new}"
        case ReleaseTunnel():
            return f"take the interface out of {step.old}"
        case RemoveRoute():
            return f"remove route {describe_route(step.old)}"
        case AddRoute():
            return f"add route {describe_route(step.new)}"
        case _:
            return f"bring the interface {'up' if step.new else 'down'}"


def simulate_step(state: NodeState, step: Step) -> NodeState:
    """The state of a machine in `state` once `step` was taken: the pure model of a machine."""
    match step:
        case LoadGuard(new=guard):
            return msgspec.structs.replace(state, guard=guard)
        case UnloadGuard():
            return msgspec.structs.replace(state, guard=None)
        case ReservePorts(new=ports):
            return msgspec.structs.replace(state, reserved_ports=ports)
        case _:
            return msgspec.structs.replace(state, tunnel=_simulate_tunnel_step(state.tunnel, step))


def _simulate_tunnel_step(tunnel: Tunnel | None, step: TunnelStep) -> Tunnel | None:
    if isinstance(step, CreateTunnel):
        return bare_tunnel(step.subject, step.interface_kind)
    if isinstance(step, DeleteTunnel):
        return None
    assert tunnel is not None, "a step for a tunnel needs a tunnel"
    match step:
        case SetPeer(new=peer):
            return msgspec.structs.replace(tunnel, peers=_replace_peer(tunnel.peers, peer))
        case RemovePeer(old=old):
            left = (peer for peer in tunnel.peers if peer.public_key != old.public_key)
            return msgspec.structs.replace(tunnel, peers=tuple(left))
        case SetKey() | SetListenPort() | SetMtu():
            return _simulate_device_step(tunnel, step)
        case _:
            return _simulate_place_step(tunnel, step)


def _simulate_device_step(tunnel: Tunnel, step: DeviceStep) -> Tunnel:
    match step:
        case SetKey(new=key):
            return msgspec.structs.replace(tunnel, public_key=key)
        case SetListenPort(new=port):
            return msgspec.structs.replace(tunnel, listen_port=port)
        case _:
            return msgspec.structs.replace(tunnel, mtu=step.new)


def _simulate_place_step(tunnel: Tunnel, step: PlaceStep) -> Tunnel:
    """What changes where packets go, with the routes that the kernel makes and removes of itself."""
    match step:
        case AddAddress(new=address):
            tunnel = msgspec.structs.replace(tunnel, addresses=tuple(sorted({*tunnel.addresses, address})))
            return _add_routes(tunnel, list_address_routes((address,)))
        case RemoveAddress(old=address):
            left = tuple(other for other in tunnel.addresses if other != address)
            kept = list_address_routes(left)
            gone = {route for route in list_address_routes((address,)) if route not in kept}
            routes = tunnel.routes and tuple(route for route in tunnel.routes if route not in gone)
            return msgspec.structs.replace(tunnel, addresses=left, routes=routes)
        case SetUp(new=True):
            tunnel = msgspec.structs.replace(tunnel, up=True)
            return _add_routes(tunnel, list_address_routes(tunnel.addresses))
        case SetUp():
            return msgspec.structs.replace(tunnel, up=False, routes=None if tunnel.routes is None else ())
        case ReleaseTunnel():
            tunnel = msgspec.structs.replace(tunnel, master=None)
            return _add_routes(tunnel, list_address_routes(tunnel.addresses))
        case AddRoute(new=new):
            return _add_routes(tunnel, (new,))
        case _:
            routes = tunnel.routes and tuple(route for route in tunnel.routes if route != step.old)
            return msgspec.structs.replace(tunnel, routes=routes)


def _add_routes(tunnel: Tunnel, new: Iterable[TunnelRoute]) -> Tunnel:
    if tunnel.routes is None or not tunnel.up:
        return tunnel
    there = {(route.network, route.is_local) for route in tunnel.routes}
    routes = (*tunnel.routes, *(route for route in new if (route.network, route.is_local) not in there))
    return msgspec.structs.replace(tunnel, routes=tuple(sorted(routes)))


def _replace_peer(peers: Iterable[Peer], new: Peer) -> tuple[Peer, ...]:
    """WireGuard gives an allowed IP to the last peer that asks for it, and takes it from the others."""
    kept: dict[str, Peer] = {}
    for peer in peers:
        left = tuple(ip for ip in peer.allowed_ips if ip not in new.allowed_ips)
        kept[peer.public_key] = msgspec.structs.replace(peer, allowed_ips=left)
    old = kept.get(new.public_key)
    endpoint = new.endpoint or (old.endpoint if old else None)
    kept[new.public_key] = msgspec.structs.replace(new, endpoint=endpoint)
    return tuple(kept[key] for key in sorted(kept))
