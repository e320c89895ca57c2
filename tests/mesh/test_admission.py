"""Who becomes a member by an invitation, and who is refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from qmesh.errors import BadInput, EnrolmentRefused
from qmesh.mesh.inventory import Inventory
from qmesh.mesh.machine import Machine, PendingKey
from qmesh.mesh.protocol.admission import (
    CLOCK_S,
    Admission,
    InvitationRecord,
    admit_redeemer,
    is_answered_again,
)
from qmesh.mesh.protocol.enrolment import (
    Redemption,
    build_redemption,
    derive_invitation_keys,
    derive_permanent_preshared_key,
)
from qmesh.mesh.values import Endpoint
from tests.support import factories
from tests.support.factories import key

NEW = "run `qmesh invite` on the control node for a new one"
REPLACE = "if this is b without its state, run `qmesh invite b --replace` on the control node"
SECRET = b"s" * 32
KEYS = derive_invitation_keys(SECRET)
NOW = 1_000_000
CONTROL = Machine(name="control", public_key=key(1), address="10.77.0.1", workers=1)
INVITED = Machine(name="b", public_key=KEYS.public_key, address="10.77.0.2", workers=None, state="invited")
MEMBER = Machine(name="c", public_key=key(3), address="10.77.0.3", workers=4)


def mesh(*machines: Machine, **named: Any) -> Inventory:
    return factories.mesh(*machines, control="control", service_port=51821, **named)


FIRST = mesh(CONTROL, INVITED, MEMBER)
REPLACED = mesh(CONTROL, MEMBER, stand_ins=(PendingKey("c", KEYS.public_key, "10.77.0.9"),))


def message(*, workers: int = 2, endpoint: str | None = None, announce: str | None = None) -> Redemption:
    where = None if endpoint is None else Endpoint.parse(endpoint)
    return build_redemption(KEYS, public_key=key(2), workers=workers, endpoint=where, announce=announce)


def admit(
    inventory: Inventory = FIRST, name: str = "b", said: Redemption | None = None, **named: Any
) -> Admission:
    values = {"sender": "10.77.0.2", "made_at": NOW, "now": NOW, **named}
    return admit_redeemer(inventory, name, SECRET, said or message(), **values)


def test_an_invited_machine_is_admitted_behind_every_other_with_its_own_key_and_workers():
    admitted = admit()
    assert [machine.name for machine in admitted.inventory.machines] == ["control", "c", "b"]
    assert admitted.inventory.revision == 8
    assert admitted.machine == Machine(name="b", public_key=key(2), address="10.77.0.2", workers=2)
    assert admitted.preshared_key == derive_permanent_preshared_key(SECRET, key(1), key(2))
    assert not admitted.replaces


def test_what_the_invitation_says_counts_more_than_the_machine_but_for_where_it_is_reached():
    invited = mesh(
        CONTROL,
        Machine(
            name="b",
            public_key=KEYS.public_key,
            address="10.77.0.2",
            workers=5,
            state="invited",
            endpoints=(Endpoint("203.0.113.5", 51820),),
        ),
    )
    assert admit(invited).machine.endpoints == (Endpoint("203.0.113.5", 51820),)
    machine = admit(invited, said=message(endpoint="198.51.100.7:4000")).machine
    assert (machine.workers, machine.endpoints) == (5, (Endpoint("198.51.100.7", 4000),))


def test_an_endpoint_inside_the_tunnel_is_refused():
    with pytest.raises(BadInput, match=r"10\.77\.0\.8"):
        admit(said=message(endpoint="10.77.0.8:4000"))


def test_a_machine_is_announced_where_it_says_else_where_its_invitation_does():
    invited = mesh(CONTROL, msgspec.structs.replace(INVITED, announce="203.0.113.5"))
    assert admit(invited).machine.announce == "203.0.113.5"
    admitted = admit(invited, said=message(announce="203.0.113.7"))
    assert admitted.machine.announce == "203.0.113.7"
    assert admitted.inventory.revision == admit(invited).inventory.revision


def test_who_takes_a_members_place_is_announced_as_that_was():
    assert (
        admit(REPLACED, "c", said=message(announce="203.0.113.7"), sender="10.77.0.9").machine.announce
        is None
    )


def test_who_takes_a_members_place_has_its_address_and_workers():
    admitted = admit(REPLACED, "c", sender="10.77.0.9")
    assert admitted.replaces
    assert admitted.machine == Machine(name="c", public_key=key(2), address="10.77.0.3", workers=4)
    assert admitted.inventory.stand_ins == ()


@pytest.mark.parametrize(
    ("inventory", "name", "sender", "is_admitted"),
    [
        (FIRST, "b", "10.77.0.2", True),
        (FIRST, "b", None, True),  # by a file
        (FIRST, "b", "10.77.0.3", False),
        (REPLACED, "c", None, True),
        (REPLACED, "c", "10.77.0.3", False),  # the member itself
    ],
)
def test_a_redemption_comes_from_the_invitations_own_address(inventory, name, sender, is_admitted):
    if is_admitted:
        assert admit(inventory, name, sender=sender).machine.public_key == key(2)
    else:
        with pytest.raises(EnrolmentRefused, match="did not come from the invitation's tunnel address"):
            admit(inventory, name, sender=sender)


def test_a_clock_that_was_set_back_makes_no_invitation_good_for_longer():
    for made_at in (NOW + CLOCK_S, None):
        assert admit(made_at=made_at).machine.name == "b"
    with pytest.raises(EnrolmentRefused, match="it is behind the time at which this invitation was made"):
        admit(made_at=NOW + CLOCK_S + 1)


def test_an_invitation_is_good_once_and_answered_again_to_the_same_key():
    assert not is_answered_again(InvitationRecord("b", "open", None, is_member=False), key(2))
    assert is_answered_again(InvitationRecord("b", "redeemed", key(2), is_member=True), key(2))


@pytest.mark.parametrize(
    ("invitation", "why", "hint"),
    [
        (
            InvitationRecord("b", "redeemed", key(2), is_member=False),
            "its machine is no longer a member",
            NEW,
        ),
        (
            InvitationRecord("b", "redeemed", key(3), is_member=True),
            "used already, with another key",
            f"{REPLACE}; else {NEW}",
        ),
        (InvitationRecord("b", "withdrawn", None, is_member=False), "was withdrawn", NEW),
        (InvitationRecord("b", "expired", None, is_member=False), "has expired", NEW),
        (
            InvitationRecord("", "unknown", None, is_member=False),
            "is not known to this control node",
            NEW,
        ),
    ],
)
def test_an_invitation_that_is_spent_is_refused_with_its_reason(invitation, why, hint):
    with pytest.raises(EnrolmentRefused, match=why) as refused:
        is_answered_again(invitation, key(2))
    assert refused.value.hint == hint
