"""`status` and `log`: how the mesh and its workers are, and how it came to be so."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Final, Literal

import msgspec

from qmesh.agent.local import Local, linux_for, list_listen_ports
from qmesh.agent.machine_facts.gatherer import gather_facts, read_report_key
from qmesh.agent.membership import load_latest
from qmesh.agent.node.node_audit import list_node_errors
from qmesh.agent.node.node_host import find_node_host
from qmesh.agent.node.node_keys import list_other_keys
from qmesh.agent.node.node_processes import NodeLook, look_for_command
from qmesh.agent.node.worker_status import (
    DialledWorkers,
    WorkerHealth,
    begin_dialling,
    collect_advice_inputs,
    probe_workers,
)
from qmesh.agent.preconditions import check_user
from qmesh.agent.readers.ask import ask_as_reader, is_reader
from qmesh.errors import MachineRefused
from qmesh.host.machine_facts.hardware import read_nft_version
from qmesh.host.network import links
from qmesh.host.state.directory import State
from qmesh.host.system import agent_health, background
from qmesh.mesh.advice import list_advice
from qmesh.mesh.audit.findings import Finding
from qmesh.mesh.audit.members import apart_findings, memory_findings, unlike_machine_findings
from qmesh.mesh.inventory import Inventory
from qmesh.mesh.machine import Cores, Machine
from qmesh.mesh.machine_facts.differences import list_fresh_facts
from qmesh.mesh.machine_facts.facts import MachineFacts, ToldFacts
from qmesh.mesh.node_keys.differences import describe_fetch
from qmesh.mesh.node_processes.control import ControlState, list_uncalled_cores
from qmesh.mesh.node_processes.observed import UNKNOWN_PROCESS
from qmesh.mesh.node_processes.record import ProcessRecord
from qmesh.mesh.node_processes.restart import describe_control_restart, describe_stop
from qmesh.mesh.node_processes.workers import ForeignWorker
from qmesh.mesh.reachability.open_ports import MachinePorts, list_all_open_ports
from qmesh.mesh.state import Counters
from qmesh.mesh.systemd.instructions import NodeHost

log = logging.getLogger("qmesh")

HEALTH_S: Final = 2.0
"""Seconds that this machine's agent has to say how it is."""


class CoreRange(msgspec.Struct, frozen=True):
    """first: None while the machine has no place yet. count: None while it is not known."""

    first: int | None
    count: int | None


class MachineStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One machine of the mesh. public_key, endpoint: empty and None for readers.

    last_handshake: seconds ago; None when never, or not known here.
    workers: None where this machine can't tell: another one than the control node of others.
    node_files: whether it may fetch the files with the node's secrets.
    facts: what the machine has and runs, by its own word; None where that is not known here. facts_age:
        seconds since it said so.
    """

    name: str
    role: Literal["control", "worker"]
    address: str
    public_key: str = ""
    endpoint: str | None = None
    cores: CoreRange
    ports: tuple[int, ...]
    state: str
    last_handshake: float | None
    rx_bytes: int | None
    tx_bytes: int | None
    workers: WorkerHealth | None
    node_files: bool
    facts: MachineFacts | None = None
    facts_age: float | None = None


class ControlStatus(msgspec.Struct, frozen=True):
    """The control process on this machine. missing: sockets that it should have, such as `8336/udp`.

    process: its number, 0 where it is not known. uncalled: cores whose workers it has not called since it was
    started. restart: how to restart it, or start it.
    """

    state: ControlState
    missing: tuple[str, ...]
    process: int
    program: str
    uncalled: tuple[int, ...]
    restart: str


class ForeignStatus(msgspec.Struct, frozen=True):
    """A worker on this machine whose core is another machine's, or none's. stop: how to stop it."""

    address: str
    port: int
    core: int | None
    owner: str | None
    process: int
    program: str
    stop: str


class OtherKeysStatus(msgspec.Struct, frozen=True):
    """A machine whose node has other keys than this one's. since: in words. fetch: what brings it these."""

    machine: str
    keys: tuple[str, ...]
    since: str
    fetch: str


