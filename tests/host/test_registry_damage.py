"""A registry that is none, is damaged, is of another version, or has no room."""

import contextlib
import hashlib
import os
import sqlite3
from pathlib import Path

import pytest

from qmesh.errors import MachineRefused, NeedsRoot, StateUnreadable
from qmesh.host.registry import Registry, RegistryImage, schema, sqlite
from qmesh.mesh.changes import remove_machine
from tests.support.factories import key
from tests.support.registries import (
    MESH,
    NOW,
    change,
    invite,
    invite_replacement,
    is_sound,
    path,
    redeem,
    registry,
    shares_nothing,
    sql,
)

__all__ = ["path", "registry"]


NOBODY = 65534


A_MACHINE = "INSERT INTO machines (name, public_key, address, place, workers, state, endpoints) VALUES "


@pytest.mark.parametrize(
    "statement",
    [
        f"{A_MACHINE} ('machine-b', 'k', '10.77.0.9', 9, 1, 'active', '[]')",
        f"{A_MACHINE} ('new', '{key(1)}', '10.77.0.9', 9, 1, 'active', '[]')",
        f"{A_MACHINE} ('new', 'k', '10.77.0.2', 9, 1, 'active', '[]')",
        f"{A_MACHINE} ('new', 'k', '10.77.0.9', 2, 1, 'active', '[]')",
        f"{A_MACHINE} ('new', 'k', '10.77.0.9', NULL, 1, 'active', '[]')",
        f"{A_MACHINE} ('new', 'k', '10.77.0.9', 9, 1, 'invited', '[]')",
        f"{A_MACHINE} ('new', 'k', '10.77.0.9', 9, 0, 'active', '[]')",
        f"{A_MACHINE} ('new', 'k', '10.77.0.9', 9, 65536, 'active', '[]')",
        f"{A_MACHINE} ('new', 'k', '10.77.0.9', 9, 'many', 'active', '[]')",
        f"{A_MACHINE} ('new', 'k', '10.77.0.9', 9, 1, 'removed', '[]')",
        f"{A_MACHINE} (NULL, 'k', '10.77.0.9', 9, 1, 'active', '[]')",
        f"{A_MACHINE} ('new', NULL, '10.77.0.9', 9, 1, 'active', '[]')",
        f"{A_MACHINE} ('new', 'k', NULL, 9, 1, 'active', '[]')",
        "UPDATE machines SET address = '10.77.0.1' WHERE name = 'machine-b'",
        "UPDATE machines SET place = 1 WHERE name = 'machine-b'",
        "UPDATE machines SET public_key = (SELECT public_key FROM machines WHERE name = 'control')",
        "DELETE FROM machines WHERE name = 'control'",
        "INSERT INTO mesh SELECT 2, mesh, '', control, node, 1, 1, 1, NULL, stream, 0, 0 FROM mesh",
        "INSERT INTO invitations SELECT identifier, 'new', secret, 0, 'withdrawn', NULL FROM invitations",
        "INSERT INTO invitations VALUES ('x', 'machine-c', NULL, 0, 'open', NULL)",
        "INSERT INTO invitations VALUES ('x', 'new', NULL, 0, 'redeemed', NULL)",
        "INSERT INTO invitations VALUES ('x', 'new', NULL, 0, 'withdrawn', 'k')",
        "INSERT INTO invitations VALUES ('x', 'new', NULL, 0, 'lost', NULL)",
    ],
)
def test_e5_the_database_refuses_what_must_never_be(path, registry, statement):
    redeem(registry, invite(registry), key(1))
    invite(registry, "machine-c")

    with pytest.raises(sqlite3.IntegrityError):
        sql(path, statement)
    is_sound(path)


def test_e5_the_database_allows_what_may_be(path, registry):
    redeem(registry, invite(registry), key(1))
    sql(path, f"{A_MACHINE} ('new', '{key(2)}', '10.77.0.9', 9, 1, 'active', '[]')")

    assert shares_nothing(registry.inventory(), 3)


def test_a_missing_registry_is_an_error_and_is_not_made(tmp_path):
    with pytest.raises(
        StateUnreadable, match=r"mesh\.db, the control node.s registry, is missing"
    ) as missing:
        Registry(tmp_path / "mesh.db")

    assert "backup" in missing.value.hint
    assert list(tmp_path.iterdir()) == []


