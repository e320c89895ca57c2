"""What is to be proved of a machine, as conditions on packets that must not come about."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from qmesh.mesh.foreign.packet_fields import ORDER
from qmesh.mesh.ports.port_ranges import list_port_ranges
from qmesh.mesh.prover.claim_codes import ClaimCode
from qmesh.mesh.prover.gates import FALSE, TRUE, Gates, Wires
from qmesh.mesh.prover.rulesets import ProvedRuleset
from qmesh.mesh.prover.traveller import ACK, RST, SYN, TARGET_NAT, Family, PacketInterface, Traveller
from qmesh.mesh.prover.walk import Walk
from qmesh.mesh.state import Guard

CLAIMS: Final[dict[ClaimCode, str]] = {
    "outside": "no packet reaches a closed port but through the tunnel, whatever its connection's state",
    "tunnel": "through the tunnel a closed port is reached by those alone who may",
    "granted": "through the tunnel nothing is reached but what the mesh grants",
    "containers": "no such packet is passed on to a container at a closed port",
    "into-tunnel": "nothing but answers is passed on into the tunnel",
    "older": "a connection that is older than the guard is not answered from a closed port",
    "taken-up": "no TCP connection that is older than the guard is taken up again from a closed port",
    "service": "of this machine's programs only root's speak with the membership service",
    "control": "who may reach a closed port reaches it",
    "answers": "who reached a closed port is answered",
    "wireguard": "WireGuard's port is open to members",
    "others": "the guard drops nothing that is for another port and another interface than the mesh's",
}
ALONE: Final[tuple[ClaimCode, ...]] = (
    "outside", "tunnel", "containers", "into-tunnel", "older", "taken-up", "service",
)  # fmt: skip
"""Claims that hold with either of the guard's tables alone."""
_FAMILIES: Final[tuple[Family, ...]] = ("ip", "ip6")
_QUESTIONS: Final[tuple[ClaimCode, ...]] = (
    "outside", "tunnel", "granted", "control", "wireguard", "containers", "into-tunnel", "taken-up",
    "taken-up", "older", "service", "answers", "others", "others", "others",
)  # fmt: skip


class Case(msgspec.Struct, frozen=True):
    """A claim about packets of a family. broken: which packets break it, once they have gone their `walk`."""

    claim: ClaimCode
    family: Family
    walk: Walk
    broken: int


def list_questions(*, has_guard: bool) -> list[tuple[ClaimCode, Family]]:
    """Claim and family of each case, in their order. has_guard: whether the rules have the guard's tables."""
    claims = [claim for claim in _QUESTIONS if has_guard or claim != "others"]
    return [(claim, family) for family in _FAMILIES for claim in claims]


def build_cases(ruleset: ProvedRuleset, guard: Guard) -> Iterator[Case]:
    """Every claim, family by family; those of one family one walk each way."""
    for family in _FAMILIES:
        yield from _build_arrivals(ruleset, guard, family)
        yield from _build_forwarded(ruleset, guard, family)
        yield from _build_sent(ruleset, guard, family)
        if ruleset.own_tables:
            yield from _build_others(ruleset, guard, family)