class SilentAgent(msgspec.Struct, frozen=True):
    """A machine whose agent does not run, or asks the control node nothing. cure: what to do.

    silent_s: seconds since it asked; None for this machine's own, which does not run.
    """

    machine: str
    silent_s: float | None
    cure: str


class Status(msgspec.Struct, frozen=True):
    """What `status` answers. node: its profile; control: the control node's name.

    control_process: None on other machines than the control node, and where its state cannot be known.
    foreign: on this machine. other_keys: on the control node, machines whose nodes have other keys.
    errors: what is wrong with the node's files and programs on this machine, as `check` finds it, and on the
        control node which machines do not understand it.
    silent_agents: this machine's, and on the control node those that it does not hear of. machine: this one.
    """

    mesh: str
    revision: int
    node: str
    control: str
    machines: tuple[MachineStatus, ...]
    advice: tuple[str, ...]
    control_process: ControlStatus | None = None
    foreign: tuple[ForeignStatus, ...] = ()
    other_keys: tuple[OtherKeysStatus, ...] = ()
    errors: tuple[Finding, ...] = ()
    silent_agents: tuple[SilentAgent, ...] = ()
    machine: str = ""


def status(state: State) -> Status:
    """Every machine, with what this one's WireGuard knows about those that are its peers.

    A reader is told what its agent says.
    """
    if is_reader(state):
        return ask_as_reader("status", Status)
    check_user("status")
    here = load_latest(state)
    with begin_dialling(here) or contextlib.nullcontext() as dialled:
        return _build_status(state, here, dialled)


def _build_status(state: State, here: Local, dialled: DialledWorkers | None) -> Status:
    counters = _read_counters(state, here)
    cores = here.inventory.cores
    look, record = _look_at_node(state, here)
    health = _request_health(state)
    notes = () if health is None else health.notes
    told = _list_facts(state, here, health, look)
    errors = list_node_errors(here)
    # Last of what takes long: until now they were dialled besides.
    watched = {} if here.settings.removed else probe_workers(here, look, notes=notes, dialled=dialled)
    uncalled = () if look is None else _list_uncalled(look, record, watched)
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
                told.get(machine.address),
                removed=here.settings.removed and machine.name == here.settings.name,
            )
            for machine in here.inventory.machines
        ),
        silent_agents=() if here.settings.removed else _list_silent_agents(state, here, health),
        other_keys=_list_other_keys(state, here),
        advice=(
            *list_advice(here.inventory, collect_advice_inputs(here, watched, uncalled)),
            *_describe_unlike_machines(here, told.values()),
        ),
        control_process=None
        if look is None
        else _build_control_status(look, uncalled, find_node_host(here.settings)),
        foreign=() if look is None else tuple(map(_build_foreign_status, look.report.foreign)),
        errors=(*_list_apart(here, told.values()), *errors),
        machine=here.settings.name,
    )


def _request_health(state: State) -> agent_health.Health | None:
    """This machine's agent's; None where it does not say, which is for `check` to tell."""
    if not background.is_agent_running(state):
        return None
    try:
        return agent_health.request_health(state.directory, wait_s=HEALTH_S)
    except agent_health.NoAnswer:
        return None


def _list_facts(
    state: State, here: Local, health: agent_health.Health | None, look: NodeLook | None
) -> dict[str, ToldFacts]:
    """By tunnel address: what the agent knows, and without one what is seen of this machine now."""
    found = {} if health is None else {each.address: each for each in health.facts}
    if here.machine.address not in found and not here.settings.removed:
        workers = () if look is None else look.report.workers
        own = gather_facts(
            here, workers, (), seen={}, nft=read_nft_version(), report_key=read_report_key(state)
        )
        found[here.machine.address] = ToldFacts(here.machine.address, time.time(), own)
    return found


def _list_apart(here: Local, told: Iterable[ToldFacts]) -> Iterator[Finding]:
    """Members that this machine, the control node, can't understand: they follow no change."""
    facts = list_fresh_facts(here.inventory, told)
    return apart_findings(facts, own_name=here.settings.name, control=here.inventory.control, spoken=None)


