"""Invitations in the registry: made, used once, withdrawn, expired, and for a member's place."""

import contextlib
import shutil
import sqlite3
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from qmesh.errors import BadInput, EnrolmentRefused
from qmesh.host.registry import IssuedInvitation, OpenInvitation, Registry
from qmesh.mesh.changes import remove_machine
from qmesh.mesh.inventory import Inventory, list_workers
from qmesh.mesh.machine import Machine, PendingKey
from qmesh.mesh.protocol.enrolment import derive_invitation_keys, derive_permanent_preshared_key
from qmesh.mesh.values import Endpoint
from tests.support.factories import key
from tests.support.registries import (
    CONTROL,
    DAY_S,
    MESH,
    NOW,
    change,
    invite,
    invite_replacement,
    is_sound,
    message,
    path,
    redeem,
    redeem_replacement,
    registry,
    sql,
    told,
)

__all__ = ["path", "registry"]


def test_an_invited_machine_has_its_future_address_and_no_cores(registry):
    first, second = invite(registry, "machine-b"), invite(registry, "machine-c", workers=None)
    inventory = registry.inventory()

    assert inventory.machines == (CONTROL, first.machine, second.machine)
    assert first.machine == Machine(
        name="machine-b",
        public_key=derive_invitation_keys(first.secret).public_key,
        address="10.77.0.2",
        workers=2,
        state="invited",
    )
    assert (second.machine.address, second.machine.workers) == ("10.77.0.3", None)
    assert inventory.cores.keys() == {"control"}
    assert inventory.revision == 1
    assert registry.preshared_keys() == {
        issued.machine.public_key: derive_invitation_keys(issued.secret).preshared_key
        for issued in (first, second)
    }


def test_a_redeemed_invitation_makes_a_member(registry):
    issued = invite(registry, workers=None)
    endpoint = Endpoint("198.51.100.7", 51820)
    after = registry.redeem(message(issued, key(1), endpoint=endpoint), sender="10.77.0.2", now=NOW + 5)
    member = Machine(
        name="machine-b", public_key=key(1), address="10.77.0.2", workers=7, endpoints=(endpoint,)
    )

    assert (
        after == registry.inventory() == msgspec.structs.replace(MESH, revision=2, machines=(CONTROL, member))
    )
    assert registry.preshared_keys() == {
        key(1): derive_permanent_preshared_key(issued.secret, CONTROL.public_key, key(1))
    }
    assert [(worker.core, worker.port) for worker in list_workers(after)][3:5] == [(4, 40003), (5, 40004)]


def test_the_invitations_worker_count_goes_before_the_machines_own(registry):
    assert redeem(registry, invite(registry, workers=2), key(1)).machine("machine-b").workers == 2


def test_the_invitations_endpoint_stays_where_the_machine_names_none(registry):
    endpoint = Endpoint("node.example.org", 51820)
    issued = registry.invite("machine-b", workers=1, endpoint=endpoint, expires_at=NOW + DAY_S, now=NOW)

    assert redeem(registry, issued, key(1)).machine("machine-b").endpoints == (endpoint,)


def test_cores_are_numbered_in_the_order_of_joining_and_not_of_inviting_or_of_names(registry):
    names = ["machine-a", "machine-z", "machine-m", "machine-b"]
    issued = {name: invite(registry, name) for name in names}
    for number, name in enumerate(reversed(names)):
        redeem(registry, issued[name], key(number + 1))

    assert list(registry.inventory().cores) == ["control", *reversed(names)]


def test_the_secret_is_gone_when_it_is_used(path, registry):
    issued = invite(registry)
    shared = derive_invitation_keys(issued.secret).preshared_key.reveal()
    redeem(registry, issued, key(1))
    sql(path, "PRAGMA wal_checkpoint(TRUNCATE)")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        rows = connection.execute("SELECT secret FROM invitations").fetchall()
        keys = [text for (text,) in connection.execute("SELECT preshared_key FROM machines") if text]

    assert rows == [(None,)]
    assert shared not in keys


def test_e3_an_invitation_works_once(registry):
    issued = invite(registry)
    after = redeem(registry, issued, key(1))
    for now in (NOW + 6, NOW + 2 * DAY_S, NOW - DAY_S):
        with pytest.raises(EnrolmentRefused, match="used already, with another key") as refused:
            redeem(registry, issued, key(2), now=now)

        assert refused.value.hint
    assert registry.inventory() == after


