"""The mesh as rows of the registry's tables, and back."""

from __future__ import annotations

import sqlite3
from functools import lru_cache
from typing import Annotated, Final, NamedTuple

import msgspec

from qmesh.errors import BadInput
from qmesh.host.registry.retired_keys import retire_keys
from qmesh.host.registry.sqlite import select, select_one, translate_row_errors
from qmesh.mesh.decode import decode_json
from qmesh.mesh.inventory import Inventory, Stream, list_tunnel_addresses
from qmesh.mesh.machine import GuardedPort, Machine, PendingKey
from qmesh.mesh.networks import find_lowest_free_address
from qmesh.mesh.values import Endpoint, MachineState, Port, Profile, Secret, validate_wireguard_key

_Flag = Annotated[int, msgspec.Meta(ge=0, le=1)]


class _MeshRow(NamedTuple):
    """The row of `mesh`."""

    mesh: str
    network: str
    control: str
    node: Profile
    base_port: Port
    service_port: Port
    revision: int
    p2p_base_port: Port | None
    stream: Stream
    master_proxy: _Flag
    restart: _Flag


_OF_THE_MESH: Final = _MeshRow._fields


class MachineRow(NamedTuple):
    """A row of `machines` without its preshared key, its place and what it acknowledged."""

    name: str
    public_key: str
    address: str
    workers: int | None
    state: MachineState
    endpoints: str
    options: str


class MachineOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Of a machine what most have nothing of, as the column `options` keeps it: JSON."""

    announce: str | None = None
    guarded_ports: tuple[GuardedPort, ...] = ()
    left_open: tuple[Port, ...] = ()
    node_files: bool = False


def read_inventory(connection: sqlite3.Connection) -> Inventory:
    """The whole mesh. Raises sqlite3.DatabaseError where the rows are none."""
    names = ", ".join(_OF_THE_MESH)
    mesh = select_one(connection, _MeshRow, f"SELECT {names} FROM mesh")  # noqa: S608 - names of ours
    machines = select(
        connection,
        MachineRow,
        f"SELECT {', '.join(MachineRow._fields)} FROM machines"  # noqa: S608 - names of ours
        " ORDER BY place IS NULL, place, name",
    )
    stand_ins = select(
        connection,
        tuple[str, str, str | None],
        "SELECT machine, public_key, address FROM stand_ins ORDER BY public_key",
    )
    named = read_successor(connection)
    with translate_row_errors():
        flags = {"master_proxy": bool(mesh.master_proxy), "restart": bool(mesh.restart)}
        return Inventory(
            **{**mesh._asdict(), **flags},
            machines=tuple(parse_machine(row) for row in machines),
            stand_ins=tuple(PendingKey(*row) for row in stand_ins),
            # Where it is the control node by now, this is the registry of the one before it.
            successor=None if named == mesh.control else named,
        )


def read_successor(connection: sqlite3.Connection) -> str | None:
    """Whom the control role is being handed over to, or was."""
    found = select(connection, tuple[str], "SELECT successor FROM succession LIMIT 1")
    return found[0][0] if found else None


def refuse_during_handover(connection: sqlite3.Connection) -> None:
    """Raise BadInput while the control role is being handed over, and after that."""
    name = read_successor(connection)
    if name is None:
        return
    (control,) = select_one(connection, tuple[str], "SELECT control FROM mesh")
    if name == control:
        raise BadInput(f"{name} is the control node now", hint=f"run the same command on {name}")
    raise BadInput(
        f"the control role is being handed over to {name}",
        hint="wait until that is done, or cancel it: run `qmesh handover --cancel` on the control node",
    )


def parse_preshared_key(text: str) -> Secret:
    """A preshared key as a row has it. Raises sqlite3.DatabaseError where it is none."""
    with translate_row_errors():
        return Secret(validate_wireguard_key(text))


def update_inventory(connection: sqlite3.Connection, old: Inventory, new: Inventory, *, now: int) -> None:
    """Write what is another in `new`: of the mesh, of machines, their order, and who is gone."""
    settings = ", ".join(f"{name} = ?" for name in _OF_THE_MESH)
    connection.execute(f"UPDATE mesh SET {settings}", _list_mesh_values(new))  # noqa: S608 - names of ours
    kept = {machine.name: machine for machine in new.machines}
    gone = [machine for machine in old.machines if machine.name not in kept]
    retire_keys(connection, [machine.name for machine in gone], reason="removed", now=now)
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
        "UPDATE machines SET workers = ?, state = ?, endpoints = ?, options = ?, place = ? WHERE name = ?",
        [
            (
                machine.workers,
                machine.state,
                encode_endpoints(machine),
                encode_options(machine),
                places.get(machine.name),
                machine.name,
            )
            for machine in new.machines
        ],
    )


def change_key(
    connection: sqlite3.Connection, new: Inventory, name: str, preshared: Secret | None, *, now: int
) -> None:
    """Write that a machine has another key, and no stand-in any more. preshared: None leaves it."""
    retire_keys(connection, [name], reason="replaced", now=now)
    connection.execute("DELETE FROM stand_ins WHERE machine = ?", (name,))
    connection.execute(
        "UPDATE machines SET public_key = ?, preshared_key = coalesce(?, preshared_key) WHERE name = ?",
        (new.machine(name).public_key, None if preshared is None else preshared.reveal(), name),
    )
    connection.execute("UPDATE mesh SET revision = ?", (new.revision,))


def _list_mesh_values(inventory: Inventory) -> tuple[object, ...]:
    return tuple(getattr(inventory, name) for name in _OF_THE_MESH)


@lru_cache(1 << 14)
def parse_machine(row: MachineRow) -> Machine:
    """A row of `machines` as a value. Raises BadInput where it is none.

    A mesh is read again and again, and most of its machines are as they were.
    """
    return Machine(
        name=row.name,
        public_key=row.public_key,
        address=row.address,
        workers=row.workers,
        state=row.state,
        endpoints=decode_json(row.endpoints, tuple[Endpoint, ...]),
        **msgspec.structs.asdict(decode_json(row.options, MachineOptions)),
    )


def read_revision(connection: sqlite3.Connection) -> int:
    """The revision of the membership."""
    (revision,) = select_one(connection, tuple[int], "SELECT revision FROM mesh")
    return revision


def insert_mesh(connection: sqlite3.Connection, inventory: Inventory) -> None:
    """Write a mesh into empty tables."""
    connection.execute(
        f"INSERT INTO mesh VALUES (1{', ?' * len(_OF_THE_MESH)})",  # noqa: S608 - question marks
        _list_mesh_values(inventory),
    )
    for place, machine in enumerate(inventory.machines, 1):
        insert_machine(connection, machine, place, None)


def choose_free_address(connection: sqlite3.Connection, inventory: Inventory) -> str:
    """The lowest tunnel address that can be given to a machine. Raises BadInput when there is none.

    One whose machine was removed rests until every member knows of that: until then some could take
    the new machine for the old one.
    """
    (known,) = select_one(
        connection,
        tuple[int | None],
        "SELECT min(acknowledged) FROM machines WHERE state <> 'invited' AND name <> ?",
        (inventory.control,),
    )
    connection.execute("DELETE FROM resting WHERE ? IS NULL OR revision <= ?", (known, known))
    rest = {address for (address,) in select(connection, tuple[str], "SELECT address FROM resting")}
    return find_lowest_free_address(inventory.network, rest.union(list_tunnel_addresses(inventory)))


def insert_machine(
    connection: sqlite3.Connection, machine: Machine, place: int | None, preshared: Secret | None
) -> None:
    """Write one machine more; one that is invited has no place."""
    connection.execute(
        "INSERT INTO machines"
        " (name, public_key, address, place, workers, state, endpoints, options, preshared_key)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            machine.name,
            machine.public_key,
            machine.address,
            place,
            machine.workers,
            machine.state,
            encode_endpoints(machine),
            encode_options(machine),
            None if preshared is None else preshared.reveal(),
        ),
    )


def encode_endpoints(machine: Machine) -> str:
    """A machine's endpoints as they are kept: JSON."""
    return msgspec.json.encode(machine.endpoints).decode()


def encode_options(machine: Machine) -> str:
    """What of a machine most have nothing of, as it is kept: JSON."""
    values = {name: getattr(machine, name) for name in MachineOptions.__struct_fields__}
    return msgspec.json.encode(MachineOptions(**values)).decode()
