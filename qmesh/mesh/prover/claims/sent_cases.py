"""What is to be proved of packets that this machine's programs send."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from msgspec.structs import replace

from qmesh.mesh.prover.claims.case import Case
from qmesh.mesh.prover.claims.packet_terms import PacketTerms
from qmesh.mesh.prover.claims.ways import walk_outward
from qmesh.mesh.prover.gates import FALSE, Wires
from qmesh.mesh.prover.rulesets import ProvedRuleset
from qmesh.mesh.prover.traveller import ACK, SYN, TARGET_NAT, Family
from qmesh.mesh.prover.walk import Walk
from qmesh.mesh.state import Guard


def build_sent(ruleset: ProvedRuleset, guard: Guard, family: Family) -> Iterator[Case]:
    """Who is answered, and who speaks with the membership service."""
    walk = walk_outward(ruleset, family)
    sent = _Sent(guard, walk, walk.start.source_port)
    closed = sent.build_taken_up(), sent.build_older(), sent.build_service()
    translated = sent.build_translated()
    leaves = walk.leave()
    yield from (replace(case, leaves=leaves) for case in closed)
    yield sent.build_asking()
    yield replace(translated, leaves=leaves)
    yield sent.build_answers()


class _Sent:
    """port: from which it was sent, before any translation."""

    def __init__(self, guard: Guard, walk: Walk, port: Wires) -> None:
        self._guard, self._walk, self._port = guard, walk, port
        self._terms = terms = PacketTerms(guard, walk)
        at, gates = walk.at, walk.gates
        self._is_root = gates.both(at.has_socket, gates.equal(at.user, bytes(4)))
        self._to_service = terms.is_in_ports(at.target_port, [guard.service_port])
        self._by_root = gates.both(gates.either(self._is_root, -at.has_socket), self._to_service)
        self._own = gates.both(terms.goes_by_loopback, terms.is_in_ports(port, guard.guarded_ports))
        self._closed = terms.is_closed(port)
        by_tunnel = terms.is_tunnel(terms.goes_by)
        self._to_mesh = gates.both(by_tunnel, terms.is_in_ports(port, guard.mesh_ports))
        self._to_control = self._to_asker = FALSE
        if guard.role == "worker":
            by_control = terms.is_in_ports(port, (*guard.ports, *guard.control_ports))
            self._to_control = gates.both(by_tunnel, terms.is_control(at.target))
            self._to_asker = gates.both(self._to_control, by_control)

    def build_taken_up(self) -> Case:
        """What would become a connection whose beginning nobody has judged."""
        gates, walk = self._walk.gates, self._walk
        may = gates.any_of((self._own, self._by_root, self._to_control))
        taken_up = gates.all_of((walk.alive, self._terms.is_cut_in, self._closed, -may))
        return Case("taken-up", walk.at.family, walk, taken_up)

    def build_older(self) -> Case:
        """Answers to those who may not ask."""
        at, gates, walk = self._walk.at, self._walk.gates, self._walk
        answer = gates.all_of((walk.alive, self._terms.is_transport, at.is_answer, self._closed))
        if self._guard.role == "worker":
            asked = gates.any_of((self._own, self._to_asker, self._to_mesh))
        else:
            asked = gates.either(self._terms.goes_by_loopback, self._to_mesh)
        older = gates.all_of((answer, -asked, -self._by_root, -at.is_for_this_machine))
        return Case("older", at.family, walk, older)

    def build_service(self) -> Case:
        """The membership service is root's: who else asks it, or answers in its name."""
        at, gates, walk, terms, guard = self._walk.at, self._walk.gates, self._walk, self._terms, self._guard
        nobody = gates.both(-at.has_socket, at.flag(SYN))
        user = gates.both(at.has_socket, -self._is_root)
        wrong = gates.all_of((self._to_service, self._is_to_hub(), gates.either(nobody, user)))
        if guard.role == "control":
            from_service = terms.is_in_ports(self._port, [guard.service_port])
            wrong = gates.either(wrong, gates.all_of((from_service, terms.is_control(at.source), user)))
        return Case("service", at.family, walk, gates.all_of((walk.alive, at.is_tcp, wrong)))

    def _is_to_hub(self) -> int:
        """To a machine that has a membership service."""
        guard, at, gates = self._guard, self._walk.at, self._walk.gates
        if guard.role == "worker":
            return self._terms.has_tunnel_name(self._terms.goes_by)
        return gates.any_of(
            gates.equal(at.target, ipaddress.ip_address(hub).packed)
            for hub in (guard.control_address, guard.successor_address)
            if hub and (":" in hub) == (at.family == "ip6")
        )

    def build_asking(self) -> Case:
        """Root asks the membership service, while nobody asks more often than a limit says."""
        gates, walk, terms = self._walk.gates, self._walk, self._terms
        at, start = walk.at, walk.start
        is_asked = terms.is_in_ports(start.target_port, [self._guard.service_port])
        goes = terms.is_tunnel(terms.goes_by) if self._guard.role == "worker" else terms.goes_by_loopback
        asks = (self._is_root, at.is_tcp, is_asked, terms.is_control(start.target), goes)
        usual = (
            at.connection.is_tracked, -at.connection.is_related, -at.connection.is_reply,
            gates.either(-at.is_new, terms.is_beginning), gates.equal(start.mark, bytes(4)),
        )  # fmt: skip
        refused = gates.all_of((*walk.plain, -walk.alive, *asks, *usual, *walk.unknowns.calm))
        return Case("control", at.family, walk, refused)

    def build_translated(self) -> Case:
        """What is sent to a worker of this machine, and a translation leads elsewhere on its way to it."""
        gates, walk, terms = self._walk.gates, self._walk, self._terms
        start = walk.start
        ports = self._guard.ports if self._guard.role == "worker" else ()
        is_own = gates.both(start.is_for_this_machine, -terms.is_control(start.target))
        is_asked = gates.both(is_own, terms.is_in_ports(start.target_port, ports))
        is_translated = gates.both(walk.at.is_in_connection, walk.at.connection.status[TARGET_NAT])
        gone = gates.all_of((is_asked, is_translated, -terms.leaves_by_loopback))
        return Case("containers", walk.at.family, walk, terms.reaches(gone))

    def build_answers(self) -> Case:
        """Of packets at their end: answers to those who may ask, which do not leave."""
        at, gates, walk = self._walk.at, self._walk.gates, self._walk
        answer = gates.all_of(
            (*walk.plain, -walk.alive, self._terms.is_transport, at.is_answer, -at.connection.is_related,
             gates.either(-at.is_tcp, at.flag(ACK)))
        )  # fmt: skip
        is_worker = self._guard.role == "worker"
        local = FALSE if is_worker else gates.both(self._terms.goes_by_loopback, self._closed)
        to = gates.any_of((self._to_asker, local, self._to_mesh))
        not_service = -self._terms.is_in_ports(at.target_port, [self._guard.service_port])
        unmarked = gates.equal(at.mark, bytes(4))
        return Case("answers", at.family, walk, gates.all_of((answer, to, not_service, unmarked)))
