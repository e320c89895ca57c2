"""`handover`: another member becomes the control node; what each machine does is in `succeeding`."""

from __future__ import annotations

import logging
import time
from typing import Final

import msgspec

from qmesh.agent.agent_start import ensure_agent
from qmesh.agent.local import Local, list_listen_ports
from qmesh.agent.mesh_change import log_prover_pause
from qmesh.agent.node.node_host import describe_steps
from qmesh.agent.preconditions import check_user, lock_member
from qmesh.errors import BadInput, EnrolmentRefused
from qmesh.host.registry import Readiness, Registry
from qmesh.host.state.directory import State
from qmesh.host.system import agent_notify
from qmesh.host.system.sudo_user import find_invoking_user
from qmesh.mesh.inventory import Inventory
from qmesh.mesh.reachability.announcements import lacks_stream_host
from qmesh.mesh.reachability.open_ports import MachinePorts, list_changed_ports
from qmesh.mesh.systemd.change_steps import StepText, list_handover_steps

log = logging.getLogger("qmesh")

_LOOK_S: Final = 0.5
_ANSWERS_S: Final = 30.0
_NAMED: Final = 5
"""Machines that a line names, at most."""


class HandoverResult(msgspec.Struct, frozen=True, rename={"was": "from", "now": "to"}):
    """What `handover` answers.

    was, now: the control node. address: the tunnel address that worker ports accept now.
    left_behind: members that know nothing of it. withdrawn: machines whose invitations were open.
    answers: whether the new control node was heard as such.
    steps: what to do on the machines, in order, so that the node itself moves.
    restarts_by_itself: whether the agents do of that what they can.
    open_ports: of each machine whose ports to the internet are others than before, all of them.
    announces: whether the node tells the network where its workers are.
    """

    was: str
    now: str
    address: str
    revision: int
    left_behind: tuple[str, ...]
    withdrawn: tuple[str, ...]
    answers: bool
    steps: tuple[StepText, ...]
    restarts_by_itself: bool
    open_ports: tuple[MachinePorts, ...]
    announces: bool


def handover(state: State, name: str, *, wait_s: float, leave_behind: bool) -> HandoverResult:
    """Make that member the control node, and this machine a member like others.

    wait_s: how long to wait until all are ready. leave_behind: go on without those that are not.
    Raises BadInput or EnrolmentRefused where this machine stays the control node.
    """
    check_user("handover")
    here, withdrawn = _begin_handover(state, name)
    missing: tuple[str, ...] = ()
    with Registry(state.registry_file, user=find_invoking_user()) as registry:
        mesh = registry.inventory()
        if mesh.control != name:
            try:
                ensure_agent(state)
                agent_notify.notify_agent(state.directory, wait_s=agent_notify.PASS_ON_S)
                missing = _wait_for_members(registry, name, wait_s=wait_s, leave_behind=leave_behind)
                with state.lock():
                    mesh = registry.complete_handover(name, now=int(time.time()))
            except BaseException:
                _abort_handover(state, registry, name)
                raise
    log.info("the control role has passed to %s; waiting until it answers", name)
    for each in missing:
        log.warning(
            "%s was left behind: run `qmesh invite %s --replace` on %s, then `qmesh join` on %s",
            each,
            each,
            name,
            each,
        )
    agent_notify.notify_agent(state.directory, wait_s=agent_notify.PASS_ON_S)
    before = msgspec.structs.replace(mesh, control=here.settings.name, successor=None)
    return HandoverResult(
        was=here.settings.name,
        now=name,
        address=mesh.control_node.address,
        revision=mesh.revision,
        left_behind=missing,
        withdrawn=withdrawn,
        answers=_wait_for_member_role(state),
        steps=describe_steps(here.settings, list_handover_steps(before, mesh)),
        restarts_by_itself=mesh.restart,
        open_ports=list_changed_ports(before, mesh, list_listen_ports(here)),
        announces=mesh.p2p_base_port is not None,
    )


def _begin_handover(state: State, name: str) -> tuple[Local, tuple[str, ...]]:
    """Name the successor; this machine, and whose invitations were withdrawn."""
    with lock_member(state, "handover") as here:
        if not here.settings.up:
            raise BadInput(
                "the tunnel is down, so the members cannot be told of the handover",
                hint="run `qmesh apply` first",
            )
        with Registry(state.registry_file, user=find_invoking_user()) as registry:
            withdrawn = registry.begin_handover(name, now=int(time.time()))
    log_prover_pause(here.inventory)
    if lacks_stream_host(msgspec.structs.replace(here.inventory, control=name, successor=None)):
        log.warning(
            "no address of %s is known at which other nodes can ask it for data: when it is the control node,"
            " run `qmesh set %s --announce ADDRESS` there",
            *(name, name),
        )
    if withdrawn:
        log.warning("these invitations name this control node, and are withdrawn: %s", ", ".join(withdrawn))
    return here, withdrawn


def _wait_for_members(registry: Registry, name: str, *, wait_s: float, leave_behind: bool) -> tuple[str, ...]:
    """Wait until all are ready; who is left behind. Raises EnrolmentRefused."""
    until = time.monotonic() + wait_s
    said = ""
    while True:
        now = registry.check_readiness(name, now=int(time.time()))
        if now.holds and not now.missing:
            return ()
        if time.monotonic() > until:
            break
        waiting = _describe_missing(now, name)
        if waiting != said:
            log.info("waiting for %s", waiting)
        said = waiting
        time.sleep(_LOOK_S)
    if now.holds and leave_behind:
        return now.missing
    raise EnrolmentRefused(
        f"the control role stays here: after {wait_s:.0f} s still waiting for {_describe_missing(now, name)}",
        hint=f"check that qmesh runs there in the same version, and that UDP reaches {name} and comes back"
        if now.holds
        else f"check on {name}: `qmesh check` says that the agent runs and that no change waits for"
        " `qmesh confirm`, and `qmesh --version` says the same as here",
    )


def _describe_missing(now: Readiness, name: str) -> str:
    if not now.holds:
        return f"{name} to fetch the registry"
    more = len(now.missing) - _NAMED
    return ", ".join(now.missing[:_NAMED]) + (f" and {more} more" if more > 0 else "")


def _abort_handover(state: State, registry: Registry, name: str) -> None:
    """End the handover to that machine; not one to another, which another command may have begun since."""
    with state.lock():
        is_ended = registry.successor() == name and registry.end_handover(now=int(time.time()))
    if is_ended:
        agent_notify.notify_agent(state.directory, wait_s=agent_notify.PASS_ON_S)


def _wait_for_member_role(state: State) -> bool:
    """Wait until the agent has made this machine a member, which is when the new control node answers."""
    until = time.monotonic() + _ANSWERS_S
    while time.monotonic() < until:
        if not state.settings().control:
            return True
        time.sleep(_LOOK_S)
    return False


def cancel_handover(state: State) -> Inventory:
    """Cancel a handover that was begun. Raises BadInput where none is, or it is done."""
    check_user("handover")
    with (
        lock_member(state, "handover --cancel"),
        Registry(state.registry_file, user=find_invoking_user()) as registry,
    ):
        if registry.successor() == registry.inventory().control:
            raise BadInput(
                "nothing to cancel: that handover is done",
                hint="to move the role again, run `qmesh handover NAME` on the new control node",
            )
        if not registry.end_handover(now=int(time.time())):
            raise BadInput(
                "nothing to cancel: no handover is under way",
                hint="`qmesh status` shows the control node",
            )
        mesh = registry.inventory()
    agent_notify.notify_agent(state.directory, wait_s=agent_notify.PASS_ON_S)
    return mesh
