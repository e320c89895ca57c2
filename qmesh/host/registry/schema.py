"""The registry's tables."""

from __future__ import annotations

import contextlib
import sqlite3
from functools import cache
from typing import Final

from qmesh.host.registry.sqlite import MEMORY, connect, select, select_one

APPLICATION: Final = 0x716D6573  # "qmes"
VERSION: Final = 7
MOST_EVENTS: Final = 50_000
MOST_ENDED: Final = 5_000
MOST_ROTATIONS: Final = 16
MOST_FETCHES: Final = 64
"""How much of its history a registry keeps: events, ended invitations that were not used, and of what each
machine does by itself: its key changes, and its fetches of the node's files."""
PRUNING: Final = (
    f"""DELETE FROM events WHERE number IN (SELECT number FROM (
    SELECT number, row_number() OVER (PARTITION BY machine ORDER BY number DESC) AS place
    FROM events WHERE what = 'key-rotated') WHERE place > {MOST_ROTATIONS})""",  # noqa: S608 - numbers of ours
    f"""DELETE FROM events WHERE number IN (SELECT number FROM (
    SELECT number, row_number() OVER (PARTITION BY machine ORDER BY number DESC) AS place
    FROM events WHERE what = 'node-files-fetched') WHERE place > {MOST_FETCHES})""",  # noqa: S608 - as above
    f"""DELETE FROM events WHERE number <= (
    SELECT number FROM events ORDER BY number DESC LIMIT 1 OFFSET {MOST_EVENTS})""",  # noqa: S608
    f"""DELETE FROM invitations WHERE rowid IN (SELECT rowid FROM invitations
    WHERE outcome IN ('withdrawn', 'expired') ORDER BY rowid DESC LIMIT -1 OFFSET {MOST_ENDED})""",  # noqa: S608
)
"""What ends the history. The last event stays in any case: its number is never given again."""
_RETIRED_KEYS: Final = """
CREATE TABLE retired_keys (
    number INTEGER PRIMARY KEY,
    machine TEXT NOT NULL,
    public_key TEXT NOT NULL UNIQUE,
    preshared_key TEXT NOT NULL,
    reason TEXT NOT NULL CHECK (reason IN ('removed', 'replaced')),
    at INTEGER NOT NULL
) STRICT;
"""
SCHEMA: Final = """
CREATE TABLE mesh (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    mesh TEXT NOT NULL,
    network TEXT NOT NULL,
    control TEXT NOT NULL REFERENCES machines (name) DEFERRABLE INITIALLY DEFERRED,
    node TEXT NOT NULL,
    base_port INTEGER NOT NULL,
    service_port INTEGER NOT NULL,
    revision INTEGER NOT NULL,
    p2p_base_port INTEGER,
    stream TEXT NOT NULL DEFAULT 'tunnel',
    master_proxy INTEGER NOT NULL DEFAULT FALSE,
    restart INTEGER NOT NULL DEFAULT FALSE
) STRICT;
CREATE TABLE machines (
    name TEXT PRIMARY KEY NOT NULL,
    public_key TEXT NOT NULL UNIQUE,
    address TEXT NOT NULL UNIQUE,
    place INTEGER UNIQUE,
    workers INTEGER CHECK (workers BETWEEN 1 AND 65535),
    state TEXT NOT NULL CHECK (state IN ('active', 'paused', 'invited')),
    endpoints TEXT NOT NULL,
    preshared_key TEXT,
    acknowledged INTEGER NOT NULL DEFAULT 0,
    options TEXT NOT NULL DEFAULT '{}',
    CHECK ((state = 'invited') = (place IS NULL))
) STRICT;
CREATE TABLE invitations (
    identifier TEXT PRIMARY KEY NOT NULL,
    machine TEXT NOT NULL,
    secret BLOB,
    expires_at INTEGER NOT NULL,
    outcome TEXT NOT NULL CHECK (outcome IN ('open', 'redeemed', 'withdrawn', 'expired')),
    redeemed_by TEXT,
    CHECK ((outcome = 'redeemed') = (redeemed_by IS NOT NULL))
) STRICT;
CREATE UNIQUE INDEX one_open_invitation ON invitations (machine) WHERE outcome = 'open';
CREATE TABLE stand_ins (
    public_key TEXT PRIMARY KEY NOT NULL,
    machine TEXT NOT NULL REFERENCES machines (name) ON DELETE CASCADE,
    address TEXT UNIQUE,
    preshared_key TEXT,
    invitation TEXT UNIQUE REFERENCES invitations (identifier),
    CHECK ((address IS NULL) = (invitation IS NULL))
) STRICT;
CREATE TABLE resting (
    address TEXT PRIMARY KEY NOT NULL,
    revision INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX one_next_key ON stand_ins (machine) WHERE invitation IS NULL;
CREATE TRIGGER machine_is_one BEFORE INSERT ON machines
WHEN EXISTS (SELECT 1 FROM stand_ins WHERE NEW.address IS address OR NEW.public_key IS public_key)
    OR EXISTS (SELECT 1 FROM resting WHERE address = NEW.address)
BEGIN SELECT RAISE(ABORT, 'the address or key is in use, or the address rests'); END;
CREATE TRIGGER stand_in_is_one BEFORE INSERT ON stand_ins
WHEN EXISTS (SELECT 1 FROM machines WHERE NEW.address IS address OR NEW.public_key IS public_key)
    OR EXISTS (SELECT 1 FROM resting WHERE address = NEW.address)
BEGIN SELECT RAISE(ABORT, 'the address or key is in use, or the address rests'); END;
CREATE TABLE succession (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    successor TEXT NOT NULL REFERENCES machines (name),
    holds INTEGER NOT NULL DEFAULT 0,
    silent TEXT NOT NULL DEFAULT '[]',
    said_at INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE events (
    number INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    command TEXT NOT NULL,
    what TEXT NOT NULL,
    machine TEXT,
    revision INTEGER NOT NULL,
    user TEXT,
    address TEXT,
    endpoint TEXT,
    public_key TEXT
) STRICT;
CREATE UNIQUE INDEX one_key_offer ON events (machine) WHERE what = 'key-offered';
"""


