"""`qmesh resume`."""

from __future__ import annotations

from typing import Annotated

import typer

from qmesh.agent.commands.resume import resume
from qmesh.cli.change_text import print_change
from qmesh.cli.output import STATE, JsonOption, StateOption
from qmesh.host.state.directory import State

EXAMPLES = ("qmesh resume machine-b",)


def command(
    name: Annotated[str, typer.Argument(help="The machine.", show_default=False)],
    state: StateOption = STATE,
    as_json: JsonOption = False,
) -> None:
    """Take a paused machine into the node's list again.

    Its cores come behind those of all others: nobody else is renumbered.
    """
    print_change(resume(State(state), name), as_json=as_json, done=f"{name} is active again")
