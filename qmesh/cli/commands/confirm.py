"""`qmesh confirm`."""

from __future__ import annotations

import typer

from qmesh.cli.output import STATE, JsonOption, StateOption, print_outcome

EXAMPLES = ("qmesh confirm",)


def command(state: StateOption = STATE, as_json: JsonOption = False) -> None:
    """Keep what `apply --confirm` did.

    Type it in a new login: if that works, you are not locked out. Exit code 1 when it comes too late;
    with nothing to confirm it says so, and the exit code is 0.
    """
    from qmesh.agent.commands.confirm import confirm
    from qmesh.host.state.directory import State

    outcome = confirm(State(state))
    print_outcome(outcome, as_json=as_json, text=lambda it: it.found)
    if not outcome.kept:
        raise typer.Exit(1)
