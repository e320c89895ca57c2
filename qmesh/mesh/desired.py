"""What a machine should be: inventory, a machine's name, and what was seen of it in, `NodeState` out."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

import msgspec

from qmesh.mesh.inventory import Inventory, reserved_ports
from qmesh.mesh.links.retirement import RetiredKey, compute_retired_address
from qmesh.mesh.machine import Machine, PendingKey
from qmesh.mesh.mtu import compute_tunnel_mtu
from qmesh.mesh.ports.closed_ports import ClosedPorts, SeenPorts, assign_closed_ports
from qmesh.mesh.state import Guard, NodeState, Peer, Tunnel, list_address_routes
from qmesh.mesh.values import (
    CONTROL_PORTS,
    KEEPALIVE_S,
    STREAM_PORT,
    Endpoint,
    InterfaceKind,
    Secret,
)


class LocalEnd(msgspec.Struct, frozen=True, kw_only=True):
    """What a machine remembers about its end of the tunnel.

    most_mtu: octets of a packet in the tunnel that its user allows at most; None for what its paths allow.
    up: False after `qmesh down`: no tunnel, while the guard stays.
    guarded: False where `down` took the guard too.
    """

    interface: str
    listen_port: int
    most_mtu: int | None = None
    up: bool = True
    guarded: bool = True


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen of a machine and around it at one moment.

    kind: what its tunnel is, or would be.
    observed: the machine as it is; without a tunnel where only its guard was looked at.
    resolved: addresses by endpoint, of those that were looked up.
    endpoints: by machine name, the IP address and port at which WireGuard is to reach it; a machine
        left out is one that will call us, or whose lookup failed: its endpoint stays.
    path_mtus: octets that the way to a peer's endpoint carries, as far as that is known.
    ports: what the machine tells of its ports.
    retired: keys that the mesh does not have any more, and that this machine still answers, as it is or was
        the control node.
    """

    kind: InterfaceKind
    observed: NodeState = NodeState(guard=None, tunnel=None)
    resolved: Mapping[Endpoint, tuple[Endpoint, ...]] = {}
    endpoints: Mapping[str, Endpoint] = {}
    path_mtus: Mapping[Endpoint, int] = {}
    ports: SeenPorts = SeenPorts()
    retired: tuple[RetiredKey, ...] = ()


def build_desired_state(
    inventory: Inventory, name: str, place: LocalEnd, preshared: Mapping[str, Secret], facts: Facts
) -> NodeState:
    """The state that machine `name` should be in.

    preshared: preshared keys by the public key of the peer they are shared with.

    Hub and spoke: the control node has every machine as a peer, a worker machine only the control
    node, each with that one tunnel address as allowed IP. While the control role is handed over, its
    successor is a second hub, for those with whom it shares a preshared key already.
    A worker that was renumbered, paused or taken out goes on at its old port until it is restarted: so
    ports that are listened on still stay closed.
    Raises BadInput for an unknown name.
    """
    machine = inventory.machine(name)
    tunnel = _build_tunnel(inventory, machine, place, preshared, facts) if place.up else None
    if not place.guarded:
        return NodeState(guard=None, tunnel=tunnel)
    closed = assign_closed_ports(inventory, name, place.listen_port, facts.ports)
    return NodeState(
        guard=_build_guard(inventory, machine, place, facts.kind, closed),
        tunnel=tunnel,
        reserved_ports=reserved_ports(inventory, name),
    )


def _build_guard(
    inventory: Inventory, machine: Machine, place: LocalEnd, kind: InterfaceKind, closed: ClosedPorts
) -> Guard:
    is_control = machine.name == inventory.control
    successor = inventory.successor if is_control else None
    return Guard(
        role="control" if is_control else "worker",
        interface=place.interface,
        kind=kind,
        listen_port=place.listen_port,
        control_address=inventory.control_node.address,
        service_port=inventory.service_port,
        stream_port=STREAM_PORT if STREAM_PORT in CONTROL_PORTS[inventory.node] else None,
        ports=closed.workers,
        own_ports=closed.own,
        control_ports=closed.control,
        mesh_ports=closed.mesh,
        successor_address=None if successor is None else inventory.machine(successor).address,
    )


def _build_tunnel(
    inventory: Inventory, machine: Machine, place: LocalEnd, preshared: Mapping[str, Secret], facts: Facts
) -> Tunnel:
    prefix_length = ipaddress.ip_network(inventory.network).prefixlen
    is_control, is_hub = machine.name == inventory.control, machine in inventory.hubs
    peers = (
        build_peer(
            other,
            endpoint=facts.endpoints.get(other.name),
            preshared_key=preshared.get(other.public_key),
            calls=other.name == inventory.control or not is_hub or bool(other.endpoints),
        )
        for other in (inventory.machines if is_hub else inventory.hubs)
        if other.name != machine.name
        and (inventory.control in {machine.name, other.name} or other.public_key in preshared)
    )
    stand_ins = (
        build_pending_peer(each, preshared.get(each.public_key))
        for each in (inventory.stand_ins if is_control else ())
    )
    addresses = (f"{machine.address}/{prefix_length}",)
    retired = (build_retired_peer(each, is_ipv6=":" in machine.address) for each in facts.retired)
    return Tunnel(
        interface=place.interface,
        kind=facts.kind,
        public_key=machine.public_key,
        listen_port=place.listen_port,
        addresses=addresses,
        mtu=compute_tunnel_mtu(facts.path_mtus, most=place.most_mtu),
        up=True,
        peers=tuple(sorted((*peers, *stand_ins, *retired), key=lambda peer: peer.public_key)),
        routes=list_address_routes(addresses),
    )


def build_peer(
    machine: Machine, *, endpoint: Endpoint | None, preshared_key: Secret | None, calls: bool
) -> Peer:
    """A machine as another one's WireGuard peer.

    calls: whether that other one keeps the tunnel open. A machine that knows the endpoint does: it may be
        behind NAT, which forgets a connection that is not used.
    """
    return Peer(
        public_key=machine.public_key,
        allowed_ips=(host_network(machine.address),),
        endpoint=endpoint,
        preshared_key=preshared_key,
        keepalive_s=KEEPALIVE_S if calls else 0,
    )


def build_pending_peer(stand_in: PendingKey, preshared_key: Secret | None) -> Peer:
    """A stand-in as a peer; without an address of its own it can shake hands, and no more."""
    address = stand_in.address
    return Peer(
        public_key=stand_in.public_key,
        allowed_ips=() if address is None else (host_network(address),),
        preshared_key=preshared_key,
    )


def build_retired_peer(retired: RetiredKey, *, is_ipv6: bool) -> Peer:
    """A key that the mesh does not have any more, as a peer: it shakes hands, and is told so, and no more."""
    return Peer(
        public_key=retired.public_key,
        allowed_ips=(host_network(compute_retired_address(retired.public_key, is_ipv6=is_ipv6)),),
        preshared_key=retired.preshared_key,
    )


def host_network(address: str) -> str:
    """The network of one address: `10.77.0.2/32`, `fd00::2/128`."""
    return f"{address}/{128 if ':' in address else 32}"