def test_e3_an_unknown_invitation_is_refused(registry):
    issued = invite(registry)
    stranger = IssuedInvitation(bytes(32), issued.machine, None, issued.expires_at)

    with pytest.raises(EnrolmentRefused, match="not known to this control node"):
        redeem(registry, stranger, key(1))


def test_e3_an_invitation_expires_by_the_control_nodes_clock(path, registry):
    early, late = invite(registry, "machine-b"), invite(registry, "machine-c")
    redeem(registry, early, key(1), now=NOW + DAY_S - 1)
    with pytest.raises(EnrolmentRefused, match="this invitation has expired"):
        redeem(registry, late, key(2), now=NOW + DAY_S)

    assert registry.expire_invitations(now=NOW + DAY_S)
    assert not registry.expire_invitations(now=NOW + DAY_S)
    assert [machine.name for machine in registry.inventory().machines] == ["control", "machine-b"]
    assert derive_invitation_keys(late.secret).public_key not in registry.preshared_keys()
    assert told(registry)[-1] == ("invitation-expired", "machine-c", 2)

    # Setting the clock back helps nobody.
    with pytest.raises(EnrolmentRefused, match="this invitation has expired"):
        redeem(registry, late, key(2), now=NOW)
    is_sound(path)


def test_expiring_nothing_says_so_and_tells_nothing(registry):
    invite(registry)

    assert not registry.expire_invitations(now=NOW + DAY_S - 1)
    assert [what for what, _, _ in told(registry)] == ["mesh-made", "invited"]


def test_inviting_again_expires_what_is_over(registry):
    invite(registry, "machine-b")
    again = invite(registry, "machine-c", now=NOW + 2 * DAY_S)

    assert [machine.name for machine in registry.inventory().machines] == ["control", "machine-c"]
    assert again.machine.address == "10.77.0.2"


def test_e3_inviting_again_withdraws(path, registry):
    first, second = invite(registry), invite(registry)

    assert first.secret != second.secret
    assert [machine.name for machine in registry.inventory().machines] == ["control", "machine-b"]
    with pytest.raises(EnrolmentRefused, match="this invitation was withdrawn"):
        redeem(registry, first, key(1))

    assert redeem(registry, second, key(1)).machine("machine-b").public_key == key(1)
    with pytest.raises(EnrolmentRefused, match="this invitation was withdrawn"):
        redeem(registry, first, key(1))
    assert told(registry) == [
        ("mesh-made", "control", 1),
        ("invited", "machine-b", 1),
        ("invitation-withdrawn", "machine-b", 1),
        ("invited", "machine-b", 1),
        ("joined", "machine-b", 2),
    ]
    is_sound(path)


def test_e3_spent_invitations_are_remembered_when_the_registry_is_opened_again_and_copied(path, tmp_path):
    with Registry(path) as registry:
        used, withdrawn, expired = invite(registry, "b"), invite(registry, "c"), invite(registry, "d")
        redeem(registry, used, key(1))
        invite(registry, "c", now=NOW + 1)
        registry.expire_invitations(now=NOW + DAY_S)
    shutil.copyfile(path, tmp_path / "backup.db")
    for place in (path, tmp_path / "backup.db"):
        with Registry(place) as registry:
            for issued in (used, withdrawn, expired):
                with pytest.raises(EnrolmentRefused, match=r"used|withdrawn|expired"):
                    redeem(registry, issued, key(2), now=NOW)


def test_e3_an_invitation_is_remembered_although_its_machine_is_gone(path, registry):
    issued = invite(registry)
    redeem(registry, issued, key(1))
    sql(path, "DELETE FROM machines WHERE name = 'machine-b'")

    with pytest.raises(EnrolmentRefused, match="used already"):
        redeem(registry, issued, key(2))


