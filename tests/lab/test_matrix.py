"""G1, G2 and G5 by the whole of `support/lab/matrix`, on both kinds of machine and for both kinds of mesh."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.lab.matrix.case import passes, reached
from tests.support.lab.matrix.hostile import HOSTILE
from tests.support.lab.matrix.legitimate import LEGITIMATE
from tests.support.lab.matrix.rulesets import HELD_ALONE, LASTING, NONE, QMESH
from tests.support.lab.mesh import NEIGHBOUR

pytestmark = pytest.mark.lab

HOSTILE_ROWS = [
    pytest.param(case, role, overlay, id=f"{case.name}, {role}, {overlay}")
    for case in HOSTILE
    for overlay in case.overlays
    for role in case.roles
]
LEGITIMATE_ROWS = [
    pytest.param(case, role, overlay, id=f"{case.name}, {role}, {overlay}")
    for case in LEGITIMATE
    for overlay in case.overlays
    for role in case.roles
]


@pytest.mark.parametrize(("case", "role", "overlay"), HOSTILE_ROWS)
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


@pytest.mark.parametrize(("case", "role", "overlay"), LEGITIMATE_ROWS)
def test_g2_who_may_gets_through(bare: Any, case, role, overlay):
    with case.arranged(bare, role):
        QMESH.guard(bare, role, overlay)
        assert passes(bare, case, role, overlay)
