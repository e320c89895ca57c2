"""The state of the control process, and which workers it has called."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, Literal, TypeAlias

import msgspec

from qmesh.mesh.inventory import Inventory, find_core
from qmesh.mesh.node_processes.observed import NodeProcess, NodeSockets, Protocol, is_loopback
from qmesh.mesh.node_processes.reading_record import ReadingRecord
from qmesh.mesh.node_processes.readings import is_outdated
from qmesh.mesh.node_processes.record import ProcessRecord
from qmesh.mesh.rollback import BootTimestamp

ControlState: TypeAlias = Literal["alive", "silent", "stopped", "outdated"]
CALLED_S: Final = 60.0
"""Seconds that a control process is watched before it is said that it has not called a worker."""


class ControlProcess(msgspec.Struct, frozen=True):
    """The control process as it is.

    missing: the sockets that it should have and that are not there, such as `8336/udp`.
    process: None where none runs, or it is not known which it is.
    """

    state: ControlState
    missing: tuple[str, ...] = ()
    process: NodeProcess | None = None


def judge_control(
    ports: Collection[tuple[Protocol, int]], seen: NodeSockets, readings: ReadingRecord | None
) -> ControlProcess | None:
    """The state of the control process; None where it cannot be known.

    ports: as of `list_control_ports`. readings: as of this machine's present start.
    """
    if not ports:
        return None
    found = {
        (each.protocol, each.port): each.process
        for each in seen.listening
        if (each.protocol, each.port) in ports and not is_loopback(each.address)
    }
    missing = tuple(f"{port}/{protocol}" for protocol, port in ports if (protocol, port) not in found)
    processes = [process for place in ports if (process := found.get(place)) is not None]
    process = processes[-1] if processes else None
    if missing:
        return ControlProcess("silent", missing, process)
    if process is not None and process.stands_still:
        return ControlProcess("stopped", (), process)
    if process is not None and is_outdated(process.started_s, None if readings is None else readings.control):
        return ControlProcess("outdated", (), process)
    return ControlProcess("alive", (), process)


def list_called_cores(
    control: ControlProcess | None, seen: NodeSockets, inventory: Inventory
) -> frozenset[int]:
    """The cores whose workers the control process is connected to."""
    if control is None or control.process is None:
        return frozenset()
    number = control.process.number
    called = (
        find_core(inventory, each.remote, each.remote_port)
        for each in seen.connections
        if each.process == number
    )
    return frozenset(core for core in called if core is not None)


def list_uncalled_cores(
    record: ProcessRecord | None, process: NodeProcess | None, cores: Collection[int], now: BootTimestamp
) -> tuple[int, ...]:
    """The cores whose workers the control process has not called since it was started, once that is clear.

    record: what the agent has seen. process: the control process, where one runs. cores: those that answer.
    """
    called = None if record is None or not record.is_of(now) else record.called
    if called is None or process is None or now.at_s - called.since_s < CALLED_S:
        return ()
    if (called.process, called.started_s) != (process.number, process.started_s):
        return ()
    return tuple(sorted(set(cores).difference(called.cores)))
