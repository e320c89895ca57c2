"""Shots at a machine: who fires at which of its addresses and ports."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from ipaddress import ip_interface
from typing import Final, Literal, TypeAlias

import msgspec

from qmesh.mesh.drill.shots import ACK, FIN, PUSH, RST, SYN, URGENT, Shape, Shot
from qmesh.mesh.drill.target import (
    MOST_PORTS,
    MOST_WAYS,
    DrillTarget,
    Version,
    choose_ports,
    get_version,
)
from qmesh.mesh.guard.render import list_port_intervals

Protocol: TypeAlias = Literal["tcp", "udp"]
LOOPBACK: Final[dict[Version, str]] = {4: "127.0.0.1", 6: "::1"}
_BROADCAST: Final = "255.255.255.255"
_ALL_NODES: Final[dict[Version, str]] = {4: "224.0.0.1", 6: "ff02::1"}
_ALL_FLAGS: Final = FIN | SYN | RST | PUSH | ACK | URGENT
KINDS: Final[tuple[tuple[Protocol, int], ...]] = (
    ("tcp", SYN), ("tcp", ACK), ("tcp", RST), ("tcp", FIN | PUSH | URGENT), ("tcp", SYN | ACK), ("tcp", 0),
    ("tcp", _ALL_FLAGS), ("udp", 0),
)  # fmt: skip
FEW_KINDS: Final[tuple[tuple[Protocol, int], ...]] = (("tcp", SYN), ("tcp", ACK), ("udp", 0))
BEGINNINGS: Final[tuple[tuple[Protocol, int], ...]] = (("tcp", SYN), ("udp", 0))


class Volleys:
    """At one machine; each shot is a connection of its own.

    workers, own_ports, control_ports, mesh_ports: closed ports that stand for all of their kind; guarded:
    those that are no workers'; closed: all of these. open: ports that are not closed. outside: the interfaces
    but the tunnel.
    """

    def __init__(self, target: DrillTarget) -> None:
        self.target, self.guard = target, target.guard
        guard = target.guard
        self.workers = choose_ports(guard.ports, list_port_intervals(guard))
        self.own_ports = choose_ports(guard.own_ports)
        self.control_ports = choose_ports(guard.control_ports)
        self.mesh_ports = choose_ports(guard.mesh_ports)
        self.guarded = (*self.own_ports, *self.control_ports, *self.mesh_ports)
        self.closed = (*self.workers, *self.guarded)
        of_mesh = {guard.listen_port, guard.service_port, guard.stream_port}
        self._taken = {*guard.closed_ports, *target.listened, *of_mesh}
        self.open = (*target.listened[:MOST_PORTS], *self._find_neighbours(), self._find_open_port())
        self.outside = tuple(each for each in target.ways if each != guard.interface)[:MOST_WAYS]
        self._next = 1 << 15

    def fire_all(
        self,
        way: str,
        ports: Iterable[int],
        kinds: Iterable[tuple[Protocol, int]],
        *,
        sources: Iterable[str] | None = None,
        targets: Iterable[str] | None = None,
        shape: Shape = "whole",
    ) -> Iterator[Shot]:
        """To all addresses of the machine, or to these, from a neighbour there, or from these."""
        given = None if sources is None else list(sources)
        for target in self.target.list_own() if targets is None else targets:
            version = get_version(target)
            if given is None:
                fitting = [self.target.find_neighbour(way, version)]
            else:
                fitting = [each for each in given if get_version(each) == version]
            for source, port, (protocol, flags) in itertools.product(fitting, ports, kinds):
                yield Shot(
                    way=way,
                    source=source,
                    target=target,
                    protocol=protocol,
                    source_port=self.take_port(),
                    target_port=port,
                    flags=flags,
                    shape=shape,
                )

    def fire_to_all(self, way: str) -> Iterator[Shot]:
        """To broadcast and multicast addresses there."""
        targets = [_BROADCAST, *_ALL_NODES.values()]
        for text in self.target.list_networks(way):
            own = ip_interface(text)
            if own.version == 4 and own.network.num_addresses > 2:
                targets.append(str(own.network.broadcast_address))
        return self.fire_all(way, self.closed, (("udp", 0),), targets=targets)

    def fire_behind(self, way: str) -> Iterator[Shot]:
        """To machines behind its other bridges."""
        targets = [
            self.target.find_neighbour(bridge, version)
            for bridge in self.target.bridges
            for version in (4, 6)
            if bridge != way and self.target.list_own(bridge, version)
        ]
        return self.fire_all(way, self.closed, BEGINNINGS, targets=targets)

    def fire_into_tunnel(self, way: str) -> Iterator[Shot]:
        """To the mesh's machines, by way of this one."""
        guard = self.guard
        targets = [self.target.member] if guard.role == "control" else [guard.control_address]
        ports = (*self.workers, guard.service_port)
        return self.fire_all(way, ports, BEGINNINGS, targets=[each for each in targets if each is not None])

    def fire_through(self, way: str) -> Iterator[Shot]:
        """To what is beside another interface that is no bridge, also at ports of workers' numbers."""
        targets = [
            self.target.find_neighbour(other, version)
            for other in self.outside
            for version in (4, 6)
            if other not in {way, *self.target.bridges} and self.target.list_own(other, version)
        ]
        ports = (*self.workers[:1], 443)
        return self.fire_all(way, ports, BEGINNINGS, targets=targets)

    def fire_locally(
        self,
        targets: Iterable[str],
        ports: Iterable[int],
        users: Iterable[int],
        kinds: Iterable[tuple[Protocol, int]],
    ) -> Iterator[Shot]:
        """As a program does that names no address of its own."""
        own = self.target.list_own()
        for target, port, user, (protocol, flags) in itertools.product(targets, ports, users, kinds):
            source = (
                target if target in own or target in LOOPBACK.values() else self.target.get_tunnel_address()
            )
            yield Shot(
                way=None,
                source=source,
                target=target,
                protocol=protocol,
                source_port=self.take_port(),
                target_port=port,
                flags=flags,
                user=user,
            )

    def take_port(self) -> int:
        """One that no other shot has, until there are no more: each is a connection of its own."""
        self._next = self._next + 1 if self._next < 60999 else 1 << 15
        while self._next in self.closed or self._next in self.open:
            self._next += 1
        return self._next

    def _find_neighbours(self) -> Iterator[int]:
        """Open ports beside closed ones: a guard that closes more than it should is found there."""
        for first, last in list_port_intervals(self.guard)[:2]:
            yield from (port for port in (first - 1, last + 1) if port not in self._taken)

    def _find_open_port(self) -> int:
        return next(port for port in itertools.count(20001) if port not in self._taken)


def turn_round(shot: Shot, *, way: str | None = None, flags: int) -> Shot:
    """The same connection's packet the other way."""
    return msgspec.structs.replace(
        shot,
        way=way,
        source=shot.target,
        target=shot.source,
        source_port=shot.target_port,
        target_port=shot.source_port,
        flags=flags,
    )
