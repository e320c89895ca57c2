"""What the agent remembers of the node's processes between two looks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from qmesh.mesh.node_processes.observed import NodeProcess
from qmesh.mesh.node_processes.reading_record import ReadingRecord
from qmesh.mesh.rollback import BootTimestamp
from qmesh.mesh.values import CoreNumber

CUT_OFF_S: Final = 60.0
"""Seconds without a connection to the control process, after which a worker counts as cut off."""


class Absence(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A worker without a connection to the control process.

    process: its number; since_s: when that was first seen.
    """

    process: int
    since_s: float


class CalledWorkers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The workers that the control process has called since it was started.

    process: its number; since_s: when it was first seen.
    """

    process: int
    started_s: float
    since_s: float
    cores: tuple[CoreNumber, ...] = ()


class ProcessRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the agent has seen of the node's processes. boot: the machine's start that all times are of.

    absent: by core, this machine's workers without a connection. called: None where no control process runs.
    unconnected: on the control node, by machine, since when it has fewer connections than workers.
    """

    boot: str
    readings: ReadingRecord | None = None
    absent: dict[CoreNumber, Absence] = {}
    called: CalledWorkers | None = None
    unconnected: dict[str, float] = {}

    def is_of(self, now: BootTimestamp) -> bool:
        """Whether its times are of the machine's start that `now` is of."""
        return self.boot == now.boot


def update_absences(
    before: Mapping[int, Absence], unconnected: Mapping[int, NodeProcess], now_s: float
) -> dict[int, Absence]:
    """The workers without a connection after a look: those that were are so for longer.

    unconnected: the process of each such worker, by core.
    """
    after = {}
    for core, process in unconnected.items():
        known = before.get(core)
        is_same = known is not None and known.process == process.number
        after[core] = known if known is not None and is_same else Absence(process.number, now_s)
    return after


def update_calls(
    before: CalledWorkers | None, process: NodeProcess | None, cores: frozenset[int], now_s: float
) -> CalledWorkers | None:
    """The workers that the control process has called since it was started, after a look that saw `cores`."""
    if process is None:
        return None
    is_same = before is not None and (before.process, before.started_s) == (process.number, process.started_s)
    since_s, known = (before.since_s, before.cores) if before is not None and is_same else (now_s, ())
    return CalledWorkers(process.number, process.started_s, since_s, tuple(sorted(cores.union(known))))
