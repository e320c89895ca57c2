"""`qmesh remove`."""

from __future__ import annotations

from typing import Annotated

from qmesh.cli.output import STATE, JsonOption, StateOption, machine_argument

EXAMPLES = ("qmesh remove hel-2",)


def command(
    name: Annotated[str, machine_argument(help="The member.")],
    state: StateOption = STATE,
    as_json: JsonOption = False,
) -> None:
    """Remove a machine from the mesh.

    Its key is invalid at once, and its connections with the control node are cut. As few other machines
    as possible change core numbers. To have it again, make a new invitation.
    """
    from qmesh.agent.commands.remove import remove
    from qmesh.cli.change_text import print_change
    from qmesh.host.state.directory import State

    print_change(remove(State(state), name), as_json=as_json, done=f"{name} is no longer a member")
