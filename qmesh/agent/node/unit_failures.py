"""Why workers of this machine do not answer, as far as systemd and the journal know."""

from __future__ import annotations

from collections.abc import Iterable

from qmesh.host.system import systemd
from qmesh.mesh.audit.surroundings import SilentWorkers
from qmesh.mesh.systemd.unit_failures import UnitFailure


def find_unit_failures(silent: Iterable[SilentWorkers], name: str) -> tuple[UnitFailure, ...]:
    """How the units of silent workers of this machine, which is `name`, ended; none where it has no units."""
    cores = [core for each in silent if each.machine == name for core in each.cores]
    if not cores or not systemd.has_node_units():
        return ()
    return systemd.read_unit_failures(cores)
