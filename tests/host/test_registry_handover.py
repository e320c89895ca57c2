"""The registry while the control role goes to another machine: nothing else changes, and nothing is lost."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from qmesh.errors import BadInput, EnrolmentRefused
from qmesh.host.registry import Readiness, Registry, RegistryImage, load_image
from qmesh.host.registry.image import write_registry
from qmesh.mesh.changes import pause_machine, set_endpoints
from qmesh.mesh.inventory import Inventory
from qmesh.mesh.protocol.handover import HandoverProgress, derive_successor_preshared_key
from qmesh.mesh.protocol.membership import sign_membership
from qmesh.mesh.values import Endpoint
from tests.support.factories import key
from tests.support.registries import NOW, SIGNS, invite, message, path, redeem, registry

__all__ = ["path", "registry"]

B, C = "10.77.0.2", "10.77.0.3"


@pytest.fixture
def three(registry):
    """The control node, machine-b, which can be called, and machine-c."""
    for number, name in enumerate(("machine-b", "machine-c"), 1):
        redeem(registry, invite(registry, name), key(number))
    endpoint = [Endpoint("203.0.113.2", 51820)]
    change(registry, lambda mesh: set_endpoints(mesh, "machine-b", endpoint))
    return registry


def change(registry: Registry, after: Callable[[Inventory], Inventory]) -> object:
    return registry.change_mesh(
        after, command="set", what="machine-changed", machine="machine-b", now=NOW + 9
    )


def kinds(registry) -> list[str]:
    return [each.what for each in registry.events()]


def everyone_knows(registry) -> None:
    revision = registry.revision()
    registry.record_acknowledgements({B: revision, C: revision})


def test_from_its_beginning_nothing_changes_but_what_it_is_about(three):
    issued = invite(three, "machine-d")
    before = three.inventory()
    assert three.begin_handover("machine-b", now=NOW + 10) == ("machine-d",)
    mesh = three.inventory()
    assert (mesh.control, mesh.successor) == ("control", "machine-b")
    assert (mesh.revision, len(mesh.machines)) == (before.revision + 1, 3)
    assert kinds(three)[-2:] == ["invitation-withdrawn", "handover-begun"]

    with pytest.raises(BadInput, match="is being handed over to machine-b"):
        invite(three, "machine-e")
    with pytest.raises(BadInput, match="is being handed over to machine-b"):
        change(three, lambda mesh: pause_machine(mesh, "machine-c"))
    with pytest.raises(BadInput, match="is being handed over to machine-b"):
        three.begin_handover("machine-c", now=NOW + 11)
    with pytest.raises(EnrolmentRefused, match="is being handed over to machine-b"):
        three.offer_key(key(7), sender=C, now=NOW + 11)
    with pytest.raises(EnrolmentRefused, match="was withdrawn"):
        three.redeem(message(issued, key(8)), sender=issued.machine.address, now=NOW + 11)
    assert three.inventory() == mesh

    assert three.begin_handover("machine-b", now=NOW + 12) == ()  # run again it goes on
    assert three.inventory() == mesh


def test_given_up_it_is_as_if_it_never_was(three):
    before = three.inventory()
    assert not three.end_handover(now=NOW + 10)
    three.begin_handover("machine-b", now=NOW + 10)
    assert three.end_handover(now=NOW + 11)
    after = three.inventory()
    assert after == msgspec.structs.replace(before, revision=before.revision + 2)
    assert (kinds(three)[-1], three.successor()) == ("handover-ended", None)
    invite(three, "machine-e")


def test_a_key_that_was_offered_before_is_taken_up_and_the_estate_is_fetched_anew(three):
    three.offer_key(key(7), sender=C, now=NOW + 9)
    three.begin_handover("machine-b", now=NOW + 10)
    holds = three.last_event_number()
    assert three.record_progress(HandoverProgress(holds=holds, silent=()), sender=B, now=NOW + 12)
    three.activate_pending_key(key(7), now=NOW + 11)
    assert three.inventory().machine("machine-c").public_key == key(7)
    assert not three.record_progress(HandoverProgress(holds=holds, silent=()), sender=B, now=NOW + 12)
    everyone_knows(three)
    with pytest.raises(BadInput, match="does not have the whole registry"):
        three.complete_handover("machine-b", now=NOW + 12)


def test_a_key_that_the_successor_has_offered_is_forgotten(three):
    """It would be known with a preshared key that is nobody's by then."""
    three.offer_key(key(7), sender=B, now=NOW + 9)
    three.begin_handover("machine-b", now=NOW + 10)
    with load_image(three._path) as image:
        image.serialize_for_successor()
        assert image.inventory().stand_ins == ()
    assert [each.public_key for each in three.inventory().stand_ins] == [key(7)]


