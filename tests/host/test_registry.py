"""The registry: a mesh as it was created, changes, events and news."""

import contextlib
import os
import sqlite3
import stat

import msgspec
import pytest

from qmesh.errors import BadInput
from qmesh.host.registry import Event, RedemptionRequest, Registry, rows
from qmesh.mesh.changes import (
    pause_machine,
    remove_machine,
    resume_machine,
    set_endpoints,
    set_machine_fields,
    set_worker_count,
)
from qmesh.mesh.inventory import Inventory
from qmesh.mesh.machine import GuardedPort, Machine
from qmesh.mesh.mesh_options import MeshOptions, set_mesh_options
from qmesh.mesh.protocol.enrolment import derive_invitation_keys
from qmesh.mesh.values import Endpoint
from tests.support.factories import key
from tests.support.registries import (
    CONTROL,
    DAY_S,
    MESH,
    NOW,
    change,
    invite,
    message,
    path,
    redeem,
    registry,
    sql,
    told,
)

__all__ = ["path", "registry"]


def test_a_mesh_is_read_as_it_was_created(registry):
    assert registry.inventory() == MESH
    assert registry.preshared_keys() == {}
    assert registry.events() == (Event(NOW, "init", "mesh-made", "control", 1),)


@pytest.mark.parametrize("node", ["1.4", "2.1-rust"])
def test_a_mesh_over_ipv6_is_read_as_it_was_created(tmp_path, node):
    mesh = msgspec.structs.replace(
        MESH,
        network="fd12:3456:789a::/64",
        node=node,
        p2p_base_port=None if node == "1.4" else 25000,
        machines=(msgspec.structs.replace(CONTROL, address="fd12:3456:789a::1", endpoints=()),),
    )
    Registry.create(tmp_path / "mesh.db", mesh, now=NOW)
    with Registry(tmp_path / "mesh.db") as registry:
        assert registry.inventory() == mesh
        assert invite(registry).machine.address == "fd12:3456:789a::2"


def test_all_its_files_are_0600_whatever_the_umask(tmp_path):
    path = tmp_path / "mesh.db"
    before = os.umask(0)
    try:
        Registry.create(path, MESH, now=NOW)
        modes = {found.name: stat.S_IMODE(found.stat().st_mode) for found in tmp_path.iterdir()}
        with Registry(path) as registry:
            invite(registry)
            modes |= {found.name: stat.S_IMODE(found.stat().st_mode) for found in tmp_path.iterdir()}
    finally:
        os.umask(before)

    assert modes == {"mesh.db": 0o600, "mesh.db-wal": 0o600, "mesh.db-shm": 0o600}


def test_a_join_raises_the_revision_by_one_and_an_invitation_does_not(registry):
    revisions = [registry.inventory().revision]
    for number in range(5):
        issued = invite(registry, f"machine-{number}")
        revisions.append(registry.inventory().revision)
        revisions.append(redeem(registry, issued, key(number + 1)).revision)

    assert revisions == [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6]


def test_events_are_told_in_order_with_their_times_and_commands(registry):
    issued = invite(registry)
    invite(registry, "machine-c", now=NOW + 1)
    redeem(registry, issued, key(1), now=NOW + 2)
    registry.expire_invitations(now=NOW + 2 * DAY_S)

    assert registry.events() == (
        Event(NOW, "init", "mesh-made", "control", 1),
        Event(NOW, "invite", "invited", "machine-b", 1),
        Event(NOW + 1, "invite", "invited", "machine-c", 1),
        Event(NOW + 2, "join", "joined", "machine-b", 2, None, "10.77.0.2", None, key(1)),
        Event(NOW + 2 * DAY_S, "agent", "invitation-expired", "machine-c", 2),
    )


def test_no_event_holds_a_secret(path, registry):
    issued = invite(registry)
    redeem(registry, issued, key(1))
    with contextlib.closing(sqlite3.connect(path)) as connection:
        text = repr(connection.execute("SELECT * FROM events").fetchall())

    assert issued.secret.hex() not in text
    assert derive_invitation_keys(issued.secret).preshared_key.reveal() not in text


