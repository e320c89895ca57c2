"""What is fired at the copy of a machine, from every side, and what should become of it.

A row is what one side tries, or needs, in one way. The promises are those of docs/guard.md: G1 and G5 for
`blocked`, G2 for `as without`.
"""

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
    STRANGER,
    DrillTarget,
    Version,
    choose_ports,
    get_version,
    is_link_local,
)
from qmesh.mesh.guard.render import list_port_intervals

Wanted: TypeAlias = Literal["blocked", "through", "answered", "as without"]
"""What should become of a row's shots: `answered` is a TCP connection that is accepted; `as without` is what
becomes of them without qmesh's tables."""
Protocol: TypeAlias = Literal["tcp", "udp"]
_LOOPBACK: Final[dict[Version, str]] = {4: "127.0.0.1", 6: "::1"}
_BROADCAST: Final = "255.255.255.255"
_ALL_NODES: Final[dict[Version, str]] = {4: "224.0.0.1", 6: "ff02::1"}
USER: Final = 65534
_OLDER: Final = 1024
"""A source port of the connections that are older than the guard."""
_ALL_FLAGS: Final = FIN | SYN | RST | PUSH | ACK | URGENT
_KINDS: Final[tuple[tuple[Protocol, int], ...]] = (
    ("tcp", SYN),
    ("tcp", ACK),
    ("tcp", RST),
    ("tcp", FIN | PUSH | URGENT),
    ("tcp", SYN | ACK),
    ("tcp", 0),
    ("tcp", _ALL_FLAGS),
    ("udp", 0),
)
_BEGINNINGS: Final[tuple[tuple[Protocol, int], ...]] = (("tcp", SYN), ("udp", 0))
_SHAPES: Final[tuple[Shape, ...]] = ("fragments", "tiny fragments", "options")


class DrillRow(msgspec.Struct, frozen=True, kw_only=True):
    """Shots that are meant to have one fate. side: who fires. what: at what.

    before: shots that come before these, without qmesh's tables, so that the connections are older than they.
    openers: shots that come directly before these, with the same tables.
    in_held: whether the second table alone does it too.
    """

    side: str
    what: str
    wanted: Wanted
    shots: tuple[Shot, ...]
    before: tuple[Shot, ...] = ()
    openers: tuple[Shot, ...] = ()
    in_held: bool = True


def list_rows(target: DrillTarget) -> list[DrillRow]:
    """All that is fired, side by side; rows without a shot are left out."""
    return [row for row in _Battery(target).list_rows() if row.shots]


