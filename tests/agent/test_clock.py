"""A clock that is set far forward or back lifts no limit and makes nothing fresh."""

from __future__ import annotations

import os
import time

import pytest

from qmesh.agent.audit.clocks import compare_clock
from qmesh.agent.daemon.supervisor import LATELY_S, Troubles
from qmesh.agent.local import Local
from qmesh.host.state.directory import State
from qmesh.host.state.documents import Settings
from qmesh.mesh.endpoints import FRESH_S, find_stale_keys
from qmesh.mesh.state import Counters
from tests.support import factories


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


@pytest.mark.lab
@pytest.mark.usefixtures("own_machine")
def test_a_clock_that_went_back_is_known_without_the_control_node(tmp_path):
    """As of a machine that starts in 1970: its handshakes are refused, so nobody tells it the time."""
    mesh = factories.mesh(factories.machine("a", 1), factories.machine("b", 2))
    settings = Settings(
        mesh=mesh.mesh,
        name="b",
        control=False,
        interface="qmesh0",
        listen_port=51820,
        verification_key=bytes(32),
    )
    state, here = State(tmp_path), Local(settings, mesh, {})
    assert compare_clock(state, here) is None
    state.membership_file.write_bytes(b"{}")
    later = time.time() + 3 * 86400
    os.utime(state.membership_file, (later, later))
    found = compare_clock(state, here)
    assert found is not None
    assert -3 * 86400 - 60 < found.seconds < -3 * 86400 + 60
    assert found.may_be_ahead
