"""The node's systemd units, kept as the mesh is."""

from __future__ import annotations

from qmesh.agent.local import Local
from qmesh.host.system import systemd
from qmesh.mesh.systemd.units import WORKERS, render_workers_target


def update_workers_target(here: Local) -> None:
    """Have the target of all workers name this machine's cores, unless somebody edited it."""
    cores = tuple(here.inventory.core_numbers(here.settings.name))
    if systemd.update_units({WORKERS: render_workers_target(cores)}, systemd.UNIT_DIRECTORY).written:
        systemd.run_systemctl("daemon-reload")
