"""`qmesh log`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from qmesh.cli.output import STATE, JsonOption, StateOption, print_answer
from qmesh.mesh.printable import escape_line

if TYPE_CHECKING:
    from qmesh.host.registry import Event

EXAMPLES = ("qmesh log", "qmesh log --json")


def command(state: StateOption = STATE, as_json: JsonOption = False) -> None:
    """Show which machines joined, what changed, and when.

    Run it on the control node. The oldest is first, each with the user who typed it; times are local. A
    join also has the user who invited, and the machine's tunnel address, key and endpoint.
    """
    from qmesh.agent.commands.log import list_events
    from qmesh.host.state.directory import State

    found = list_events(State(state))
    print_answer({"events": found}, as_json=as_json, text=lambda _: _render_text(found))


def _render_text(found: Sequence[Event]) -> str:
    return "\n".join(map(_render_event, found))


def _render_event(event: Event) -> str:
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.at))
    what = f"{event.what:<21} {event.machine or ''} ({event.describe_author()}){_render_origin(event)}"
    return escape_line(f"{at}  revision {event.revision:<5} {what}")


def _render_origin(event: Event) -> str:
    where = [event.address, event.endpoint and f"from {event.endpoint}", event.public_key]
    return "".join(f"  {each}" for each in where if each)