def with_pages(path: Path) -> bytes:
    """The octets of a registry of some pages, all in its one file."""
    with Registry(path) as registry:
        for number in range(40):
            redeem(registry, invite(registry, f"machine-{number}"), key(number + 1))
    octets = path.read_bytes()
    assert len(octets) > 6 * 4096
    return octets


def look(path: Path) -> None:
    with Registry(path) as registry:
        registry.inventory()
        registry.events()
        registry.preshared_keys()


@pytest.mark.parametrize("length", [0, 1, 16, 50, 99, 100, 1000, 4096, 5000, 3 * 4096, -4096, -1000])
def test_a_truncated_registry_is_an_error(path, length):
    octets = with_pages(path)
    path.write_bytes(octets[:length])

    with pytest.raises(StateUnreadable, match=r"mesh\.db") as unreadable:
        look(path)

    assert "backup" in unreadable.value.hint


@pytest.mark.parametrize("octets", [b"no database", b"\0" * 8192, b"SQLite format 3\0" + b"\xff" * 8192])
def test_what_is_no_database_is_an_error(path, octets):
    path.write_bytes(octets)
    before = len(list(Path("/proc/self/fd").iterdir()))

    with pytest.raises(StateUnreadable, match=r"mesh\.db") as unreadable:
        look(path)

    assert unreadable.value.hint
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_an_overwritten_page_is_an_error(path):
    octets = with_pages(path)
    path.write_bytes(octets[:4096] + b"\xa5" * (len(octets) - 4096))

    with pytest.raises(StateUnreadable, match="is damaged"):
        look(path)


def test_another_programs_database_is_an_error_and_stays_as_it_was(tmp_path):
    path = tmp_path / "mesh.db"
    sql(path, "CREATE TABLE machines (name)", "PRAGMA application_id = 7")
    before = path.read_bytes()

    with pytest.raises(StateUnreadable, match="is not a qmesh registry"):
        Registry(path)
    assert path.read_bytes() == before


def test_a_registry_that_goes_away_while_it_is_opened_is_not_made_empty(tmp_path):
    odd = tmp_path / "100 %20? #1"
    odd.mkdir()
    with pytest.raises(MachineRefused, match="unable to open"):
        sqlite.connect(odd / "mesh.db")
    (odd / "mesh.db").touch()
    sqlite.connect(odd / "mesh.db").close()
    assert [path.name for path in odd.iterdir()] == ["mesh.db"]


def test_a_newer_registry_is_an_error_and_not_damage(path):
    sql(path, "PRAGMA user_version = 99")

    with pytest.raises(StateUnreadable, match="was written by a newer qmesh") as newer:
        Registry(path)

    assert "install" in newer.value.hint


def test_another_schema_has_another_version():
    """Else a registry of yesterday is damaged today: with a version comes a step of `_MIGRATIONS`."""
    text = " ".join((schema.SCHEMA + schema._RETIRED_KEYS).split())
    assert (schema.VERSION, hashlib.sha256(text.encode()).hexdigest()[:16]) == (7, "31ebd5c18316a681")
    assert sorted(schema._MIGRATIONS) == list(range(schema.OLDEST, schema.VERSION))


@pytest.mark.parametrize("version", [5, 6])
def test_a_registry_of_a_version_before_is_read_and_brought_to_this_one(path, version):
    with Registry(path) as registry:
        before = registry.inventory(), registry.events()
    sql(path, "DROP TABLE retired_keys", f"PRAGMA user_version = {version}")
    if version < 6:
        sql(path, "ALTER TABLE machines DROP COLUMN options")
    octets = path.read_bytes()

    for _ in range(2):
        with Registry(path) as registry:
            assert (registry.inventory(), registry.events()) == before
    with RegistryImage(octets) as image:
        assert image.inventory() == before[0]
        redeem(image, invite(image), key(1))
        image.change_mesh(lambda mesh: remove_machine(mesh, "machine-b"), **change("removed", "machine-b"))
        assert [each.public_key for each in image.list_retired_keys()] == [key(1)]


