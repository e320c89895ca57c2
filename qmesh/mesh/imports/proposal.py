"""What is proposed: which machine gets which name and cores, and what changes by that."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from qmesh.mesh.imports.join_order import choose_base_port, order_machines
from qmesh.mesh.imports.machine import ImportedMachines, ListedMachine, has_gap
from qmesh.mesh.machine import Cores
from qmesh.mesh.ports.port_ranges import format_port_ranges
from qmesh.mesh.values import Profile

ALL_RESTART = (
    "from the first join on, the guards close the worker ports at the addresses that the control process"
    " dials now, so the cluster does not work until the last command is done; then restart all workers,"
    " which get tunnel addresses, and last the control process"
)


class ExistingMachine(msgspec.Struct, frozen=True, kw_only=True):
    """A machine that the mesh has already.

    active: whether it has joined, and is not merely invited.
    addresses: the tunnel address, and those of its endpoints.
    """

    name: str
    active: bool
    workers: int | None
    addresses: frozenset[str]


class ExistingMesh(msgspec.Struct, frozen=True, kw_only=True):
    """The mesh that there is already, with this machine as its control node.

    machines: the active ones in core order.
    """

    control: str
    base_port: int
    machines: tuple[ExistingMachine, ...]


class ProposedMachine(msgspec.Struct, frozen=True, kw_only=True):
    """One machine, in the order of joining.

    address: where it is now; None for a control machine that the list does not name.
    cores: None where they are not known before it, and those before it, have joined.
    was: the core numbers that it has now, ascending; none where it has none or they are not known.
    ports_were: of these cores. member: whether the mesh has it already.
    """

    name: str
    address: str | None
    user: str | None
    ssh_port: int | None
    workers: int | None
    cores: Cores | None
    was: tuple[int, ...]
    ports_were: tuple[int, ...]
    member: bool


class Proposal(msgspec.Struct, frozen=True, kw_only=True):
    """All that is proposed. base_port: of core 1. machines: the control machine first."""

    node: Profile
    base_port: int
    machines: tuple[ProposedMachine, ...]
    notes: tuple[str, ...]

    @property
    def machines_to_join(self) -> tuple[ProposedMachine, ...]:
        """The machines that are still to be invited, in the order in which they have to join."""
        return tuple(machine for machine in self.machines[1:] if not machine.member)


def build_proposal(
    reading: ImportedMachines, node: Profile, default_base_port: int, mesh: ExistingMesh | None = None
) -> Proposal:
    """The machines in the order of joining, with names, cores, and notes about all that changes.

    default_base_port: of the profile. Raises BadInput when they do not fit into one mesh.
    """
    named = [(_choose_name(machine, mesh), machine) for machine in reading.machines]
    before = _list_active_machines(named, mesh) if mesh else [pair for pair in named if pair[1].control]
    placed_first = {name for name, _ in before}
    waiting = [pair for pair in named if pair[0] not in placed_first]
    first = _find_next_core(machine for _, machine in before)
    placed = list(_assign_cores([*before, *order_machines(waiting, first)]))
    base = mesh.base_port if mesh else _choose_mesh_base_port(placed, default_base_port)
    machines = tuple(
        _build_proposed_machine(*each, member=mesh is not None and each[0] in placed_first) for each in placed
    )
    notes = [
        *reading.notes,
        *_note_control_not_first(reading.machines),
        *_note_worker_counts(named, mesh),
        *_note_renumbering(machines, base),
    ]
    if not all(machine.member for machine in machines):
        notes.append(ALL_RESTART)
    return Proposal(node=node, base_port=base, machines=machines, notes=tuple(notes))


def _choose_name(machine: ListedMachine, mesh: ExistingMesh | None) -> str:
    """The name that the mesh knows the machine by, or one that tells its address and stays the same."""
    if machine.control:
        return "control" if mesh is None else mesh.control
    known = (each.name for each in (mesh.machines if mesh else ()) if each.addresses & {*machine.addresses})
    return next(known, f"machine-{_derive_name(machine.addresses[0])}")


def _derive_name(address: str) -> str:
    """An address in what a name may have: `192-168-0-201`, `fd00-0-0-0-0-0-0-1`."""
    if ":" not in address:
        return address.replace(".", "-")
    groups = ipaddress.IPv6Address(address).exploded.split(":")
    return "-".join(f"{int(group, 16):x}" for group in groups)


def _list_active_machines(
    named: Sequence[tuple[str, ListedMachine]], mesh: ExistingMesh
) -> list[tuple[str, ListedMachine]]:
    """The mesh's active machines, as listed where they are, with the workers that they have there."""
    by_name = dict(named)
    nowhere = ListedMachine(control=False, addresses=())
    return [
        (each.name, msgspec.structs.replace(by_name.get(each.name, nowhere), workers=each.workers))
        for each in mesh.machines
        if each.active
    ]