def test_e3_who_was_removed_is_told_nothing_for_its_old_invitation(registry):
    issued = invite(registry)
    redeem(registry, issued, key(1))
    remove = lambda mesh: remove_machine(mesh, "machine-b")  # noqa: E731
    registry.change_mesh(remove, command="remove", what="removed", machine="machine-b", now=NOW)
    with pytest.raises(EnrolmentRefused, match="no longer a member"):
        redeem(registry, issued, key(1))

    redeem(registry, invite(registry), key(2))
    with pytest.raises(EnrolmentRefused, match="no longer a member"):
        redeem(registry, issued, key(1))


def test_e4_the_same_redemption_again_is_the_same_membership(path, registry):
    issued = invite(registry)
    first = redeem(registry, issued, key(1))
    keys, events = registry.preshared_keys(), registry.events()
    for now in (NOW + 6, NOW + 2 * DAY_S):
        assert redeem(registry, issued, key(1), now=now) == first

    with Registry(path) as another:
        assert redeem(another, issued, key(1)) == first
    assert (registry.preshared_keys(), registry.events()) == (keys, events)
    assert len(first.machines) == 2


def test_e4_the_same_redemption_at_once_is_one_membership(path):
    with Registry(path) as registry:
        issued = invite(registry)

    def again(_: int) -> Inventory:
        with Registry(path) as registry:
            return redeem(registry, issued, key(1))

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(again, range(24)))

    assert found == [is_sound(path)] * 24
    assert found[0].revision == 2


def test_e4_others_that_join_in_between_change_neither_name_nor_address_nor_cores(registry):
    issued = invite(registry)
    before = redeem(registry, issued, key(1))
    redeem(registry, invite(registry, "machine-c"), key(2))
    after = redeem(registry, issued, key(1))

    assert after.machine("machine-b") == before.machine("machine-b")
    assert after.cores["machine-b"] == before.cores["machine-b"]
    assert after.revision == 3


def test_an_unproven_redemption_is_refused(path, registry):
    issued = invite(registry)
    whole = message(issued, key(1), endpoint=Endpoint("198.51.100.7", 51820))
    forged = [
        msgspec.structs.replace(whole, public_key=key(2)),
        msgspec.structs.replace(whole, workers=8),
        msgspec.structs.replace(whole, endpoint="203.0.113.66:51820"),
        msgspec.structs.replace(whole, endpoint=None),
        msgspec.structs.replace(whole, proof="0" * 64),
    ]
    for each in forged:
        with pytest.raises(EnrolmentRefused, match="the proof of the redemption is wrong"):
            registry.redeem(each, sender="10.77.0.2", now=NOW)

    assert registry.inventory().machine("machine-b") == issued.machine
    registry.redeem(whole, sender="10.77.0.2", now=NOW)
    is_sound(path)


def test_a_redemption_that_came_as_a_file_is_vouched_for_by_its_proof(path, registry):
    issued = invite(registry)
    whole = message(issued, key(1))
    for altered in (
        msgspec.structs.replace(whole, workers=whole.workers + 1),
        msgspec.structs.replace(whole, public_key=key(2)),
        msgspec.structs.replace(whole, endpoint="203.0.113.66:51820"),
    ):
        with pytest.raises(EnrolmentRefused, match="the proof of the redemption is wrong"):
            registry.redeem(altered, sender=None, now=NOW)
    after = registry.redeem(whole, sender=None, now=NOW)
    assert registry.redeem(whole, sender=None, now=NOW) == after
    assert after.machine("machine-b").public_key == key(1)
    assert [(event.command, event.what) for event in registry.events()][-1] == ("admit", "joined")
    assert after.revision == 2
    is_sound(path)


@pytest.mark.parametrize(
    "sender", ["10.77.0.1", "10.77.0.3", "127.0.0.1", "", "10.77.0.22", "::ffff:10.77.0.2"]
)
def test_a_redemption_from_another_address_is_refused_and_burns_nothing(path, registry, sender):
    issued = invite(registry)
    with pytest.raises(EnrolmentRefused, match="did not come from the invitation's tunnel address"):
        registry.redeem(message(issued, key(1)), sender=sender, now=NOW)

    assert registry.inventory().machine("machine-b").state == "invited"
    redeem(registry, issued, key(1))
    is_sound(path)