@pytest.mark.parametrize("version", [-(2**31), -1, 0, 1, 4])
def test_a_version_that_was_never_released_is_damage(path, version):
    sql(path, f"PRAGMA user_version = {version}")

    with pytest.raises(StateUnreadable, match="is damaged"):
        Registry(path)


def test_a_registry_without_its_mesh_is_an_error(path):
    sql(path, "DELETE FROM mesh")

    with pytest.raises(StateUnreadable, match="is damaged"):
        look(path)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE machines SET endpoints = '['",
        "UPDATE machines SET options = '['",
        'UPDATE machines SET options = \'{"announce": ""}\'',
        'UPDATE machines SET options = \'{"who": "knows"}\'',
        "UPDATE machines SET public_key = 'short'",
        "UPDATE machines SET address = '192.0.2.1'",
        "UPDATE mesh SET network = 'nowhere'",
        "UPDATE mesh SET node = '9.9'",
        "UPDATE mesh SET stream = 'wherever'",
        "UPDATE mesh SET base_port = -1",
        "UPDATE mesh SET p2p_base_port = 65536",
        "UPDATE mesh SET master_proxy = 7",
        "UPDATE mesh SET revision = -1",
        f"UPDATE mesh SET revision = {2**63 - 1}",  # noqa: S608
        "UPDATE mesh SET mesh = CAST(x'ff' AS TEXT)",
        f'UPDATE machines SET endpoints = \'[{{"host": "a", "port": 1, "x": {"[" * 5000}\'',  # noqa: S608
        "INSERT INTO stand_ins (public_key, machine) VALUES ('x', 'control')",
    ],
)
def test_a_registry_that_breaks_the_rules_of_a_mesh_is_an_error(path, statement):
    sql(path, statement)

    with pytest.raises(StateUnreadable, match="is damaged"):
        look(path)


ODD_KEYS = (Registry.preshared_keys, lambda registry: registry.find_preshared_key("10.77.0.1"))


@pytest.mark.parametrize("read", ODD_KEYS)
@pytest.mark.parametrize("text", ["'x'", "''", "CAST(x'ff' AS TEXT)", "'a' || char(0)"])
def test_a_preshared_key_that_is_none_is_damage(path, read, text):
    """It would be a traceback where WireGuard is to have it, at every look of the agent."""
    sql(path, f"UPDATE machines SET preshared_key = {text}")  # noqa: S608

    with Registry(path) as registry, pytest.raises(StateUnreadable, match="is damaged"):
        read(registry)


EMPTY = {
    "events": (Registry.last_event_number,),
    "mesh": (Registry.revision, Registry.inventory, invite),
}


@pytest.mark.parametrize(("table", "read"), [(table, read) for table, all_ in EMPTY.items() for read in all_])
def test_a_table_that_is_empty_and_must_not_be_is_damage(path, table, read):
    sql(path, f"DELETE FROM {table}")  # noqa: S608

    with Registry(path) as registry, pytest.raises(StateUnreadable, match="is damaged"):
        read(registry)


def test_what_a_foreign_trigger_refuses_is_damage_and_no_other_error(path):
    sql(path, "CREATE TRIGGER no BEFORE INSERT ON events BEGIN SELECT RAISE(ABORT, 'no'); END")

    with Registry(path) as registry, pytest.raises(StateUnreadable, match="is damaged"):
        invite(registry)


FOREIGN_OBJECTS = (
    "CREATE TRIGGER more AFTER INSERT ON events BEGIN DELETE FROM resting; END",
    "CREATE VIEW more AS WITH RECURSIVE n(x) AS (VALUES(1) UNION ALL SELECT x + 1 FROM n) SELECT x FROM n",
    "CREATE TABLE more (x)",
    "CREATE INDEX more ON events (abs(at))",
    "ALTER TABLE resting ADD COLUMN more TEXT AS (upper(address))",
)


@pytest.mark.parametrize("statement", FOREIGN_OBJECTS)
def test_an_image_of_other_tables_than_ours_is_not_read(path, statement):
    """It comes from elsewhere, and what its views and triggers compute may have no end."""
    sql(path, statement)

    with Registry(path) as registry:
        octets = registry.copy_database()
    with pytest.raises(StateUnreadable, match="are not those of qmesh"):
        RegistryImage(octets)


