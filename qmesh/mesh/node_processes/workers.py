"""The state of each core's worker on a machine, and workers of cores that are another machine's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Literal, TypeAlias

import msgspec

from qmesh.mesh.node_processes.expected import ExpectedNode
from qmesh.mesh.node_processes.observed import (
    Connection,
    ListeningSocket,
    NodeProcess,
    NodeSockets,
    is_loopback,
)
from qmesh.mesh.node_processes.places import list_accepting_places
from qmesh.mesh.node_processes.reading_record import ReadingRecord
from qmesh.mesh.node_processes.readings import is_outdated
from qmesh.mesh.node_processes.record import CUT_OFF_S, Absence
from qmesh.mesh.values import STREAM_PORT

WorkerState: TypeAlias = Literal[
    "alive", "silent", "stopped", "outdated", "connecting", "cut-off", "not-the-node"
]
"""alive: it listens where it should, is connected, and up to date. Or it is not:

silent: nothing listens there. stopped: a signal has stopped it, or it is frozen.
outdated: it was started before what it reads was changed.
connecting, cut-off: it has no connection to the control process, for less than a minute or for longer.
not-the-node: what listens there belongs to a user who cannot even read config.yml.
"""


class WorkerProcess(msgspec.Struct, frozen=True):
    """One core's worker as it is. process: None where nothing listens, or it is not known which.

    wrong_address: what it is connected to in place of the control node; None where it is not.
    """

    core: int
    state: WorkerState
    process: NodeProcess | None = None
    wrong_address: str | None = None


class ForeignWorker(msgspec.Struct, frozen=True):
    """A worker on this machine, of a core that is not this machine's.

    core: by its port; None where the mesh has no such port. owner: the machine whose core it is.
    """

    address: str
    port: int
    process: NodeProcess | None
    core: int | None
    owner: str | None


def judge_workers(
    expected: ExpectedNode,
    seen: NodeSockets,
    readings: ReadingRecord | None,
    absent: Mapping[int, Absence],
    now_s: float,
) -> tuple[WorkerProcess, ...]:
    """The state of each worker that this machine should run, by core.

    readings: as of this machine's present start. absent: since when which has no connection.
    """
    listening: dict[tuple[str, int], ListeningSocket] = {}
    for each in seen.listening:
        if each.protocol == "tcp":
            listening.setdefault((each.address, each.port), each)
    streams = _list_stream_addresses(expected, seen.connections)
    cores, keys = ({}, None) if readings is None else (readings.cores, readings.keys)

    def judge(core: int, place: tuple[str, int]) -> WorkerProcess:
        found = next((listening[each] for each in list_accepting_places(place) if each in listening), None)
        if found is None:
            return WorkerProcess(core, "silent")
        process = found.process
        if expected.readers is not None and found.user not in expected.readers:
            return WorkerProcess(core, "not-the-node", process)
        if process is None:
            return WorkerProcess(core, "alive")
        if process.stands_still:
            return WorkerProcess(core, "stopped", process)
        if is_outdated(process.started_s, cores.get(core)) or is_outdated(process.started_s, keys):
            return WorkerProcess(core, "outdated", process)
        return _judge_connection(expected, core, process, streams[process.number], absent.get(core), now_s)

    return tuple(judge(core, place) for core, place in expected.cores.items())


def _list_stream_addresses(
    expected: ExpectedNode, connections: tuple[Connection, ...]
) -> dict[int, set[str]]:
    """By process, the addresses whose control process it is connected to.

    On the control node each address of its own is as good as the tunnel's.
    """
    own = {each.address for each in connections if expected.is_control}
    found: dict[int, set[str]] = defaultdict(set)
    for each in connections:
        if each.remote_port == STREAM_PORT:
            found[each.process].add(expected.stream_address or "" if each.remote in own else each.remote)
    return found


def _judge_connection(
    expected: ExpectedNode,
    core: int,
    process: NodeProcess,
    addresses: set[str],
    absence: Absence | None,
    now_s: float,
) -> WorkerProcess:
    if expected.stream_address is None or expected.stream_address in addresses:
        return WorkerProcess(core, "alive", process)
    # Other nodes of the network have that port too; they are neither in the tunnel nor here.
    wrong = min(
        (each for each in addresses if expected.is_in_tunnel(each) or is_loopback(each)), default=None
    )
    if wrong is not None:
        return WorkerProcess(core, "cut-off", process, wrong)
    if expected.profile != "2.1-rust":  # whether Go's worker keeps its connection was never seen
        return WorkerProcess(core, "alive", process)
    is_known = absence is not None and absence.process == process.number
    since_s = absence.since_s if absence is not None and is_known else now_s
    return WorkerProcess(core, "connecting" if now_s - since_s < CUT_OFF_S else "cut-off", process)


def find_foreign_workers(expected: ExpectedNode, seen: NodeSockets) -> tuple[ForeignWorker, ...]:
    """The workers on this machine whose cores are not this machine's, by port.

    A worker listens at its machine's own tunnel address, which nothing else has a use for at such a port.
    """
    rightful = {port for _, port in expected.cores.values()} | expected.others
    taken: dict[int, ForeignWorker] = {}
    for each in seen.listening:
        port, core = each.port, each.port - expected.base_port + 1
        is_worker_port = core in expected.owners or port in expected.closed
        if each.protocol == "tcp" and is_worker_port and not (port in rightful or port in expected.p2p):
            owner = expected.owners.get(core)
            if each.address in expected.addresses:
                found = ForeignWorker(each.address, port, each.process, core if owner else None, owner)
                taken.setdefault(port, found)
    return tuple(taken[port] for port in sorted(taken))


def list_foreign_connections(
    expected: ExpectedNode, seen: NodeSockets, foreign: tuple[ForeignWorker, ...]
) -> tuple[Connection, ...]:
    """The connections through the tunnel of workers that are another machine's."""
    processes = {each.process.number for each in foreign if each.process is not None}
    places = {(each.address, each.port) for each in foreign}
    own = set(expected.cores.values())
    # A process may be the worker of several cores, some of which are this machine's.
    rightful = {
        each.process.number
        for each in seen.listening
        if each.process is not None and (each.address, each.port) in own
    }
    return tuple(
        each
        for each in seen.connections
        if (each.process in processes - rightful or (each.address, each.port) in places)
        and expected.is_in_tunnel(each.remote)
    )
