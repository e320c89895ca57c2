"""What this machine's own programs send."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from qmesh.mesh.drill.rows import DrillRow, Wanted, make_row
from qmesh.mesh.drill.volleys import BEGINNINGS, LOOPBACK, Volleys

USER: Final = 65534
_BOTH: Final = (0, USER)


def list_local_rows(fire: Volleys) -> Iterator[DrillRow]:
    """To the machine itself, to the membership service and to members."""
    own = [*LOOPBACK.values(), *fire.target.list_own()]
    side = "this machine, root and users"
    wanted: Wanted = "blocked" if fire.guard.role == "worker" else "as without"
    to_workers = fire.fire_locally(own, fire.workers, _BOTH, BEGINNINGS)
    yield make_row(side, "to its own worker ports", wanted, to_workers)
    to_guarded = fire.fire_locally(own, fire.guarded, _BOTH, BEGINNINGS)
    yield make_row(side, "to its closed ports that are no workers'", "as without", to_guarded)
    to_open = fire.fire_locally(own, fire.open, _BOTH, BEGINNINGS)
    yield make_row(side, "to its open ports", "as without", to_open)
    if fire.target.has_tunnel:
        yield from _list_mesh_rows(fire, side)


def _list_mesh_rows(fire: Volleys, side: str) -> Iterator[DrillRow]:
    """Into the tunnel."""
    guard, member = fire.guard, fire.target.member
    asked: tuple[tuple[int, str, Wanted], ...] = ((0, "root", "through"), (USER, "a user", "blocked"))
    for user, who, fate in asked:
        shots = fire.fire_locally([guard.control_address], [guard.service_port], (user,), BEGINNINGS[:1])
        yield make_row(f"this machine, {who}", "to the membership service", fate, shots)
    if guard.role == "control" and member is not None:
        shots = fire.fire_locally([member], fire.workers, _BOTH, BEGINNINGS)
        yield make_row(side, "to a member's workers", "as without", shots)
