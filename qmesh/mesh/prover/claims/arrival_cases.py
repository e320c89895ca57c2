"""What is to be proved of packets that come to this machine's programs."""

from __future__ import annotations

from collections.abc import Iterator

from qmesh.mesh.prover.claims.case import Case
from qmesh.mesh.prover.claims.packet_terms import PacketTerms
from qmesh.mesh.prover.claims.ways import walk_inward
from qmesh.mesh.prover.gates import FALSE, TRUE
from qmesh.mesh.prover.rulesets import ProvedRuleset
from qmesh.mesh.prover.traveller import ACK, RST, Family
from qmesh.mesh.prover.walk import Walk
from qmesh.mesh.state import Guard


def build_arrivals(ruleset: ProvedRuleset, guard: Guard, family: Family) -> Iterator[Case]:
    """Who is let in, and who has to be."""
    walk = walk_inward(ruleset, family)
    terms = PacketTerms(guard, walk)
    at, start, gates = walk.at, walk.start, walk.gates
    yield Case("outside", family, walk, terms.reaches(terms.is_from_outside(at.target_port)))
    wrong = terms.is_from_wrong_member(start.target_port, start.source)
    yield Case("tunnel", family, walk, terms.reaches(wrong))
    granted = terms.is_granted(start.target_port, start.source, start.target)
    named = gates.all_of((terms.came_by_tunnels_name, -granted, -at.is_answer))
    yield Case("granted", family, walk, terms.reaches(named))
    yield from _build_needed(guard, walk, terms)


def _build_needed(guard: Guard, walk: Walk, terms: PacketTerms) -> Iterator[Case]:
    """What the mesh needs: none of it is dropped."""
    at, start, gates = walk.at, walk.start, walk.gates
    asked = start.target_port
    dropped = gates.all_of(
        (start.is_for_this_machine, gates.equal(start.mark, bytes(4)), at.connection.is_tracked,
         -at.connection.is_related, -walk.alive)
    )  # fmt: skip
    proper = gates.all_of(
        (*walk.plain, dropped, terms.is_transport, gates.either(-at.is_new, terms.is_beginning))
    )
    to_mesh = gates.both(terms.came_by_tunnel, terms.is_in_ports(asked, guard.mesh_ports))
    if guard.role == "worker":
        by_control = terms.is_in_ports(asked, (*guard.ports, *guard.control_ports))
        by = gates.all_of((terms.came_by_tunnel, terms.is_control(start.source), by_control))
        own = gates.both(terms.came_by_loopback, terms.is_in_ports(asked, guard.guarded_ports))
        by = gates.either(by, own)
    else:
        by = gates.both(terms.came_by_loopback, terms.is_closed(asked))
    asks = _ask_service(guard, walk, terms) if guard.role == "control" else FALSE
    may = gates.both(gates.any_of((by, to_mesh, asks)), -at.connection.is_reply)
    yield Case("control", at.family, walk, gates.both(proper, may))
    to_wireguard = gates.both(at.is_udp, terms.is_in_ports(asked, [guard.listen_port]))
    expected = at.connection.is_reply if guard.role == "worker" else TRUE
    by = gates.all_of((-terms.came_by_tunnels_name, -at.is_looped, expected))
    yield Case("wireguard", at.family, walk, gates.all_of((proper, by, to_wireguard)))
    asks_nothing = gates.any_of((-at.is_tcp, at.flag(ACK), at.flag(RST)))
    answer = gates.all_of((terms.is_closed(asked), at.connection.is_reply, asks_nothing))
    yield Case("answers", at.family, walk, gates.both(proper, answer))


def _ask_service(guard: Guard, walk: Walk, terms: PacketTerms) -> int:
    """Members, at the membership service, while nobody asks more often than a limit says."""
    ports = {guard.service_port, guard.stream_port or guard.service_port}
    is_asked = terms.is_in_ports(walk.start.target_port, ports)
    to_service = (terms.came_by_tunnel, walk.at.is_tcp, terms.is_control(walk.start.target), is_asked)
    return walk.gates.all_of((*to_service, *walk.unknowns.calm))
