"""What is to be proved of packets that this machine passes on."""

from __future__ import annotations

from collections.abc import Iterator

from qmesh.mesh.prover.claims.case import Case
from qmesh.mesh.prover.claims.packet_terms import PacketTerms
from qmesh.mesh.prover.claims.ways import walk_through
from qmesh.mesh.prover.rulesets import ProvedRuleset
from qmesh.mesh.prover.traveller import TARGET_NAT, Family
from qmesh.mesh.state import Guard


def build_passages(ruleset: ProvedRuleset, guard: Guard, family: Family) -> Iterator[Case]:
    """To containers and from them, and into the tunnel."""
    walk = walk_through(ruleset, family)
    terms = PacketTerms(guard, walk)
    at, start, gates = walk.at, walk.start, walk.gates
    asked, by_tunnels_name = start.target_port, terms.has_tunnel_name(terms.goes_by)
    to_container = gates.either(
        terms.is_bridge(terms.goes_by), gates.both(at.is_in_connection, at.connection.status[TARGET_NAT])
    )
    hostile = gates.either(
        terms.is_from_outside(at.target_port), terms.is_from_wrong_member(asked, at.source)
    )
    by_other_name = gates.both(-terms.came_by_tunnels_name, -at.is_answer)
    published = gates.all_of((start.is_for_this_machine, terms.is_from_outside(asked), by_other_name))
    hostile = gates.either(gates.all_of((hostile, to_container, -by_tunnels_name)), published)
    reached = terms.reaches(gates.both(hostile, -at.is_looped))
    into = gates.all_of((walk.alive, by_tunnels_name, -at.is_answer))
    taken_up = gates.all_of((walk.alive, terms.is_cut_in, terms.came_by_bridge))
    taken_up = gates.all_of((taken_up, terms.is_closed(at.source_port), -terms.goes_by_loopback))
    leaves = walk.leave()
    yield Case("containers", family, walk, reached, leaves)
    yield Case("into-tunnel", family, walk, into, leaves)
    yield Case("taken-up", family, walk, taken_up, leaves)
