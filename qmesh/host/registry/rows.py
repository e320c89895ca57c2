"""The mesh as rows of the registry's tables, and back."""

from __future__ import annotations

import sqlite3
from typing import Final

import msgspec

from qmesh.errors import QmeshError
from qmesh.mesh.inventory import Inventory, addresses_of
from qmesh.mesh.model import Endpoint, Machine, MachineState, Secret, StandIn
from qmesh.mesh.networks import free_address

_OF_THE_MESH: Final = (
    *("mesh", "network", "control", "node", "base_port", "service_port", "revision"),
    *("p2p_base_port", "stream", "master_proxy", "restart"),
)


def inventory(connection: sqlite3.Connection) -> Inventory:
    """The whole mesh. Raises sqlite3.DatabaseError where the rows are none."""
    try:
        return _rows_as_inventory(connection)
    except (QmeshError, TypeError, ValueError) as error:
        raise sqlite3.DatabaseError(f"its rows are no mesh ({error})") from None


def _rows_as_inventory(connection: sqlite3.Connection) -> Inventory:
    names = ", ".join(_OF_THE_MESH)
    values = connection.execute(f"SELECT {names} FROM mesh").fetchone()  # noqa: S608 - names of ours
    mesh = dict(zip(_OF_THE_MESH, values, strict=True))
    rows = connection.execute(
        "SELECT name, public_key, address, workers, state, endpoints FROM machines"
        " ORDER BY place IS NULL, place, name"
    )
    machines = tuple(machine(*row) for row in rows)
    found = connection.execute("SELECT machine, public_key, address FROM stand_ins ORDER BY public_key")
    stand_ins = tuple(StandIn(*row) for row in found)
    for name in ("master_proxy", "restart"):
        mesh[name] = bool(mesh[name])
    named = successor(connection)
    # Where it is the control node by now, this is the registry of the one before it.
    awaited = None if named == mesh["control"] else named
    return Inventory(**mesh, machines=machines, stand_ins=stand_ins, successor=awaited)


def successor(connection: sqlite3.Connection) -> str | None:
    """Whom the control role is being handed over to, or was."""
    row = connection.execute("SELECT successor FROM succession").fetchone()
    return None if row is None else str(row[0])


def update(connection: sqlite3.Connection, old: Inventory, new: Inventory) -> None:
    """Write what is another in `new`: of the mesh, of machines, their order, and who is gone."""
    settings = ", ".join(f"{name} = ?" for name in _OF_THE_MESH)
    connection.execute(f"UPDATE mesh SET {settings}", _of_the_mesh(new))  # noqa: S608 - names of ours
    kept = {machine.name: machine for machine in new.machines}
    gone = [machine for machine in old.machines if machine.name not in kept]
    connection.executemany("DELETE FROM machines WHERE name = ?", [(machine.name,) for machine in gone])
    connection.executemany(
        "INSERT INTO resting (address, revision) VALUES (?, ?)",
        [(machine.address, new.revision) for machine in gone],
    )
    # Two must never have one place, not even while they change it.
    connection.execute("UPDATE machines SET place = -place")
    placed = [machine.name for machine in new.machines if machine.state != "invited"]
    places = {name: place for place, name in enumerate(placed, 1)}
    connection.executemany(
        "UPDATE machines SET workers = ?, state = ?, endpoints = ?, place = ? WHERE name = ?",
        [
            (machine.workers, machine.state, endpoints(machine), places.get(machine.name), machine.name)
            for machine in new.machines
        ],
    )


def change_key(connection: sqlite3.Connection, new: Inventory, name: str, preshared: Secret | None) -> None:
    """Write that a machine has another key, and no stand-in any more. preshared: None leaves it."""
    connection.execute("DELETE FROM stand_ins WHERE machine = ?", (name,))
    connection.execute(
        "UPDATE machines SET public_key = ?, preshared_key = coalesce(?, preshared_key) WHERE name = ?",
        (new.machine(name).public_key, None if preshared is None else preshared.reveal(), name),
    )
    connection.execute("UPDATE mesh SET revision = ?", (new.revision,))


def _of_the_mesh(inventory: Inventory) -> tuple[object, ...]:
    return tuple(getattr(inventory, name) for name in _OF_THE_MESH)


def machine(
    name: str, public_key: str, address: str, workers: int | None, state: MachineState, endpoints: str
) -> Machine:
    """A row of `machines` as a value."""
    return Machine(
        name=name,
        public_key=public_key,
        address=address,
        workers=workers,
        state=state,
        endpoints=msgspec.json.decode(endpoints, type=tuple[Endpoint, ...]),
    )


def revision(connection: sqlite3.Connection) -> int:
    """The revision of the membership."""
    (revision,) = connection.execute("SELECT revision FROM mesh").fetchone()
    return int(revision)


def insert_mesh(connection: sqlite3.Connection, inventory: Inventory) -> None:
    """Write a mesh into empty tables."""
    connection.execute(
        f"INSERT INTO mesh VALUES (1{', ?' * len(_OF_THE_MESH)})",  # noqa: S608 - question marks
        _of_the_mesh(inventory),
    )
    for place, machine in enumerate(inventory.machines, 1):
        insert_machine(connection, machine, place, None)


def free(connection: sqlite3.Connection, inventory: Inventory) -> str:
    """The lowest tunnel address that can be given to a machine. Raises BadInput when there is none.

    One whose machine was removed rests until every member knows of that: until then some could take
    the new machine for the old one.
    """
    (known,) = connection.execute(
        "SELECT min(acknowledged) FROM machines WHERE state <> 'invited' AND name <> ?", (inventory.control,)
    ).fetchone()
    connection.execute("DELETE FROM resting WHERE ? IS NULL OR revision <= ?", (known, known))
    rest = {address for (address,) in connection.execute("SELECT address FROM resting")}
    return free_address(inventory.network, rest.union(addresses_of(inventory)))


def insert_machine(
    connection: sqlite3.Connection, machine: Machine, place: int | None, preshared: Secret | None
) -> None:
    """Write one machine more; one that is invited has no place."""
    connection.execute(
        "INSERT INTO machines (name, public_key, address, place, workers, state, endpoints, preshared_key)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            machine.name,
            machine.public_key,
            machine.address,
            place,
            machine.workers,
            machine.state,
            endpoints(machine),
            None if preshared is None else preshared.reveal(),
        ),
    )


def endpoints(machine: Machine) -> str:
    """A machine's endpoints as they are kept: JSON."""
    return msgspec.json.encode(machine.endpoints).decode()
