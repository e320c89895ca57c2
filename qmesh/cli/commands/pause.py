"""`qmesh pause`."""

from __future__ import annotations

from typing import Annotated

from qmesh.cli.output import STATE, JsonOption, StateOption, machine_argument

EXAMPLES = ("qmesh pause hel-2",)


def command(
    name: Annotated[str, machine_argument(help="The machine.")],
    state: StateOption = STATE,
    as_json: JsonOption = False,
) -> None:
    """Take a machine out of the node's worker list, for a repair of days; it stays a member.

    As few other machines as possible change core numbers. `qmesh resume` adds it again, as the last. Both
    print the steps that the node's processes need. For minutes or hours leave the list as it is.
    """
    from qmesh.agent.commands.pause import pause
    from qmesh.cli.change_text import print_change
    from qmesh.host.state.directory import State

    print_change(pause(State(state), name), as_json=as_json, done=f"{name} is paused")
