"""Guard and tunnel brought up as the mesh has them: the end of `init`, `join` and `restore`."""

from __future__ import annotations

import contextlib

from qmesh.agent.converge import converge, plan_steps_without_dns, revert_on_failure
from qmesh.agent.local import Local, linux_for, with_tunnel_and_guard
from qmesh.agent.ssh_lockout import warn_of_ssh_lockout
from qmesh.errors import RemovedFromMesh
from qmesh.host.linux import Linux
from qmesh.host.state.directory import State


def bring_up(
    state: State, here: Local, *, revert: bool = False, follow_roaming: bool = False
) -> tuple[Local, Linux]:
    """Bring the guard up, then the tunnel; a warning first where that cuts the SSH session of this command.

    revert: on failure the machine is put back as it was. follow_roaming: as `converge` has it.
    Returns what the machine remembers now, and the machine. Raises MachineRefused, Removed.
    """
    here = enable_tunnel_and_guard(state, here)
    linux = linux_for(state, here)
    warn_of_ssh_lockout(linux, plan_steps_without_dns(here, linux))
    with revert_on_failure(linux, back_to=linux.observe()) if revert else contextlib.nullcontext():
        converge(here, linux, follow_roaming=follow_roaming)
    return here, linux


def enable_tunnel_and_guard(state: State, here: Local, *, keep_undoing: bool = False) -> Local:
    """End what `down` or `--no-apply` said, and remember it; so ends that the machine was put back.

    keep_undoing: this is a change that is undone unless it is confirmed.
    Raises Removed where the mesh has it no more.
    """
    if here.settings.removed:
        raise RemovedFromMesh
    risen_here = with_tunnel_and_guard(here)
    if risen_here.settings != here.settings:
        state.save_settings(risen_here.settings)
    if not keep_undoing:
        state.rollback_record.remove()
    return risen_here