@pytest.mark.parametrize("sender", [C, "10.77.0.1", "10.77.0.9", ""])
def test_nobody_else_says_how_far_the_successor_is(three, sender):
    said = HandoverProgress(holds=three.last_event_number(), silent=())
    with pytest.raises(EnrolmentRefused, match="no handover to this machine is under way"):
        three.record_progress(said, sender=B, now=NOW + 12)  # none was begun
    three.begin_handover("machine-b", now=NOW + 10)
    with pytest.raises(EnrolmentRefused, match="no handover to this machine is under way"):
        three.record_progress(said, sender=sender, now=NOW + 12)
    assert not three.check_readiness("machine-b", now=NOW + 13).holds


def test_ready_is_who_has_said_so(three):
    three.begin_handover("machine-b", now=NOW + 10)
    assert three.check_readiness("machine-b", now=NOW + 13) == Readiness(holds=False, missing=("machine-c",))
    three.record_progress(
        HandoverProgress(holds=three.last_event_number(), silent=(C,)), sender=B, now=NOW + 12
    )
    assert three.check_readiness("machine-b", now=NOW + 13) == Readiness(holds=True, missing=("machine-c",))
    everyone_knows(three)
    assert three.check_readiness("machine-b", now=NOW + 13) == Readiness(holds=True, missing=("machine-c",))
    three.record_progress(
        HandoverProgress(holds=three.last_event_number(), silent=()), sender=B, now=NOW + 12
    )
    assert three.check_readiness("machine-b", now=NOW + 13) == Readiness(holds=True, missing=())


def test_what_was_said_a_while_ago_counts_no_more(three):
    """Whoever is dead by now is not made the control node: not later, nor by the command run again."""
    three.begin_handover("machine-b", now=NOW + 10)
    said = HandoverProgress(holds=three.last_event_number(), silent=())
    three.record_progress(said, sender=B, now=NOW + 12)
    assert three.check_readiness("machine-b", now=NOW + 17).holds
    for later in (NOW + 18, NOW - 100):
        assert not three.check_readiness("machine-b", now=later).holds
        with pytest.raises(BadInput, match="or is unreachable"):
            three.complete_handover("machine-b", now=later)
    three.begin_handover("machine-b", now=NOW + 13)
    assert not three.check_readiness("machine-b", now=NOW + 13).holds


def test_a_handover_that_another_command_gave_up_is_not_gone_on_with(three):
    three.begin_handover("machine-b", now=NOW + 10)
    three.record_progress(
        HandoverProgress(holds=three.last_event_number(), silent=()), sender=B, now=NOW + 12
    )
    for name in ("machine-c", "control"):
        with pytest.raises(BadInput, match="cancelled"):
            three.complete_handover(name, now=NOW + 12)
    three.end_handover(now=NOW + 12)
    with pytest.raises(BadInput, match="cancelled"):
        three.check_readiness("machine-b", now=NOW + 12)


