"""G1, G2 and G5 by the whole of `support/lab/matrix`, on both kinds of machine and for both kinds of mesh."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from tests.support.lab.matrix.case import Hostile, Legitimate, passes, reached
from tests.support.lab.matrix.hostile import HOSTILE
from tests.support.lab.matrix.legitimate import LEGITIMATE
from tests.support.lab.matrix.rulesets import HELD_ALONE, LASTING, NONE, QMESH
from tests.support.lab.mesh import NEIGHBOUR

pytestmark = pytest.mark.lab

IN_BOTH = {
    "LAN: IPv4",
    "LAN: global IPv6",
    "control node's address forged, tunnel up",
    "another member, through the tunnel",
    "control node to every worker",
    "control node to the ports that it reaches besides workers'",
    "members to the membership service",
    "a member to the membership service, and its answer",
    "SSH from the LAN: global IPv6",
}
"""Cases that are tried in both kinds of mesh with every change: the guards differ in the mesh's addresses."""


def rows(cases: Sequence[Hostile | Legitimate]) -> list[Any]:
    return [
        pytest.param(
            case,
            role,
            overlay,
            id=f"{case.name}, {role}, {overlay}",
            marks=[] if overlay == case.overlays[0] or case.name in IN_BOTH else pytest.mark.long,
        )
        for case in cases
        for overlay in case.overlays
        for role in case.roles
    ]


@pytest.mark.parametrize(("case", "role", "overlay"), rows(HOSTILE))
def test_g1_g5_nobody_reaches_a_worker_nor_a_user_the_service(bare: Any, case, role, overlay):
    with case.arranged(bare, role):
        NONE.guard(bare, role, overlay)
        bare.assert_all_arrive(case.hostile_probes(bare, role))
        # Each table must do alone: the other may be away. By the overlay they differ in one word.
        for part in (LASTING, HELD_ALONE) if overlay == "IPv4" else ():
            part.guard(bare, role, overlay)
            assert reached(bare, case, role) == set()
        QMESH.guard(bare, role, overlay)
        ordinary = {str(probe) for probe in case.probes(bare, role, NEIGHBOUR)} if case.others else set()
        found = reached(bare, case, role, others=case.others)
        if found < ordinary:  # a packet is lost now and then; a second look forgives no attack
            found |= reached(bare, case, role, others=case.others)
        assert found == ordinary


@pytest.mark.parametrize(("case", "role", "overlay"), rows(LEGITIMATE))
def test_g2_who_may_gets_through(bare: Any, case, role, overlay):
    with case.arranged(bare, role):
        QMESH.guard(bare, role, overlay)
        assert passes(bare, case, role, overlay)
