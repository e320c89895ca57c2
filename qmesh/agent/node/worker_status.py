"""The data workers as they are: which answer, how quickly, and which of a machine's cores do not."""

from __future__ import annotations

import errno
import os
import statistics
from collections.abc import Collection, Iterable, Mapping
from functools import partial
from typing import Final, TypeAlias

import msgspec

from qmesh.agent.local import Local
from qmesh.agent.node.node_host import find_node_host
from qmesh.agent.node.node_processes import NodeLook
from qmesh.agent.node.other_nodes import FindOtherNodes, ask_other_nodes, list_worker_listeners
from qmesh.errors import MachineRefused, QmeshError
from qmesh.host.config_directory import ConfigDirectory, read_disk_space
from qmesh.host.network import ports, tcp_probe
from qmesh.host.network.sockets.node_sockets import SocketObserver, SocketPorts
from qmesh.host.system.forked_work import ForkedWork
from qmesh.mesh.advice import AdviceInputs
from qmesh.mesh.inventory import Worker, list_workers
from qmesh.mesh.node_processes.answers import (
    WorkerAnswer,
    apply_note,
    explain_connection,
    find_listener,
    note_listeners,
)
from qmesh.mesh.node_processes.observed import UNKNOWN_PROCESS
from qmesh.mesh.node_processes.restart import describe_worker_restart
from qmesh.mesh.node_processes.silence import SilenceReason, explain_error
from qmesh.mesh.node_processes.workers import WorkerProcess, WorkerState
from qmesh.mesh.protocol.member_note import MemberNote
from qmesh.mesh.systemd.instructions import NodeHost, describe_workers_action
from qmesh.mesh.systemd.units import worker_unit_name

ANSWER_S = 2.0
"""Seconds in which a worker has to answer; a lost packet is sent again after one."""


MOST_S = 10.0
"""Seconds for all of them: of thousands of machines many may be away."""


AT_ONCE: Final = 800
"""Workers that are waited for at a time: each round takes as long as the way there and back."""


class SilentCore(msgspec.Struct, frozen=True):
    """A core that nobody answers for. unit: what runs it under systemd. restart: how to restart it.

    why: as far as this machine can tell. elsewhere: the addresses at which its port is listened on instead.
    """

    core: int
    address: str
    port: int
    unit: str
    restart: str
    why: SilenceReason = ""
    elsewhere: tuple[str, ...] = ()


class TroubledCore(msgspec.Struct, frozen=True):
    """A core of this machine whose worker listens, and is not as it should be.

    process: its number, 0 where it is not known; restart: how to restart it.
    """

    core: int
    state: WorkerState
    process: int
    program: str
    restart: str


class WorkerHealth(msgspec.Struct, frozen=True):
    """A machine's workers. latency: seconds until one answers, the median of them.

    alive: how many listen where they should, are connected to the control process, and up to date, as far as
        this machine can tell: of another machine it sees who answers and how many are connected.
    connected: connections that the control process has from that machine; None where that was not looked at.

    restart: how to restart those that do not answer; empty where all do.
    restarts: how to restart all of one kind at once, by `why` of `silent` and by `state` of `troubled`.
    On a worker machine they are looked at and not dialled, as its guard lets only the control node
    in: there the latency is None.
    """

    alive: int
    silent: tuple[SilentCore, ...]
    latency: float | None
    restart: str = ""
    troubled: tuple[TroubledCore, ...] = ()
    connected: int | None = None
    restarts: Mapping[str, str] = msgspec.field(default_factory=dict)


DialledWorkers: TypeAlias = ForkedWork[list[tuple[str, int, float, int]]]
"""Of each worker its address and port, and what became of the connection, as of `ProbeResult`."""


def begin_dialling(here: Local, *, unheard: Collection[str] = ()) -> DialledWorkers | None:
    """Dial the workers of the mesh, while this machine does something else; None where it dials none.

    unheard: as of `probe_answers`.
    """
    if not here.settings.control or here.settings.removed:
        return None
    workers = list_workers(here.inventory)
    places = [(each.address, each.port) for each in workers if each.machine not in unheard]
    return ForkedWork(partial(_dial_places, places, at_once=AT_ONCE), list[tuple[str, int, float, int]])