def test_a_change_is_written_whole_with_its_event(path, registry):
    for number, name in enumerate(("machine-b", "machine-c", "machine-d"), 1):
        redeem(registry, invite(registry, name, workers=number), key(number))
    old, new = registry.change_mesh(
        lambda mesh: remove_machine(mesh, "machine-b"), **change("removed", "machine-b")
    )
    assert [machine.name for machine in old.machines] == ["control", "machine-b", "machine-c", "machine-d"]
    assert registry.inventory() == new
    assert list(new.cores) == ["control", "machine-c", "machine-d"]
    assert set(registry.preshared_keys()) == {key(2), key(3)}
    assert told(registry)[-1] == ("removed", "machine-b", new.revision)
    for after in (
        lambda mesh: pause_machine(mesh, "machine-c"),
        lambda mesh: set_worker_count(mesh, "machine-d", 9),
        lambda mesh: set_endpoints(mesh, "machine-d", [Endpoint("192.0.2.4", 51820)]),
        lambda mesh: set_mesh_options(mesh, MeshOptions(node="2.1", master_proxy=True)),
        lambda mesh: resume_machine(mesh, "machine-c"),
    ):
        _, new = registry.change_mesh(after, **change("machine-changed", "machine-c"))
        assert registry.inventory() == new
        with Registry(path) as again:
            assert again.inventory() == new
    assert new.node == "2.1"
    # A machine that was removed may be invited anew.
    assert invite(registry, "machine-b").machine.name == "machine-b"


def test_a_machine_that_is_only_invited_is_changed_too(registry):
    issued = invite(registry, workers=None)
    where = [Endpoint("198.51.100.7", 51820)]

    def after(mesh: Inventory) -> Inventory:
        return set_endpoints(set_worker_count(mesh, "machine-b", 5), "machine-b", where)

    _, new = registry.change_mesh(after, command="set", what="machine-changed", machine="machine-b", now=NOW)
    assert registry.inventory() == new
    assert redeem(registry, issued, key(1)).machine("machine-b").workers == 5


def test_a_change_that_is_refused_or_none_leaves_no_trace(registry):
    before = registry.inventory(), registry.events()
    with pytest.raises(BadInput):
        registry.change_mesh(lambda mesh: remove_machine(mesh, "control"), **change("removed", "control"))
    registry.change_mesh(lambda mesh: mesh, **change("mesh-changed", "control"))
    assert (registry.inventory(), registry.events()) == before


OPTIONS = {
    "announce": "node.example.org",
    "guarded_ports": (GuardedPort(5432, "none"), GuardedPort(9100, "mesh")),
    "left_open": (8080,),
    "node_files": True,
}


def test_what_most_machines_have_nothing_of_is_kept(registry):
    registry.change_mesh(
        lambda mesh: set_machine_fields(mesh, "control", **OPTIONS), **change("machine-changed", "control")
    )

    kept = registry.inventory().control_node
    assert {name: getattr(kept, name) for name in OPTIONS} == OPTIONS


def test_the_registry_has_all_that_a_mesh_and_a_machine_are():
    elsewhere = {"machines", "stand_ins", "successor"}
    assert {*rows._OF_THE_MESH, *elsewhere} == set(Inventory.__struct_fields__)
    columns = {*rows.MachineRow._fields, *rows.MachineOptions.__struct_fields__} - {"options"}
    assert columns == set(Machine.__struct_fields__)


def test_news_is_who_became_of_machines_since_an_event(registry):
    kept, gone = invite(registry, "machine-b"), invite(registry, "machine-c", now=NOW - 2 * DAY_S)
    begun = registry.last_event_number()
    redeem(registry, kept, key(7))
    registry.expire_invitations(now=NOW)
    news = registry.read_news(since=begun)

    assert news is not None
    assert news.event == registry.last_event_number()
    assert set(news.machines) == {"machine-b", "machine-c"}
    assert news.machines[gone.machine.name] is None
    known = news.machines[kept.machine.name]
    assert known is not None
    assert known.machine == registry.inventory().machine("machine-b")
    assert known.preshared_key == registry.preshared_keys()[key(7)]


def test_of_an_invitation_that_was_made_and_used_since_the_news_do_not_tell_all(registry):
    """Its key was a peer, and is in the registry no more."""
    begun = registry.last_event_number()
    issued = invite(registry, "machine-b")
    assert registry.read_news(since=begun) is not None
    redeem(registry, issued, key(7))
    assert registry.read_news(since=begun) is None
    assert registry.read_news(since=begun + 1) is not None


def test_without_news_there_is_none_to_tell(registry):
    invite(registry)
    news = registry.read_news(since=registry.last_event_number())

    assert news is not None
    assert (news.event, news.machines) == (registry.last_event_number(), {})


def test_news_since_an_event_that_is_not_there_is_not_known(registry):
    assert registry.read_news(since=registry.last_event_number() + 1) is None


def test_news_of_another_kind_is_not_told_as_that_of_machines(registry, path):
    begun = registry.last_event_number()
    insert = "INSERT INTO events (at, command, what, machine, revision)"
    sql(path, f"{insert} VALUES (1, 'set', 'moved', 'control', 2)")
    invite(registry)

    assert registry.read_news(since=begun) is None


def test_no_news_shows_a_key(registry):
    begun = registry.last_event_number()
    issued = invite(registry)

    assert derive_invitation_keys(issued.secret).preshared_key.reveal() not in repr(
        registry.read_news(since=begun)
    )


