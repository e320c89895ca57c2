"""`undo`: roll this machine back without waiting for the deadline."""

from __future__ import annotations

from qmesh.agent.preconditions import check_user, lock_checked
from qmesh.agent.rollback import roll_back
from qmesh.host.state.directory import State
from qmesh.host.system import boot_clock


def has_pending_rollback(state: State) -> bool:
    """Whether a change waits to be confirmed, or to be rolled back. Raises NeedsRoot."""
    check_user("undo")
    undoing = state.rollback_record.read()
    return undoing is not None and not undoing.undone


def roll_back_now(state: State) -> bool:
    """Roll this machine back without waiting any longer; whether there was something to roll back."""
    check_user("undo")
    with lock_checked(state, "undo"):
        undoing = state.rollback_record.read()
        if undoing is None or undoing.undone:
            return False
        roll_back(state, undoing, at_boot=undoing.boot != boot_clock.now().boot)
    return True
