"""`status` and `log`: how the mesh and its workers are, and how it came to be so."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Literal

import msgspec

from qmesh.agent.local import Here, linux_for, load, require_control, require_root
from qmesh.agent.membership import latest
from qmesh.agent.worker_status import Watched, circumstances, watch_workers
from qmesh.host.network import links
from qmesh.host.registry import Event, Registry
from qmesh.host.state.directory import State
from qmesh.host.wireguard import Counters
from qmesh.mesh.advice import advice
from qmesh.mesh.inventory import Inventory
from qmesh.mesh.model import Cores, Machine


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
    workers: Watched | None


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
    require_root("qmesh status")
    here = latest(state)
    counters = _counters(state, here)
    cores = here.inventory.cores
    watched = watch_workers(here)
    now = time.time()
    return Status(
        mesh=here.inventory.mesh,
        revision=here.inventory.revision,
        node=here.inventory.node,
        control=here.inventory.control,
        machines=tuple(
            _machine(
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
        advice=advice(here.inventory, circumstances(here, watched)),
    )


def _counters(state: State, here: Here) -> Mapping[str, Counters]:
    interface = here.settings.interface
    if links.read(interface) is None:
        return {}
    return linux_for(state, here).backend.read(interface).counters


def _machine(
    inventory: Inventory,
    machine: Machine,
    cores: Cores | None,
    count: Counters | None,
    now: float,
    workers: Watched | None,
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


def events(state: State) -> tuple[Event, ...]:
    """All that changed the mesh, oldest first; on the control node only."""
    require_root("qmesh log")
    here = load(state)
    require_control(here, "qmesh log")
    with Registry(state.registry_file) as registry:
        return registry.events()
