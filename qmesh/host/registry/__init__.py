"""The control node's registry, which is the mesh.

schema  the tables, and how older ones become these
rows    rows as values, and back
store   what happens to the mesh: each change one transaction with its event
image   the same in memory, for a backup
"""

from qmesh.host.registry.image import RegistryImage, image_of
from qmesh.host.registry.store import Event, EventKind, Issued, Known, News, Open, Registry

__all__ = ["Event", "EventKind", "Issued", "Known", "News", "Open", "Registry", "RegistryImage", "image_of"]