def create_tables(connection: sqlite3.Connection) -> None:
    """Make the tables in an empty file."""
    connection.executescript(SCHEMA + _RETIRED_KEYS)
    connection.execute(f"PRAGMA application_id = {APPLICATION}")
    connection.execute(f"PRAGMA user_version = {VERSION}")


_MIGRATIONS: Final = {
    5: "ALTER TABLE machines ADD COLUMN options TEXT NOT NULL DEFAULT '{}'",
    6: _RETIRED_KEYS,
}
"""What makes a registry of a version one of the next version."""
OLDEST: Final = min(_MIGRATIONS)


def migrate(connection: sqlite3.Connection) -> None:
    """Make a registry of an earlier version one of this version; in a transaction that the caller opens."""
    (version,) = select_one(connection, tuple[int], "PRAGMA user_version")
    for step in range(version, VERSION):
        connection.execute(_MIGRATIONS[step])
        connection.execute(f"PRAGMA user_version = {step + 1}")


def refuse_foreign_schema(connection: sqlite3.Connection) -> None:
    """Raise sqlite3.DatabaseError where there are other tables, views, triggers or columns than qmesh makes.

    What a file from elsewhere computes when it is read, or when a row is written, may have no end.
    """
    if _list_objects(connection) != _list_expected_objects():
        raise sqlite3.DatabaseError("its tables are not those of qmesh")


@cache
def _list_expected_objects() -> frozenset[tuple[object, ...]]:
    with contextlib.closing(connect(MEMORY)) as connection:
        create_tables(connection)
        return _list_objects(connection)


def _list_objects(connection: sqlite3.Connection) -> frozenset[tuple[object, ...]]:
    """What a database is made of; the text of a table is not compared, but its columns are."""
    found: set[tuple[object, ...]] = set(
        select(
            connection,
            tuple[str, str, str, str | None],
            "SELECT type, name, tbl_name, iif(type = 'table', NULL, sql) FROM sqlite_schema",
        )
    )
    for kind, name, *_ in tuple(found):
        if kind == "table":
            found.update(
                (name, *column)
                for column in select(
                    connection,
                    tuple[str, str, int, int, int],
                    'SELECT name, type, "notnull", pk, hidden FROM pragma_table_xinfo(?)',
                    (name,),
                )
            )
            found.update(
                select(
                    connection,
                    tuple[str, str, int],
                    "SELECT name, type, strict FROM pragma_table_list(?)",
                    (name,),
                )
            )
    return frozenset(found)