def _describe_unlike_machines(here: Local, told: Iterable[ToldFacts]) -> Iterator[str]:
    """What `check` notes of the facts of machines, in a line each."""
    facts = list_fresh_facts(here.inventory, told)
    host = find_node_host(here.settings)
    own = here.settings.name
    found = chain(
        unlike_machine_findings(facts, own_name=own), memory_findings(facts, own_name=own, host=host)
    )
    return (f"{each.subject}: {each.seen} ({each.code})" for each in found)


def _list_silent_agents(
    state: State, here: Local, health: agent_health.Health | None
) -> tuple[SilentAgent, ...]:
    """As this machine's own agent says, where it runs."""
    own = here.settings.name
    if health is None and not background.is_agent_running(state):
        return (SilentAgent(own, None, f"on {own}: qmesh apply"),)
    names = {each.address: each.name for each in here.inventory.machines if each.name != own}
    return tuple(
        SilentAgent(names[address], age_s, f"on {names[address]}: qmesh check")
        for address, age_s in (() if health is None else health.unasked)
        if address in names
    )


def _look_at_node(state: State, here: Local) -> tuple[NodeLook | None, ProcessRecord | None]:
    """The node's processes here; None where the kernel does not tell, which hides nothing else."""
    try:
        return look_for_command(state, here)
    except MachineRefused as error:
        log.warning("the node's processes were not looked at: %s (hint: %s)", error.message, error.hint)
        return None, None


def _list_uncalled(
    look: NodeLook, record: ProcessRecord | None, watched: Mapping[str, WorkerHealth]
) -> tuple[int, ...]:
    """The cores whose workers answer, and which the control process has not called: of node 2.1 alone."""
    control = look.report.control
    if control is None or look.expected.stream_address is None:
        return ()
    silent = {core.core for each in watched.values() for core in each.silent}
    return list_uncalled_cores(record, control.process, look.expected.owners.keys() - silent, look.now)


def _build_control_status(look: NodeLook, uncalled: tuple[int, ...], host: NodeHost) -> ControlStatus | None:
    control = look.report.control
    if control is None or not look.is_begun:
        return None
    process = control.process or UNKNOWN_PROCESS
    here = msgspec.structs.replace(host, directory=look.report.directory)
    restart = describe_control_restart(control.process, here)
    return ControlStatus(control.state, control.missing, process.number, process.program, uncalled, restart)


def _build_foreign_status(each: ForeignWorker) -> ForeignStatus:
    process = each.process or UNKNOWN_PROCESS
    return ForeignStatus(
        each.address, each.port, each.core, each.owner, process.number, process.program, describe_stop(each)
    )


class PortStatus(msgspec.Struct, frozen=True):
    """What `status --ports` answers. announces: whether the node tells the network where its workers are."""

    mesh: str
    revision: int
    node: str
    announces: bool
    machines: tuple[MachinePorts, ...]


def list_port_status(state: State) -> PortStatus:
    """For each machine what has to be open to the internet, and where the network comes for its workers."""
    check_user("status", option="--ports")
    here = load_latest(state)
    mesh = here.inventory
    return PortStatus(
        mesh=mesh.mesh,
        revision=mesh.revision,
        node=mesh.node,
        announces=mesh.p2p_base_port is not None,
        machines=list_all_open_ports(mesh, list_listen_ports(here)),
    )


def _list_other_keys(state: State, here: Local) -> tuple[OtherKeysStatus, ...]:
    return tuple(
        OtherKeysStatus(
            each.machine,
            each.keys,
            each.since,
            describe_fetch(each.machine, here.settings.name, may_fetch=each.may_fetch, is_here=False),
        )
        for each in list_other_keys(state, here)
    )


def _read_counters(state: State, here: Local) -> Mapping[str, Counters]:
    interface = here.settings.interface
    if links.read(interface) is None:
        return {}
    return linux_for(state, here.settings).backend.read(interface).counters


def _build_machine_status(
    inventory: Inventory,
    machine: Machine,
    cores: Cores | None,
    count: Counters | None,
    now: float,
    workers: WorkerHealth | None,
    told: ToldFacts | None,
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
        node_files=machine.node_files,
        facts=None if told is None else told.facts,
        facts_age=None if told is None else max(0.0, round(now - told.at, 1)),
    )
