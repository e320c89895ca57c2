"""`remove`: take a machine out of the mesh."""

from __future__ import annotations

from qmesh.agent.mesh_change import ChangeResult, change_mesh
from qmesh.host.state.directory import State
from qmesh.mesh import changes


def remove(state: State, name: str) -> ChangeResult:
    """Take a member out of the mesh: its key counts no more, and its connections are cut."""
    return change_mesh(
        state, lambda mesh: changes.remove_machine(mesh, name), command="remove", what="removed", machine=name
    )