def _find_next_core(machines: Iterable[ListedMachine]) -> int | None:
    first = 1
    for machine in machines:
        if machine.workers is None:
            return None
        first += machine.workers
    return first


def _assign_cores(
    ordered: Iterable[tuple[str, ListedMachine]],
) -> Iterator[tuple[str, ListedMachine, Cores | None]]:
    first: int | None = 1
    for name, machine in ordered:
        if first is None or machine.workers is None:
            first = None
            yield name, machine, None
        else:
            yield name, machine, Cores(first, machine.workers)
            first += machine.workers


def _choose_mesh_base_port(placed: Sequence[tuple[str, ListedMachine, Cores | None]], default: int) -> int:
    machines = [(machine, cores) for _, machine, cores in placed]
    total = sum(machine.workers or 0 for machine, _ in machines)
    return choose_base_port(machines, default, total, machines[0][0].workers or 0)


def _build_proposed_machine(
    name: str, machine: ListedMachine, cores: Cores | None, *, member: bool
) -> ProposedMachine:
    return ProposedMachine(
        name=name,
        address=machine.addresses[0] if machine.addresses else None,
        user=machine.user,
        ssh_port=machine.ssh_port,
        workers=machine.workers,
        cores=cores,
        was=machine.was,
        ports_were=machine.ports,
        member=member,
    )


def _note_worker_counts(
    named: Sequence[tuple[str, ListedMachine]], mesh: ExistingMesh | None
) -> Iterator[str]:
    counts = {each.name: each.workers for each in (mesh.machines if mesh else ()) if each.active}
    for name, machine in named:
        if name in counts and machine.addresses and machine.workers not in {None, counts[name]}:
            yield (
                f"{name} has {counts[name]} workers in the mesh, and {machine.workers} in this list:"
                f" it keeps {counts[name]}"
            )


def _note_control_not_first(machines: Sequence[ListedMachine]) -> Iterator[str]:
    if not machines[0].control:
        yield (
            "the control machine is not the first in the list, but in a mesh it has the first cores: the"
            " cores that were before it get higher numbers"
        )


def _note_renumbering(machines: Sequence[ProposedMachine], base: int) -> Iterator[str]:
    for machine in machines:
        if machine.cores is None or not machine.was:
            continue
        new = tuple(machine.cores.numbers)
        if machine.was != new:
            why = ", since core numbers of a mesh have no gap" if has_gap(machine.was) else ""
            cores = f"core{_render_change(machine.was, new)}"
            yield f"{machine.name}: {cores}{why}: start its workers with the new numbers"
        ports = tuple(machine.cores.ports(base))
        if machine.ports_were and machine.ports_were != ports:
            yield (
                f"{machine.name}: port{_render_change(machine.ports_were, ports)}, since a worker's port is"
                " the base port + core - 1; change them wherever else they are configured"
            )


def _render_change(old: Sequence[int], new: Sequence[int]) -> str:
    """Behind `core` or `port`: ` 4 becomes 1`, `s 4-7 become 1-4`."""
    ending, verb = ("", "becomes") if len(old) == 1 else ("s", "become")
    return f"{ending} {format_port_ranges(old)} {verb} {format_port_ranges(new)}"
