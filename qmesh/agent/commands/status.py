"""`status` and `log`: how the mesh and its workers are, and how it came to be so."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Literal

import msgspec

from qmesh.agent.local import Local, linux_for
from qmesh.agent.membership import load_latest
from qmesh.agent.node.worker_status import WorkerHealth, collect_advice_inputs, probe_workers
from qmesh.agent.preconditions import check_user
from qmesh.host.network import links
from qmesh.host.state.directory import State
from qmesh.mesh.advice import list_advice
from qmesh.mesh.inventory import Inventory
from qmesh.mesh.machine import Cores, Machine
from qmesh.mesh.state import Counters


class CoreRange(msgspec.Struct, frozen=True):
    """first: None while the machine has no place yet. count: None while it is not known."""

    first: int | None
    count: int | None


class MachineStatus(msgspec.Struct, frozen=True):
    """One machine of the mesh.

    last_handshake: seconds ago; None when never, or not known here.
    workers: None where this machine can't tell: another one than the control node of others.
    """

    name: str
    role: Literal["control", "worker"]
    address: str
    public_key: str
    endpoint: str | None
    cores: CoreRange
    ports: tuple[int, ...]
    state: str
    last_handshake: float | None
    rx_bytes: int | None
    tx_bytes: int | None
    workers: WorkerHealth | None


class Status(msgspec.Struct, frozen=True):
    """What `status` answers. node: its profile; control: the control node's name."""

    mesh: str
    revision: int
    node: str
    control: str
    machines: tuple[MachineStatus, ...]
    advice: tuple[str, ...]


def status(state: State) -> Status:
    """Every machine, with what this one's WireGuard knows about those that are its peers."""
    check_user("status")
    here = load_latest(state)
    counters = _read_counters(state, here)
    cores = here.inventory.cores
    watched = probe_workers(here)
    now = time.time()
    return Status(
        mesh=here.inventory.mesh,
        revision=here.inventory.revision,
        node=here.inventory.node,
        control=here.inventory.control,
        machines=tuple(
            _build_machine_status(
                here.inventory,
                machine,
                cores.get(machine.name),
                counters.get(machine.public_key),
                now,
                watched.get(machine.name),
                removed=here.settings.removed and machine.name == here.settings.name,
            )
            for machine in here.inventory.machines
        ),
        advice=list_advice(here.inventory, collect_advice_inputs(here, watched)),
    )


def _read_counters(state: State, here: Local) -> Mapping[str, Counters]:
    interface = here.settings.interface
    if links.read(interface) is None:
        return {}
    return linux_for(state, here).backend.read(interface).counters


def _build_machine_status(
    inventory: Inventory,
    machine: Machine,
    cores: Cores | None,
    count: Counters | None,
    now: float,
    workers: WorkerHealth | None,
    *,
    removed: bool,
) -> MachineStatus:
    declared = str(machine.endpoints[0]) if machine.endpoints else None
    handshake = None if count is None else count.last_handshake_s
    return MachineStatus(
        name=machine.name,
        role="control" if machine.name == inventory.control else "worker",
        address=machine.address,
        public_key=machine.public_key,
        endpoint=str(count.endpoint) if count is not None and count.endpoint is not None else declared,
        cores=CoreRange(None if cores is None else cores.first, machine.workers),
        ports=() if cores is None else tuple(cores.ports(inventory.base_port)),
        state="removed" if removed else machine.state,
        last_handshake=None if handshake is None else max(0.0, round(now - handshake, 1)),
        rx_bytes=None if count is None else count.rx_bytes,
        tx_bytes=None if count is None else count.tx_bytes,
        workers=workers,
    )
