"""What passes from a control node to its successor, and the preshared keys that come of it.

No private key is in it: the successor has its own, which every member knows. Nor does a preshared key
cross the wire to a member: it derives the one that it shares with the successor, as the control node
did for the successor. The messages of the two are encrypted.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Annotated, Final

import msgspec

from qmesh.mesh.decode import decode_json, decode_msgpack, refuse_malformed
from qmesh.mesh.inventory import Inventory, list_members
from qmesh.mesh.protocol.aead import derive_key
from qmesh.mesh.values import Secret, SecretStruct

PROGRESS: Final = b"how far the successor is"
ESTATE: Final = b"what the successor is to have"
"""The two kinds of message, for `qmesh.mesh.protocol.aead`."""
MOST_SILENT: Final = 200
FRESH_S: Final = 5
"""Seconds for which it counts what the successor said last."""
_NOT_UNDERSTOOD: Final = "the message of the handover is not understood"


class HandoverData(SecretStruct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that makes the successor the control node, once a signed membership says that it is.

    event: the registry's last event that is in it.
    registry: a SQLite database with the preshared keys of the successor.
    signing_key: Ed25519, 32 octets.
    """

    event: Annotated[int, msgspec.Meta(ge=0, le=2**53)]
    registry: bytes
    signing_key: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]


class HandoverProgress(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far the successor is, as it says every second or so.

    holds: the event of the handover data that it has, durably; 0 for none.
    silent: tunnel addresses of members with whom it has not shaken hands, so many at most: `MOST_SILENT`.
    """

    holds: Annotated[int, msgspec.Meta(ge=0, le=2**53)]
    silent: Annotated[tuple[str, ...], msgspec.Meta(max_length=MOST_SILENT)]


def derive_successor_preshared_key(successor_key: str, shared: Secret) -> Secret:
    """The key that a member shares with the successor. shared: the one of member and control node."""
    info = b"preshared key with a successor" + base64.b64decode(successor_key)
    key = derive_key(base64.b64decode(shared.reveal()), salt=b"qmesh handover 1", info=info)
    return Secret(base64.b64encode(key).decode())


def read_progress(body: bytes) -> HandoverProgress:
    """Read what a successor says. Raises EnrolmentRefused."""
    with refuse_malformed(_NOT_UNDERSTOOD):
        return decode_json(body, HandoverProgress)


def encode_handover_data(handover_data: HandoverData) -> bytes:
    """The handover data as it travels, and as its successor keeps it."""
    return msgspec.msgpack.encode(handover_data)


def decode_handover_data(octets: bytes) -> HandoverData:
    """Read the handover data. Raises EnrolmentRefused."""
    with refuse_malformed(_NOT_UNDERSTOOD):
        return decode_msgpack(octets, HandoverData)


def list_unready_members(
    inventory: Inventory, acknowledged: Mapping[str, int], silent: tuple[str, ...]
) -> tuple[str, ...]:
    """The members that are not ready for the successor, by name.

    acknowledged: the revision that each member has reported to hold, by tunnel address.
    A member that knows of the successor and had a handshake with it follows, even if the control node is gone
    by then.
    """
    hubs = {inventory.control, inventory.successor}
    others = (machine for machine in list_members(inventory) if machine.name not in hubs)
    return tuple(
        machine.name
        for machine in others
        if acknowledged.get(machine.address, 0) < inventory.revision or machine.address in silent
    )
