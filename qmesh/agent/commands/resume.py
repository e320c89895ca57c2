"""`resume`: take a paused machine into the node's list again."""

from __future__ import annotations

from qmesh.agent.mesh_change import ChangeResult, change_mesh, refuse_if_already
from qmesh.host.state.directory import State
from qmesh.mesh import changes
from qmesh.mesh.inventory import Inventory


def resume(state: State, name: str) -> ChangeResult:
    """Add a paused machine to the node's list again, behind all others."""

    def resume_machine(mesh: Inventory) -> Inventory:
        refuse_if_already(mesh, name, "active")
        return changes.resume_machine(mesh, name)

    return change_mesh(state, resume_machine, command="resume", what="resumed", machine=name)
