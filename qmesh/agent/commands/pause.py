"""`pause`: take a machine out of the node's list."""

from __future__ import annotations

from qmesh.agent.mesh_change import ChangeResult, change_mesh
from qmesh.host.state.directory import State
from qmesh.mesh import changes


def pause(state: State, name: str) -> ChangeResult:
    """Take a machine out of the node's list; it stays a member."""
    return change_mesh(
        state, lambda mesh: changes.pause_machine(mesh, name), command="pause", what="paused", machine=name
    )
