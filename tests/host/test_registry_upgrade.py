"""A registry of the version before is brought to this one, and there is a way back."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from pathlib import Path

import pytest

from qmesh.errors import MachineRefused, StateUnreadable
from qmesh.host import files
from qmesh.host.registry import Registry, RegistryImage, schema
from qmesh.host.state.directory import State
from qmesh.mesh.protocol.backup_file import Backup, decode_backup
from tests.support.factories import key
from tests.support.registries import children, invite, path, redeem, registry, sql

__all__ = ["path", "registry"]

BEFORE = schema.VERSION - 1


def version_of(database: Path | bytes) -> int:
    with contextlib.closing(
        sqlite3.connect(":memory:" if isinstance(database, bytes) else database)
    ) as found:
        if isinstance(database, bytes):
            found.deserialize(database[:18] + b"\1\1" + database[20:])
        (version,) = found.execute("PRAGMA user_version").fetchone()
        return int(version)


@pytest.fixture
def older(path):
    """A control node's state as the version before left it: one invitation is open, and one was used."""
    with Registry(path) as found:
        redeem(found, invite(found, "machine-c"), key(3))
        invite(found, "machine-b")
    sql(path, "DROP TABLE retired_keys", f"PRAGMA user_version = {BEFORE}")
    files.write(path.with_name("machine.json"), b'{"of": "then"}')
    files.write(path.with_name("private.key"), b"private\n")
    files.write(path.with_name("signing.key"), bytes(32))
    files.write(path.with_name("retired.json"), b'{"keys": []}')
    return path


def way_back(path: Path) -> Backup:
    return decode_backup(path.with_name("upgrade.backup").read_bytes(), None)


def test_v2_what_was_there_is_kept_as_a_backup_before_it_is_brought_to_this_version(older):
    with Registry(older) as found:
        after = found.inventory()
    assert version_of(older) == schema.VERSION
    kept = way_back(older)
    assert version_of(kept.registry) == BEFORE
    assert (kept.settings, kept.private_key, kept.signing_key) == (b'{"of": "then"}', "private", bytes(32))
    assert (kept.retired, kept.withdrawn) == (b'{"keys": []}', ("machine-b",))
    assert stat.S_IMODE(older.with_name("upgrade.backup").stat().st_mode) == 0o600
    with RegistryImage(kept.registry) as image:
        assert image.inventory() == after

    written = older.with_name("upgrade.backup").stat().st_mtime_ns
    with Registry(older) as found:
        found.inventory()
    assert older.with_name("upgrade.backup").stat().st_mtime_ns == written


@pytest.mark.parametrize("missing", ["machine.json", "private.key", "signing.key"])
def test_a_registry_of_this_version_and_one_that_is_no_control_nodes_yet_need_none(older, missing):
    older.with_name(missing).unlink()
    with Registry(older) as found:
        assert found.inventory().machines
    assert version_of(older) == schema.VERSION
    assert not older.with_name("upgrade.backup").exists()


def test_where_the_backup_cannot_be_written_nothing_is_changed(older, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise MachineRefused("the disk is full", hint="")

    before = older.read_bytes()
    monkeypatch.setattr(files, "write", refuse)
    with pytest.raises(MachineRefused, match="full"):
        Registry(older)
    assert version_of(older) == BEFORE
    assert older.read_bytes() == before


@pytest.mark.parametrize("step", ["CREATE TABLE one (a); SELECT nonsense", "CREATE TABLE one (a)"])
def test_v2_a_step_that_fails_or_is_killed_half_way_leaves_what_there_was(older, monkeypatch, step):
    """Killed after its statement, before the number of the version."""
    statement, _, rest = step.partition("; ")

    class Half:
        def __init__(self, connection: sqlite3.Connection) -> None:
            connection.execute(statement)
            if not rest:
                os._exit(0)
            connection.execute(rest)

    monkeypatch.setattr(schema, "migrate", Half)
    if rest:
        with pytest.raises(StateUnreadable):
            Registry(older)
    else:
        assert children(lambda: Registry(older)) == [0]
    monkeypatch.undo()
    assert version_of(older) == BEFORE
    assert version_of(way_back(older).registry) == BEFORE
    with contextlib.closing(sqlite3.connect(older)) as found:
        assert found.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'one'").fetchone() == (0,)
    with Registry(older) as again:
        assert again.inventory().machine("machine-b").workers == 2


def test_of_many_that_open_it_at_once_one_brings_it_to_this_version(older):
    def look() -> None:
        with Registry(older) as found:
            assert found.inventory().machine("machine-b").workers == 2

    assert children(*[look] * 8) == [0] * 8
    assert version_of(older) == schema.VERSION
    assert version_of(way_back(older).registry) == BEFORE


def test_v2_an_older_version_names_the_newer_one_and_the_way_back(older):
    with Registry(older):
        pass
    for number, has_way in ((schema.VERSION + 1, True), (schema.VERSION + 2, False)):
        sql(older, f"PRAGMA user_version = {number}")
        with pytest.raises(StateUnreadable, match="newer qmesh") as newer:
            Registry(older)
        assert newer.value.hint.startswith("install that version of qmesh, or a newer one")
        assert (f"copy {older.with_name('upgrade.backup')} elsewhere" in newer.value.hint) == has_way
        older.with_name("upgrade.backup").unlink(missing_ok=True)
    assert version_of(older) == schema.VERSION + 2


def test_it_goes_with_the_control_role_and_with_the_state(tmp_path):
    state = State(tmp_path)
    for remove in (state.remove_control_files, lambda: state.remove_mesh_state(keep_private_key=False)):
        state.upgrade_backup_file.touch()
        remove()
        assert not state.upgrade_backup_file.exists()
