"""`log`: who joined and what changed."""

from __future__ import annotations

from qmesh.agent.local import load_local
from qmesh.agent.preconditions import require_control, require_root
from qmesh.host.registry import Event, Registry
from qmesh.host.state.directory import State


def list_events(state: State) -> tuple[Event, ...]:
    """All that changed the mesh, oldest first; on the control node only."""
    require_root("qmesh log")
    here = load_local(state)
    require_control(here, "qmesh log")
    with Registry(state.registry_file) as registry:
        return registry.events()
