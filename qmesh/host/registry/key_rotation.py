"""A machine's change to another key, in the registry. Each function is part of a transaction."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable
from typing import Final

from qmesh.errors import EnrolmentRefused
from qmesh.host.registry import rows
from qmesh.host.registry.events import record, record_offer
from qmesh.host.registry.sqlite import select, select_one
from qmesh.mesh.changes import with_key
from qmesh.mesh.model import Secret

BETWEEN_S: Final = 10
"""Seconds between two keys that one machine offers, at least."""


def shared_with(connection: sqlite3.Connection, sender: str) -> Secret:
    """As `Registry.shared_with`."""
    _name, _known, shared = _member_at(connection, sender)
    return rows.shared_key(shared)


def shared_with_members(connection: sqlite3.Connection, addresses: Iterable[str]) -> dict[str, Secret]:
    """As `Registry.shared_with_members`."""
    found: dict[str, Secret] = {}
    for address in addresses:
        with contextlib.suppress(EnrolmentRefused):
            found[address] = shared_with(connection, address)
    return found


def offer(connection: sqlite3.Connection, public_key: str, *, sender: str, now: int) -> bool:
    """As `Registry.offer_key`. Raises sqlite3.IntegrityError where the key is another's."""
    name, known, shared = _member_at(connection, sender)
    if public_key == known or _is_offered(connection, public_key, name):
        return False
    _refuse_replaced(connection, name)
    _refuse_too_soon(connection, name, now)
    connection.execute("DELETE FROM stand_ins WHERE machine = ?", (name,))
    connection.execute(
        "INSERT INTO stand_ins (public_key, machine, preshared_key) VALUES (?, ?, ?)",
        (public_key, name, shared),
    )
    record_offer(connection, now, name, rows.revision(connection))
    return True


def _member_at(connection: sqlite3.Connection, sender: str) -> tuple[str, str, str]:
    """Name, public key and preshared key."""
    found = select(
        connection,
        tuple[str, str, str],
        "SELECT name, public_key, preshared_key FROM machines"
        " WHERE address = ? AND state <> 'invited' AND preshared_key IS NOT NULL",
        (sender,),
    )
    if not found:
        raise EnrolmentRefused("this machine is no member of the mesh", hint="ask for an invitation")
    return found[0]


def take_up(connection: sqlite3.Connection, public_key: str, *, now: int) -> None:
    """As `Registry.take_up_key`."""
    before = rows.inventory(connection)
    if rows.successor(connection) == before.control:
        return  # this registry is the past: the new control node sees to it
    offers = {each.public_key: each.machine for each in before.stand_ins if each.address is None}
    if public_key in offers:
        name = offers[public_key]
        after = with_key(before, name, public_key)
        rows.change_key(connection, after, name, None)
        record(connection, now, "rotate-key", "key-rotated", name, after.revision)


def _refuse_replaced(connection: sqlite3.Connection, name: str) -> None:
    query = "SELECT 1 FROM stand_ins WHERE machine = ? AND invitation IS NOT NULL"
    if select(connection, tuple[int], query, (name,)):
        raise EnrolmentRefused(
            f"another machine is invited to take the place of {name}",
            hint=f"`qmesh invite --withdraw {name}` on the control node, if none is to",
        )


def _refuse_too_soon(connection: sqlite3.Connection, name: str, now: int) -> None:
    """Each makes the control node look at all of its machine, and each change of a key the whole mesh hear.

    A clock that was set back has not made the last one's time later than it is.
    """
    query = "SELECT max(at) FROM events WHERE machine = ? AND what = 'key-offered'"
    (before,) = select_one(connection, tuple[int | None], query, (name,))
    if before is not None and abs(now - before) < BETWEEN_S:
        raise EnrolmentRefused(
            f"{name} offered another key a moment ago", hint=f"try again in {BETWEEN_S} seconds"
        )


def _is_offered(connection: sqlite3.Connection, public_key: str, name: str) -> bool:
    query = "SELECT 1 FROM stand_ins WHERE public_key = ? AND machine = ? AND invitation IS NULL"
    return bool(select(connection, tuple[int], query, (public_key, name)))