def _dial_places(
    places: Iterable[tuple[str, int]], *, at_once: int | None = None
) -> list[tuple[str, int, float, int]]:
    found = tcp_probe.probe_places(places, wait_s=ANSWER_S, most_s=MOST_S, at_once=at_once)
    return [(*place, *each) for place, each in found.items()]


def probe_workers(
    here: Local,
    look: NodeLook | None,
    *,
    notes: Iterable[tuple[str, MemberNote]],
    dialled: DialledWorkers | None = None,
) -> dict[str, WorkerHealth]:
    """By machine, what this one can tell: the control node of all, another of itself.

    look: at the node's processes here; without one, a worker that answers counts as alive.
    notes, dialled: as of `probe_answers`.
    """
    found = {
        name: _build_worker_health(
            answers, find_node_host(here.settings, name), dialled=here.settings.control
        )
        for name, answers in probe_answers(here, notes=notes, dialled=dialled).items()
    }
    if look is None:
        return found
    return {name: _with_processes(here, look, name, each) for name, each in found.items()}


def _with_processes(here: Local, look: NodeLook, name: str, health: WorkerHealth) -> WorkerHealth:
    """The same with what the machine's processes and connections tell."""
    if name == here.settings.name:
        return _with_own_processes(look, health)
    if not (here.inventory.node == "2.1-rust" and look.is_begun):
        return health
    connected = look.stream_peers.get(here.inventory.machine(name).address, 0)
    return msgspec.structs.replace(health, alive=min(health.alive, connected), connected=connected)


def _with_own_processes(look: NodeLook, health: WorkerHealth) -> WorkerHealth:
    silent = {each.core for each in health.silent}
    troubled = [
        each
        for each in look.report.workers
        if each.state not in {"alive", "silent"} and each.core not in silent
    ]
    directory = look.report.directory
    restarts: dict[str, str] = {}
    for state in dict.fromkeys(each.state for each in troubled):
        alike = [each for each in troubled if each.state == state]
        are_all = len(alike) == len(look.report.workers)
        restarts[state] = describe_worker_restart(alike, are_all=are_all, directory=directory)
    return msgspec.structs.replace(
        health,
        alive=health.alive - len(troubled),
        troubled=tuple(_build_troubled_core(each, directory) for each in troubled),
        restarts={**health.restarts, **restarts},
    )


def _build_troubled_core(worker: WorkerProcess, directory: str | None) -> TroubledCore:
    process = worker.process or UNKNOWN_PROCESS
    restart = describe_worker_restart((worker,), are_all=False, directory=directory)
    return TroubledCore(worker.core, worker.state, process.number, process.program, restart)


def probe_answers(
    here: Local,
    *,
    unheard: Collection[str] = (),
    notes: Iterable[tuple[str, MemberNote]],
    find_other_nodes: FindOtherNodes = ask_other_nodes,
    dialled: DialledWorkers | None = None,
) -> dict[str, tuple[tuple[Worker, WorkerAnswer], ...]]:
    """Of each machine's workers the answers, where this one can tell them.

    unheard: machines of which nothing comes through the tunnel: they are not dialled, and do not answer.
    notes: what machines have noted of themselves, by tunnel address.
    find_other_nodes: tells what another node on this machine has, which answers for no worker of this one.
    dialled: from before, where that was begun; else they are dialled now.
    """
    noted = dict(notes)
    workers: dict[str, list[Worker]] = {name: [] for name in here.inventory.cores}
    for worker in list_workers(here.inventory):
        workers[worker.machine].append(worker)
    name, listening = here.settings.name, list_worker_listeners(here, find_other_nodes)
    own = {
        (each.address, each.port): find_listener((each.address, each.port), listening)
        for each in workers.get(name, ())
    }
    if here.settings.control:
        places = {(each.address, each.port): each.machine for found in workers.values() for each in found}
        answers = dict.fromkeys(places, WorkerAnswer(None, explain_error(errno.ETIMEDOUT)))
        if dialled is None:
            probed = _dial_places(place for place, machine in places.items() if machine not in unheard)
        else:
            probed = dialled.collect()
        for address, port, seconds, error in probed:
            answers[address, port] = explain_connection(seconds, error, own.get((address, port)))
    else:
        answers = own | _find_container_answers(here, own)
        workers = {name: workers[name]} if name in workers else {}
    return {
        machine: tuple(
            (
                worker,
                apply_note(
                    worker.core,
                    answers[worker.address, worker.port],
                    noted.get(worker.address, MemberNote()),
                ),
            )
            for worker in each
        )
        for machine, each in workers.items()
    }


