"""What is kept of notifications over the agent's restarts, so that nothing is told twice."""

from __future__ import annotations

import msgspec

from qmesh.mesh.notifications.guard import AlterationMemory
from qmesh.mesh.notifications.outbox import Outbox
from qmesh.mesh.notifications.tracker import Told


class NotificationRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Of one machine. mesh: of which mesh; control: which machine was the control node.

    event: the registry's last event that was told of; None where this machine is not the control node.
    """

    mesh: str
    control: str
    event: int | None = None
    told: tuple[Told, ...] = ()
    guard: AlterationMemory = AlterationMemory()
    outbox: Outbox = Outbox()
