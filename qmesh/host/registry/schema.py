"""The registry's tables, and how those of an older version become these."""

from __future__ import annotations

import sqlite3
from typing import Final

APPLICATION: Final = 0x716D6573  # "qmes"
VERSION: Final = 2
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
CREATE TABLE events (
    number INTEGER PRIMARY KEY,
    at INTEGER NOT NULL,
    command TEXT NOT NULL,
    what TEXT NOT NULL,
    machine TEXT,
    revision INTEGER NOT NULL
) STRICT;
"""

_MIGRATIONS: Final = {
    1: (
        "ALTER TABLE mesh ADD COLUMN p2p_base_port INTEGER",
        "ALTER TABLE mesh ADD COLUMN stream TEXT NOT NULL DEFAULT 'tunnel'",
        "ALTER TABLE mesh ADD COLUMN master_proxy INTEGER NOT NULL DEFAULT FALSE",
        "ALTER TABLE mesh ADD COLUMN restart INTEGER NOT NULL DEFAULT FALSE",
    ),
}
"""By version, what makes the next one of it."""


def create(connection: sqlite3.Connection) -> None:
    """Make the tables in an empty file."""
    connection.executescript(SCHEMA)
    connection.execute(f"PRAGMA application_id = {APPLICATION}")
    connection.execute(f"PRAGMA user_version = {VERSION}")


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the tables forward, inside a transaction; none where another process has done it meanwhile."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    for step in range(version, VERSION):
        for statement in _MIGRATIONS[step]:
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {VERSION}")
