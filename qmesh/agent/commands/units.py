"""`units`: the systemd units of this machine."""

from __future__ import annotations

import logging

from qmesh.agent.local import load_local
from qmesh.agent.node import node_units
from qmesh.agent.node.node_units import RenderedUnits, UnitOptions
from qmesh.agent.preconditions import check_user
from qmesh.host.state.directory import State
from qmesh.host.system import systemd
from qmesh.mesh.systemd.instructions import NodeHost, describe_workers_action

log = logging.getLogger("qmesh")


def render_units(state: State, wish: UnitOptions) -> RenderedUnits:
    """The systemd units for this machine. Raises as `node_units.render_units`."""
    check_user("units")
    return node_units.render_units(state, wish)


def find_removed_workers(state: State) -> tuple[int, ...]:
    """The cores whose workers systemd runs here, and that are another machine's now, or nobody's.

    Says what stops them.
    """
    here = load_local(state)
    own = here.inventory.core_numbers(here.settings.name)
    removed = tuple(core for core in systemd.list_running_workers() if core not in own)
    if removed:
        log.warning(
            "these workers still run, but their cores are no longer this machine's: run `%s`",
            describe_workers_action("stop", removed, NodeHost(has_units=True)),
        )
    return removed
