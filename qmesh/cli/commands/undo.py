"""`qmesh undo`."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from qmesh.cli.entrypoints import exec_resident
from qmesh.cli.output import STATE, JsonOption, StateOption, print_outcome

EXAMPLES = ("qmesh undo --now", "systemctl status qmesh-undo    (where systemd runs)")

_ROLLED_BACK: Final = "this machine was rolled back to its state before `apply --confirm`"
_NOTHING: Final = "nothing to undo: no change waits to be confirmed"


def command(
    now: Annotated[bool, typer.Option("--now", help="Roll back now, without waiting.")] = False,
    state: StateOption = STATE,
    as_json: JsonOption = False,
) -> None:
    """Roll back what `apply --confirm` did.

    With `--now` at once. Without it, this is the process that waits until the time to confirm is over:
    `apply --confirm` starts it, with systemd where that runs.
    """
    from qmesh.agent.commands.undo import has_pending_rollback, roll_back_now
    from qmesh.host.state.directory import State

    if not now and has_pending_rollback(State(state)):
        exec_resident("undo", state)
    undone = now and roll_back_now(State(state))
    print_outcome({"undone": undone}, as_json=as_json, text=lambda _: _ROLLED_BACK if undone else _NOTHING)
