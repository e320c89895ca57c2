"""A small registry, and what fills it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from qmesh.host.registry import IssuedInvitation, Registry
from qmesh.mesh.events.mesh_events import EventKind
from qmesh.mesh.inventory import Inventory, list_workers
from qmesh.mesh.machine import Machine
from qmesh.mesh.protocol.enrolment import Redemption, build_redemption, derive_invitation_keys
from qmesh.mesh.values import Endpoint
from tests.support.factories import key, mesh

NOW = 1_800_000_000
DAY_S = 86400
CONTROL = Machine(
    name="control",
    public_key=key(9000),
    address="10.77.0.1",
    workers=3,
    endpoints=(Endpoint("203.0.113.5", 51820), Endpoint("2001:db8::5", 51821)),
)


MESH = mesh(CONTROL, control="control", revision=1)


SIGNS = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))


@pytest.fixture
def path(tmp_path):
    Registry.create(tmp_path / "mesh.db", MESH, now=NOW)
    return tmp_path / "mesh.db"


@pytest.fixture
def registry(path):
    with Registry(path) as found:
        yield found


def invite(
    registry: Registry, name: str = "machine-b", *, workers: int | None = 2, now: int = NOW
) -> IssuedInvitation:
    return registry.invite(name, workers=workers, endpoint=None, expires_at=now + DAY_S, now=now)


def message(
    issued: IssuedInvitation, own_key: str, *, workers: int = 7, endpoint: Endpoint | None = None
) -> Redemption:
    return build_redemption(
        derive_invitation_keys(issued.secret), public_key=own_key, workers=workers, endpoint=endpoint
    )


def redeem(registry: Registry, issued: IssuedInvitation, own_key: str, *, now: int = NOW + 5) -> Inventory:
    return registry.redeem(message(issued, own_key), sender=issued.machine.address, now=now)


def told(registry: Registry) -> list[tuple[str, str | None, int]]:
    return [(event.what, event.machine, event.revision) for event in registry.events()]


def children(*works: Callable[[], object]) -> list[int]:
    """One process for each work; 0 for each that ended well, in order."""
    identifiers = []
    for work in works:
        identifier = os.fork()
        if identifier == 0:
            with contextlib.suppress(BaseException):
                work()
                os._exit(0)
            os._exit(1)
        identifiers.append(identifier)
    return [os.waitstatus_to_exitcode(os.waitpid(identifier, 0)[1]) for identifier in identifiers]


def sql(path: Path, *statements: str) -> None:
    """What another program, or a mistake of ours, would do to the file."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA foreign_keys = ON")
        for statement in statements:
            connection.execute(statement)


def is_sound(path: Path) -> Inventory:
    """The inventory of a registry of which SQLite and the rules of the mesh find nothing to say."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        names = {
            name for (name,) in connection.execute("SELECT machine FROM invitations WHERE outcome = 'open'")
        }
        invited = {
            name for (name,) in connection.execute("SELECT name FROM machines WHERE state = 'invited'")
        }
        found = connection.execute("SELECT machine FROM stand_ins WHERE invitation IS NOT NULL")
        replacing = {name for (name,) in found}
        happened = Counter(what for (what,) in connection.execute("SELECT what FROM events"))
    with Registry(path) as registry:
        inventory = registry.inventory()
    assert names == invited | replacing
    joined, removed = happened["joined"], happened["removed"]
    changes = joined + removed + happened["replaced"] + happened["key-rotated"]
    assert inventory.revision == MESH.revision + changes
    active = [machine for machine in inventory.machines if machine.state == "active"]
    assert len(active) == 1 + joined - removed
    return inventory


def change(what: EventKind, machine: str) -> dict[str, Any]:
    return {"command": "set", "what": what, "machine": machine, "now": NOW + 9}


def invite_replacement(registry: Registry, *, now: int = NOW + 6) -> IssuedInvitation:
    return registry.invite(
        "machine-b", workers=None, endpoint=None, expires_at=now + DAY_S, now=now, replace=True
    )


def redeem_replacement(
    registry: Registry, issued: IssuedInvitation, own_key: str, *, sender: str | None = None
) -> Inventory:
    assert issued.from_address is not None
    return registry.redeem(message(issued, own_key), sender=sender or issued.from_address, now=NOW + 7)


def shares_nothing(inventory: Inventory, count: int) -> bool:
    """Whether no two of so many machines share name, address, key or core: E5."""
    machines, workers = inventory.machines, list(list_workers(inventory))
    return (
        len(machines)
        == len({machine.name for machine in machines})
        == len({machine.address for machine in machines})
        == len({machine.public_key for machine in machines})
        == count
    ) and len({worker.core for worker in workers}) == len({worker.port for worker in workers}) == len(workers)
