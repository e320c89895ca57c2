"""The guard's words about a packet, as wires."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final

from qmesh.mesh.foreign.packet_fields import ORDER
from qmesh.mesh.ports.port_ranges import list_port_ranges
from qmesh.mesh.prover.gates import FALSE, Gates, Wires
from qmesh.mesh.prover.traveller import ACK, RST, SYN, PacketInterface, Traveller
from qmesh.mesh.prover.walk import Walk
from qmesh.mesh.state import Guard

_LOOPBACK_NAME: Final = b"lo".ljust(16, b"\0")
_LOOPBACK_TYPE: Final = (772).to_bytes(2, ORDER)  # ARPHRD_LOOPBACK


class PacketTerms:
    """Of a packet where it is now.

    asked, sender: of some, the port that it was sent to and by whom, before any translation.
    """

    def __init__(self, guard: Guard, walk: Walk) -> None:
        self.guard = guard
        self.at: Traveller = walk.at
        self.gates: Gates = walk.gates
        self._walk = walk
        family = "ip6" if ":" in guard.control_address else "ip"
        is_of_family = family == walk.at.family
        self._control = ipaddress.ip_address(guard.control_address).packed if is_of_family else None

    def is_in_ports(self, port: Wires, ports: Iterable[int]) -> int:
        """A port is one of these."""
        return self.gates.is_within(port, list_port_ranges(sorted(ports)))

    def is_closed(self, port: Wires) -> int:
        """A port is closed."""
        return self.is_in_ports(port, self.guard.closed_ports)

    @property
    def came_by_tunnel(self) -> int:
        """By an interface of its name and its kind."""
        assert self.at.iif is not None
        return self.is_tunnel(self.at.iif)

    @property
    def came_by_tunnels_name(self) -> int:
        """By an interface of its name, of whatever kind."""
        assert self.at.iif is not None
        return self.has_tunnel_name(self.at.iif)

    @property
    def came_by_bridge(self) -> int:
        """By a bridge: from a container, or a virtual machine."""
        assert self.at.iif is not None
        return self.is_bridge(self.at.iif)

    @property
    def came_by_loopback(self) -> int:
        """By the interface of its name and its type."""
        assert self.at.iif is not None
        return self.gates.both(self.at.is_looped, self.gates.equal(self.at.iif.name, _LOOPBACK_NAME))

    @property
    def goes_by(self) -> PacketInterface:
        """The interface by which it leaves; of what is sent that of its first route, as rules see it."""
        found = self._walk.start.oif or self.at.oif
        assert found is not None
        return found

    @property
    def goes_by_loopback(self) -> int:
        """To this machine itself."""
        return self.gates.equal(self.goes_by.type, _LOOPBACK_TYPE)

    @property
    def leaves_by_loopback(self) -> int:
        """The same at its end, where a translation may have given it another route."""
        assert self.at.oif is not None
        return self.gates.equal(self.at.oif.type, _LOOPBACK_TYPE)

    def is_tunnel(self, interface: PacketInterface) -> int:
        """It has the tunnel's name and its kind."""
        gates, guard = self.gates, self.guard
        kind = guard.kind.encode().ljust(16, b"\0")
        return gates.all_of(
            (self.has_tunnel_name(interface), interface.has_kind, gates.equal(interface.kind, kind))
        )

    def has_tunnel_name(self, interface: PacketInterface) -> int:
        """It is called as the tunnel is."""
        return self.gates.equal(interface.name, self.guard.interface.encode().ljust(16, b"\0"))

    def is_bridge(self, interface: PacketInterface) -> int:
        """It is a bridge."""
        kind = self.gates.equal(interface.kind, b"bridge".ljust(16, b"\0"))
        return self.gates.both(interface.has_kind, kind)

    def is_control(self, address: Wires) -> int:
        """It is the control node's address."""
        return FALSE if self._control is None else self.gates.equal(address, self._control)

    @property
    def is_transport(self) -> int:
        """It is TCP or UDP."""
        return self.gates.either(self.at.is_tcp, self.at.is_udp)

    @property
    def is_beginning(self) -> int:
        """It asks for a connection: of TCP with SYN alone."""
        opens = self.gates.both(self.at.flag(SYN), -self.at.flag(ACK))
        return self.gates.either(-self.at.is_tcp, opens)

    @property
    def is_cut_in(self) -> int:
        """TCP in the middle of what conntrack has not seen."""
        return self.gates.all_of((self.at.is_tcp, self.at.is_new, -self.at.flag(SYN)))

    @property
    def is_harmless_answer(self) -> int:
        """What answers a connection of this machine's own, and asks for none."""
        at = self.at
        asks_for_none = self.gates.any_of((at.is_udp, at.flag(ACK), at.flag(RST)))
        return self.gates.both(at.is_answer, asks_for_none)

    def is_from_outside(self, port: Wires) -> int:
        """It came to a closed port by another way than the tunnel."""
        gates, guard, at = self.gates, self.guard, self.at
        outside = gates.both(-at.is_looped, self.is_closed(port))
        own = FALSE
        if guard.role == "worker":
            own = gates.both(at.is_looped, self.is_in_ports(port, guard.ports))
        return gates.both(-self.came_by_tunnel, gates.either(outside, own))

    def is_from_wrong_member(self, asked: Wires, sender: Wires) -> int:
        """Of a packet at its end: it came to a closed port through the tunnel, from who may not.

        The control node's packets are judged by `asked` too: at the end the guard asks no port of them any
        more.
        """
        gates, guard, at = self.gates, self.guard, self.at
        by_control = (*guard.ports, *guard.control_ports) if guard.role == "worker" else ()
        own = set(guard.closed_ports).difference(guard.mesh_ports, by_control)
        is_control = self.is_control(sender) if by_control else FALSE
        dialled = gates.all_of(
            (self.is_in_ports(asked, own), self.is_in_ports(at.target_port, own), -at.is_answer)
        )
        for_others = self.is_in_ports(at.target_port, own.union(by_control))
        return gates.both(self.came_by_tunnel, gates.choose(is_control, dialled, for_others))

    def is_granted(self, asked: Wires, sender: Wires, target: Wires) -> int:
        """What a packet through the tunnel asks for may be asked for by who sends it. target: its address."""
        gates, guard, at = self.gates, self.guard, self.at
        if guard.role == "worker":
            ports = self.is_in_ports(asked, (*guard.ports, *guard.control_ports))
            found = gates.both(self.is_control(sender), ports)
        else:
            ports = self.is_in_ports(asked, {guard.service_port, guard.stream_port or guard.service_port})
            found = gates.all_of((at.is_tcp, self.is_control(target), ports))
        return gates.both(self.came_by_tunnel, gates.either(found, self.is_in_ports(asked, guard.mesh_ports)))

    def reaches(self, hostile: int) -> int:
        """Packets that get through, or may by a way that no rule decides."""
        walk = self._walk
        through = self.gates.all_of((walk.alive, -walk.escaped, hostile))
        return self.gates.all_of(
            (self.gates.either(through, walk.escaped), self.is_transport, -self.is_harmless_answer)
        )
