"""Changes of the mesh: inventory in, the inventory after it out, and what has to follow on the machines.

Core numbers have no holes. A new machine comes last, and renumbers no other one. A removed machine leaves a
gap, which is closed so that as few machines as possible are renumbered (`qmesh.mesh.renumber`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from qmesh.errors import BadInput
from qmesh.mesh.inventory import Inventory, list_members
from qmesh.mesh.machine import Cores, Machine
from qmesh.mesh.reachability.announcements import refuse_announcement
from qmesh.mesh.renumber import close_gap, count_renumbered
from qmesh.mesh.values import Endpoint


class RenumberedMachine(msgspec.Struct, frozen=True, rename={"was": "from", "now": "to"}):
    """A machine whose core numbers change. None where it has none, before or after."""

    machine: str
    was: Cores | None
    now: Cores | None


def remove_machine(inventory: Inventory, name: str) -> Inventory:
    """The mesh without that member. Raises BadInput for the control node and for one only invited."""
    _refuse_control_node(inventory, name, "removed")
    if inventory.machine(name).state == "invited":
        raise BadInput(
            f"{name} is not a member yet",
            hint=f"to withdraw its invitation, run `qmesh invite --withdraw {name}`",
        )
    others = tuple(each for each in inventory.stand_ins if each.machine != name)
    return change_inventory(inventory, machines=_machines_without(inventory, name), stand_ins=others)


def pause_machine(inventory: Inventory, name: str) -> Inventory:
    """The mesh with that machine out of the node's list, a member still."""
    _refuse_control_node(inventory, name, "paused")
    machine = _require_state(inventory, name, "active", "paused")
    resting = msgspec.structs.replace(machine, state="paused")
    return change_inventory(inventory, machines=(*_machines_without(inventory, name), resting))


def resume_machine(inventory: Inventory, name: str) -> Inventory:
    """The mesh with that machine in the node's list again, behind all others."""
    machine = _require_state(inventory, name, "paused", "resumed")
    others = (other for other in inventory.machines if other.name != name)
    return change_inventory(inventory, machines=(*others, msgspec.structs.replace(machine, state="active")))


def set_worker_count(inventory: Inventory, name: str, count: int) -> Inventory:
    """The mesh with so many data workers on that machine.

    Where a machine with more of them would push others away, it goes behind them all if that
    renumbers fewer; the control node stays where it is.
    """
    machine = inventory.machine(name)
    wanted = msgspec.structs.replace(machine, workers=count)
    in_place = tuple(wanted if other.name == name else other for other in inventory.machines)
    old = machine.workers
    if machine.state != "active" or old is None or old == count:
        return change_inventory(inventory, machines=in_place)
    behind = _active_machines_after(inventory, name)
    if old > count:
        order = close_gap(_worker_counts(behind), old - count)
        return change_inventory(inventory, machines=_reorder_machines(in_place, behind, order))
    order = close_gap(_worker_counts(behind), old)
    if name != inventory.control and count_renumbered(_worker_counts(behind), old, order) < len(behind):
        return change_inventory(inventory, machines=(*_machines_without(inventory, name), wanted))
    return change_inventory(inventory, machines=in_place)


def set_endpoints(inventory: Inventory, name: str, endpoints: Iterable[Endpoint]) -> Inventory:
    """The mesh with that machine reached at these endpoints, best first."""
    return set_machine_fields(inventory, name, endpoints=tuple(endpoints))


def set_machine_fields(inventory: Inventory, name: str, **fields: Any) -> Inventory:
    """The mesh with other values of that machine's fields, by name; its cores stay as they are."""
    machine = msgspec.structs.replace(inventory.machine(name), **fields)
    machines = tuple(machine if other.name == name else other for other in inventory.machines)
    return change_inventory(inventory, machines=machines)


def set_announced_host(inventory: Inventory, name: str, host: str | None) -> Inventory:
    """The mesh with that machine announced at a host, as `parse_public_host` gives it; None takes it back.

    Raises BadInput where other nodes would not reach it there.
    """
    if host is not None:
        refuse_announcement(inventory, name, host)
    return set_machine_fields(inventory, name, announce=host)


def refuse_control_replacement(inventory: Inventory, name: str) -> None:
    """Raise BadInput unless another machine can take the place of that one."""
    _refuse_control_node(inventory, name, "replaced")


