"""The pure model of a machine: what a step makes of its state."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from qmesh.mesh.plan.steps import (
    AddAddress,
    AddRoute,
    CreateTunnel,
    DeleteTunnel,
    DeviceStep,
    LoadGuard,
    PlaceStep,
    ReleaseTunnel,
    RemoveAddress,
    RemovePeer,
    ReservePorts,
    SetKey,
    SetListenPort,
    SetMtu,
    SetPeer,
    SetUp,
    Step,
    TunnelStep,
    UnloadGuard,
)
from qmesh.mesh.state import NodeState, Peer, Tunnel, TunnelRoute, list_address_routes
from qmesh.mesh.values import InterfaceKind


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
            return simulate_place_step(tunnel, step)


def _simulate_device_step(tunnel: Tunnel, step: DeviceStep) -> Tunnel:
    match step:
        case SetKey(new=key):
            return msgspec.structs.replace(tunnel, public_key=key)
        case SetListenPort(new=port):
            return msgspec.structs.replace(tunnel, listen_port=port)
        case _:
            return msgspec.structs.replace(tunnel, mtu=step.new)


def simulate_place_step(tunnel: Tunnel, step: PlaceStep) -> Tunnel:
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
