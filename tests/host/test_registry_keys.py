"""Keys in the registry: offered, taken up, retired, and remembered within bounds."""

import contextlib
import sqlite3
from pathlib import Path

import msgspec
import pytest

from qmesh.errors import EnrolmentRefused, StateUnreadable
from qmesh.host.registry import Registry, RegistryImage, retired_keys, sqlite
from qmesh.mesh.changes import remove_machine
from qmesh.mesh.links.retirement import MOST_RETIRED
from qmesh.mesh.machine import PendingKey
from qmesh.mesh.protocol.enrolment import derive_invitation_keys
from tests.support.factories import key
from tests.support.lab.programs.cut_off import cut_offs
from tests.support.registries import (
    CONTROL,
    NOW,
    change,
    invite,
    invite_replacement,
    is_sound,
    path,
    redeem,
    redeem_replacement,
    registry,
    sql,
    told,
)

__all__ = ["path", "registry"]


def test_a_key_is_offered_and_then_taken_up(path, registry):
    before = redeem(registry, invite(registry), key(1))
    shared = registry.preshared_keys()[key(1)]
    for _ in range(2):
        registry.offer_key(key(2), sender="10.77.0.2", now=NOW + 6)
    registry.offer_key(key(1), sender="10.77.0.2", now=NOW + 6)  # its own, still
    offered = registry.inventory()
    assert offered == msgspec.structs.replace(before, stand_ins=(PendingKey("machine-b", key(2), None),))
    assert registry.preshared_keys() == {key(1): shared, key(2): shared}

    with pytest.raises(EnrolmentRefused, match="a moment ago"):
        registry.offer_key(key(3), sender="10.77.0.2", now=NOW + 15)
    registry.offer_key(key(3), sender="10.77.0.2", now=NOW + 16)  # another try
    registry.activate_pending_key(key(2), now=NOW + 7)
    assert registry.inventory().machine("machine-b").public_key == key(1)
    for _ in range(2):
        registry.activate_pending_key(key(3), now=NOW + 17)
    after = is_sound(path)
    assert (after.machine("machine-b").public_key, after.stand_ins) == (key(3), ())
    assert (after.revision, registry.preshared_keys()) == (before.revision + 1, {key(3): shared})
    assert [what for what, _, _ in told(registry)[-3:]] == ["joined", "key-offered", "key-rotated"]


def test_e5_a_key_that_another_has_can_be_offered_by_nobody(registry):
    redeem(registry, invite(registry), key(1))
    redeem(registry, invite(registry, "machine-c"), key(2))
    waiting = derive_invitation_keys(invite(registry, "machine-d").secret).public_key
    registry.offer_key(key(5), sender="10.77.0.3", now=NOW)
    before = registry.inventory()
    for taken in (key(2), key(5), CONTROL.public_key, waiting):
        with pytest.raises(EnrolmentRefused, match="that key is in use"):
            registry.offer_key(taken, sender="10.77.0.2", now=NOW)
    for stranger in ("10.77.0.4", "10.77.0.99", ""):
        with pytest.raises(EnrolmentRefused, match="not a member"):
            registry.offer_key(key(7), sender=stranger, now=NOW)
    assert registry.inventory() == before


def test_who_is_to_be_replaced_can_offer_no_key(registry):
    redeem(registry, invite(registry), key(1))
    registry.offer_key(key(5), sender="10.77.0.2", now=NOW)
    issued = invite_replacement(registry)
    with pytest.raises(EnrolmentRefused, match="invited to take the place of machine-b"):
        registry.offer_key(key(6), sender="10.77.0.2", now=NOW)
    assert [each.address for each in registry.inventory().stand_ins] == [issued.from_address]
    redeem_replacement(registry, issued, key(3))


