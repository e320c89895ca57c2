"""`undo`: put this machine back without waiting for the deadline."""

from __future__ import annotations

from qmesh.agent.preconditions import check_user, lock_checked
from qmesh.agent.rollback import roll_back
from qmesh.host.state.directory import State
from qmesh.host.system import boot_clock


def roll_back_now(state: State) -> bool:
    """Put this machine back without waiting any longer; whether there was something to put back."""
    check_user("undo")
    with lock_checked(state, "undo"):
        undoing = state.rollback_record.read()
        if undoing is None or undoing.undone:
            return False
        roll_back(state, undoing, at_boot=undoing.boot != boot_clock.now().boot)
    return True
