"""`set`: change a machine, or the whole mesh."""

from __future__ import annotations

import msgspec

from qmesh.agent.mesh_change import ChangeResult, change_mesh
from qmesh.errors import BadInput
from qmesh.host.state.directory import State
from qmesh.mesh import changes
from qmesh.mesh.changes import MeshOptions
from qmesh.mesh.inventory import Inventory
from qmesh.mesh.machine import validate_worker_count
from qmesh.mesh.values import Endpoint


def set_machine(
    state: State,
    name: str,
    *,
    workers: int | None,
    endpoints: tuple[str, ...] | None,
    node_files: bool | None = None,
) -> ChangeResult:
    """Another count of workers for a machine, or other endpoints; an empty tuple for none.

    node_files: whether it may fetch the node's files.
    """
    count = None if workers is None else validate_worker_count(workers)
    reached = None if endpoints is None else [Endpoint.parse(text, default_port=None) for text in endpoints]

    def apply_changes(mesh: Inventory) -> Inventory:
        revision = mesh.revision
        if count is not None:
            mesh = changes.set_worker_count(mesh, name, count)
        if reached is not None:
            mesh = changes.set_endpoints(mesh, name, reached)
        if node_files is not None:
            if name == mesh.control:
                raise BadInput(
                    f"{name} is the control node, which has the node's files itself",
                    hint="name a machine that should fetch them: `qmesh set NAME --node-files on`",
                )
            mesh = changes.set_machine_fields(mesh, name, node_files=node_files)
        return mesh if mesh.revision == revision else msgspec.structs.replace(mesh, revision=revision + 1)

    return change_mesh(state, apply_changes, command="set", what="machine-changed", machine=name)


def set_options(state: State, options: MeshOptions) -> ChangeResult:
    """Other options for the whole mesh."""
    return change_mesh(
        state,
        lambda mesh: changes.set_mesh_options(mesh, options),
        command="set",
        what="mesh-changed",
        machine=None,
    )
