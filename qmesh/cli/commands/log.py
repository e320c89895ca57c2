"""`qmesh log`."""

from __future__ import annotations

import time
from collections.abc import Sequence

from qmesh.agent.commands.status import events
from qmesh.cli.output import STATE, JsonOption, StateOption, answer
from qmesh.host.registry import Event
from qmesh.host.state.directory import State
from qmesh.mesh.printable import one_line

EXAMPLES = ("qmesh log", "qmesh log --json")


def command(state: StateOption = STATE, as_json: JsonOption = False) -> None:
    """Show who joined and what changed, and when.

    On the control node, oldest first, with who typed it; times are local. Of a join: who had invited, and
    the machine's tunnel address, key, and where it came from.
    """
    found = events(State(state))
    answer({"events": found}, as_json=as_json, text=lambda _: _in_words(found))


def _in_words(found: Sequence[Event]) -> str:
    return "\n".join(map(_line, found))


def _line(event: Event) -> str:
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(event.at))
    what = f"{event.what:<21} {event.machine or ''} ({_by(event)}){_whence(event)}"
    return one_line(f"{at}  revision {event.revision:<5} {what}")


def _by(event: Event) -> str:
    if event.user is None:
        return f"by {event.command}"
    if event.command == "join":
        return f"by join, invited by {event.user}"
    return f"by {event.command}, {event.user}"


def _whence(event: Event) -> str:
    where = [event.address, event.endpoint and f"from {event.endpoint}", event.public_key]
    return "".join(f"  {each}" for each in where if each)