class _Terms:
    """The guard's words about a packet, as wires."""

    def __init__(self, guard: Guard, at: Traveller) -> None:
        self.guard = guard
        self.at = at
        self.gates: Gates = at.gates
        family = "ip6" if ":" in guard.control_address else "ip"
        self._control = ipaddress.ip_address(guard.control_address).packed if family == at.family else None

    def is_in_ports(self, port: Wires, ports: Iterable[int]) -> int:
        return self.gates.is_within(port, list_port_ranges(sorted(ports)))

    @property
    def came_by_tunnel(self) -> int:
        assert self.at.iif is not None
        return self.is_tunnel(self.at.iif)

    def is_tunnel(self, interface: PacketInterface) -> int:
        gates, guard = self.gates, self.guard
        kind = guard.kind.encode().ljust(16, b"\0")
        return gates.all_of(
            (self.has_tunnel_name(interface), interface.has_kind, gates.equal(interface.kind, kind))
        )

    def has_tunnel_name(self, interface: PacketInterface) -> int:
        return self.gates.equal(interface.name, self.guard.interface.encode().ljust(16, b"\0"))

    def is_bridge(self, interface: PacketInterface) -> int:
        kind = self.gates.equal(interface.kind, b"bridge".ljust(16, b"\0"))
        return self.gates.both(interface.has_kind, kind)

    def is_control(self, address: Wires) -> int:
        return FALSE if self._control is None else self.gates.equal(address, self._control)

    @property
    def is_transport(self) -> int:
        return self.gates.either(self.at.is_tcp, self.at.is_udp)

    @property
    def is_harmless_answer(self) -> int:
        """What answers a connection of this machine's own, and asks for none."""
        at = self.at
        asks_for_none = self.gates.any_of((at.is_udp, at.flag(ACK), at.flag(RST)))
        return self.gates.both(at.is_answer, asks_for_none)

    def is_from_outside(self, port: Wires) -> int:
        """It came to a closed port by another way than the tunnel."""
        gates, guard, at = self.gates, self.guard, self.at
        outside = gates.both(-at.is_looped, self.is_in_ports(port, guard.closed_ports))
        own = FALSE
        if guard.role == "worker":
            own = gates.both(at.is_looped, self.is_in_ports(port, guard.ports))
        return gates.both(-self.came_by_tunnel, gates.either(outside, own))

    def is_from_wrong_member(self, asked: Wires) -> int:
        """Of a packet at its end: it came to a closed port through the tunnel, from who may not.

        asked: the port that it was sent to. The control node's packets are judged by it too: at the end
        the guard asks no port of them any more.
        """
        gates, guard, at = self.gates, self.guard, self.at
        by_control = (*guard.ports, *guard.control_ports) if guard.role == "worker" else ()
        own = set(guard.closed_ports).difference(guard.mesh_ports, by_control)
        is_control = self.is_control(at.source) if by_control else FALSE
        dialled = gates.all_of(
            (self.is_in_ports(asked, own), self.is_in_ports(at.target_port, own), -at.is_answer)
        )
        for_others = self.is_in_ports(at.target_port, own.union(by_control))
        return gates.both(self.came_by_tunnel, gates.choose(is_control, dialled, for_others))

    def is_granted(self, asked: Wires, target: Wires) -> int:
        """What a packet through the tunnel asks for may be asked for by who sends it. target: its address."""
        gates, guard, at = self.gates, self.guard, self.at
        if guard.role == "worker":
            ports = self.is_in_ports(asked, (*guard.ports, *guard.control_ports))
            found = gates.both(self.is_control(at.source), ports)
        else:
            ports = self.is_in_ports(asked, {guard.service_port, guard.stream_port or guard.service_port})
            found = gates.all_of((at.is_tcp, self.is_control(target), ports))
        return gates.both(self.came_by_tunnel, gates.either(found, self.is_in_ports(asked, guard.mesh_ports)))

    def reaches(self, walk: Walk, hostile: int) -> int:
        """Packets that get through, or may by a way that no rule decides."""
        through = self.gates.all_of((walk.alive, -walk.escaped, hostile))
        return self.gates.all_of(
            (self.gates.either(through, walk.escaped), self.is_transport, -self.is_harmless_answer)
        )


def _build_arrivals(ruleset: ProvedRuleset, guard: Guard, family: Family) -> Iterator[Case]:
    gates = Gates()
    at = Traveller(gates, family, arrives=True)
    walk = Walk(gates, ruleset, at)
    terms = _Terms(guard, at)
    source, target, asked = at.source, at.target, at.target_port
    is_whole_way = gates.all_of(
        (at.is_for_this_machine, gates.equal(at.mark, bytes(4)), at.connection.is_tracked,
         -at.connection.is_related)
    )  # fmt: skip
    for hook in ("ingress", "prerouting", "input"):
        walk.pass_hook(hook)
    assert at.iif is not None
    after, at.network = at.network, _put_source(at, source)
    yield Case("outside", family, walk, terms.reaches(walk, terms.is_from_outside(at.target_port)))
    yield Case("tunnel", family, walk, terms.reaches(walk, terms.is_from_wrong_member(asked)))
    granted = terms.is_granted(asked, target)
    named = gates.all_of((terms.has_tunnel_name(at.iif), -granted, -at.is_answer))
    yield Case("granted", family, walk, terms.reaches(walk, named))
    at.network = after
    is_dropped = gates.both(is_whole_way, -walk.alive)
    opens = gates.either(-at.is_tcp, gates.both(at.flag(SYN), -at.flag(ACK)))
    proper = gates.all_of((*walk.plain, is_dropped, terms.is_transport, gates.either(-at.is_new, opens)))
    to_mesh = gates.both(terms.came_by_tunnel, terms.is_in_ports(asked, guard.mesh_ports))
    if guard.role == "worker":
        by_control = terms.is_in_ports(asked, (*guard.ports, *guard.control_ports))
        by = gates.all_of((terms.came_by_tunnel, terms.is_control(source), by_control))
    else:
        is_own = gates.both(at.is_looped, gates.equal(at.iif.name, b"lo".ljust(16, b"\0")))
        by = gates.both(is_own, terms.is_in_ports(asked, guard.closed_ports))
    may = gates.both(gates.either(by, to_mesh), -at.connection.is_reply)
    yield Case("control", family, walk, gates.both(proper, may))
    to_wireguard = gates.both(at.is_udp, terms.is_in_ports(asked, [guard.listen_port]))
    expected = at.connection.is_reply if guard.role == "worker" else TRUE
    by = gates.all_of((-terms.has_tunnel_name(at.iif), -at.is_looped, expected))
    yield Case("wireguard", family, walk, gates.all_of((proper, by, to_wireguard)))


