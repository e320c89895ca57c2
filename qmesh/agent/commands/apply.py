"""`apply`: make this machine as desired; with `--confirm` until no confirmation comes in time."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import TypeAlias

import msgspec

from qmesh.agent.agent_start import ensure_agent
from qmesh.agent.bring_up import enable_tunnel_and_guard
from qmesh.agent.control_endpoint import use_endpoint
from qmesh.agent.converge import converge, plan_local_steps, plan_steps_without_dns, warn_of_refusal
from qmesh.agent.facts import find_closed_ports
from qmesh.agent.local import Local, linux_for, list_control_endpoints, load_local, with_tunnel_and_guard
from qmesh.agent.node.node_restarts import update_managed_config
from qmesh.agent.preconditions import check_user, lock_member
from qmesh.agent.rollback import arm_rollback, rearm_rollback
from qmesh.agent.ssh_lockout import refuse_ssh_lockout, warn_of_ssh_lockout
from qmesh.errors import BadInput, KernelRefused, QmeshError
from qmesh.host.linux import Linux
from qmesh.host.state.directory import State
from qmesh.mesh.mtu import parse_mtu
from qmesh.mesh.plan.steps import Step
from qmesh.mesh.rollback import validate_confirm_timeout
from qmesh.mesh.values import DEFAULT_LISTEN_PORT, Endpoint

log = logging.getLogger("qmesh")


Examination: TypeAlias = Callable[[Local, Linux], None]
"""Looks at what is about to be done, and raises where it is refused."""


def apply(
    state: State,
    *,
    mtu: str | None = None,
    control_endpoint: str | None = None,
    examine: Examination | None = None,
) -> tuple[Step, ...]:
    """Take the steps, guard first, and see that the agent runs; also ends what `down` began.

    mtu: most octets of a packet in the tunnel from now on; `auto` leaves it to the path again.
    control_endpoint: HOST[:PORT] at which a worker machine reaches the control node from now on.
    examine: before anything is changed.
    Returns the steps that were taken. Raises BadInput, with nothing changed, while another change
    waits to be confirmed, and where the steps would cut the SSH session that this is run from;
    EnrolmentRefused where the control node does not answer at the endpoint; KernelRefused, with all else
    done, where ports cannot be reserved.
    """
    check_user("apply")
    with lock_member(state, "apply") as remembered:
        here = remembered
        way = None if control_endpoint is None else _parse_control_endpoint(here, control_endpoint)
        if way is not None and here.settings.control:
            raise BadInput(
                f"{here.settings.name} is the control node",
                hint=f"to set where others reach it, run `qmesh set {here.settings.name} --endpoint {way}`",
            )
        if mtu is not None:
            settings = msgspec.structs.replace(here.settings, mtu=parse_mtu(mtu, here.inventory.network))
            here = msgspec.structs.replace(here, settings=settings)
        linux = linux_for(state, here.settings)
        refuse_ssh_lockout(linux, plan_steps_without_dns(with_tunnel_and_guard(here), linux))
        if examine is not None:
            examine(here, linux)
        if mtu is not None:
            state.save_settings(here.settings)
        here = enable_tunnel_and_guard(state, here)
        steps = converge(here, linux)
        if way is not None:
            use_endpoint(state, here, linux, way)
    ensure_agent(state)
    try:
        update_managed_config(state, load_local(state))
    except QmeshError as error:
        log.warning("config.yml stays as it is: %s (hint: %s)", error.message, error.hint)
    if linux.refusal is not None:
        message = f"{linux.refusal.message}; all other steps were taken"
        raise KernelRefused(message, hint=linux.refusal.hint)
    return steps


def _parse_control_endpoint(here: Local, text: str) -> Endpoint:
    """Without a port it is that of the best endpoint known so far."""
    known = list_control_endpoints(here)
    return Endpoint.parse(text, default_port=known[0].port if known else DEFAULT_LISTEN_PORT)


class TrialResult(msgspec.Struct, frozen=True):
    """What `apply --confirm` did. undone_in_s: None where there was nothing to do, and so to undo.

    opens: the worker ports that are open to everyone once it is undone. opens_others: the other closed ones.
    """

    steps: tuple[Step, ...]
    undone_in_s: int | None
    opens: tuple[int, ...] = ()
    opens_others: tuple[int, ...] = ()


def apply_with_rollback(state: State, *, seconds: int, examine: Examination | None = None) -> TrialResult:
    """As `apply`, but have all undone in that time unless `confirm` comes. Says so where it is cut off.

    Raises BadInput before anything is changed.
    """
    check_user("apply")
    validate_confirm_timeout(seconds)
    with lock_member(state, "apply --confirm") as here:
        linux = linux_for(state, here.settings)
        if examine is not None:
            examine(here, linux)
        steps = plan_steps_without_dns(with_tunnel_and_guard(here), linux) or plan_local_steps(
            with_tunnel_and_guard(here), linux
        )
        waiting = state.rollback_record.read()
        if not steps and (waiting is None or waiting.undone):
            enable_tunnel_and_guard(state, here)
            tried = TrialResult((), None)
        else:
            warn_of_ssh_lockout(linux, steps)
            undoing = arm_rollback(state, here, linux, seconds=seconds)
            with _warn_if_interrupted(seconds):
                steps = converge(enable_tunnel_and_guard(state, here, keep_undoing=True), linux)
            rearm_rollback(state, seconds=seconds)
            warn_of_refusal(linux)
            tried = TrialResult(steps, seconds)
            if undoing.before.guard.script is None:
                closed = find_closed_ports(with_tunnel_and_guard(here), linux)
                tried = TrialResult(steps, seconds, closed.workers, closed.guarded_ports)
    with _warn_if_interrupted(seconds) if tried.undone_in_s is not None else contextlib.nullcontext():
        ensure_agent(state)
    return tried


@contextlib.contextmanager
def _warn_if_interrupted(seconds: int) -> Iterator[None]:
    try:
        yield
    except BaseException:
        log.warning(
            "interrupted: the change is rolled back within %d s, unless you run `qmesh confirm`", seconds
        )
        log.warning("to roll it back now, run `qmesh undo --now`")
        raise
