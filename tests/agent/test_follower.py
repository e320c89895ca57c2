"""What the agent has to restart still, beside commands that ask for more."""

from __future__ import annotations

from pathlib import Path

from qmesh.agent.following import Follower
from qmesh.host.state import State
from qmesh.mesh.following import Due


def test_what_a_command_asks_for_while_workers_are_restarted_is_not_forgotten(tmp_path: Path) -> None:
    state = State(tmp_path / "state")
    state.prepare()
    follower = Follower(state)
    was, more = Due(restart=(1,), control=True), Due(restart=(1, 2), control=True)
    state.save_due(was)
    state.save_due(more)  # by `qmesh apply`, meanwhile
    for left in (None, Due(control=True)):
        assert not follower._done(was, left)
        assert state.due() == more
    assert follower._done(more, Due(control=True))
    assert state.due() == Due(control=True)
    assert follower._done(Due(control=True), None)
    assert state.due() is None
