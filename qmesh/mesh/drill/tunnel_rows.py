"""What comes through the tunnel."""

from __future__ import annotations

from collections.abc import Iterator

from qmesh.mesh.drill.rows import DrillRow, make_row
from qmesh.mesh.drill.target import STRANGER
from qmesh.mesh.drill.volleys import BEGINNINGS, KINDS, LOOPBACK, Volleys


def list_tunnel_rows(fire: Volleys) -> Iterator[DrillRow]:
    """From the control node, members and strangers."""
    guard, target, way = fire.guard, fire.target, fire.guard.interface
    own, mine = target.list_own(way), target.get_tunnel_address()
    if guard.role == "worker":
        yield from _list_control_node_rows(fire, way, mine)
    members = [] if target.member is None else [target.member]
    others = [*members, *_list_strangers(fire, way)]
    side = f"{way}, members and strangers"
    shots = fire.fire_all(way, fire.workers, KINDS, sources=others, targets=own)
    yield make_row(side, "to worker ports", "blocked", shots)
    denied = (*fire.own_ports, *fire.control_ports, *fire.open)
    shots = fire.fire_all(way, denied, BEGINNINGS, sources=others, targets=own)
    yield make_row(side, "to other ports", "blocked", shots)
    let_in = [*fire.mesh_ports, *([guard.service_port] if guard.role == "control" else [])]
    shots = fire.fire_all(way, let_in, BEGINNINGS[:1], sources=members, targets=[mine])
    yield make_row(f"{way}, a member", "to what members reach", "answered", shots)
    forged = [mine, LOOPBACK[target.version]]
    shots = fire.fire_all(way, fire.workers, BEGINNINGS, sources=forged, targets=own)
    yield make_row(f"{way}, strangers", "to worker ports, in this machine's name", "blocked", shots)


def _list_control_node_rows(fire: Volleys, way: str, mine: str) -> Iterator[DrillRow]:
    by_control = [fire.guard.control_address]
    reached = (*fire.workers, *fire.control_ports, *fire.mesh_ports)
    side, tcp, udp = f"{way}, the control node", BEGINNINGS[:1], BEGINNINGS[1:]
    shots = fire.fire_all(way, reached, tcp, sources=by_control, targets=[mine])
    yield make_row(side, "to worker ports, and those that it reaches besides", "answered", shots)
    shots = fire.fire_all(way, reached, udp, sources=by_control, targets=[mine])
    yield make_row(side, "the same by UDP", "through", shots)
    shots = fire.fire_all(way, fire.own_ports, BEGINNINGS, sources=by_control, targets=[mine])
    yield make_row(side, "to what only the machine itself reaches", "blocked", shots)
    shots = fire.fire_all(way, fire.open, BEGINNINGS, sources=by_control, targets=[mine])
    yield make_row(side, "to open ports", "blocked", shots, in_held=False)


def _list_strangers(fire: Volleys, way: str) -> list[str]:
    """Who may come through the tunnel and is no member: of the network, and of elsewhere."""
    version = fire.target.version
    return [fire.target.find_neighbour(way, version), STRANGER[version]]
