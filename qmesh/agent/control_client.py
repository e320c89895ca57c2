"""A machine's end of the membership service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from qmesh.agent.local import Local
from qmesh.mesh.machine import Machine
from qmesh.mesh.protocol.member_note import MemberNote

if TYPE_CHECKING:
    from qmesh.host.api.client import Client

NOTHING: Final = MemberNote()


def build_client(
    here: Local,
    machine: Machine | None = None,
    *,
    can_report: bool = False,
    note: MemberNote = NOTHING,
    facts: bytes = b"",
) -> Client:
    """A client of the control node, or of another machine that may be it; the rest as of `Client`."""
    from qmesh.host.api.client import Client  # noqa: PLC0415 - a control node has no use for it

    hub = here.inventory.control_node if machine is None else machine
    return Client(
        address=hub.address,
        port=here.inventory.service_port,
        can_report=can_report,
        note=note,
        facts=facts,
    )
