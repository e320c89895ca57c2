"""`qmesh remove`."""

from __future__ import annotations

from typing import Annotated

import typer

from qmesh.agent.commands.remove import remove
from qmesh.cli.change_text import print_change
from qmesh.cli.output import STATE, JsonOption, StateOption
from qmesh.host.state.directory import State

EXAMPLES = ("qmesh remove machine-b",)


def command(
    name: Annotated[str, typer.Argument(help="The member.", show_default=False)],
    state: StateOption = STATE,
    as_json: JsonOption = False,
) -> None:
    """Take a machine out of the mesh.

    Its key counts no more at once, and its connections with the control node are cut. As few others as
    can be are renumbered. To have it back, invite it anew.
    """
    print_change(remove(State(state), name), as_json=as_json, done=f"{name} is no member any more")
