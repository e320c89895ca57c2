"""`plan`: the steps that `apply` would take."""

from __future__ import annotations

import logging

from qmesh.agent.converge import plan_local_steps
from qmesh.agent.local import linux_for, with_tunnel_and_guard
from qmesh.agent.preconditions import check_user, load_checked
from qmesh.agent.ssh_lockout import warn_of_ssh_lockout
from qmesh.host.state.directory import State
from qmesh.host.system import background
from qmesh.mesh.plan.steps import Step

log = logging.getLogger("qmesh")


def plan(state: State) -> tuple[Step, ...]:
    """The steps that `apply` would take; none when the machine is as desired."""
    check_user("plan")
    here = with_tunnel_and_guard(load_checked(state, "plan"))
    linux = linux_for(state, here.settings)
    steps = plan_local_steps(here, linux)
    warn_of_ssh_lockout(linux, steps)
    if not background.is_agent_running(state):
        log.warning("no agent runs here, so nothing keeps this machine as it is: `qmesh apply` starts one")
    undoing = state.rollback_record.read()
    if undoing is not None and undoing.undone:
        log.warning("this machine was rolled back, as no confirmation came: it stays so until `qmesh apply`")
    elif undoing is not None:
        log.warning("a change waits for `qmesh confirm`, and is rolled back without it")
    return steps
