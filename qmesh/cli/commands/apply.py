"""`qmesh apply`."""

from __future__ import annotations

from qmesh.agent.applying import apply
from qmesh.cli.answers import STATE, JsonOption, StateOption, answer
from qmesh.cli.steps import Steps
from qmesh.host.state import State

EXAMPLES = ("qmesh apply",)


def command(state: StateOption = STATE, as_json: JsonOption = False) -> None:
    """Make this machine as desired, guard first.

    Also ends what `qmesh down` began. A machine that is as desired is left alone.
    """
    steps = Steps.of(apply(State(state)))
    answer(steps, as_json=as_json, text=lambda it: it.in_words() or "as desired: nothing to do")
