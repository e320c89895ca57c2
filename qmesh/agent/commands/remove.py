"""`remove`: take a machine out of the mesh.

The machine is told by the membership service, which answers it still (`list_departed` of
`qmesh.agent.daemon.membership.api`); if it was away, by a notice when it calls
(`qmesh.agent.daemon.membership.retirements`).
"""

from __future__ import annotations

from qmesh.agent.mesh_change import ChangeResult, change_mesh, log_prover_pause
from qmesh.host.state.directory import State
from qmesh.mesh import changes
from qmesh.mesh.inventory import Inventory


def remove(state: State, name: str) -> ChangeResult:
    """Take a member out of the mesh: its key is invalid, and its connections are cut. It is told before."""

    def remove_machine(mesh: Inventory) -> Inventory:
        after = changes.remove_machine(mesh, name)
        if name in mesh.cores:
            log_prover_pause(mesh)
        return after

    return change_mesh(state, remove_machine, command="remove", what="removed", machine=name)
