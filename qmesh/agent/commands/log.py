"""`log`: who joined and what changed."""

from __future__ import annotations

import msgspec

from qmesh.agent.preconditions import check_user, load_checked
from qmesh.agent.readers.ask import ask_as_reader, is_reader
from qmesh.host.registry import Event, Registry
from qmesh.host.state.directory import State


class _Log(msgspec.Struct, frozen=True):
    events: tuple[Event, ...]


def list_events(state: State) -> tuple[Event, ...]:
    """All that changed the mesh, oldest first; on the control node only.

    A reader is told what this machine's agent says.
    """
    if is_reader(state):
        return ask_as_reader("log", _Log).events
    check_user("log")
    load_checked(state, "log")
    with Registry(state.registry_file) as registry:
        return registry.events()
