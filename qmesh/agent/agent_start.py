"""That a machine has an agent, for the commands that begin or change something."""

from __future__ import annotations

import logging
from typing import Final

from qmesh.host.state.directory import State
from qmesh.host.system import systemd
from qmesh.mesh.units import qmesh_units

log = logging.getLogger("qmesh")

_START_S: Final = 60.0


def ensure_agent(state: State) -> None:
    """See that the agent runs: under systemd where that is the init, else in the background."""
    if systemd.systemd_runs():
        _tell_of_older_units()
        where = systemd.paths(state, config_directory="/", program=systemd.DEFAULT_PROGRAM)
        units = qmesh_units(where)
        if systemd.agent_runs(state) and systemd.are_installed(units):
            return
        systemd.install_agent(units)
        log.info("the agent runs as qmesh.service; qmesh-guard.service loads the guard at boot")
        return
    if systemd.agent_runs(state):
        return
    process = systemd.start_in_background(state, "agent", wait_s=_START_S)
    if process is not None:
        log.info(
            "no systemd here: the agent was started in the background (process %d, log %s);"
            " after a reboot start it with `qmesh agent`",
            process,
            state.log_file,
        )


def _tell_of_older_units() -> None:
    for name in systemd.units_that_run_what_is_there(systemd.UNIT_DIRECTORY):
        log.warning(
            "%s is of an earlier version: who owns the node's directory can have it run his own code as root;"
            " `qmesh units --write %s && systemctl daemon-reload` mends that",
            *(name, systemd.UNIT_DIRECTORY),
        )
