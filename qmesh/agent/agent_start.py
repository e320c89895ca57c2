"""That a machine has an agent, for the commands that begin or change something."""

from __future__ import annotations

from typing import Final

from qmesh.host.log.events import report_event
from qmesh.host.state.directory import State
from qmesh.host.system import background, systemd
from qmesh.mesh.systemd.instructions import describe_units_update
from qmesh.mesh.systemd.units import render_qmesh_units
from qmesh.mesh.values import DEFAULT_PROGRAM

_START_S: Final = 60.0


def ensure_agent(state: State) -> None:
    """See that the agent runs: under systemd where that is the init, else in the background."""
    if systemd.is_systemd_running():
        _warn_of_older_units()
        where = systemd.build_unit_paths(state, config_directory="/", program=DEFAULT_PROGRAM)
        units = render_qmesh_units(where)
        if background.is_agent_running(state) and systemd.has_installed_units(units):
            return
        systemd.install_agent(units)
        report_event(
            "agent-installed", "the agent runs as qmesh.service; qmesh-guard.service loads the guard at boot"
        )
        return
    if background.is_agent_running(state):
        return
    process = background.start_background_process(state, "agent", wait_s=_START_S)
    if process is not None:
        report_event(
            "agent-installed",
            "this machine has no systemd: the agent was started in the background (process %d, log %s);"
            " after a reboot start it with `qmesh agent`",
            process,
            state.log_file,
        )


def warn_without_agent(state: State, purpose: str) -> None:
    """Say that no agent runs, where none does. purpose: what it is needed for, such as `to serve metrics`."""
    if not background.is_agent_running(state):
        report_event(
            "agent-missing", "no agent runs on this machine %s (hint: `qmesh apply` starts one)", purpose
        )


def _warn_of_older_units() -> None:
    for name in systemd.list_outdated_units(systemd.UNIT_DIRECTORY):
        report_event(
            "unit-outdated",
            "%s is of an earlier version: the owner of the node's directory can make it run any code as root;"
            " fix it with `%s`",
            *(name, describe_units_update(str(systemd.UNIT_DIRECTORY))),
        )
