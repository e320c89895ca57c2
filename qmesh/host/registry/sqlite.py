"""SQLite as qmesh uses it: durable, in transactions that are begun and ended by us alone."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

from qmesh.errors import RESTORE, Busy, MachineRefused, QmeshError, StateUnreadable
from qmesh.host.system import heartbeat
from qmesh.mesh.decode import convert_value

T = TypeVar("T")

Values: TypeAlias = tuple[Any, ...]

MEMORY: Final = Path(":memory:")
BUSY_S: Final = 15.0
"""Seconds that a writer waits for another writer. A reader never waits: the database has a WAL."""


def connect(path: Path, *, busy_s: float = BUSY_S) -> sqlite3.Connection:
    """Open without Python's own transactions: ours are the only ones. Raises as `translate_errors` does.

    path: of a file that is there, or `MEMORY`. Where a file went away meanwhile, no empty one comes to be.
    busy_s: seconds that a writer waits for another one.
    """
    place = str(path) if path == MEMORY else f"{path.absolute().as_uri()}?mode=rw"
    with translate_errors(path):
        connection = sqlite3.connect(
            place, isolation_level=None, timeout=busy_s, check_same_thread=False, uri=path != MEMORY
        )
        try:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA temp_store = MEMORY")  # what it sorts and copies holds keys
        except BaseException:
            connection.close()
            raise
    return connection


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All of the block or nothing of it; it waits for other writers first."""
    with heartbeat.allow_wait(BUSY_S):
        connection.execute("BEGIN IMMEDIATE")
    with _end_transaction(connection):
        yield


@contextlib.contextmanager
def savepoint(connection: sqlite3.Connection) -> Iterator[None]:
    """All of the block or nothing of it, within a transaction that goes on in either case."""
    connection.execute("SAVEPOINT one")
    try:
        yield
    except BaseException:
        if connection.in_transaction:  # as in `_end_transaction`
            connection.execute("ROLLBACK TO one")
            connection.execute("RELEASE one")
        raise
    connection.execute("RELEASE one")


@contextlib.contextmanager
def snapshot(connection: sqlite3.Connection) -> Iterator[None]:
    """What is read in the block is as of one moment. It waits for no other process, and writes nothing."""
    connection.execute("BEGIN")
    with _end_transaction(connection):
        yield


@contextlib.contextmanager
def _end_transaction(connection: sqlite3.Connection) -> Iterator[None]:
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # SQLite ends some by itself, as where the disk is full
            connection.execute("ROLLBACK")
        raise


_DISK: Final = "look for a full disk (`df`) or a read-only file system (`mount`)"


class Conflict(StateUnreadable):
    """What a constraint refuses. Callers that expect it have their own message; else the registry is damaged.

    reason: SQLite's own.
    """

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} is damaged: {reason}", hint=RESTORE)
        self.reason = reason


def select(connection: sqlite3.Connection, kind: type[T], query: str, values: Values = ()) -> list[T]:
    """The rows of a query, each as a value of `kind`, such as `tuple[str, int]`.

    A column may hold anything: SQLite keeps to types only where a table asks for it, and a file may come
    from elsewhere. Raises sqlite3.DatabaseError for a row that is no such value.
    """
    found = connection.execute(query, values).fetchall()
    with translate_row_errors():
        return convert_value(found, list[kind])  # type: ignore[valid-type]


def select_one(connection: sqlite3.Connection, kind: type[T], query: str, values: Values = ()) -> T:
    """The one row of a query, as `select` has it; none is an error too."""
    found = select(connection, kind, query, values)
    if len(found) != 1:
        raise sqlite3.DatabaseError("its rows do not make a mesh (one is missing)")
    return found[0]


@contextlib.contextmanager
def translate_row_errors() -> Iterator[None]:
    """Raise sqlite3.DatabaseError where the block finds that rows make no sense."""
    try:
        yield
    except QmeshError as error:
        raise sqlite3.DatabaseError(f"its rows do not make a mesh ({error})") from None


@contextlib.contextmanager
def translate_errors(path: Path) -> Iterator[None]:
    """SQLite's errors become ours.

    Raises Conflict for what a constraint refuses, MachineRefused for what the machine did not let be done,
    Busy where another process writes, StateUnreadable for a damaged file.
    """
    try:
        yield
    except sqlite3.IntegrityError as error:
        raise Conflict(path, str(error)) from None
    except sqlite3.OperationalError as error:
        # Text that is no UTF-8 has no code, being Python's own finding; a table that is not there has 1.
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
        if code & 0xFF == sqlite3.SQLITE_BUSY:
            raise Busy(
                f"{path} could not be used: another program is writing to it",
                hint=f"find that program with `fuser -v {path}`, and end it",
            ) from None
        if code == sqlite3.SQLITE_ERROR:
            raise _build_damage_error(path, error) from None
        raise MachineRefused(f"{path} could not be used: {error}", hint=_DISK) from None
    except (sqlite3.Error, MemoryError, UnicodeDecodeError) as error:  # the last where its message is no text
        raise _build_damage_error(path, error) from None
    except OSError as error:
        raise MachineRefused(f"{path} could not be used: {error.strerror}", hint=_DISK) from None


def _build_damage_error(path: Path, error: BaseException) -> StateUnreadable:
    return StateUnreadable(f"{path} is damaged: {' '.join(str(error).split())}", hint=RESTORE)


def remove_database(path: Path) -> None:
    """Remove a database with the files that SQLite keeps beside it; it need not exist."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
