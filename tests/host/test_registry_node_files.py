"""Which members may have the node's files, and how that is remembered."""

from __future__ import annotations

import msgspec
import pytest

from qmesh.errors import EnrolmentRefused
from qmesh.host.registry import MachineOptions, Registry
from qmesh.mesh.changes import set_endpoints, set_machine_fields
from qmesh.mesh.values import Endpoint
from tests.support.factories import key
from tests.support.registries import DAY_S, NOW, invite, message, path, redeem, registry

__all__ = ["path", "registry"]

B = "10.77.0.2"


def permit(registry: Registry, *, allowed: bool) -> None:
    registry.change_mesh(
        lambda mesh: set_machine_fields(mesh, "machine-b", node_files=allowed),
        command="set",
        what="machine-changed",
        machine="machine-b",
        now=NOW,
    )


def test_a_machine_that_was_invited_to_may_fetch_and_another_may_not(registry):
    issued = registry.invite(
        "machine-b",
        workers=2,
        endpoint=None,
        expires_at=NOW + DAY_S,
        now=NOW,
        options=MachineOptions(node_files=True),
    )
    with pytest.raises(EnrolmentRefused, match="not a member"):
        registry.find_file_requester(B)  # it is not one yet
    redeem(registry, issued, key(1))
    redeem(registry, invite(registry, "machine-c"), key(2))
    found = registry.find_file_requester(B)
    assert found.machine == registry.inventory().machine("machine-b")
    assert found.preshared_key == registry.preshared_keys()[key(1)]
    with pytest.raises(EnrolmentRefused, match="machine-c may not fetch the node's files") as refused:
        registry.find_file_requester("10.77.0.3")
    assert "`qmesh set machine-c --node-files on`" in refused.value.hint
    for stranger in ("10.77.0.1", "10.77.0.9"):
        with pytest.raises(EnrolmentRefused, match="not a member"):
            registry.find_file_requester(stranger)


def test_what_a_machine_may_is_given_and_taken_and_stays_with_its_place(registry):
    redeem(registry, invite(registry), key(1))
    permit(registry, allowed=True)
    replacing = registry.invite(
        "machine-b", workers=None, endpoint=None, expires_at=NOW + DAY_S, now=NOW, replace=True
    )
    registry.redeem(message(replacing, key(3)), sender=replacing.from_address, now=NOW)
    machine = registry.find_file_requester(B).machine
    assert machine.public_key == key(3)
    permit(registry, allowed=False)
    with pytest.raises(EnrolmentRefused, match="may not fetch"):
        registry.find_file_requester(B)
    events = registry.events()
    with pytest.raises(EnrolmentRefused, match="may not fetch"):
        registry.record_files_fetched(machine, now=NOW, endpoint=None)
    assert registry.events() == events


def test_the_log_has_who_fetched_when_and_no_member_makes_a_history_without_end(registry):
    redeem(registry, invite(registry), key(1))
    permit(registry, allowed=True)
    before = registry.events()
    seen = registry.last_event_number()
    machine = registry.find_file_requester(B).machine
    for number in range(200):
        registry.record_files_fetched(machine, now=NOW + number, endpoint="192.0.2.7:51820")
    events = registry.events()
    assert events[: len(before)] == before
    assert len(events) == len(before) + 64
    last = events[-1]
    assert (last.at, last.what, last.machine, last.command) == (
        NOW + 199,
        "node-files-fetched",
        "machine-b",
        "node-files",
    )
    assert (last.address, last.endpoint, last.public_key) == (B, "192.0.2.7:51820", key(1))
    news = registry.read_news(since=registry.last_event_number() - 1)
    assert news is not None  # no reason to look at all of the machine
    assert seen < news.event
    assert registry.revision() == registry.inventory().revision


def test_a_machine_with_another_key_by_now_is_not_answered(registry):
    redeem(registry, invite(registry), key(1))
    permit(registry, allowed=True)
    machine = msgspec.structs.replace(registry.find_file_requester(B).machine, public_key=key(8))
    with pytest.raises(EnrolmentRefused, match="has changed its key meanwhile"):
        registry.record_files_fetched(machine, now=NOW, endpoint=None)


def test_nothing_is_fetched_while_the_control_role_moves(registry):
    redeem(registry, invite(registry), key(1))
    permit(registry, allowed=True)
    registry.change_mesh(
        lambda mesh: set_endpoints(mesh, "machine-b", [Endpoint("203.0.113.2", 51820)]),
        command="set",
        what="machine-changed",
        machine="machine-b",
        now=NOW,
    )
    registry.begin_handover("machine-b", now=NOW)
    with pytest.raises(EnrolmentRefused, match="the control role is being handed over to machine-b"):
        registry.find_file_requester(B)
