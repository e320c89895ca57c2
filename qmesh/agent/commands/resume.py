"""`resume`: take a paused machine into the node's list again."""

from __future__ import annotations

from qmesh.agent.mesh_change import ChangeResult, change_mesh
from qmesh.host.state.directory import State
from qmesh.mesh import changes


def resume(state: State, name: str) -> ChangeResult:
    """Take a paused machine into the node's list again, behind all others."""
    return change_mesh(
        state, lambda mesh: changes.resume_machine(mesh, name), command="resume", what="resumed", machine=name
    )