@pytest.mark.parametrize(
    ("own_key", "workers", "endpoint", "why"),
    [
        (CONTROL.public_key, 2, None, "public key"),
        (key(1), 65000, None, "do not fit into the ports"),
        (key(1), 2, "10.77.0.9:51820", "is an address of the tunnel network"),
    ],
)
def test_a_machine_that_does_not_fit_in_is_refused_and_burns_nothing(
    path, registry, own_key, workers, endpoint, why
):
    issued = invite(registry, workers=None)
    where = None if endpoint is None else Endpoint.parse(endpoint)
    with pytest.raises(EnrolmentRefused, match=f"the control node refused: .*{why}") as refused:
        registry.redeem(
            message(issued, own_key, workers=workers, endpoint=where), sender="10.77.0.2", now=NOW
        )

    assert refused.value.hint
    assert registry.inventory().machine("machine-b") == issued.machine
    redeem(registry, issued, key(1))
    is_sound(path)


def test_two_invitations_with_one_key_make_one_member(path, registry):
    first, second = invite(registry, "machine-b"), invite(registry, "machine-c")
    redeem(registry, first, key(1))

    with pytest.raises(EnrolmentRefused, match="public key"):
        redeem(registry, second, key(1))
    assert redeem(registry, second, key(2)).revision == 3
    is_sound(path)


@pytest.mark.parametrize("name", ["control", "machine-b"])
def test_a_member_is_not_invited_again(registry, name):
    redeem(registry, invite(registry), key(1))
    before = (registry.inventory(), registry.events())

    with pytest.raises(BadInput, match="already in the mesh"):
        invite(registry, name)
    assert (registry.inventory(), registry.events()) == before


@pytest.mark.parametrize(
    ("name", "workers", "why"),
    [
        ("Machine_B", 2, "not a machine name"),
        ("machine-b", 65000, "do not fit into the ports"),
        ("machine-b", 0, "not a number of workers"),
    ],
)
def test_what_cannot_be_invited_withdraws_nothing(registry, name, workers, why):
    issued = invite(registry)
    before = (registry.inventory(), registry.events(), registry.preshared_keys())

    with pytest.raises(BadInput, match=why):
        invite(registry, name, workers=workers)
    assert (registry.inventory(), registry.events(), registry.preshared_keys()) == before
    redeem(registry, issued, key(1))


def test_a_full_network_invites_nobody(tmp_path):
    Registry.create(tmp_path / "mesh.db", msgspec.structs.replace(MESH, network="10.77.0.0/30"), now=NOW)
    with Registry(tmp_path / "mesh.db") as registry:
        invite(registry, "machine-b")
        with pytest.raises(BadInput, match="every address of the tunnel network"):
            invite(registry, "machine-c")
        # The one that is invited anew takes its own place.
        assert invite(registry, "machine-b").machine.address == "10.77.0.2"


def test_a_machine_is_replaced_in_its_place_by_who_has_a_new_invitation(path, registry):
    old = redeem(registry, invite(registry), key(1))
    redeem(registry, invite(registry, "machine-c"), key(2))
    issued = invite_replacement(registry)
    assert (issued.machine.address, issued.from_address) == ("10.77.0.2", "10.77.0.4")
    waiting = registry.inventory()
    assert waiting.machine("machine-b") == old.machine("machine-b")  # until it is used
    throwaway = derive_invitation_keys(issued.secret)
    assert waiting.stand_ins == (PendingKey("machine-b", throwaway.public_key, "10.77.0.4"),)
    assert registry.preshared_keys()[throwaway.public_key] == throwaway.preshared_key

    new = redeem_replacement(registry, issued, key(3))
    assert redeem_replacement(registry, issued, key(3)) == new == registry.inventory()
    assert (new.machine("machine-b").public_key, new.stand_ins) == (key(3), ())
    assert new.cores == waiting.cores
    assert new.revision == waiting.revision + 1
    assert told(registry)[-1] == ("replaced", "machine-b", new.revision)
    shared = derive_permanent_preshared_key(issued.secret, CONTROL.public_key, key(3))
    assert registry.preshared_keys()[key(3)] == shared
    assert key(1) not in registry.preshared_keys()
    for thief in (key(1), key(4)):
        with pytest.raises(EnrolmentRefused, match="used already"):
            redeem_replacement(registry, issued, thief)
    assert is_sound(path) == new


