"""What happened to the mesh: each change of the registry appends one event."""

from __future__ import annotations

import sqlite3
from typing import Literal, TypeAlias

import msgspec

EventKind: TypeAlias = Literal[
    "mesh-made",
    "invited",
    "invitation-withdrawn",
    "invitation-expired",
    "joined",
    "removed",
    "paused",
    "resumed",
    "machine-changed",
    "mesh-changed",
    "replacement-invited",
    "replacement-ended",
    "replaced",
    "key-offered",
    "key-rotated",
    "restored",
    "handover-begun",
    "handover-ended",
    "handed-over",
]


class Event(msgspec.Struct, frozen=True):
    """Something that changed the mesh. at: Unix time in seconds."""

    at: int
    command: str
    what: str
    machine: str | None
    revision: int


def record(
    connection: sqlite3.Connection, now: int, command: str, what: EventKind, machine: str, revision: int
) -> None:
    """Append an event; part of the transaction that makes the change."""
    connection.execute(
        "INSERT INTO events (at, command, what, machine, revision) VALUES (?, ?, ?, ?, ?)",
        (now, command, what, machine, revision),
    )
