"""Events have a level that syslog(3) knows."""

from __future__ import annotations

import pytest

from qmesh.mesh.events.catalogue import EVENTS, PRIORITIES, find_level


def test_every_event_has_a_level_of_syslog():
    assert {PRIORITIES[level] for level in EVENTS.values()} <= set(range(8))


@pytest.mark.parametrize(
    ("number", "level"),
    [
        (50, "err"),
        (40, "err"),
        (39, "warning"),
        (30, "warning"),
        (29, "notice"),
        (25, "notice"),
        (20, "info"),
    ],
)
def test_every_number_of_pythons_has_a_level(number, level):
    assert find_level(number) == level
    assert find_level(19) == find_level(0) == "debug"