def test_a_replacement_comes_from_its_own_address_alone(registry):
    redeem(registry, invite(registry), key(1))
    issued = invite_replacement(registry)
    before = registry.inventory()
    for elsewhere in ("10.77.0.2", "10.77.0.1", "10.77.0.5"):
        with pytest.raises(EnrolmentRefused, match="did not come from"):
            redeem_replacement(registry, issued, key(3), sender=elsewhere)
    with pytest.raises(EnrolmentRefused, match="refused"):
        redeem_replacement(registry, issued, CONTROL.public_key)
    assert registry.inventory() == before


def test_a_replacement_that_ends_leaves_the_machine_as_it_was(registry):
    before = redeem(registry, invite(registry), key(1))
    invite_replacement(registry)
    second = invite_replacement(registry)
    assert [each.public_key for each in registry.inventory().stand_ins] == [
        derive_invitation_keys(second.secret).public_key
    ]
    assert registry.withdraw_invitation("machine-b", now=NOW + 7)
    assert registry.inventory() == before
    assert not registry.withdraw_invitation("machine-b", now=NOW + 7)
    invite_replacement(registry)
    assert registry.expire_invitations(now=NOW + 2 * DAY_S)
    assert registry.inventory() == before
    assert [what for what, _, _ in told(registry)[-2:]] == ["replacement-invited", "replacement-ended"]


def test_nobody_takes_the_place_of_the_control_node_or_of_one_that_is_not_there(registry):
    for name in ("control", "machine-b"):
        with pytest.raises(BadInput):
            registry.invite(name, workers=None, endpoint=None, expires_at=NOW + 9, now=NOW, replace=True)


def test_a_removed_machine_takes_what_stood_in_for_it_with_it(path, registry):
    redeem(registry, invite(registry), key(1))
    issued = invite_replacement(registry)
    registry.change_mesh(lambda mesh: remove_machine(mesh, "machine-b"), **change("removed", "machine-b"))
    assert is_sound(path).stand_ins == ()
    with pytest.raises(EnrolmentRefused):
        redeem_replacement(registry, issued, key(3))


def test_open_invitations_are_listed_and_no_others(registry):
    redeem(registry, invite(registry), key(1))
    invite(registry, "machine-c", workers=None)
    invite(registry, "machine-d", now=NOW - 2 * DAY_S)
    invite_replacement(registry)
    assert registry.list_open_invitations(now=NOW + 9) == (
        OpenInvitation("machine-b", "10.77.0.2", 2, NOW + 6 + DAY_S, replaces=True),
        OpenInvitation("machine-c", "10.77.0.3", None, NOW + DAY_S, replaces=False),
    )


def test_a_clock_that_was_set_back_makes_no_invitation_good_for_longer(registry):
    issued = invite(registry)
    with pytest.raises(EnrolmentRefused, match="behind the time at which this invitation was made"):
        redeem(registry, issued, key(1), now=NOW - 3600)
    assert [each.name for each in registry.list_open_invitations(now=NOW - 3600)] == ["machine-b"]
    assert redeem(registry, issued, key(1), now=NOW - 200).machine("machine-b").public_key == key(1)


def test_a_clock_that_was_set_forward_ends_invitations_for_good(registry):
    issued = invite(registry)
    registry.expire_invitations(now=NOW + 10**9)
    with pytest.raises(EnrolmentRefused, match="expired"):
        redeem(registry, issued, key(1))


def test_what_became_of_an_invitation_is_known(registry):
    assert registry.find_spent_invitation("machine-b") is None
    issued = invite(registry)
    redeem(registry, issued, key(1))
    found = registry.find_spent_invitation("machine-b")
    assert found is not None
    assert (found.outcome, found.public_key, found.is_member) == ("redeemed", key(1), True)
    assert found.joined is not None
    assert found.joined.at == NOW + 5
    registry.change_mesh(lambda mesh: remove_machine(mesh, "machine-b"), **change("removed", "machine-b"))
    gone = registry.find_spent_invitation("machine-b")
    assert gone is not None
    assert not gone.is_member
    invite(registry, "machine-c")
    registry.withdraw_invitation("machine-c", now=NOW)
    withdrawn = registry.find_spent_invitation("machine-c")
    assert withdrawn is not None
    assert (withdrawn.outcome, withdrawn.joined) == ("withdrawn", None)
