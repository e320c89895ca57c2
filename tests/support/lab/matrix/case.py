"""The attack matrix, as values: who must not reach a closed port or the membership service, and who must.

A hostile case is shown three times: without rules its packets arrive, with the guard they do not, and
with the guard the same to a port of no worker does. Only the machine of the case's role has rules.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from tests.support.lab.mesh import NEIGHBOUR, WORKER, Mesh, Role, all_arrived
from tests.support.lab.probe import Probe, attempts, eventually

Overlay: TypeAlias = Literal["IPv4", "IPv6"]
OVERLAYS: Final[tuple[Overlay, ...]] = ("IPv4", "IPv6")
BOTH: Final[tuple[Role, ...]] = ("worker", "control")
Arrangement: TypeAlias = Callable[[Mesh, Role], AbstractContextManager[None]]


def as_it_is(mesh: Mesh, role: Role) -> AbstractContextManager[None]:
    """Nothing is arranged."""
    del mesh, role
    return contextlib.nullcontext()


@dataclass(frozen=True)
class Hostile:
    """Somebody who must not reach a closed port.

    Attributes:
        name: in words.
        probes: to a port of the machine of a role.
        ports: those that must not be reached.
        roles: whose guard it is that must refuse.
        arranged: what has to be so meanwhile.
        others: whether a port of no worker is reached that way although there is a guard.
        overlays: of the meshes in which there is such.
    """

    name: str
    probes: Callable[[Mesh, Role, int], list[Probe]]
    roles: tuple[Role, ...] = BOTH
    arranged: Arrangement = as_it_is
    others: bool = True
    overlays: tuple[Overlay, ...] = OVERLAYS
    ports: tuple[int, ...] = (WORKER,)

    def hostile_probes(self, mesh: Mesh, role: Role) -> list[Probe]:
        """To all ports that must not be reached."""
        return [probe for port in self.ports for probe in self.probes(mesh, role, port)]


@dataclass(frozen=True)
class Legitimate:
    """Somebody who must get through, and be answered. overlays: of the meshes in which there is such."""

    name: str
    probes: Callable[[Mesh, Role, Overlay], list[Probe]]
    roles: tuple[Role, ...] = BOTH
    arranged: Arrangement = as_it_is
    overlays: tuple[Overlay, ...] = OVERLAYS


def reached(mesh: Mesh, case: Hostile, role: Role, *, others: bool = False) -> set[str]:
    """Those of its probes that arrive; `others`: those to a port of no worker too, which are waited for."""
    ordinary = case.probes(mesh, role, NEIGHBOUR) if others else []
    return mesh.arrived([*case.hostile_probes(mesh, role), *ordinary], ordinary)


def passes(mesh: Mesh, case: Legitimate, role: Role, overlay: Overlay, *, seconds: float = 3) -> bool:
    """Whether all of its probes arrive and are answered, in so many seconds at most."""
    with attempts(case.probes(mesh, role, overlay)) as made:
        return eventually(lambda: all_arrived(mesh, made), seconds) and all(
            eventually(lambda attempt=attempt: attempt.line in attempt.received(), seconds)
            for attempt in made
        )
