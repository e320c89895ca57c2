"""A machine's change to another key, in the registry. Each function is part of a transaction."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable
from typing import Final

from qmesh.errors import EnrolmentRefused
from qmesh.host.registry import rows
from qmesh.host.registry.events import record_event, record_key_offer
from qmesh.host.registry.sqlite import select, select_one
from qmesh.mesh.changes import set_public_key
from qmesh.mesh.values import Secret

BETWEEN_S: Final = 10
"""Seconds between two keys that one machine offers, at least."""


def find_preshared_key(connection: sqlite3.Connection, sender: str) -> Secret:
    """The preshared key of the member at that tunnel address. Raises EnrolmentRefused."""
    _name, _known, shared = _find_member(connection, sender)
    return rows.parse_preshared_key(shared)


def find_preshared_keys(connection: sqlite3.Connection, addresses: Iterable[str]) -> dict[str, Secret]:
    """The preshared key of each member at one of these tunnel addresses."""
    found: dict[str, Secret] = {}
    for address in addresses:
        with contextlib.suppress(EnrolmentRefused):
            found[address] = find_preshared_key(connection, address)
    return found


def offer_key(connection: sqlite3.Connection, public_key: str, *, sender: str, now: int) -> bool:
    """As `Registry.offer_key`. Raises sqlite3.IntegrityError where the key is another's."""
    rows.refuse_during_handover(connection)
    name, known, shared = _find_member(connection, sender)
    if public_key == known or _is_pending(connection, public_key, name):
        return False
    _refuse_replaced(connection, name)
    _refuse_too_soon(connection, name, now)
    connection.execute("DELETE FROM stand_ins WHERE machine = ?", (name,))
    connection.execute(
        "INSERT INTO stand_ins (public_key, machine, preshared_key) VALUES (?, ?, ?)",
        (public_key, name, shared),
    )
    record_key_offer(connection, now, name, rows.read_revision(connection))
    return True


def _find_member(connection: sqlite3.Connection, sender: str) -> tuple[str, str, str]:
    """Name, public key and preshared key."""
    found = select(
        connection,
        tuple[str, str, str],
        "SELECT name, public_key, preshared_key FROM machines"
        " WHERE address = ? AND state <> 'invited' AND preshared_key IS NOT NULL",
        (sender,),
    )
    if not found:
        raise EnrolmentRefused(
            "this machine is not a member of the mesh",
            hint="run `qmesh invite NAME` on the control node, then `qmesh join` with it here",
        )
    return found[0]


def activate_pending_key(connection: sqlite3.Connection, public_key: str, *, now: int) -> None:
    """Make the key that a machine offered its only one; nothing, where it is not offered any more."""
    before = rows.read_inventory(connection)
    if rows.read_successor(connection) == before.control:
        return  # this registry is the past: the new control node sees to it
    offers = {each.public_key: each.machine for each in before.stand_ins if each.address is None}
    if public_key in offers:
        name = offers[public_key]
        after = set_public_key(before, name, public_key)
        rows.change_key(connection, after, name, None, now=now)
        record_event(connection, now, "rotate-key", "key-rotated", name, after.revision)


def _refuse_replaced(connection: sqlite3.Connection, name: str) -> None:
    query = "SELECT 1 FROM stand_ins WHERE machine = ? AND invitation IS NOT NULL"
    if select(connection, tuple[int], query, (name,)):
        raise EnrolmentRefused(
            f"another machine is invited to take the place of {name}",
            hint=f"if that is wrong, run `qmesh invite --withdraw {name}` on the control node",
        )


def _refuse_too_soon(connection: sqlite3.Connection, name: str, now: int) -> None:
    """Raise EnrolmentRefused where the last offer is too recent: each costs work on all machines.

    A clock that was set back since makes no difference.
    """
    query = "SELECT max(at) FROM events WHERE machine = ? AND what = 'key-offered'"
    (before,) = select_one(connection, tuple[int | None], query, (name,))
    if before is not None and abs(now - before) < BETWEEN_S:
        raise EnrolmentRefused(
            f"{name} offered another key a moment ago",
            hint=f"wait {BETWEEN_S} seconds, then run the same command again",
        )


def _is_pending(connection: sqlite3.Connection, public_key: str, name: str) -> bool:
    query = "SELECT 1 FROM stand_ins WHERE public_key = ? AND machine = ? AND invitation IS NULL"
    return bool(select(connection, tuple[int], query, (public_key, name)))