def test_an_image_whose_schema_is_no_text_is_damage(path):
    """SQLite quotes what it does not understand, and Python fails to read that."""
    with Registry(path) as registry:
        octets = registry.copy_database()
    damaged = octets.replace(
        b"triggerstand_in_is_onestand_insCREATE", b"triggerstand_in_is_on\x9fstand_insCREATX"
    )
    assert damaged != octets
    with pytest.raises(StateUnreadable, match="is damaged"):
        RegistryImage(damaged)


def test_an_image_has_the_tables_that_a_registry_has(path):
    with Registry(path) as registry:
        octets = registry.copy_database()
    with RegistryImage(octets) as image:
        assert image.inventory() == MESH


def test_a_directory_in_its_place_is_an_error(tmp_path):
    (tmp_path / "mesh.db").mkdir()

    with pytest.raises(MachineRefused, match="could not be used"):
        Registry(tmp_path / "mesh.db")


@pytest.mark.lab
@pytest.mark.usefixtures("own_machine")
def test_a_user_who_may_not_read_it_is_told_to_be_root():
    path = Path("/run/mesh.db")
    Registry.create(path, MESH, now=NOW)
    os.setresuid(NOBODY, NOBODY, 0)
    try:
        with pytest.raises(NeedsRoot, match=r"mesh\.db cannot be read by this user"):
            Registry(path)
    finally:
        os.setresuid(0, 0, 0)


def invite_many(registry: Registry) -> None:
    for number in range(100):
        invite(registry, f"machine-{number}")


@pytest.mark.lab
@pytest.mark.usefixtures("own_machine")
def test_a_full_disk_is_refused_and_changes_nothing():
    disk = Path("/run/small")
    disk.mkdir()
    os.system(f"mount -t tmpfs -o size=256k tmpfs {disk}")  # noqa: S605 - the test's own machine
    path = disk / "mesh.db"
    Registry.create(path, MESH, now=NOW)
    with Registry(path) as registry:
        before = registry.inventory()
        (disk / "filler").write_bytes(b"")
        with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(b"x" * 4096)
        with pytest.raises(MachineRefused, match=r"mesh\.db could not be used: .*full") as refused:
            invite_many(registry)

        assert "full disk" in refused.value.hint
        (disk / "filler").unlink()
        invited = registry.inventory()
        invite(registry, "machine-x")
    assert before.machines == invited.machines[:1]
    is_sound(path)


@pytest.mark.lab
@pytest.mark.usefixtures("own_machine")
def test_a_full_disk_makes_no_registry():
    disk = Path("/run/small")
    disk.mkdir()
    os.system(f"mount -t tmpfs -o size=16k tmpfs {disk}")  # noqa: S605 - the test's own machine
    with pytest.raises(MachineRefused, match=r"mesh\.db could not be used: .*full"):
        Registry.create(disk / "mesh.db", MESH, now=NOW)

    assert not (disk / "mesh.db").exists()


def test_e5_the_database_refuses_what_two_would_have(path, registry):
    redeem(registry, invite(registry), key(1))
    issued = invite_replacement(registry)
    insert = "INSERT INTO machines (name, public_key, address, place, workers, state, endpoints) VALUES"
    stand_in = "INSERT INTO stand_ins (public_key, machine, address, invitation) VALUES"
    refused = (
        f"{insert} ('x', '{key(7)}', '{issued.from_address}', 9, 1, 'active', '[]')",
        f"{insert} ('x', '{issued.machine.public_key}', '10.77.0.9', 9, 1, 'active', '[]')",
        f"{stand_in} ('{key(1)}', 'machine-b', NULL, NULL)",
        f"{stand_in} ('{key(7)}', 'machine-b', '10.77.0.2', 'x')",
        f"{stand_in} ('{key(7)}', 'nobody', NULL, NULL)",
    )
    for statement in refused:
        with pytest.raises(sqlite3.IntegrityError):
            sql(path, statement)


@pytest.mark.parametrize("at", [-1, 2**40, 2**62])
def test_an_event_of_no_time_is_damage(path, registry, at):
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE events SET at = ?", (at,))
    with pytest.raises(StateUnreadable, match="its rows do not make a mesh"):
        registry.events()
