"""`qmesh handover`."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Annotated, Final

import typer

from qmesh.cli.output import STATE, JsonOption, StateOption, machine_argument, print_outcome
from qmesh.errors import BadInput

if TYPE_CHECKING:
    from qmesh.agent.commands.handover import HandoverResult
    from qmesh.mesh.inventory import Inventory

log = logging.getLogger("qmesh")

EXAMPLES = (
    "qmesh handover hel-2",
    "qmesh handover hel-2 --wait 300 --leave-behind",
    "qmesh handover --cancel",
)
_WAIT_S: Final = 60


def command(
    name: Annotated[str | None, machine_argument(help="The member that will be the control node.")] = None,
    wait: Annotated[
        int, typer.Option(min=5, max=86400, help="Seconds to wait until every member is ready.")
    ] = _WAIT_S,
    leave_behind: Annotated[
        bool,
        typer.Option(
            "--leave-behind",
            help="Go on without members that are not ready by then; they need a new invitation.",
        ),
    ] = False,
    cancelled: Annotated[
        bool, typer.Option("--cancel", help="Cancel a handover that was interrupted.")
    ] = False,
    state: StateOption = STATE,
    as_json: JsonOption = False,
) -> None:
    """Make another member the control node.

    The registry and the signing key go through the tunnel, every member is told, and the new control
    node has a handshake with each of them before anything changes. From then on worker ports accept only
    its tunnel address. This machine stays a member, with its workers.

    If members are not ready in time, nothing changes. After the role has moved, a control process that
    still runs here reaches no worker: you move the node itself, with its keys.
    """
    from qmesh.agent.commands.handover import cancel_handover, handover
    from qmesh.host.state.directory import State

    if (name is None) != cancelled:
        raise BadInput(
            "give the name of a member, or --cancel",
            hint="run `qmesh handover NAME` or `qmesh handover --cancel`",
        )
    if cancelled and (leave_behind or wait != _WAIT_S):
        raise BadInput("--cancel goes with no other option", hint="leave --wait and --leave-behind out")
    if name is None:
        print_outcome(cancel_handover(State(state)), as_json=as_json, text=_render_cancelled)
        return
    done = handover(State(state), name, wait_s=wait, leave_behind=leave_behind)
    print_outcome(done, as_json=as_json, text=_render_text)
    _log_next_steps(done)


def _render_cancelled(mesh: Inventory) -> str:
    return f"the handover is cancelled: {mesh.control} stays the control node, revision {mesh.revision}"


def _render_text(done: HandoverResult) -> str:
    return f"{done.now} is the control node: revision {done.revision}, worker ports accept {done.address}"


def _log_next_steps(done: HandoverResult) -> None:
    from qmesh.cli.change_text import log_open_ports, log_steps

    if not done.answers:
        log.warning("%s has not answered yet; the agents keep trying: run `qmesh status` there", done.now)
    log.info("next, move the node; never use its keys on two machines at once:")
    log_open_ports(done.open_ports, announces=done.announces)
    log_steps(done.steps, restarts_by_itself=done.restarts_by_itself)
    log.info(
        "last, on %s: make a new `qmesh backup FILE`; a restore of older backups would undo the handover",
        done.now,
    )
