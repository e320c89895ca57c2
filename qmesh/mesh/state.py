"""What a machine is, or should be: tunnel, guard and reserved ports, the same for both."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Literal

import msgspec

from qmesh.mesh.values import Endpoint, InterfaceKind, Lack, Secret


class Peer(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A WireGuard peer as it is configured. Source: wg(8).

    allowed_ips: networks in canonical text, sorted.
    endpoint: an IP address and port; in a desired state None means "whatever it is".
    keepalive_s: seconds between persistent keepalives, 0 for none.
    """

    public_key: str
    allowed_ips: tuple[str, ...]
    endpoint: Endpoint | None = None
    preshared_key: Secret | None = None
    keepalive_s: int = 0


class Counters(msgspec.Struct, frozen=True, gc=False):
    """What a peer has been doing.

    last_handshake_s: Unix time in seconds; None when there never was one.
    endpoint: where its packets come from now.
    """

    last_handshake_s: int | None
    rx_bytes: int
    tx_bytes: int
    endpoint: Endpoint | None


class TunnelRoute(msgspec.Struct, frozen=True, order=True, gc=False):
    """A route of the tunnel's interface, in the main table; or that of an own address, in the local one.

    network: where it leads, `10.77.0.0/20`, `10.77.0.2/32`.
    source: the address that packets have which choose none.
    is_local: whether packets to it have arrived: it is an address of this machine.
    gateway: a router beyond the interface, which a tunnel does not have; empty without one.
    """

    network: str
    source: str
    is_local: bool = False
    gateway: str = ""


class Tunnel(msgspec.Struct, frozen=True, kw_only=True):
    """The tunnel interface with its WireGuard configuration.

    public_key: of the private key it is configured with; None when it has none.
    addresses: with prefix length, `10.77.0.2/20`, sorted.
    peers: sorted by public key.
    routes: of the interface, sorted; none while it is down. None where they were not looked at, or do not
        matter.
    master: the interface that it is a part of, such as a VRF; None where it stands for itself.
    """

    interface: str
    kind: InterfaceKind
    public_key: str | None
    listen_port: int
    addresses: tuple[str, ...]
    mtu: int
    up: bool
    peers: tuple[Peer, ...] = ()
    routes: tuple[TunnelRoute, ...] | None = None
    master: str | None = None


class Guard(msgspec.Struct, frozen=True, kw_only=True):
    """What the worker guard lets in, in one machine's terms.

    role: `control` lets its own processes reach its own workers, and members its service;
        `worker` lets only the control node in.
    interface, kind: the tunnel's; both have to match for a packet to count as the tunnel's.
    listen_port: WireGuard's UDP port, which is never closed.
    control_address: the control node's tunnel address.
    service_port: TCP port of the membership service on the control node's tunnel address.
    ports: the machine's worker ports, ascending.
    own_ports: further ports that the machine alone reaches, by loopback; ascending, as all of them.
    control_ports: those that the control node reaches too, through the tunnel.
    mesh_ports: those that every member with a tunnel to this machine reaches too.
    stream_port: TCP port of the control process at that address, which members may reach too.
    successor_address: on the control node, the tunnel address where the service will be next, or is already.
    """

    role: Literal["control", "worker"]
    interface: str
    kind: InterfaceKind
    listen_port: int
    control_address: str
    service_port: int
    ports: tuple[int, ...]
    own_ports: tuple[int, ...] = ()
    control_ports: tuple[int, ...] = ()
    mesh_ports: tuple[int, ...] = ()
    stream_port: int | None = None
    successor_address: str | None = None

    @property
    def guarded_ports(self) -> tuple[int, ...]:
        """The closed ports that are no workers': the machine itself reaches all of them."""
        return tuple(sorted((*self.own_ports, *self.control_ports, *self.mesh_ports)))

    @property
    def closed_ports(self) -> tuple[int, ...]:
        """All ports that it closes."""
        return tuple(sorted((*self.ports, *self.guarded_ports)))


class AlteredGuard(msgspec.Struct, frozen=True):
    """A table in the guard's place that is not the whole guard: changed by others, or by another version.

    text: the table as nftables lists it.
    loaded: the guard that it is, where only a part is missing or differs.
    lack: that part.
    """

    text: str
    loaded: Guard | None = None
    lack: Lack | None = None


def list_address_routes(addresses: Iterable[str]) -> tuple[TunnelRoute, ...]:
    """The routes that the kernel makes for these addresses (`10.77.0.2/20`) of an interface that is up.

    Of several in one network the first is the source.
    """
    networks: dict[str, TunnelRoute] = {}
    own: list[TunnelRoute] = []
    for text in addresses:
        address = ipaddress.ip_interface(text)
        source, network = str(address.ip), str(address.network)
        own.append(TunnelRoute(f"{source}/{address.max_prefixlen}", source, is_local=True))
        if address.network.num_addresses > 1:
            networks.setdefault(network, TunnelRoute(network, source))
    return tuple(sorted({*networks.values(), *own}))


class NodeState(msgspec.Struct, frozen=True, kw_only=True):
    """What qmesh manages on one machine: desired or observed, one type for both.

    guard: None when there is none.
    tunnel: None when there is no such interface.
    reserved_ports: ports that qmesh keeps out of the ephemeral range, ascending.
    """

    guard: Guard | AlteredGuard | None
    tunnel: Tunnel | None
    reserved_ports: tuple[int, ...] = ()

    @property
    def loaded_guard(self) -> Guard | None:
        """The guard that is in the kernel, in one table at least, whatever the next boot would load."""
        return self.guard.loaded if isinstance(self.guard, AlteredGuard) else self.guard
