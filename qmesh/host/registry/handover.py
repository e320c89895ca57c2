"""The control role on its way to another machine. Each function is part of a transaction.

From its beginning on nothing else of the mesh changes, so that what the successor holds stays true.
"""

from __future__ import annotations

import sqlite3

import msgspec

from qmesh.errors import BadInput, EnrolmentRefused
from qmesh.host.registry import rows
from qmesh.host.registry.events import record_event
from qmesh.host.registry.invitations import withdraw_all_invitations
from qmesh.host.registry.sqlite import select, select_one, translate_row_errors
from qmesh.mesh import changes
from qmesh.mesh.decode import decode_json
from qmesh.mesh.inventory import Inventory
from qmesh.mesh.protocol.handover import (
    FRESH_S,
    HandoverProgress,
    derive_successor_preshared_key,
    list_unready_members,
)
from qmesh.mesh.values import Secret


class Readiness(msgspec.Struct, frozen=True):
    """The machines that are ready for a handover.

    holds: whether the successor has the registry as it is, and the signing key, and reported that just now.
    missing: members that do not know of the successor, or that it has not reached.
    """

    holds: bool
    missing: tuple[str, ...]


def begin_handover(connection: sqlite3.Connection, name: str, *, now: int) -> tuple[str, ...]:
    """Name the successor; the machines whose invitations, which name this one, are withdrawn for it.

    Until it is ended nothing else of the mesh changes. Raises BadInput where it can't be the control
    node. Begun for it already, nothing changes.
    """
    if rows.read_successor(connection) == name:
        connection.execute("UPDATE succession SET holds = 0")  # what it reported before is out of date
        return ()
    rows.refuse_during_handover(connection)
    after = changes.set_successor(rows.read_inventory(connection), name)
    withdrawn = withdraw_all_invitations(connection, now=now, command="handover")
    connection.execute("INSERT INTO succession (one, successor) VALUES (1, ?)", (name,))
    _update_mesh(connection, after)
    record_event(connection, now, "handover", "handover-begun", name, after.revision)
    return withdrawn


def end_handover(connection: sqlite3.Connection, *, now: int) -> bool:
    """Name no successor any more; whether there was one that is not the control node yet."""
    before = rows.read_inventory(connection)
    if before.successor is None:
        return False
    after = changes.clear_successor(before)
    connection.execute("DELETE FROM succession")
    _update_mesh(connection, after)
    record_event(connection, now, "handover", "handover-ended", before.successor, after.revision)
    return True


def find_successor_preshared_key(connection: sqlite3.Connection, sender: str) -> Secret:
    """The preshared key of the successor, if it is the sender. Raises EnrolmentRefused."""
    found = select(
        connection,
        tuple[str],
        "SELECT preshared_key FROM machines JOIN succession ON successor = name"
        " WHERE address = ? AND name <> (SELECT control FROM mesh) AND preshared_key IS NOT NULL",
        (sender,),
    )
    if not found:
        raise _build_no_successor_error()
    return rows.parse_preshared_key(found[0][0])


def _build_no_successor_error() -> EnrolmentRefused:
    return EnrolmentRefused(
        "no handover to this machine is under way", hint="run `qmesh status` on the control node"
    )


def record_progress(connection: sqlite3.Connection, said: HandoverProgress, *, sender: str, now: int) -> bool:
    """Remember how far the successor is; whether what it holds is all.

    Raises EnrolmentRefused where the sender is none.
    """
    done = connection.execute(
        "UPDATE succession SET holds = ?, silent = ?, said_at = ?"
        " WHERE successor = (SELECT name FROM machines WHERE address = ?)"
        " AND successor <> (SELECT control FROM mesh)",
        (said.holds, msgspec.json.encode(said.silent).decode(), now, sender),
    )
    if not done.rowcount:
        raise _build_no_successor_error()
    return said.holds == last_event_number(connection)


def check_readiness(connection: sqlite3.Connection, name: str, *, now: int) -> Readiness:
    """Who is ready for the handover to that machine. Raises BadInput where none is under way."""
    found = select(
        connection,
        tuple[int, str, int],
        "SELECT holds, silent, said_at FROM succession WHERE successor = ?",
        (name,),
    )
    if not found:
        raise BadInput(
            "the handover was cancelled by another command",
            hint="run `qmesh log` on the control node: it says by which user",
        )
    holds, listed, said_at = found[0]
    with translate_row_errors():
        silent = decode_json(listed, tuple[str, ...])
    known = select(connection, tuple[str, int], "SELECT address, acknowledged FROM machines")
    return Readiness(
        holds=holds == last_event_number(connection) and abs(now - said_at) <= FRESH_S,
        missing=list_unready_members(rows.read_inventory(connection), dict(known), silent),
    )


def last_event_number(connection: sqlite3.Connection) -> int:
    """The number of the last event."""
    (number,) = select_one(connection, tuple[int], "SELECT max(number) FROM events")
    return number


def complete_handover(connection: sqlite3.Connection, name: str, *, now: int) -> Inventory:
    """Make the successor the control node; the mesh after it. From here on this registry is the past.

    Raises BadInput where the successor has less than this registry, or has not reported just now.
    """
    if not check_readiness(connection, name, now=now).holds:
        raise BadInput(
            f"{name} does not have the whole registry yet, or is unreachable",
            hint="run the same command again",
        )
    return promote_successor(connection, now=now)


def promote_successor(connection: sqlite3.Connection, *, now: int) -> Inventory:
    """Make the successor the control node; the mesh after it."""
    before = rows.read_inventory(connection)
    if before.successor is None:
        raise _build_no_successor_error()
    after = changes.promote_successor(before)
    _update_mesh(connection, after)
    record_event(connection, now, "handover", "handed-over", after.control, after.revision)
    return after


def prepare_for_successor(connection: sqlite3.Connection) -> int:
    """Make of a copy of the registry the successor's; the number of its last event."""
    mesh = rows.read_inventory(connection)
    if mesh.successor is None:  # given up meanwhile
        raise _build_no_successor_error()
    connection.execute("DELETE FROM retired_keys")  # who has one calls the machine that it knew
    # A key that it has offered would be known with a preshared key that no machine has.
    connection.execute("DELETE FROM stand_ins WHERE machine = ?", (mesh.successor,))
    successor, control = mesh.machine(mesh.successor), mesh.control_node
    for table, name in (("machines", "name"), ("stand_ins", "machine")):
        found = select(
            connection,
            tuple[str, str],
            f"SELECT public_key, preshared_key FROM {table}"  # noqa: S608 - names of ours
            f" WHERE preshared_key IS NOT NULL AND {name} <> ?",
            (successor.name,),
        )
        connection.executemany(
            f"UPDATE {table} SET preshared_key = ? WHERE public_key = ?",  # noqa: S608 - as above
            [
                (
                    derive_successor_preshared_key(
                        successor.public_key, rows.parse_preshared_key(shared)
                    ).reveal(),
                    public_key,
                )
                for public_key, shared in found
            ],
        )
    connection.execute(
        "UPDATE machines SET preshared_key = (SELECT preshared_key FROM machines WHERE name = ?)"
        " WHERE name = ?",
        (successor.name, control.name),
    )
    connection.execute("UPDATE machines SET preshared_key = NULL WHERE name = ?", (successor.name,))
    return last_event_number(connection)


def _update_mesh(connection: sqlite3.Connection, mesh: Inventory) -> None:
    connection.execute("UPDATE mesh SET control = ?, revision = ?", (mesh.control, mesh.revision))
