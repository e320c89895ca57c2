"""Whether a redemption makes a machine a member: mesh, invitation and message in, the mesh after it out."""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import msgspec

from qmesh.errors import EnrolmentRefused
from qmesh.mesh.changes import set_announced_host, set_public_key
from qmesh.mesh.inventory import Inventory, admit_machine
from qmesh.mesh.machine import Machine
from qmesh.mesh.protocol.enrolment import (
    Redemption,
    derive_invitation_keys,
    derive_permanent_preshared_key,
)
from qmesh.mesh.reachability.public_host import parse_public_host
from qmesh.mesh.values import Endpoint, Secret, SecretStruct

CLOCK_S: Final = 300
"""Seconds by which the clock may have been set back since an invitation was made."""
Outcome: TypeAlias = Literal["open", "redeemed", "withdrawn", "expired", "unknown"]

_SPENT: Final[dict[Outcome, str]] = {
    "redeemed": "was used already, with another key",
    "withdrawn": "was withdrawn",
    "expired": "has expired",
    "unknown": "is not known to this control node",
}
_NEW_INVITATION: Final = "run `qmesh invite` on the control node for a new one"


class InvitationRecord(msgspec.Struct, frozen=True):
    """What a control node knows of an invitation.

    machine: the name that it is for. redeemed_by: public key; is_member: whether that is a member's still.
    """

    machine: str
    outcome: Outcome
    redeemed_by: str | None
    is_member: bool


def is_answered_again(invitation: InvitationRecord, public_key: str) -> bool:
    """Whether that key redeemed the invitation before; False where it is open still.

    Raises EnrolmentRefused where it is neither.
    """
    outcome, name = invitation.outcome, invitation.machine
    if outcome == "open":
        return False
    if outcome == "redeemed" and invitation.redeemed_by == public_key:
        if invitation.is_member:
            return True
        raise EnrolmentRefused(
            "this invitation was used already, and its machine is no longer a member", hint=_NEW_INVITATION
        )
    hint = _NEW_INVITATION
    if outcome == "redeemed":
        hint = (
            f"if this is {name} without its state, run `qmesh invite {name} --replace` on the control node;"
            f" else {_NEW_INVITATION}"
        )
    raise EnrolmentRefused(f"this invitation {_SPENT[outcome]}", hint=hint)


class Admission(SecretStruct, frozen=True):
    """A machine that is admitted.

    inventory: the mesh with it. preshared_key: that the control node shares with it from now on.
    replaces: whether it has the place of a member.
    """

    inventory: Inventory
    machine: Machine
    preshared_key: Secret
    replaces: bool


def admit_redeemer(
    inventory: Inventory,
    name: str,
    secret: bytes,
    message: Redemption,
    *,
    sender: str | None,
    made_at: int | None,
    now: int,
) -> Admission:
    """Admit who redeems the open invitation of that name, with a message that is proven by its secret.

    sender: the address that it came from, None for a file. made_at, now: Unix time in seconds; None
        where it is not known when the invitation was made.
    Raises EnrolmentRefused, or BadInput when the machine does not fit in.
    """
    if made_at is not None and now < made_at - CLOCK_S:
        # Its time would else be longer by as much as the clock was set back.
        raise EnrolmentRefused(
            "the control node's clock is wrong: it is behind the time at which this invitation was made",
            hint="set the clock of the control node, then run `qmesh join` again",
        )
    throwaway = derive_invitation_keys(secret).public_key
    stand_in = next((each for each in inventory.stand_ins if each.public_key == throwaway), None)
    invited = inventory.machine(name)
    if sender not in {invited.address if stand_in is None else stand_in.address, None}:
        raise EnrolmentRefused(
            "the redemption did not come from the invitation's tunnel address",
            hint="run `qmesh join` again",
        )
    if stand_in is not None:
        after = set_public_key(inventory, name, message.public_key)
    else:
        workers = invited.workers or message.workers
        after = admit_machine(inventory, name, public_key=message.public_key, workers=workers)
        if message.endpoint:
            endpoint = Endpoint.parse(message.endpoint, default_port=None)
            machine = msgspec.structs.replace(after.machine(name), endpoints=(endpoint,))
            # Built again so that an endpoint inside the tunnel network is refused here too.
            after = msgspec.structs.replace(after, machines=(*after.machines[:-1], machine))
        if message.announce:
            announced = set_announced_host(after, name, parse_public_host(message.announce))
            after = msgspec.structs.replace(announced, revision=after.revision)
    shared = derive_permanent_preshared_key(secret, inventory.control_node.public_key, message.public_key)
    return Admission(after, after.machine(name), shared, replaces=stand_in is not None)
