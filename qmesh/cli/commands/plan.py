"""`qmesh plan`."""

from __future__ import annotations

import typer

from qmesh.cli.output import STATE, JsonOption, StateOption, print_answer

EXAMPLES = ("qmesh plan", "qmesh plan --json")


def command(state: StateOption = STATE, as_json: JsonOption = False) -> None:
    """Show the steps that `apply` would take.

    It changes nothing. Exit code 0 when there are no steps, 1 otherwise.
    """
    from qmesh.agent.commands.plan import plan
    from qmesh.cli.step_text import AS_DESIRED, Steps
    from qmesh.host.state.directory import State

    steps = Steps.from_steps(plan(State(state)))
    print_answer(steps, as_json=as_json, text=lambda it: it.render_text() or AS_DESIRED)
    if steps.steps:
        raise typer.Exit(1)
