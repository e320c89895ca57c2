"""`qmesh pause`."""

from __future__ import annotations

from typing import Annotated

import typer

from qmesh.agent.commands.pause import pause
from qmesh.cli.change_text import print_change
from qmesh.cli.output import STATE, JsonOption, StateOption
from qmesh.host.state.directory import State

EXAMPLES = ("qmesh pause machine-b",)


def command(
    name: Annotated[str, typer.Argument(help="The machine.", show_default=False)],
    state: StateOption = STATE,
    as_json: JsonOption = False,
) -> None:
    """Take a machine out of the node's list, for repair; it stays a member.

    As few others as can be are renumbered. `qmesh resume` takes it back, behind all others.
    """
    print_change(pause(State(state), name), as_json=as_json, done=f"{name} is paused")
