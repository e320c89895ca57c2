"""`qmesh uninstall`."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from qmesh.cli.output import STATE, JsonOption, StateOption, print_outcome
from qmesh.cli.prompts import ask_question
from qmesh.errors import BadInput
from qmesh.mesh.ports.port_ranges import format_port_ranges
from qmesh.mesh.ports.reserved_lists import SETTING
from qmesh.mesh.printable import escape_line
from qmesh.mesh.values import quote_text

if TYPE_CHECKING:
    from qmesh.agent.commands.uninstall import StateLoss, UninstallResult

log = logging.getLogger("qmesh")

EXAMPLES = (
    "qmesh uninstall",
    "qmesh uninstall --delete-state",
    "qmesh uninstall --delete-state --yes fra-1",
)

_MOST_SHOWN = 10


def command(
    delete_state: Annotated[
        bool,
        typer.Option(
            "--delete-state",
            help="Delete the state directory too: this machine's keys, and on the control node the mesh.",
        ),
    ] = False,
    yes: Annotated[
        str | None,
        typer.Option(
            "--yes",
            help="This machine's name; then --delete-state on a control node does not ask for it.",
            metavar="NAME",
        ),
    ] = None,
    state: StateOption = STATE,
    as_json: JsonOption = False,
) -> None:
    """Remove qmesh from this machine, and show which ports are open then.

    It stops the node's units and the agent, and removes tunnel, guard, reserved ports and units. Units
    that were edited are stopped and kept, and config.yml stays as it is. If it was interrupted, run it
    again.

    With --delete-state, on a control node that has members, it asks for that machine's name: without a
    backup the mesh is gone.
    """
    from qmesh.agent.commands.uninstall import find_state_loss, read_own_name, uninstall
    from qmesh.cli.step_text import Steps
    from qmesh.host.state.directory import State

    where = State(state)
    if yes is not None and read_own_name(where) not in {yes, None}:
        raise BadInput(
            f"this machine is not {quote_text(yes)}", hint="check that you are logged in to the right machine"
        )
    stake = find_state_loss(where) if delete_state else None
    if stake is not None and yes is None:
        _confirm_deletion(stake, as_json=as_json)
    done = uninstall(where, delete_state=delete_state)
    _warn_of_open_ports(done)
    for left in done.reserved:
        log.info("ports %s stay in %s: %s", format_port_ranges(left.ports), SETTING, escape_line(left.by))
    for each in done.saved_rules:
        log.warning("%s still contains a guard, which closes ports when it is loaded", escape_line(each.path))
        log.warning("  %s", escape_line(each.cure))
    if str(where.directory) in done.kept:
        log.info(
            "the state is kept: `qmesh apply` uses it again, `qmesh uninstall --delete-state` deletes it"
        )
    facts = {
        "steps": Steps.from_steps(done.steps).steps,
        "deleted": done.deleted,
        "kept": done.kept,
        "open_ports": (*done.ports, *done.guarded_ports),
        "listeners": done.listeners,
        "saved_rules": done.saved_rules,
        "reserved": done.reserved,
    }
    print_outcome(facts, as_json=as_json, text=lambda _: "\n".join(_render_lines(done)))


def _confirm_deletion(stake: StateLoss, *, as_json: bool) -> None:
    """Have the control node's name typed. Raises BadInput where it is not."""
    refusal = BadInput(
        f"{stake.name} is the control node: {_render_loss(stake)}",
        hint=f"run `qmesh backup FILE` first; then pass `--yes {stake.name}`, or type that name when asked",
    )
    if as_json:
        raise refusal
    log.warning("%s", refusal.message)
    if ask_question("Type its name to delete it:", refusal=refusal) != stake.name:
        raise BadInput("that is not its name; nothing was changed", hint=refusal.hint)


def _render_loss(stake: StateLoss) -> str:
    if stake.members is None:
        whom = "its registry cannot be read, and every member loses the mesh with it"
    elif len(stake.members) == 1:
        whom = f"{stake.members[0]} loses its mesh with it"
    else:
        shown, more = stake.members[:_MOST_SHOWN], len(stake.members) - _MOST_SHOWN
        listed = ", ".join(shown) + (f" and {more} more" if more > 0 else "")
        whom = f"{len(stake.members)} members lose their mesh with it: {listed}"
    last = stake.backed_up
    if last is None:
        return f"{whom}; qmesh knows of no backup"
    made = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(last.at))
    now = "" if stake.revision is None else f", it is {stake.revision} now"
    return f"{whom}; the last backup was made {made}, of revision {last.revision}{now}"


def _warn_of_open_ports(done: UninstallResult) -> None:
    others = format_port_ranges(done.guarded_ports)
    if done.ports or others:
        log.warning(
            "worker ports %s are OPEN to any machine that reaches this one%s; %s",
            format_port_ranges(done.ports),
            f", and so are ports {others}" if others else "",
            "these programs listen there:" if done.listeners else "no program listens there now",
        )
    for each in done.listeners:
        program = f"{each.program} (process {each.process})" if each.process else "unknown program"
        log.warning("  %s port %d at %s: %s", each.protocol, each.port, each.address, program)


def _render_lines(done: UninstallResult) -> Iterator[str]:
    from qmesh.cli.step_text import Steps

    if done.steps:
        yield Steps.from_steps(done.steps).render_text()
    yield from (f"{'deleted':<16} {path}" for path in done.deleted)
    yield from (f"{'kept':<16} {path}" for path in done.kept)
    if not (done.steps or done.deleted or done.kept):
        yield "nothing to do: this machine has nothing of qmesh"