def test_an_address_rests_until_every_member_knows_that_its_machine_is_gone(registry):
    for number, name in enumerate(("machine-b", "machine-c", "machine-d"), 1):
        redeem(registry, invite(registry, name), key(number))
    _, gone = registry.change_mesh(
        lambda mesh: remove_machine(mesh, "machine-b"), **change("removed", "machine-b")
    )

    def given() -> str:
        address = invite(registry, "machine-e").machine.address
        assert registry.withdraw_invitation("machine-e", now=NOW)
        return address

    assert given() == "10.77.0.5"
    registry.record_acknowledgements({"10.77.0.3": gone.revision, "10.77.0.4": gone.revision - 1})
    assert given() == "10.77.0.5"
    registry.record_acknowledgements({"10.77.0.4": gone.revision + 7, "10.77.0.3": 1, "10.77.0.99": 1})
    assert given() == "10.77.0.2"


def test_history_ends_and_an_invitation_that_was_used_is_known_still(path, registry):
    used = invite(registry)
    redeem(registry, used, key(1))
    sql(
        path,
        "INSERT INTO events (at, command, what, machine, revision) WITH RECURSIVE many(n) AS (SELECT 1"
        " UNION ALL SELECT n + 1 FROM many WHERE n < 60000) SELECT 1, 'set', 'paused', 'x', 1 FROM many",
        "INSERT INTO invitations (identifier, machine, expires_at, outcome) WITH RECURSIVE many(n) AS"
        " (SELECT 1 UNION ALL SELECT n + 1 FROM many WHERE n < 6000)"
        " SELECT 'of ' || n, 'y', 1, 'expired' FROM many",
    )
    for number in range(130):
        invite(registry, f"machine-{number % 2}")
    assert 50_000 <= len(registry.events()) <= 50_000 + 256
    with contextlib.closing(sqlite3.connect(path)) as connection:
        (kept,) = connection.execute("SELECT count(*) FROM invitations").fetchone()
    assert kept <= 5_000 + 130 + 3
    assert redeem(registry, used, key(1)).machine("machine-b").public_key == key(1)


def test_what_happened_since_is_told_in_order_and_of_very_many_the_newest(path, registry):
    number, found = registry.list_new_events(None)
    assert (number, found) == (1, ())
    assert registry.list_new_events(number) == (1, ())
    assert registry.list_new_events(7) == (1, ())  # of a registry that was restored from an older copy
    for name in ("machine-b", "machine-c"):
        invite(registry, name)
    number, found = registry.list_new_events(1)
    assert (number, [each.machine for each in found]) == (3, ["machine-b", "machine-c"])
    assert registry.list_new_events(2) == (3, found[1:])
    sql(
        path,
        "INSERT INTO events (at, command, what, machine, revision) WITH RECURSIVE many(n) AS (SELECT 0"
        " UNION ALL SELECT n + 1 FROM many WHERE n < 299)"
        " SELECT 1, 'set', 'machine-changed', 'b', n FROM many",
    )
    number, found = registry.list_new_events(3)
    assert (number, [each.revision for each in found]) == (303, list(range(200, 300)))


def test_an_address_rests_whatever_the_clock_says(registry):
    for number, name in enumerate(("machine-b", "machine-c"), 1):
        redeem(registry, invite(registry, name), key(number))
    registry.change_mesh(lambda mesh: remove_machine(mesh, "machine-b"), **change("removed", "machine-b"))
    for now in (1, 10**11):
        issued = registry.invite("machine-d", workers=1, endpoint=None, expires_at=now + DAY_S, now=now)
        assert issued.machine.address != "10.77.0.2"


def test_who_did_it_is_noted_and_of_a_join_who_invited_and_whence_it_came(path):
    with Registry(path, user="alice") as registry:
        issued = invite(registry)
        registry.change_mesh(
            lambda mesh: set_worker_count(mesh, "control", 4), **change("machine-changed", "control")
        )
    with Registry(path) as registry:
        came = iter(["198.51.100.7:51820"])
        for _ in range(2):  # the second one asks nobody
            asked = [RedemptionRequest(message(issued, key(1)), "10.77.0.2")]
            registry.redeem_all(asked, now=NOW + 5, find_endpoint=lambda _: next(came))
        registry.expire_invitations(now=NOW)
        events = registry.events()
    assert [(event.what, event.user) for event in events] == [
        ("mesh-made", None),
        ("invited", "alice"),
        ("machine-changed", "alice"),
        ("joined", "alice"),
    ]
    joined = events[-1]
    assert (joined.address, joined.endpoint, joined.public_key) == ("10.77.0.2", "198.51.100.7:51820", key(1))