def _put_source(at: Traveller, source: Wires) -> Wires:
    """The header with its first source: who sent it counts, and not what it was translated to at last."""
    start = {"ip": 12, "ip6": 8}[at.family]
    return (*at.network[: 8 * start], *source, *at.network[8 * start + len(source) :])


def _build_forwarded(ruleset: ProvedRuleset, guard: Guard, family: Family) -> Iterator[Case]:
    gates = Gates()
    at = Traveller(gates, family, arrives=True)
    walk = Walk(gates, ruleset, at)
    terms = _Terms(guard, at)
    asked, is_own = at.target_port, at.is_for_this_machine
    for hook in ("ingress", "prerouting"):
        walk.pass_hook(hook)
    at.leave_by()
    walk.pass_hook("forward")
    assert at.oif is not None
    assert at.iif is not None
    to_container = gates.either(
        terms.is_bridge(at.oif), gates.both(at.is_in_connection, at.connection.status[TARGET_NAT])
    )
    to_container = gates.both(to_container, -terms.has_tunnel_name(at.oif))
    hostile = gates.either(terms.is_from_outside(at.target_port), terms.is_from_wrong_member(asked))
    by_other_name = gates.both(-terms.has_tunnel_name(at.iif), -at.is_answer)
    published = gates.all_of((is_own, terms.is_from_outside(asked), by_other_name))
    hostile = gates.either(gates.both(hostile, to_container), published)
    yield Case("containers", family, walk, terms.reaches(walk, gates.both(hostile, -at.is_looped)))
    into = gates.all_of((walk.alive, terms.has_tunnel_name(at.oif), -at.is_answer))
    yield Case("into-tunnel", family, walk, into)
    middle = gates.all_of((walk.alive, at.is_tcp, at.is_new, -at.flag(SYN), terms.is_bridge(at.iif)))
    is_loopback = gates.equal(at.oif.type, (772).to_bytes(2, ORDER))
    closed = terms.is_in_ports(at.source_port, guard.closed_ports)
    yield Case("taken-up", family, walk, gates.all_of((middle, closed, -is_loopback)))


def _build_sent(ruleset: ProvedRuleset, guard: Guard, family: Family) -> Iterator[Case]:
    gates = Gates()
    at = Traveller(gates, family, arrives=False)
    walk = Walk(gates, ruleset, at)
    terms = _Terms(guard, at)
    source_port = at.source_port
    walk.pass_hook("output")
    oif, passed = at.oif, walk.alive
    assert oif is not None
    is_root = gates.both(at.has_socket, gates.equal(at.user, bytes(4)))
    to_service = terms.is_in_ports(at.target_port, [guard.service_port])
    middle = gates.all_of((passed, at.is_tcp, at.is_new, -at.flag(SYN)))
    is_loopback = gates.equal(oif.type, (772).to_bytes(2, ORDER))
    own = gates.both(is_loopback, terms.is_in_ports(source_port, guard.guarded_ports))
    may = gates.either(own, gates.both(gates.either(is_root, -at.has_socket), to_service))
    if guard.role == "worker":
        may = gates.either(may, gates.both(terms.is_tunnel(oif), terms.is_control(at.target)))
    closed = terms.is_in_ports(source_port, guard.closed_ports)
    yield Case("taken-up", family, walk, gates.all_of((middle, closed, -may)))
    answer = gates.all_of((passed, terms.is_transport, at.is_answer, closed))
    to_mesh = gates.both(terms.is_tunnel(oif), terms.is_in_ports(source_port, guard.mesh_ports))
    to_asker = FALSE
    if guard.role == "worker":
        by_control = terms.is_in_ports(source_port, (*guard.ports, *guard.control_ports))
        to_asker = gates.all_of((terms.is_tunnel(oif), terms.is_control(at.target), by_control))
        asked = gates.any_of((own, to_asker, to_mesh))
    else:
        asked = gates.either(is_loopback, to_mesh)
    by_root = gates.both(gates.either(is_root, -at.has_socket), to_service)
    yield Case("older", family, walk, gates.all_of((answer, -asked, -by_root, -at.is_for_this_machine)))
    if guard.role == "worker":
        is_hub = terms.has_tunnel_name(oif)
    else:
        hubs = [guard.control_address, *([guard.successor_address] if guard.successor_address else [])]
        is_hub = gates.any_of(
            gates.equal(at.target, ipaddress.ip_address(hub).packed)
            for hub in hubs
            if (":" in hub) == (family == "ip6")
        )
    nobody = gates.both(-at.has_socket, at.flag(SYN))
    user = gates.both(at.has_socket, -gates.equal(at.user, bytes(4)))
    wrong = gates.either(nobody, user)
    as_service = FALSE
    if guard.role == "control":
        from_service = terms.is_in_ports(source_port, [guard.service_port])
        as_service = gates.all_of((from_service, terms.is_control(at.source), user))
    wrong = gates.either(gates.all_of((to_service, is_hub, wrong)), as_service)
    yield Case("service", family, walk, gates.all_of((passed, at.is_tcp, wrong)))
    for hook in ("postrouting", "egress"):
        walk.pass_hook(hook)
    answer = gates.all_of(
        (*walk.plain, -walk.alive, terms.is_transport, at.is_answer, -at.connection.is_related,
         gates.either(-at.is_tcp, at.flag(ACK)))
    )  # fmt: skip
    local = FALSE if guard.role == "worker" else gates.both(is_loopback, closed)
    to = gates.any_of((to_asker, local, to_mesh))
    not_service = -terms.is_in_ports(at.target_port, [guard.service_port])
    yield Case(
        "answers", family, walk, gates.all_of((answer, to, not_service, gates.equal(at.mark, bytes(4))))
    )


