"""Registries whose rows hold anything: of the tables that qmesh makes, written past their rules."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Sequence
from functools import cache
from random import Random
from typing import Any, Final

from qmesh.host.registry import schema
from tests.support.readers import mutate

TABLES: Final = ("mesh", "machines", "invitations", "stand_ins", "resting", "succession", "events")


@cache
def _columns() -> dict[str, tuple[str, ...]]:
    with contextlib.closing(sqlite3.connect(":memory:")) as empty:
        schema.create_tables(empty)
        return {
            table: tuple(row[1] for row in empty.execute(f"PRAGMA table_info({table})")) for table in TABLES
        }


@cache
def _loose(image: bytes) -> tuple[bytes, tuple[tuple[Any, ...], ...]]:
    """The image without any rule, and what its schema says of each table and trigger."""
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as database:
        database.deserialize(image[:18] + b"\1\1" + image[20:])  # in memory there is no write-ahead log
        said = tuple(database.execute("SELECT type, name, tbl_name, rootpage, sql FROM sqlite_schema"))
        database.execute("PRAGMA writable_schema = ON")
        database.execute("DELETE FROM sqlite_schema WHERE type = 'trigger'")
        for table, columns in _columns().items():
            database.execute(
                "UPDATE sqlite_schema SET sql = ? WHERE name = ? AND type = 'table'",
                (f"CREATE TABLE {table} ({', '.join(columns)})", table),
            )
        # What is unique has an index that SQLite would keep: without the table's words it belongs to nothing.
        database.execute("DELETE FROM sqlite_schema WHERE type = 'index'")
        return database.serialize(), said


def mutated(random: Random, seeds: Sequence[bytes]) -> bytes:
    """An image with some values, rows or the version exchanged; now and then octets of the file."""
    if random.random() < 0.1:
        return mutate.octets(random, seeds)
    loose, said = _loose(random.choice(seeds))
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as database:
        database.deserialize(loose)
        for _ in range(random.choice((1, 1, 1, 2, 3))):
            _change(random, database)
        database.execute("PRAGMA writable_schema = ON")
        database.execute("DELETE FROM sqlite_schema")
        database.executemany("INSERT INTO sqlite_schema VALUES (?, ?, ?, ?, ?)", said)
        if random.random() < 0.05:
            database.execute(f"PRAGMA user_version = {random.choice((-1, 0, 1, 2, 3, 5, 99, 2**31 - 1))}")
        return database.serialize()


def _change(random: Random, database: sqlite3.Connection) -> None:
    table = random.choice(TABLES)
    column = random.choice(_columns()[table])
    value = _value(random)
    word = "CAST(? AS TEXT)" if isinstance(value, bytes) and random.random() < 0.7 else "?"
    one = f"(SELECT rowid FROM {table} ORDER BY rowid LIMIT 1 OFFSET {random.randrange(4)})"  # noqa: S608
    everywhere = f"UPDATE {table} SET {column} = {word}"  # noqa: S608
    queries = (
        f"INSERT INTO {table} ({column}) VALUES ({word})",  # noqa: S608
        everywhere,
        *(f"{everywhere} WHERE rowid = {one}",) * 8,
    )
    match random.randrange(12):
        case 0:
            database.execute(f"DELETE FROM {table}")  # noqa: S608
        case 1:
            database.execute(f"INSERT INTO {table} SELECT * FROM {table}")  # noqa: S608
        case _:
            database.execute(random.choice(queries), (value,))


def _value(random: Random) -> Any:
    match random.randrange(7):
        case 0:
            return None
        case 1 | 2:
            return random.choice([each for each in mutate.NUMBERS if -(2**63) <= each < 2**63])
        case 3:
            return random.choice((0.5, 1e308, float("inf"), -1.0))
        case 4:
            return random.choice(mutate.OCTETS)
        case 5:
            return random.choice(
                (
                    "[]",
                    '[{"host":"h","port":5}]',
                    '[{"host":"h","port":5,"x":' + "[" * 3000,
                    "[1]",
                    '["a"]',
                    "{",
                )
            )
        case _:
            return random.choice(mutate.TEXTS)
