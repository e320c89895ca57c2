"""What is none of the guard's business, by its own tables: what others do is the same without them."""

from __future__ import annotations

from collections.abc import Iterator

from qmesh.mesh.prover.claims.case import Case
from qmesh.mesh.prover.claims.packet_terms import PacketTerms
from qmesh.mesh.prover.claims.ways import walk_inward, walk_outward, walk_through
from qmesh.mesh.prover.rulesets import ProvedRuleset
from qmesh.mesh.prover.traveller import TARGET_NAT, Family
from qmesh.mesh.state import Guard


def build_others(ruleset: ProvedRuleset, guard: Guard, family: Family) -> Iterator[Case]:
    """On each of the three ways: what the guard drops is its own."""
    own = ruleset.only(*ruleset.own_tables)
    yield _build_arrivals(own, guard, family)
    yield _build_passages(own, guard, family)
    yield _build_sent(own, guard, family)


def _build_arrivals(ruleset: ProvedRuleset, guard: Guard, family: Family) -> Case:
    walk = walk_inward(ruleset, family)
    terms = PacketTerms(guard, walk)
    asked, reached = (terms.is_closed(each.target_port) for each in (walk.start, walk.at))
    its_own = walk.gates.any_of((asked, reached, terms.came_by_tunnels_name))
    return Case("others", family, walk, walk.gates.both(-walk.alive, -its_own))


def _build_passages(ruleset: ProvedRuleset, guard: Guard, family: Family) -> Case:
    walk = walk_through(ruleset, family)
    terms = PacketTerms(guard, walk)
    at, gates = walk.at, walk.gates
    to_own = gates.both(walk.start.is_for_this_machine, terms.is_closed(walk.start.target_port))
    to_container = gates.either(terms.is_bridge(terms.goes_by), at.connection.status[TARGET_NAT])
    published = gates.both(to_container, terms.is_closed(at.target_port))
    taken_up = gates.all_of((terms.is_cut_in, terms.came_by_bridge, terms.is_closed(at.source_port)))
    by_tunnel = gates.either(terms.came_by_tunnels_name, terms.has_tunnel_name(terms.goes_by))
    walk.leave()
    its_own = gates.any_of((to_own, published, taken_up, by_tunnel))
    return Case("others", family, walk, gates.both(-walk.alive, -its_own))


def _build_sent(ruleset: ProvedRuleset, guard: Guard, family: Family) -> Case:
    walk = walk_outward(ruleset, family)
    terms = PacketTerms(guard, walk)
    at, gates = walk.at, walk.gates
    older = gates.both(terms.is_closed(at.source_port), gates.either(at.is_answer, terms.is_cut_in))
    asks = gates.both(at.is_for_this_machine, terms.is_closed(at.target_port))
    service = gates.any_of(
        terms.is_in_ports(port, [guard.service_port]) for port in (at.source_port, at.target_port)
    )
    walk.leave()
    its_own = gates.any_of((older, asks, service))
    return Case("others", family, walk, gates.both(-walk.alive, -its_own))
