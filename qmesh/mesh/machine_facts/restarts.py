"""How often a machine's workers were started again, by what was seen of them one look after the other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from qmesh.mesh.node_processes.workers import WorkerProcess


class SeenWorker(msgspec.Struct, frozen=True):
    """A core's worker. process, started_s: of the last one that was seen. restarts: processes before it."""

    process: int
    started_s: float
    restarts: int = 0


def update_seen_workers(
    before: Mapping[int, SeenWorker], workers: Iterable[WorkerProcess]
) -> dict[int, SeenWorker]:
    """What is known by core after another look. A core that is this machine's no more is forgotten."""
    found: dict[int, SeenWorker] = {}
    for each in workers:
        last = before.get(each.core)
        if each.process is None:  # its restart counts once there is another
            if last is not None:
                found[each.core] = last
            continue
        number, started_s = each.process.number, each.process.started_s
        if last is None:
            found[each.core] = SeenWorker(number, started_s)
        else:
            is_same = (last.process, last.started_s) == (number, started_s)
            found[each.core] = SeenWorker(number, started_s, last.restarts + (not is_same))
    return found