def set_public_key(inventory: Inventory, name: str, public_key: str) -> Inventory:
    """The mesh with another key for that machine, which none of its stand-ins outlives."""
    machine = msgspec.structs.replace(inventory.machine(name), public_key=public_key)
    machines = tuple(machine if other.name == name else other for other in inventory.machines)
    others = tuple(each for each in inventory.stand_ins if each.machine != name)
    return change_inventory(inventory, machines=machines, stand_ins=others)


def serve_until_succeeded(inventory: Inventory, name: str) -> Inventory:
    """The mesh as control node `name` serves it until the next one answers: so the others learn of that."""
    if inventory.control == name:
        return inventory
    return msgspec.structs.replace(inventory, control=name, successor=inventory.control)


def set_successor(inventory: Inventory, name: str) -> Inventory:
    """The mesh with that member as the next control node. Raises BadInput where some could not reach it."""
    if name == inventory.control:
        raise BadInput(f"{name} is the control node already", hint="pass the name of the next control node")
    successor = _require_state(inventory, name, "active", "the control node")
    unreachable = [
        machine.name
        for machine in list_members(inventory)
        if machine.name != name and not (machine.endpoints or successor.endpoints)
    ]
    if unreachable:
        raise BadInput(
            f"neither {name} nor {unreachable[0]} has an endpoint, so neither could connect to the other",
            hint=f"give {name} one: `qmesh set {name} --endpoint HOST:PORT`",
        )
    named = change_inventory(inventory, successor=name)
    promote_successor(named)  # where its ports would collide, that is said now
    return named


def promote_successor(inventory: Inventory) -> Inventory:
    """The mesh with its successor as the control node."""
    assert inventory.successor is not None
    return change_inventory(inventory, control=inventory.successor, successor=None)


def clear_successor(inventory: Inventory) -> Inventory:
    """The mesh whose control node stays it."""
    return change_inventory(inventory, successor=None)


def find_renumbered_machines(before: Inventory, after: Inventory) -> tuple[RenumberedMachine, ...]:
    """The machines that are in both and whose core numbers differ, in the new order."""
    names = {machine.name for machine in before.machines}
    return tuple(
        RenumberedMachine(machine.name, before.cores.get(machine.name), after.cores.get(machine.name))
        for machine in after.machines
        if machine.name in names and before.cores.get(machine.name) != after.cores.get(machine.name)
    )


def change_inventory(inventory: Inventory, **fields: Any) -> Inventory:
    """The mesh with these fields: of the next revision, where one of them is another."""
    after = msgspec.structs.replace(inventory, **fields)
    if after == inventory:
        return inventory
    return msgspec.structs.replace(after, revision=inventory.revision + 1)


def _machines_without(inventory: Inventory, name: str) -> tuple[Machine, ...]:
    """The machines without that one, in the order that closes its gap."""
    others = tuple(machine for machine in inventory.machines if machine.name != name)
    cores = inventory.cores.get(name)
    if cores is None:
        return others
    behind = _active_machines_after(inventory, name)
    return _reorder_machines(others, behind, close_gap(_worker_counts(behind), cores.count))


def _active_machines_after(inventory: Inventory, name: str) -> tuple[Machine, ...]:
    names = list(inventory.cores)
    return tuple(inventory.machine(other) for other in names[names.index(name) + 1 :])


def _reorder_machines(
    machines: tuple[Machine, ...], behind: tuple[Machine, ...], order: tuple[int, ...]
) -> tuple[Machine, ...]:
    """`machines` with those of `behind`, which are in it, in another order."""
    names = {machine.name for machine in behind}
    turn = iter(order)
    return tuple(behind[next(turn)] if machine.name in names else machine for machine in machines)


def _worker_counts(machines: Iterable[Machine]) -> list[int]:
    return [machine.workers or 0 for machine in machines]


def _refuse_control_node(inventory: Inventory, name: str, what: str) -> None:
    if inventory.machine(name).name == inventory.control:
        raise BadInput(
            f"{name} is the control node, and cannot be {what}",
            hint="first give the control role to another machine: `qmesh handover NAME`",
        )


def _require_state(inventory: Inventory, name: str, wanted: str, what: str) -> Machine:
    machine = inventory.machine(name)
    if machine.state != wanted:
        raise BadInput(
            f"{name} is {machine.state}, and cannot be {what}",
            hint="run `qmesh status`: it shows the state of each machine",
        )
    return machine
