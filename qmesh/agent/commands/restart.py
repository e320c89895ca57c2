"""`restart`: have the installed version do what an older one still does, with the guard closed throughout.

An upgrade ends here. What runs is replaced one by one: who holds the guard first, while the agent keeps its
first table; then the agent, while the new holder keeps it. Tunnel and node are not touched.
"""

from __future__ import annotations

import logging
import os
import shlex

import msgspec

from qmesh import __version__
from qmesh.agent.node.node_units import UnitOptions, render_units
from qmesh.agent.preconditions import check_user, lock_checked
from qmesh.errors import BadInput, QmeshError
from qmesh.host.firewall import holder_client
from qmesh.host.state.directory import State
from qmesh.host.system import background, leftover_processes, processes, systemd
from qmesh.host.system.systemd import UNIT_DIRECTORY, UpdatedUnits
from qmesh.mesh.systemd.units import AGENT, HOLDER, UNDO, WORKER, render_qmesh_units, render_undo_unit
from qmesh.mesh.values import DEFAULT_PROGRAM

log = logging.getLogger("qmesh")


class RestartResult(msgspec.Struct, frozen=True, kw_only=True):
    """What `restart` did.

    version: the installed one. written, kept: units, as `UpdatedUnits` has them.
    holder, agent: whether each runs as a new process.
    """

    version: str
    written: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    holder: bool = False
    agent: bool = False


def restart_processes(state: State) -> RestartResult | None:
    """Write the units of this version, and restart what runs of qmesh; None where this machine is in no mesh.

    Raises Busy when another command does not end in time, MachineRefused where something does not start.
    """
    check_user("restart")
    if not state.has_settings():
        _refuse_elsewhere(state)
        return None
    units = UpdatedUnits((), ())
    with lock_checked(state, "restart"):
        if systemd.is_systemd_running():
            is_new = not os.path.lexists(UNIT_DIRECTORY / AGENT)
            if is_new and not state.has_own_guard():  # `apply` was never run, or `uninstall` was
                return RestartResult(version=__version__)
            units = _update_units(state)
            if is_new:  # a package that was removed is back
                systemd.enable_agent()
        is_held = holder_client.is_wanted(state) and not _is_kept_stopped(HOLDER)
        if is_held:
            with processes.defer_signals():
                holder_client.restart_holder(state)
    # Without the lock, which the new agent needs to be ready.
    with processes.defer_signals():  # without systemd nothing else knows that one ran
        agent = background.restart_agent(state)
    return RestartResult(
        version=__version__, written=units.written, kept=units.kept, holder=is_held, agent=agent
    )


def _refuse_elsewhere(state: State) -> None:
    """Raise BadInput where an agent of another state directory runs: that one is meant."""
    for each in leftover_processes.list_processes():
        if each.kind == "agent" and each.is_there and each.state != state.directory:
            raise BadInput(
                f"there is no mesh in {state.directory}, and an agent of {each.state} runs",
                hint=f"run `qmesh restart --state {shlex.quote(str(each.state))}`",
            )


def _is_kept_stopped(unit: str) -> bool:
    return systemd.is_systemd_running() and systemd.is_kept_stopped(unit)


def _update_units(state: State) -> UpdatedUnits:
    """Have systemd know the units of this version, the node's too where it has some. Nothing is restarted."""
    where = systemd.build_unit_paths(state, config_directory="/", program=DEFAULT_PROGRAM)
    texts = render_qmesh_units(where)
    if (UNIT_DIRECTORY / UNDO).exists():
        texts[UNDO] = render_undo_unit(where)
    if (UNIT_DIRECTORY / WORKER).exists():
        try:
            wish = UnitOptions(directory=UNIT_DIRECTORY, write=True, program=None, arguments=None)
            texts.update(render_units(state, wish).texts)
        except QmeshError as error:  # no reason to leave the agent as it is
            log.warning("the node's units stay as they are: %s (hint: %s)", error.message, error.hint)
    units = systemd.update_units(texts, UNIT_DIRECTORY)
    if units.written:
        systemd.run_systemctl("daemon-reload")
    return units
