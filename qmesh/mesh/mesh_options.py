"""Options of the whole mesh, and the mesh with others of them."""

from __future__ import annotations

import msgspec

from qmesh.mesh.changes import change_inventory
from qmesh.mesh.inventory import Inventory, Stream
from qmesh.mesh.nodeconfig import profile_facts
from qmesh.mesh.reachability.unsupported_options import refuse_unsupported_options
from qmesh.mesh.values import Profile


class MeshOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What of the whole mesh is to change; None stays."""

    node: Profile | None = None
    base_port: int | None = None
    p2p_base_port: int | None = None
    stream: Stream | None = None
    master_proxy: bool | None = None
    restart: bool | None = None


def set_mesh_options(inventory: Inventory, options: MeshOptions) -> Inventory:
    """The mesh with these options. With another version of the node, its ports are that version's own.

    Raises BadInput for what the node's program does not support.
    """
    asked = {name: value for name, value in msgspec.structs.asdict(options).items() if value is not None}
    known = profile_facts(options.node or inventory.node)
    if options.node is not None and known.list_key != profile_facts(inventory.node).list_key:
        # What only the other version has, it takes with it.
        own = {"base_port": known.base_port, "p2p_base_port": known.p2p_base_port}
        asked = {**own, "stream": "tunnel", "master_proxy": False, **asked}
    # A mesh that has such an option from before may be changed in all else, and gets right by another value.
    if options.node is not None or options.stream == "public" or options.master_proxy:
        refuse_unsupported_options(inventory, asked)
    return change_inventory(inventory, **asked)
