"""The control node's registry, which is the mesh.

schema       the tables
rows         rows as values, and back
events       what happened
invitations  made, used, ended
key_rotation a machine's change to another key
retired_keys keys that machines had
node_files   which members may fetch the node's files, and when they did
handover     the control role on its way to another machine
store        what can happen to the mesh: each change one transaction with its event
upgrade_backup  the backup that is made before a newer version changes the tables
image        the same in memory, for a backup
"""

from qmesh.host.registry.events import Event
from qmesh.host.registry.handover import Readiness
from qmesh.host.registry.image import RegistryImage, load_image
from qmesh.host.registry.invitations import (
    IssuedInvitation,
    OpenInvitation,
    RedemptionRequest,
    SpentInvitation,
)
from qmesh.host.registry.node_files import FileRequester
from qmesh.host.registry.rows import MachineOptions
from qmesh.host.registry.store import KeyedMachine, Registry, RegistryNews

__all__ = [
    "Event",
    "FileRequester",
    "IssuedInvitation",
    "KeyedMachine",
    "MachineOptions",
    "OpenInvitation",
    "Readiness",
    "RedemptionRequest",
    "Registry",
    "RegistryImage",
    "RegistryNews",
    "SpentInvitation",
    "load_image",
]