def _find_container_answers(
    here: Local, own: Mapping[tuple[str, int], WorkerAnswer]
) -> dict[tuple[str, int], WorkerAnswer]:
    """Of workers that do not listen on this machine itself: those that answer from a container."""
    absent = [place for place, answer in own.items() if answer.why == "absent"]
    if not absent:
        return {}
    from qmesh.agent.audit.foreign_firewalls import find_container_workers  # noqa: PLC0415 - an agent whose workers run has no use for it

    try:
        return dict.fromkeys(find_container_workers(here, absent), WorkerAnswer(0.0))
    except MachineRefused:  # which is a finding of the firewalls
        return {}


def find_worker_note(here: Local, find_other_nodes: FindOtherNodes) -> MemberNote:
    """What this machine notes for the control node: its workers that listen elsewhere, or stand still.

    find_other_nodes: as of `probe_answers`.
    """
    own = [worker for worker in list_workers(here.inventory) if worker.machine == here.settings.name]
    wanted = SocketPorts(tcp=frozenset(worker.port for worker in own))
    try:
        listening = list_worker_listeners(here, find_other_nodes)
        stopped = {
            (each.address, each.port)
            for each in SocketObserver().observe_sockets(wanted).listening
            if each.process is not None and each.process.stands_still
        }
        return note_listeners(own, listening, stopped & listening)
    except MachineRefused:
        return MemberNote()


def _build_worker_health(
    found: tuple[tuple[Worker, WorkerAnswer], ...], host: NodeHost, *, dialled: bool
) -> WorkerHealth:
    taken = [each.seconds for _, each in found if each.seconds is not None]
    latency = round(statistics.median(taken), 4) if taken and dialled else None
    silent = tuple(_build_silent_core(worker, host, each) for worker, each in found if each.seconds is None)
    cores = tuple(each.core for each in silent)
    restart = describe_workers_action("restart", cores, host, are_all=not taken) if cores else ""
    restarts: dict[str, str] = {}
    for why in dict.fromkeys(each.why for each in silent):
        alike = tuple(each.core for each in silent if each.why == why)
        restarts[why] = describe_workers_action("restart", alike, host, are_all=len(alike) == len(found))
    return WorkerHealth(len(taken), silent, latency, restart, restarts=restarts)


def _build_silent_core(worker: Worker, host: NodeHost, answer: WorkerAnswer) -> SilentCore:
    unit = worker_unit_name(worker.core)
    restart = f"on {worker.machine}: {describe_workers_action('restart', (worker.core,), host)}"
    return SilentCore(worker.core, worker.address, worker.port, unit, restart, answer.why, answer.elsewhere)


def collect_advice_inputs(
    here: Local, watched: Mapping[str, WorkerHealth], uncalled: tuple[int, ...]
) -> AdviceInputs:
    """What advice is made of, besides the inventory. uncalled: as of `AdviceInputs`."""
    try:
        ephemeral, reserved = ports.read_ephemeral_range(), ports.read_reserved_ports()
    except MachineRefused:
        ephemeral, reserved = (1, 0), frozenset()
    return AdviceInputs(
        name=here.settings.name,
        has_handed_over=here.has_handed_over,
        memory=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        disk=_find_disk_size(here.settings.node_directory),
        latencies={name: each.latency for name, each in watched.items() if each.latency is not None},
        alive=sum(each.alive for each in watched.values()) if here.settings.control else None,
        ephemeral=ephemeral,
        reserved=reserved,
        uncalled=uncalled,
    )


def _find_disk_size(directory: ConfigDirectory | None) -> int | None:
    """Octets of the disk that the node's config is on, in use or free: its store is there as well."""
    try:
        return None if directory is None else read_disk_space(directory).size
    except QmeshError:
        return None
