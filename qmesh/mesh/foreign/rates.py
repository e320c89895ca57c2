"""Limits of other firewalls: whether what the mesh sends stays within them."""

from __future__ import annotations

from typing import Final

from qmesh.mesh.foreign.packets import Packet
from qmesh.mesh.foreign.values import Truth

OPENINGS_PER_S: Final = 1.0
"""Connections that the mesh must be able to open: one that is refused is tried again within seconds."""
PACKETS_PER_S: Final = 1000.0
"""Of connections that are there: a worker's proofs and answers."""
BYTES_PER_S: Final = 1e6
BYTES_OF_OPENINGS_PER_S: Final = 1e3
MOST_CONNECTIONS: Final = 256
"""At once with one other machine: the control process has one to each worker."""


def allows_rate(packet: Packet, per_second: float, *, in_bytes: bool = False) -> Truth:
    """Whether all packets of this kind stay within a limit: yes, or None where some may be beyond it."""
    if packet.opens:
        needed = BYTES_OF_OPENINGS_PER_S if in_bytes else OPENINGS_PER_S
    else:
        needed = BYTES_PER_S if in_bytes else PACKETS_PER_S
    return True if per_second >= needed else None
