"""The steps from one state of a machine to another, in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import reduce

import msgspec

from qmesh.mesh.plan.simulate import bare_tunnel, simulate_place_step
from qmesh.mesh.plan.steps import (
    AddAddress,
    AddRoute,
    CreateTunnel,
    DeleteTunnel,
    LoadGuard,
    PlaceStep,
    ReleaseTunnel,
    RemoveAddress,
    RemovePeer,
    RemoveRoute,
    ReservePorts,
    SetKey,
    SetListenPort,
    SetMtu,
    SetPeer,
    SetUp,
    Step,
    UnloadGuard,
)
from qmesh.mesh.state import Guard, NodeState, Peer, Tunnel


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
    yield from _route_steps(desired, reduce(simulate_place_step, places, observed))


def _is_same_device(desired: Tunnel, observed: Tunnel) -> bool:
    return (desired.interface, desired.kind) == (observed.interface, observed.kind)


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
