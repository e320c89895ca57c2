"""`log`: who joined and what changed."""

from __future__ import annotations

from qmesh.agent.preconditions import check_user, load_checked
from qmesh.host.registry import Event, Registry
from qmesh.host.state.directory import State


def list_events(state: State) -> tuple[Event, ...]:
    """All that changed the mesh, oldest first; on the control node only."""
    check_user("log")
    load_checked(state, "log")
    with Registry(state.registry_file) as registry:
        return registry.events()
