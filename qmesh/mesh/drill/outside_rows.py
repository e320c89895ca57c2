"""What comes in by an interface that is not the tunnel."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Final

from qmesh.mesh.drill.connection_rows import list_reply_rows, make_older_row
from qmesh.mesh.drill.rows import DrillRow, make_row
from qmesh.mesh.drill.shots import Shape
from qmesh.mesh.drill.volleys import BEGINNINGS, FEW_KINDS, KINDS, LOOPBACK, Volleys

_SHAPES: Final[tuple[Shape, ...]] = ("fragments", "tiny fragments", "options")


def list_outside_rows(fire: Volleys, way: str) -> Iterator[DrillRow]:
    """By one such interface."""
    yield from _list_closed_rows(fire, way)
    yield make_older_row(fire, way)
    if fire.target.has_tunnel:
        shots = fire.fire_into_tunnel(way)
        yield make_row(way, "through this machine into the tunnel", "blocked", shots)
    beginnings = fire.fire_all(way, fire.open, BEGINNINGS)
    yield make_row(way, "strangers, to open ports", "as without", beginnings)
    wireguard = fire.fire_all(way, [fire.guard.listen_port], (("udp", 0),))
    yield make_row(way, "to WireGuard's port", "as without", wireguard)
    yield make_row(way, "through this machine to others", "as without", fire.fire_through(way))
    yield from list_reply_rows(fire, way)


def _list_closed_rows(fire: Volleys, way: str) -> Iterator[DrillRow]:
    """At closed ports, in one name and the other, in all shapes."""
    everything = fire.fire_all(way, fire.closed, KINDS)
    yield make_row(way, "strangers, to closed ports", "blocked", everything)
    control, tunnel = fire.guard.control_address, fire.guard.interface
    known = [control, *fire.target.list_own(tunnel), *filter(None, [fire.target.member])]
    forged = fire.fire_all(way, fire.closed, FEW_KINDS, sources=known)
    yield make_row(way, "in the name of machines of the mesh, and of this one", "blocked", forged)
    own = [*LOOPBACK.values(), *fire.target.list_own(way)]
    strange = fire.fire_all(way, fire.closed, BEGINNINGS, sources=own)
    yield make_row(way, "in the name of its loopback and its own address there", "blocked", strange)
    shaped = (fire.fire_all(way, fire.closed, FEW_KINDS, shape=shape) for shape in _SHAPES)
    pieces = itertools.chain.from_iterable(shaped)
    yield make_row(way, "in fragments, and with options", "blocked", pieces)
    yield make_row(way, "to all: broadcast and multicast", "blocked", fire.fire_to_all(way))
    yield make_row(way, "to machines behind its bridges", "blocked", fire.fire_behind(way))