def _build_others(ruleset: ProvedRuleset, guard: Guard, family: Family) -> Iterator[Case]:
    """By the guard's own tables: what others do is the same with them and without."""
    gates = Gates()
    at = Traveller(gates, family, arrives=True)
    walk = Walk(gates, ruleset.only(*ruleset.own_tables), at)
    terms = _Terms(guard, at)
    assert at.iif is not None
    is_other = gates.all_of(
        (-terms.is_in_ports(at.target_port, guard.closed_ports), -terms.has_tunnel_name(at.iif))
    )
    for hook in ("ingress", "prerouting", "input"):
        walk.pass_hook(hook)
    is_other = gates.both(is_other, -terms.is_in_ports(at.target_port, guard.closed_ports))
    yield Case("others", family, walk, gates.both(is_other, -walk.alive))
    yield _build_others_forwarded(ruleset, guard, family)
    yield _build_others_sent(ruleset, guard, family)


def _build_others_forwarded(ruleset: ProvedRuleset, guard: Guard, family: Family) -> Case:
    gates = Gates()
    at = Traveller(gates, family, arrives=True)
    walk = Walk(gates, ruleset.only(*ruleset.own_tables), at)
    terms = _Terms(guard, at)
    to_own = gates.both(at.is_for_this_machine, terms.is_in_ports(at.target_port, guard.closed_ports))
    for hook in ("ingress", "prerouting"):
        walk.pass_hook(hook)
    at.leave_by()
    walk.pass_hook("forward")
    assert at.iif is not None
    assert at.oif is not None
    to_container = gates.either(terms.is_bridge(at.oif), at.connection.status[TARGET_NAT])
    published = gates.both(to_container, terms.is_in_ports(at.target_port, guard.closed_ports))
    middle = gates.all_of((at.is_tcp, at.is_new, -at.flag(SYN), terms.is_bridge(at.iif)))
    taken_up = gates.both(middle, terms.is_in_ports(at.source_port, guard.closed_ports))
    by_tunnel = gates.either(terms.has_tunnel_name(at.iif), terms.has_tunnel_name(at.oif))
    wrong = gates.any_of((to_own, published, taken_up, by_tunnel))
    return Case("others", family, walk, gates.all_of((-walk.alive, -wrong)))


def _build_others_sent(ruleset: ProvedRuleset, guard: Guard, family: Family) -> Case:
    gates = Gates()
    at = Traveller(gates, family, arrives=False)
    walk = Walk(gates, ruleset.only(*ruleset.own_tables), at)
    terms = _Terms(guard, at)
    walk.pass_hook("output")
    closed = terms.is_in_ports(at.source_port, guard.closed_ports)
    middle = gates.all_of((at.is_tcp, at.is_new, -at.flag(SYN)))
    older = gates.both(closed, gates.either(at.is_answer, middle))
    asks = gates.both(at.is_for_this_machine, terms.is_in_ports(at.target_port, guard.closed_ports))
    service = gates.any_of(
        terms.is_in_ports(port, [guard.service_port]) for port in (at.source_port, at.target_port)
    )
    return Case("others", family, walk, gates.all_of((-walk.alive, -gates.any_of((older, asks, service)))))
