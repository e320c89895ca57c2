"""`qmesh resume`."""

from __future__ import annotations

from typing import Annotated

from qmesh.cli.output import STATE, JsonOption, StateOption, machine_argument

EXAMPLES = ("qmesh resume hel-2",)


def command(
    name: Annotated[str, machine_argument(help="The machine.")],
    state: StateOption = STATE,
    as_json: JsonOption = False,
) -> None:
    """Add a paused machine to the node's worker list again.

    It gets the last core numbers: no other machine changes its own. It prints the steps that the node's
    processes need, in order.
    """
    from qmesh.agent.commands.resume import resume
    from qmesh.cli.change_text import print_change
    from qmesh.host.state.directory import State

    print_change(resume(State(state), name), as_json=as_json, done=f"{name} is active again")
