"""`pause`: take a machine out of the node's list."""

from __future__ import annotations

from qmesh.agent.mesh_change import ChangeResult, change_mesh, log_prover_pause, refuse_if_already
from qmesh.host.state.directory import State
from qmesh.mesh import changes
from qmesh.mesh.inventory import Inventory


def pause(state: State, name: str) -> ChangeResult:
    """Take a machine out of the node's list; it stays a member."""

    def pause_machine(mesh: Inventory) -> Inventory:
        refuse_if_already(mesh, name, "paused")
        after = changes.pause_machine(mesh, name)
        log_prover_pause(mesh)
        return after

    return change_mesh(state, pause_machine, command="pause", what="paused", machine=name)