def test_an_estate_of_a_handover_that_was_given_up_meanwhile_is_none(three, path):
    """The successor has said how far it is, then another command gives it up, then the copy is made."""
    with (
        load_image(path) as image,
        pytest.raises(EnrolmentRefused, match="no handover to this machine is under way"),
    ):
        image.serialize_for_successor()
    with (
        load_image(path) as image,
        pytest.raises(EnrolmentRefused, match="no handover to this machine is under way"),
    ):
        image.promote_successor(now=NOW)


def test_the_registry_of_the_past_takes_up_no_key(three):
    three.offer_key(key(7), sender=C, now=NOW + 9)
    three.begin_handover("machine-b", now=NOW + 10)
    three.record_progress(
        HandoverProgress(holds=three.last_event_number(), silent=()), sender=B, now=NOW + 12
    )
    after = three.complete_handover("machine-b", now=NOW + 12)
    three.activate_pending_key(key(7), now=NOW + 13)
    assert three.inventory() == after


def test_only_the_successor_has_the_key_with_which_it_is_spoken_to(three):
    with pytest.raises(EnrolmentRefused):
        three.find_successor_preshared_key(B)
    three.begin_handover("machine-b", now=NOW + 10)
    assert three.find_successor_preshared_key(B) == three.preshared_keys()[key(1)]
    for sender in (C, "10.77.0.1", ""):
        with pytest.raises(EnrolmentRefused):
            three.find_successor_preshared_key(sender)


def test_both_registries_have_one_mesh_afterwards_and_the_new_one_goes_on(three, path, tmp_path):
    three.offer_key(key(7), sender=C, now=NOW + 9)
    replaced = three.invite(
        "machine-c", workers=None, endpoint=None, expires_at=NOW + 99, now=NOW + 9, replace=True
    )
    three.withdraw_invitation("machine-c", now=NOW + 9)
    three.offer_key(key(7), sender=C, now=NOW + 30)
    before = three.preshared_keys()
    three.begin_handover("machine-b", now=NOW + 40)
    with load_image(path) as image:
        event, octets = image.serialize_for_successor()
    assert event == three.last_event_number()
    three.record_progress(HandoverProgress(holds=event, silent=()), sender=B, now=NOW + 49)

    after = three.complete_handover("machine-b", now=NOW + 50)
    assert (after.control, after.successor) == ("machine-b", None)
    assert three.inventory() == after
    with pytest.raises(BadInput, match="machine-b is the control node now"):
        invite(three, "machine-e")
    with pytest.raises(EnrolmentRefused):
        three.record_progress(HandoverProgress(holds=0, silent=()), sender=B, now=NOW + 12)
    assert not three.end_handover(now=NOW + 51)

    with RegistryImage(octets) as image:
        assert sign_membership(image.promote_successor(now=NOW + 50), SIGNS) == sign_membership(after, SIGNS)
        write_registry(tmp_path / "new.db", image.serialize())
    with Registry(tmp_path / "new.db") as new:
        control = three.inventory().machine("control").public_key
        assert new.preshared_keys() == {
            control: before[key(1)],
            key(2): derive_successor_preshared_key(key(1), before[key(2)]),
            key(7): derive_successor_preshared_key(key(1), before[key(7)]),
        }
        assert new.inventory() == after
        assert kinds(new)[-2:] == kinds(three)[-2:] == ["handover-begun", "handed-over"]
        assert new.successor() is None
        with pytest.raises(EnrolmentRefused, match="withdrawn"):  # E3 also there
            new.redeem(message(replaced, key(9)), sender="10.77.0.4", now=NOW + 60)
        redeem(new, invite(new, "machine-e", now=NOW + 60), key(10), now=NOW + 61)
        new.activate_pending_key(key(7), now=NOW + 62)
        assert new.inventory().machine("machine-c").public_key == key(7)
        assert new.begin_handover("control", now=NOW + 63) == ()


def test_a_backup_in_between_is_of_this_control_node(three, path):
    three.begin_handover("machine-b", now=NOW + 10)
    with load_image(path) as image:
        image.discard_handover()
        assert (image.inventory().control, image.inventory().successor) == ("control", None)
