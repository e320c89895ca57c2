"""A clock that is set far forward or back lifts no limit and makes nothing fresh."""

from __future__ import annotations

import time

import pytest

from qmesh.agent.daemon.supervisor import LATELY_S, Troubles
from qmesh.mesh.endpoints import FRESH_S, find_stale_keys
from qmesh.mesh.state import Counters


@pytest.mark.parametrize(
    ("ago_s", "is_stale"),
    [(0, False), (FRESH_S - 60, False), (FRESH_S + 1, True), (-3600, True), (-(10**9), True), (10**9, True)],
)
def test_a_handshake_of_another_time_is_not_fresh(ago_s, is_stale):
    counters = {"key": Counters(int(time.time()) - ago_s, 0, 0, None)}
    assert (find_stale_keys(counters, time.time()) == {"key"}) is is_stale


def test_what_was_begun_anew_in_the_future_was_not_lately(monkeypatch):
    troubles = Troubles(lambda _: None)
    troubles.note_restart("part", "it hung")
    assert [each.times for each in troubles.recent_restarts()] == [1]
    back = time.time() - 2 * LATELY_S
    monkeypatch.setattr(time, "time", lambda: back)
    assert troubles.recent_restarts() == ()
    troubles.note_restart("part", "it hung")
    assert [each.times for each in troubles.recent_restarts()] == [1]
