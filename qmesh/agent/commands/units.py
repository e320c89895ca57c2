"""`units`: the systemd units of this machine."""

from __future__ import annotations

import logging
from pathlib import Path

from qmesh.agent.local import load_local
from qmesh.agent.preconditions import check_user
from qmesh.host.state.directory import State
from qmesh.host.system import node_user, systemd
from qmesh.mesh.systemd.instructions import NodeHost, describe_workers_action
from qmesh.mesh.systemd.units import render_qmesh_units, render_unit_files
from qmesh.mesh.values import CONTROL_FIRST, quote_text

log = logging.getLogger("qmesh")


def render_units(state: State, *, program: str) -> dict[str, str]:
    """The systemd units for this machine, by file name."""
    check_user("units")
    here = load_local(state)
    directory = here.settings.config_directory
    if directory is None:
        log.warning(
            "no units for the node: qmesh does not know where it has its config.yml;"
            " run `qmesh render-config --write --config DIR` once"
        )
        return render_qmesh_units(systemd.build_unit_paths(state, config_directory="/", program=program))
    where = systemd.build_unit_paths(state, config_directory=directory, program=program)
    _warn_of_other_owners(Path(directory))
    cores = here.inventory.core_numbers(here.settings.name)
    return render_unit_files(
        where,
        is_control=here.settings.control,
        cores=cores,
        is_control_first=here.inventory.node in CONTROL_FIRST,
    )


def _warn_of_other_owners(directory: Path) -> None:
    """Say what the node's user will not be able to use, where that is another user's."""
    user = node_user.find_node_user(directory)
    if user and (found := node_user.find_foreign_path(directory, user)) is not None:
        name = node_user.resolve_user_name(user)
        log.warning(
            "the node will run as %s, but another user owns %s: run `chown -R %s %s` before you restart it",
            *(name, quote_text(str(found)), name, directory),
        )


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
