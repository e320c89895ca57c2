"""What happened to the mesh: each change of the registry appends one event.

What members do by themselves is bounded, so that none can make a history without end: of each machine
there is one event of an offered key, which becomes the newest one when it offers another, and some of the
keys that it changed to and of the node's files that it fetched.
"""

from __future__ import annotations

import sqlite3
from typing import Annotated, Final, NamedTuple

import msgspec

from qmesh.host.registry.schema import PRUNING
from qmesh.host.registry.sqlite import select
from qmesh.mesh.events.mesh_events import EventKind
from qmesh.mesh.values import UnixTime

_PRUNED_EVERY: Final = 256
_MOST_NEW: Final = 100
_COLUMNS: Final = "at, command, what, machine, revision, user, address, endpoint, public_key"


class _EventRow(NamedTuple):
    """A row of `events`, as `_COLUMNS` has it; of a time that can be."""

    at: Annotated[int, msgspec.Meta(ge=0, lt=2**40)]
    command: str
    what: str
    machine: str | None
    revision: int
    user: str | None
    address: str | None
    endpoint: str | None
    public_key: str | None


class Event(msgspec.Struct, frozen=True):
    """Something that changed the mesh. at: Unix time in seconds.

    user: the user who typed the command on the control node; for a join, the one who made the invitation.
        None where there was no user, or it was not noted.
    address, endpoint, public_key: of a join, or of the node's files that a machine fetched, its tunnel
        address, where its packets came from, if they came by the network, and its key.
    """

    at: UnixTime
    command: str
    what: str
    machine: str | None
    revision: int
    user: str | None = None
    address: str | None = None
    endpoint: str | None = None
    public_key: str | None = None

    def describe_author(self) -> str:
        """By which command it was, and which user's, in words."""
        if self.user is None:
            return f"by {self.command}"
        if self.command == "join":
            return f"by join, invited by {self.user}"
        return f"by {self.command}, {self.user}"


def record_event(
    connection: sqlite3.Connection, now: int, command: str, what: EventKind, machine: str, revision: int
) -> None:
    """Append an event; part of the transaction that makes the change."""
    append_event(connection, Event(now, command, what, machine, revision))


def record_key_offer(connection: sqlite3.Connection, now: int, machine: str, revision: int) -> None:
    """Have the one event of a machine's offered key be the newest."""
    moved = connection.execute(
        "UPDATE events SET number = (SELECT max(number) + 1 FROM events), at = ?, revision = ?"
        " WHERE what = 'key-offered' AND machine = ?",
        (now, revision, machine),
    )
    if not moved.rowcount:
        record_event(connection, now, "rotate-key", "key-offered", machine, revision)


def append_event(connection: sqlite3.Connection, event: Event) -> None:
    """Append an event with all that is known of it. What is too much of the history goes, now and then."""
    number = connection.execute(
        f"INSERT INTO events ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 - names of ours
        msgspec.structs.astuple(event),
    ).lastrowid
    if event.what in {"key-rotated", "node-files-fetched"} or (number or 0) % _PRUNED_EVERY == 0:
        prune_history(connection)


def set_event_user(connection: sqlite3.Connection, user: str, *, since: int) -> None:
    """Say of the events after that number, but for the agent's, who made them happen."""
    connection.execute(
        "UPDATE events SET user = ? WHERE number > ? AND user IS NULL AND command <> 'agent'", (user, since)
    )


def prune_history(connection: sqlite3.Connection) -> None:
    """Forget what is too much of the history, the oldest first."""
    for statement in PRUNING:
        connection.execute(statement)


def list_events(connection: sqlite3.Connection) -> tuple[Event, ...]:
    """All that is known to have happened, oldest first. Raises sqlite3.DatabaseError for what is no event."""
    found = select(
        connection,
        _EventRow,
        f"SELECT {_COLUMNS} FROM events ORDER BY number",  # noqa: S608 - as above
    )
    return tuple(Event(*row) for row in found)


def list_new_events(
    connection: sqlite3.Connection, since: int | None
) -> tuple[int | None, tuple[Event, ...]]:
    """The number of the newest event, and what happened after the one of that number, oldest first.

    since: None for nothing yet, so that no event is new. Of very many only the newest are given.
    """
    newest = select(connection, tuple[int], "SELECT number FROM events ORDER BY number DESC LIMIT 1")
    number = newest[0][0] if newest else None
    if since is None or number is None or number <= since:
        return number, ()
    found = select(
        connection,
        _EventRow,
        f"SELECT {_COLUMNS} FROM events WHERE number > ? ORDER BY number DESC LIMIT {_MOST_NEW}",  # noqa: S608 - as above
        (since,),
    )
    return number, tuple(Event(*row) for row in reversed(found))


def find_last_time(connection: sqlite3.Connection) -> int | None:
    """When the newest event happened, Unix time in seconds; None where there is none."""
    found = select(connection, tuple[UnixTime], "SELECT at FROM events ORDER BY number DESC LIMIT 1")
    return found[0][0] if found else None


def find_last_invitation_event(connection: sqlite3.Connection, machine: str) -> Event | None:
    """The making of the last invitation of that name; None where there is none, or it is forgotten."""
    return _find_last_event(connection, machine, "invited", "replacement-invited")


def find_last_join_event(connection: sqlite3.Connection, machine: str) -> Event | None:
    """How a machine of that name joined last; None where none did, or it is forgotten."""
    return _find_last_event(connection, machine, "joined", "replaced")


def _find_last_event(connection: sqlite3.Connection, machine: str, *what: EventKind) -> Event | None:
    found = select(
        connection,
        _EventRow,
        f"SELECT {_COLUMNS} FROM events WHERE machine = ? AND what IN (?, ?)"  # noqa: S608 - as above
        " ORDER BY number DESC LIMIT 1",
        (machine, *what),
    )
    return Event(*found[0]) if found else None
