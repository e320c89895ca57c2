"""`qmesh undo`."""

from __future__ import annotations

from typing import Annotated

import typer

from qmesh.agent.commands.undo import roll_back_now
from qmesh.cli.entrypoints import exec_resident
from qmesh.cli.output import STATE, JsonOption, StateOption, print_answer
from qmesh.host.state.directory import State

EXAMPLES = ("qmesh undo --now", "systemctl status qmesh-undo    (where systemd runs)")


def command(
    now: Annotated[bool, typer.Option("--now", help="Do not wait any longer.")] = False,
    state: StateOption = STATE,
    as_json: JsonOption = False,
) -> None:
    """Put back what `apply --confirm` did and nobody confirms.

    Without `--now` it is the process that waits until the time is over: `apply --confirm` starts it by
    itself, with systemd where that runs.
    """
    if now:
        undone = roll_back_now(State(state))
        print_answer(
            {"undone": undone}, as_json=as_json, text=lambda _: "put back" if undone else "nothing to undo"
        )
        return
    exec_resident("undo", state)