def size(path: Path) -> int:
    """Octets of a registry, less what is free in it."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("VACUUM")
        return len(connection.serialize())


def test_a_member_that_offers_keys_for_ever_makes_no_history(path, registry):
    redeem(registry, invite(registry), key(1))
    redeem(registry, invite(registry, "machine-c"), key(2))
    for sender, number in (("10.77.0.2", 3), ("10.77.0.3", 4)):
        registry.offer_key(key(number), sender=sender, now=NOW)
    before, count, numbers = size(path), len(registry.events()), {registry.last_event_number()}
    for number in range(1, 301):
        registry.offer_key(key(100 + number), sender="10.77.0.2", now=NOW + 10 * number)
        numbers.add(registry.last_event_number())
    assert len(registry.events()) == count
    assert size(path) == before
    assert len(numbers) == 301  # each is news, and no number is given twice
    assert [(event.what, event.machine, event.at) for event in registry.events()[-2:]] == [
        ("key-offered", "machine-c", NOW),
        ("key-offered", "machine-b", NOW + 3000),
    ]


def test_another_offer_of_the_same_machine_is_news(registry):
    redeem(registry, invite(registry), key(1))
    registry.offer_key(key(2), sender="10.77.0.2", now=NOW)
    seen = registry.last_event_number()
    assert registry.read_news(since=seen) is not None
    registry.offer_key(key(3), sender="10.77.0.2", now=NOW + 10)
    assert registry.read_news(since=seen) is None


def test_a_member_that_changes_its_key_for_ever_makes_no_history(registry):
    redeem(registry, invite(registry), key(1))
    count = len(registry.events())
    for number in range(400):
        registry.offer_key(key(100 + number), sender="10.77.0.2", now=NOW + 10 * number)
        registry.activate_pending_key(key(100 + number), now=NOW + 10 * number + 1)
    told_of = registry.events()
    assert len(told_of) == count + 1 + 16
    assert told_of[-1].what == "key-rotated"
    assert told_of[0].what == "mesh-made"  # what others did is not what goes


@pytest.mark.parametrize("back_s", [3600, 10**9])
def test_a_clock_that_was_set_back_lifts_no_limit_on_keys(registry, back_s):
    redeem(registry, invite(registry), key(1))
    registry.offer_key(key(2), sender="10.77.0.2", now=NOW)
    for seconds in (1, 9):  # also by less than the limit
        with pytest.raises(EnrolmentRefused, match="a moment ago"):
            registry.offer_key(key(3), sender="10.77.0.2", now=NOW - seconds)
    registry.offer_key(key(3), sender="10.77.0.2", now=NOW - back_s)
    for seconds in (0, 1, 9):
        with pytest.raises(EnrolmentRefused, match="a moment ago"):
            registry.offer_key(key(4), sender="10.77.0.2", now=NOW - back_s + seconds)
    registry.offer_key(key(4), sender="10.77.0.2", now=NOW - back_s + 10)


def test_no_temporary_file_of_sqlites_holds_keys(registry):
    assert registry._connection.execute("PRAGMA temp_store").fetchone() == (2,)  # MEMORY


@pytest.mark.parametrize("how", ["removed", "replaced", "rotated"])
def test_e4_cut_off_at_any_write_a_key_is_its_machines_or_remembered(path, how):
    with Registry(path) as registry:
        redeem(registry, invite(registry), key(1))
        shared = registry.preshared_keys()[key(1)]
        issued = invite_replacement(registry) if how == "replaced" else None
        if how == "rotated":
            registry.offer_key(key(2), sender="10.77.0.2", now=NOW)
    before = path.read_bytes()

    def afresh() -> None:
        sqlite.remove_database(path)
        path.write_bytes(before)

    def change_keys() -> None:
        with Registry(path) as registry:
            if issued is not None:
                redeem_replacement(registry, issued, key(2))
            elif how == "rotated":
                registry.activate_pending_key(key(2), now=NOW)
            else:
                registry.change_mesh(
                    lambda mesh: remove_machine(mesh, "machine-b"), **change(how, "machine-b")
                )

    def look() -> tuple[bool, list[str]]:
        with Registry(path) as registry:
            keys = {each.public_key for each in registry.inventory().machines}
            return key(1) in keys, [each.public_key for each in registry.list_retired_keys()]

    cut = []
    for at in cut_offs(change_keys, afresh=afresh):
        cut.append(at)
        assert look() in [(True, []), (False, [key(1)])]
    assert "commit" in cut
    assert look() == (False, [key(1)])
    with Registry(path) as registry:
        (gone,) = registry.list_retired_keys()
    reason = "removed" if how == "removed" else "replaced"
    assert (gone.machine, gone.preshared_key, gone.reason) == ("machine-b", shared, reason)
    assert gone.at >= NOW


def test_who_was_only_invited_had_no_key(registry):
    invite(registry)
    assert registry.withdraw_invitation("machine-b", now=NOW)
    issued = invite(registry, "machine-c")
    assert redeem(registry, issued, key(1)).machine("machine-c").public_key == key(1)
    assert registry.list_retired_keys() == ()


def test_the_newest_keys_that_machines_had_are_remembered_and_no_machine_displaces_all(registry):
    def come_and_go(image: Registry, name: str, number: int) -> None:
        redeem(image, invite(image, name), key(number))
        image.change_mesh(lambda mesh: remove_machine(mesh, name), **change("removed", name))

    def numbers(image: Registry) -> list[str]:
        return [each.public_key for each in image.list_retired_keys()]

    with RegistryImage(registry.copy_database()) as image:  # in memory
        for number in range(1, MOST_RETIRED + 3):
            come_and_go(image, f"machine-{number}", number)
        assert numbers(image) == [key(number) for number in range(3, MOST_RETIRED + 3)]
        come_and_go(image, "machine-5", 5)
        assert numbers(image)[-1] == key(5)
        assert len(set(numbers(image))) == MOST_RETIRED
        for number in range(100, 100 + MOST_RETIRED):
            come_and_go(image, "machine-3", number)
        of_one = [
            key(number) for number in range(100 + MOST_RETIRED - retired_keys.MOST_OF_ONE, 100 + MOST_RETIRED)
        ]
        others = MOST_RETIRED - retired_keys.MOST_OF_ONE
        assert numbers(image)[others:] == of_one
        assert not {key(number) for number in range(100, 100 + MOST_RETIRED)} & set(numbers(image)[:others])


def test_keys_that_machines_had_are_part_of_a_backup_and_of_no_handover(registry):
    redeem(registry, invite(registry), key(1))
    redeem(registry, invite(registry, "machine-c"), key(2))
    registry.change_mesh(lambda mesh: remove_machine(mesh, "machine-b"), **change("removed", "machine-b"))
    known = registry.list_retired_keys()
    assert [each.public_key for each in known] == [key(1)]
    registry.begin_handover("machine-c", now=NOW)
    with RegistryImage(registry.copy_database()) as image:
        with RegistryImage(image.serialize()) as backup:
            assert backup.list_retired_keys() == known
        _, octets = image.serialize_for_successor()
    with RegistryImage(octets) as handed_over:
        assert handed_over.list_retired_keys() == ()
    assert known[0].preshared_key.reveal().encode() not in octets
    assert registry.list_retired_keys() == known


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO retired_keys VALUES (1, 'b', 'no key', 'no key', 'removed', 1)",
        "INSERT INTO retired_keys VALUES (1, 'B!', '{key}', '{key}', 'removed', 1)",
        "INSERT INTO retired_keys VALUES (1, 'b', '{key}', '{key}', 'removed', -1)",
    ],
)
def test_a_key_that_is_none_is_damage(path, registry, statement):
    sql(path, statement.format(key=key(1)))
    with pytest.raises(StateUnreadable, match="is damaged"):
        registry.list_retired_keys()
