"""Keys that machines of the mesh had, in the registry. Each function is part of a transaction.

They are written in the very transaction that takes them from their machines: whenever a process ends, a
machine has its key still, or it is remembered that it has it no more.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Final

from qmesh.host.registry.sqlite import select, translate_row_errors
from qmesh.mesh.links.retirement import MOST_RETIRED, Reason, RetiredKey
from qmesh.mesh.values import Secret, UnixTime

MOST_OF_ONE: Final = 8
"""Keys of one machine that are remembered: one that changes its key all the time displaces no other's."""


def retire_keys(connection: sqlite3.Connection, names: Iterable[str], *, reason: Reason, now: int) -> None:
    """Remember the keys of these machines, which have them still; the newest of all that are remembered."""
    connection.executemany(
        "INSERT OR REPLACE INTO retired_keys (machine, public_key, preshared_key, reason, at)"
        " SELECT name, public_key, preshared_key, ?, ? FROM machines"
        " WHERE name = ? AND preshared_key IS NOT NULL",
        [(reason, now, name) for name in names],
    )
    connection.execute(
        "DELETE FROM retired_keys WHERE number IN (SELECT number FROM ("
        "SELECT number, row_number() OVER (PARTITION BY machine ORDER BY number DESC) AS place"
        " FROM retired_keys) WHERE place > ?)",
        (MOST_OF_ONE,),
    )
    connection.execute(
        "DELETE FROM retired_keys WHERE number <= ("
        "SELECT number FROM retired_keys ORDER BY number DESC LIMIT 1 OFFSET ?)",
        (MOST_RETIRED,),
    )


def list_retired_keys(connection: sqlite3.Connection) -> tuple[RetiredKey, ...]:
    """Those that are remembered, oldest first. A machine may have one of them again."""
    found = select(
        connection,
        tuple[str, str, str, Reason, UnixTime],
        "SELECT machine, public_key, preshared_key, reason, at FROM retired_keys ORDER BY number",
    )
    with translate_row_errors():
        return tuple(
            RetiredKey(
                machine=machine, public_key=public_key, preshared_key=Secret(shared), reason=reason, at=at
            )
            for machine, public_key, shared, reason, at in found
        )
