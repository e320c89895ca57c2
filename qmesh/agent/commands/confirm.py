"""`confirm`: keep what `apply --confirm` did."""

from __future__ import annotations

import msgspec

from qmesh.agent.preconditions import check_user, lock_checked
from qmesh.host.state.directory import State


class ConfirmResult(msgspec.Struct, frozen=True):
    """What `confirm` found. kept: whether the change is kept; found: in words."""

    kept: bool
    found: str


def confirm(state: State) -> ConfirmResult:
    """Keep the change that waits. Nothing there to keep is fine; one that was undone is not."""
    check_user("confirm")
    with lock_checked(state, "confirm"):
        undoing = state.rollback_record.read()
        if undoing is None:
            return ConfirmResult(kept=True, found="nothing to confirm: no change waits for it")
        if undoing.undone:
            return ConfirmResult(
                kept=False,
                found="too late: this machine was rolled back; to try again, run"
                " `qmesh apply --confirm SECONDS`",
            )
        state.rollback_record.remove()
    return ConfirmResult(kept=True, found="confirmed: the change stays")
