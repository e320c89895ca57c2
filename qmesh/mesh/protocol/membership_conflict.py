"""Two memberships of one mesh that contradict each other: how a member shows it, and what counts as proof.

A control node that was put back to an older copy of itself gives out revisions again that members hold
already, with other machines in them. What a member says of that is no proof, as any of them may be hostile;
what it holds is one, as the mesh's key has signed it.
"""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

from qmesh.errors import EnrolmentRefused
from qmesh.mesh.inventory import Inventory, list_members
from qmesh.mesh.protocol.membership import (
    MAX_PAYLOAD,
    SignedMembership,
    Update,
    apply_update,
    compute_difference,
    read_update,
    verify_membership,
)
from qmesh.mesh.values import UnixTime

_MORE: Final = 1 << 20
"""Bytes by which a membership that is offered as proof may be larger than the one that it contradicts."""


class MembershipConflict(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a control node knows of the mesh's other membership.

    own, revision: this one's revision then, and the one that a member showed. machine: that member's name.
    at: Unix time in seconds.
    """

    own: int
    revision: int
    machine: str
    at: UnixTime


def compute_membership_digest(inventory: Inventory) -> str:
    """What tells two memberships of one revision apart, for every version of qmesh alike: 32 hex digits.

    Of who is in it, and not of how that is written.
    """
    machines = [
        (each.name, each.public_key, each.address, each.state, each.workers)
        for each in list_members(inventory)
    ]
    known = msgspec.json.encode((inventory.mesh, inventory.network, inventory.control, machines))
    return hashlib.sha256(known).hexdigest()[:32]


def is_contradicting(held: Inventory, offered: Inventory) -> bool:
    """Whether a membership that the control node gives out cannot come after the one that is held."""
    if offered.revision == held.revision:
        return compute_membership_digest(offered) != compute_membership_digest(held)
    return offered.revision < held.revision


def build_proof(held: SignedMembership, offered: SignedMembership, revision: int) -> bytes:
    """What a member shows: the one that it holds, as a difference to the one that it was offered.

    revision: of that one. They are of one mesh, so most often some hundred bytes are enough.
    """
    difference = compute_difference(offered.payload, held.payload)
    return msgspec.msgpack.encode(Update(revision, (difference,), held.signature))


def read_proof(
    octets: bytes, own: SignedMembership, verification_key: bytes, inventory: Inventory
) -> Inventory:
    """The membership that a member shows, which contradicts this one. Raises EnrolmentRefused for any other.

    own, inventory: this control node's.
    """
    update = read_update(octets)
    if update.base != inventory.revision:
        raise EnrolmentRefused("this is the proof against another revision", hint="ask again")
    most = min(MAX_PAYLOAD, 2 * len(own.payload) + _MORE)
    shown = apply_update(update, own, most=most)
    offered = verify_membership(shown, verification_key, mesh=inventory.mesh)
    if not is_contradicting(offered, inventory):
        raise EnrolmentRefused("this membership contradicts nothing", hint="ask again")
    return offered
