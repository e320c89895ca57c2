"""`qmesh rotate-key`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from qmesh.cli.output import STATE, JsonOption, StateOption, print_outcome

if TYPE_CHECKING:
    from qmesh.agent.commands.rotate_key import RotationResult

EXAMPLES = ("qmesh rotate-key",)


def command(state: StateOption = STATE, as_json: JsonOption = False) -> None:
    """Give this worker machine a new WireGuard key.

    The control node knows the new key before it is used. Open connections go on: TCP sends again what
    is lost at the change.
    """
    from qmesh.agent.commands.rotate_key import rotate_key
    from qmesh.host.state.directory import State

    print_outcome(rotate_key(State(state)), as_json=as_json, text=_render_text)


def _render_text(done: RotationResult) -> str:
    known = "the mesh has it" if done.confirmed else "the mesh does not have it yet"
    return f"{done.machine} has the key {done.now}: {known}"
