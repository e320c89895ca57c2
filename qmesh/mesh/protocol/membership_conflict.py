"""Two memberships of one mesh that contradict each other: how a member shows it, and what counts as proof.

A control node that was put back to an older copy of itself gives out revisions again that members hold
already, with other machines or ports in them. What a member says of that is no proof, as any of them may be
hostile; what it holds is one, as the mesh's key has signed it.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final, NamedTuple

import msgspec

from qmesh.errors import EnrolmentRefused
from qmesh.mesh.decode import decode_json
from qmesh.mesh.inventory import Inventory
from qmesh.mesh.machine import Machine
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


class MembershipContent(NamedTuple):
    """What tells memberships of one mesh apart, for every version of qmesh alike.

    digest: 32 hex digits of all that it says, however it is written.
    """

    revision: int
    digest: str


def read_membership_content(signed: SignedMembership) -> MembershipContent:
    """The content of a membership that was verified.

    It is read as it was signed: what a newer version of qmesh says in it counts here too.
    """
    said = decode_json(signed.payload, dict[str, Any])
    machines = [_drop_defaults(each, Machine) for each in said["machines"]]
    known = msgspec.json.encode({**_drop_defaults(said, Inventory), "machines": machines}, order="sorted")
    return MembershipContent(said["revision"], hashlib.sha256(known).hexdigest()[:32])


def _drop_defaults(said: dict[str, Any], kind: type[Inventory | Machine]) -> dict[str, Any]:
    """Without what another version, which does not know the field, leaves out.

    A field that is new has None, False or nothing as its default: who does not know it drops that too.
    """
    known = _DEFAULTS[kind]
    return {
        name: value
        for name, value in said.items()
        if value is not None and value is not False and value != [] and value != known.get(name)
    }


_DEFAULTS: Final = {
    kind: {each.name: each.default for each in msgspec.structs.fields(kind) if isinstance(each.default, str)}
    for kind in (Inventory, Machine)
}


def is_contradicting(held: MembershipContent, offered: MembershipContent) -> bool:
    """Whether a membership that the control node gives out cannot come after the one that is held."""
    return offered.revision <= held.revision and offered != held


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
    if not is_contradicting(read_membership_content(shown), read_membership_content(own)):
        raise EnrolmentRefused("this membership contradicts nothing", hint="ask again")
    return offered
