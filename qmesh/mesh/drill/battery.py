"""What is fired at the copy of a machine, from every side, and what should become of it.

A row is what one side tries, or needs, in one way. The promises are those of docs/guard.md: G1 and G5 for
`blocked`, G2 for `as without`.
"""

from __future__ import annotations

from collections.abc import Iterator

from qmesh.mesh.drill.local_rows import list_local_rows
from qmesh.mesh.drill.outside_rows import list_outside_rows
from qmesh.mesh.drill.rows import DrillRow
from qmesh.mesh.drill.target import DrillTarget
from qmesh.mesh.drill.tunnel_rows import list_tunnel_rows
from qmesh.mesh.drill.volleys import Volleys


def list_rows(target: DrillTarget) -> list[DrillRow]:
    """All that is fired, side by side; rows without a shot are left out."""
    return [row for row in _list_rows(Volleys(target)) if row.shots]


def _list_rows(fire: Volleys) -> Iterator[DrillRow]:
    for way in fire.outside:
        yield from list_outside_rows(fire, way)
    if fire.target.has_tunnel:
        yield from list_tunnel_rows(fire)
    yield from list_local_rows(fire)