class _Battery:
    def __init__(self, target: DrillTarget) -> None:
        self._target, self._guard = target, target.guard
        guard = target.guard
        self._workers = choose_ports(guard.ports, list_port_intervals(guard))
        self._own_ports = choose_ports(guard.own_ports)
        self._control_ports = choose_ports(guard.control_ports)
        self._mesh_ports = choose_ports(guard.mesh_ports)
        self._guarded = (*self._own_ports, *self._control_ports, *self._mesh_ports)
        self._closed = (*self._workers, *self._guarded)
        of_mesh = {guard.listen_port, guard.service_port, guard.stream_port}
        self._taken = {*guard.closed_ports, *target.listened, *of_mesh}
        self._open = (*target.listened[:MOST_PORTS], *self._find_neighbours(), self._find_open_port())
        self._outside = tuple(each for each in target.ways if each != guard.interface)[:MOST_WAYS]
        self._next = 1 << 15

    def list_rows(self) -> Iterator[DrillRow]:
        for way in self._outside:
            yield from self._list_rows_of(way)
        if self._target.has_tunnel:
            yield from self._list_tunnel_rows()
        yield from self._list_local_rows()

    def _list_rows_of(self, way: str) -> Iterator[DrillRow]:
        """What comes in by an interface that is not the tunnel."""
        control, tunnel = self._guard.control_address, self._guard.interface
        yield self._row(
            way, "strangers, to closed ports", "blocked", self._fire_all(way, self._closed, _KINDS)
        )
        forged = [control, *self._target.list_own(tunnel), *filter(None, [self._target.member])]
        yield self._row(
            way,
            "in the name of machines of the mesh, and of this one",
            "blocked",
            self._fire_all(way, self._closed, (("tcp", SYN), ("tcp", ACK), ("udp", 0)), sources=forged),
        )
        strange = [*_LOOPBACK.values(), *self._target.list_own(way)]
        yield self._row(
            way,
            "in the name of its loopback and its own address there",
            "blocked",
            self._fire_all(way, self._closed, _BEGINNINGS, sources=strange),
        )
        shaped = (
            self._fire_all(way, self._closed, (("tcp", SYN), ("tcp", ACK), ("udp", 0)), shape=shape)
            for shape in _SHAPES
        )
        yield self._row(
            way, "in fragments, and with options", "blocked", itertools.chain.from_iterable(shaped)
        )
        yield self._row(way, "to all: broadcast and multicast", "blocked", self._fire_to_all(way))
        yield self._row(way, "to machines behind its bridges", "blocked", self._fire_behind(way))
        yield self._older_row(way)
        if self._target.has_tunnel:
            yield self._row(
                way, "through this machine into the tunnel", "blocked", self._fire_into_tunnel(way)
            )
        yield self._row(
            way, "strangers, to open ports", "as without", self._fire_all(way, self._open, _BEGINNINGS)
        )
        wireguard = self._fire_all(way, [self._guard.listen_port], (("udp", 0),))
        yield self._row(way, "to WireGuard's port", "as without", wireguard)
        yield self._row(way, "through this machine to others", "as without", self._fire_through(way))
        yield from self._list_reply_rows(way)

    def _list_tunnel_rows(self) -> Iterator[DrillRow]:
        guard, way = self._guard, self._guard.interface
        control, member = guard.control_address, self._target.member
        if guard.role == "worker":
            yield from self._list_control_node_rows(way, control)
        members = [] if member is None else [member]
        others = [*members, *self._list_strangers(way)]
        yield self._row(
            f"{way}, members and strangers",
            "to worker ports",
            "blocked",
            self._fire_all(way, self._workers, _KINDS, sources=others, targets=self._target.list_own(way)),
        )
        denied = (*self._own_ports, *self._control_ports, *self._open)
        yield self._row(
            f"{way}, members and strangers",
            "to other ports",
            "blocked",
            self._fire_all(way, denied, _BEGINNINGS, sources=others, targets=self._target.list_own(way)),
        )
        let_in = list(self._mesh_ports)
        if guard.role == "control":
            let_in.append(guard.service_port)
        yield self._row(
            f"{way}, a member",
            "to what members reach",
            "answered",
            self._fire_all(
                way, let_in, (("tcp", SYN),), sources=members, targets=[self._target.get_tunnel_address()]
            ),
        )
        forged = [self._target.get_tunnel_address(), _LOOPBACK[self._target.version]]
        yield self._row(
            f"{way}, strangers",
            "to worker ports, in this machine's name",
            "blocked",
            self._fire_all(
                way, self._workers, _BEGINNINGS, sources=forged, targets=self._target.list_own(way)
            ),
        )

    def _list_control_node_rows(self, way: str, control: str) -> Iterator[DrillRow]:
        own = [self._target.get_tunnel_address()]
        reached = (*self._workers, *self._control_ports, *self._mesh_ports)
        side = f"{way}, the control node"
        yield self._row(
            side,
            "to worker ports, and those that it reaches besides",
            "answered",
            self._fire_all(way, reached, (("tcp", SYN),), sources=[control], targets=own),
        )
        yield self._row(
            side,
            "the same by UDP",
            "through",
            self._fire_all(way, reached, (("udp", 0),), sources=[control], targets=own),
        )
        yield self._row(
            side,
            "to what only the machine itself reaches",
            "blocked",
            self._fire_all(way, self._own_ports, _BEGINNINGS, sources=[control], targets=own),
        )
        yield self._row(
            side,
            "to open ports",
            "blocked",
            self._fire_all(way, self._open, _BEGINNINGS, sources=[control], targets=own),
            in_held=False,
        )

    def _list_local_rows(self) -> Iterator[DrillRow]:
        guard = self._guard
        own = [*_LOOPBACK.values(), *self._target.list_own()]
        users = (0, USER)
        wanted: Wanted = "blocked" if guard.role == "worker" else "as without"
        yield self._row(
            "this machine, root and users",
            "to its own worker ports",
            wanted,
            self._fire_locally(own, self._workers, users, _BEGINNINGS),
        )
        yield self._row(
            "this machine, root and users",
            "to its closed ports that are no workers'",
            "as without",
            self._fire_locally(own, self._guarded, users, _BEGINNINGS),
        )
        yield self._row(
            "this machine, root and users",
            "to its open ports",
            "as without",
            self._fire_locally(own, self._open, users, _BEGINNINGS),
        )
        if not self._target.has_tunnel:
            return
        service = [guard.control_address]
        asked: tuple[tuple[int, str, Wanted], ...] = ((0, "root", "through"), (USER, "a user", "blocked"))
        for user, side, fate in asked:
            yield self._row(
                f"this machine, {side}",
                "to the membership service",
                fate,
                self._fire_locally(service, [guard.service_port], (user,), (("tcp", SYN),)),
            )
        if guard.role == "control" and self._target.member is not None:
            yield self._row(
                "this machine, root and users",
                "to a member's workers",
                "as without",
                self._fire_locally([self._target.member], self._workers, users, _BEGINNINGS),
            )

    def _older_row(self, way: str) -> DrillRow:
        """A stranger's connection from before the guard, which goes on."""
        before, shots = [], []
        for version in (4, 6):
            own, stranger = self._target.list_own(way, version), self._target.find_neighbour(way, version)
            for port, (protocol, flags) in itertools.product(self._closed, _BEGINNINGS if own else ()):
                opener = Shot(
                    way=way,
                    source=stranger,
                    target=own[0],
                    protocol=protocol,
                    source_port=_OLDER,
                    target_port=port,
                    flags=flags,
                )
                before.append(opener)
                if not flags:  # of UDP it is an answer that makes the connection an established one
                    before.append(_turn_round(opener, flags=0))
                shots.append(msgspec.structs.replace(opener, flags=flags and ACK | PUSH))
        what = "on connections that are older than the guard"
        return DrillRow(side=way, what=what, wanted="blocked", shots=tuple(shots), before=tuple(before))

    def _list_reply_rows(self, way: str) -> Iterator[DrillRow]:
        """The machine's own connections from a closed port's number, and what can be made of them."""
        openers, replies, asked, cut_in = [], [], [], []
        for version in (4, 6):
            # From a link-local address nothing can be sent to a stranger, which would have no reply.
            own = [each for each in self._target.list_own(way, version) if not is_link_local(each)]
            stranger = self._target.find_neighbour(way, version)
            for port, (protocol, flags) in itertools.product(self._closed, _BEGINNINGS if own else ()):
                opener = Shot(
                    way=None,
                    source=own[0],
                    target=stranger,
                    protocol=protocol,
                    source_port=port,
                    target_port=self._take_port(),
                    flags=flags,
                )
                openers.append(opener)
                replies.append(_turn_round(opener, way=way, flags=flags and SYN | ACK))
                if flags:
                    asked.append(_turn_round(opener, way=way, flags=SYN))
                    cut_in.append(
                        msgspec.structs.replace(opener, target_port=self._take_port(), flags=ACK | PUSH)
                    )
        yield self._row(way, "from closed ports' numbers outward", "as without", openers)
        yield self._row(way, "replies to those", "as without", replies, openers=openers)
        yield self._row(way, "from closed ports outward, in the middle of no connection", "blocked", cut_in)
        yield self._row(way, "who was asked so, asks back", "blocked", asked, openers=openers)

    def _row(
        self,
        side: str,
        what: str,
        wanted: Wanted,
        shots: Iterable[Shot],
        *,
        openers: Iterable[Shot] = (),
        in_held: bool = True,
    ) -> DrillRow:
        return DrillRow(
            side=side,
            what=what,
            wanted=wanted,
            shots=tuple(shots),
            openers=tuple(openers),
            in_held=in_held,
        )

    def _fire_all(
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
        for target in self._target.list_own() if targets is None else targets:
            version = get_version(target)
            if given is None:
                fitting = [self._target.find_neighbour(way, version)]
            else:
                fitting = [each for each in given if get_version(each) == version]
            for source, port, (protocol, flags) in itertools.product(fitting, ports, kinds):
                yield Shot(
                    way=way,
                    source=source,
                    target=target,
                    protocol=protocol,
                    source_port=self._take_port(),
                    target_port=port,
                    flags=flags,
                    shape=shape,
                )

    def _fire_to_all(self, way: str) -> Iterator[Shot]:
        targets = [_BROADCAST, *_ALL_NODES.values()]
        for text in self._target.list_networks(way):
            own = ip_interface(text)
            if own.version == 4 and own.network.num_addresses > 2:
                targets.append(str(own.network.broadcast_address))
        return self._fire_all(way, self._closed, (("udp", 0),), targets=targets)

    def _fire_behind(self, way: str) -> Iterator[Shot]:
        targets = [
            self._target.find_neighbour(bridge, version)
            for bridge in self._target.bridges
            for version in (4, 6)
            if bridge != way and self._target.list_own(bridge, version)
        ]
        return self._fire_all(way, self._closed, _BEGINNINGS, targets=targets)

    def _fire_into_tunnel(self, way: str) -> Iterator[Shot]:
        guard = self._guard
        targets = [self._target.member] if guard.role == "control" else [guard.control_address]
        ports = (*self._workers, guard.service_port)
        return self._fire_all(way, ports, _BEGINNINGS, targets=[each for each in targets if each is not None])

    def _fire_through(self, way: str) -> Iterator[Shot]:
        """To what is beside another interface that is no bridge, also at ports of workers' numbers."""
        targets = [
            self._target.find_neighbour(other, version)
            for other in self._outside
            for version in (4, 6)
            if other not in {way, *self._target.bridges} and self._target.list_own(other, version)
        ]
        ports = (*self._workers[:1], 443)
        return self._fire_all(way, ports, _BEGINNINGS, targets=targets)

    def _fire_locally(
        self,
        targets: Iterable[str],
        ports: Iterable[int],
        users: Iterable[int],
        kinds: Iterable[tuple[Protocol, int]],
    ) -> Iterator[Shot]:
        """As a program does that names no address of its own."""
        own = self._target.list_own()
        for target, port, user, (protocol, flags) in itertools.product(targets, ports, users, kinds):
            source = (
                target if target in own or target in _LOOPBACK.values() else self._target.get_tunnel_address()
            )
            yield Shot(
                way=None,
                source=source,
                target=target,
                protocol=protocol,
                source_port=self._take_port(),
                target_port=port,
                flags=flags,
                user=user,
            )

    def _take_port(self) -> int:
        """One that no other shot has, until there are no more: each is a connection of its own."""
        self._next = self._next + 1 if self._next < 60999 else 1 << 15
        while self._next in self._closed or self._next in self._open:
            self._next += 1
        return self._next

    def _find_neighbours(self) -> Iterator[int]:
        """Open ports beside closed ones: a guard that closes more than it should is found there."""
        for first, last in list_port_intervals(self._guard)[:2]:
            yield from (port for port in (first - 1, last + 1) if port not in self._taken)

    def _find_open_port(self) -> int:
        return next(port for port in itertools.count(20001) if port not in self._taken)

    def _list_strangers(self, way: str) -> list[str]:
        """Who may come through the tunnel and is no member: of the network, and of elsewhere."""
        return [self._target.find_neighbour(way, self._target.version), STRANGER[self._target.version]]


def _turn_round(shot: Shot, *, way: str | None = None, flags: int) -> Shot:
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
