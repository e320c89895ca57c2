"""Observe, plan, apply, observe: once."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from qmesh.agent.local import (
    Local,
    build_local_desired_state,
    choose_peer_endpoints,
    find_roamed_endpoints,
    find_stale_keys,
)
from qmesh.errors import KernelRefused, MachineRefused, QmeshError
from qmesh.host.linux import Linux, Outline
from qmesh.host.network import path_mtu
from qmesh.mesh.mtu import compute_tunnel_mtu
from qmesh.mesh.plan import LoadGuard, ReservePorts, Step, plan_steps
from qmesh.mesh.state import Guard, NodeState
from qmesh.mesh.values import TUNNEL_MTU, Endpoint, InterfaceKind

log = logging.getLogger("qmesh")


def desired_and_observed(
    here: Local, linux: Linux, *, follow_roaming: bool = False, outline: Outline | None = None
) -> tuple[NodeState, NodeState]:
    """What this machine should be, and what it is.

    follow_roaming: leave the endpoints of peers alone that shook hands a moment ago. The control
        node always does: where a worker machine says that it is reached is a hint, its packets are proof.
        Other machines first see whether the control node answers.
    outline: as `Linux.observe_with_counters` has it.
    """
    observed, counters = linux.observe_with_counters(outline)
    endpoints = choose_peer_endpoints(
        here, observed, find_stale_keys(counters) if here.settings.control else frozenset()
    )
    if observed.tunnel is not None:
        seen = find_roamed_endpoints(here, counters)
        moved = {name: seen[name] for name in endpoints if name in seen and seen[name] != endpoints[name]}
        if moved and (follow_roaming or here.settings.control or _can_reach_control(here)):
            endpoints |= moved
    return _desired_with_used_ports(here, linux, endpoints, observed), observed


def desired_and_observed_guard(here: Local, linux: Linux) -> tuple[NodeState, NodeState]:
    """The same without a look at the tunnel: neither state names the right one."""
    observed = linux.observe_guard()
    seen = observed.loaded_guard
    try:
        kind = linux.backend.kind
    except MachineRefused:  # it is not known what the tunnel is, and that is no reason not to see the guard
        kind = "tun" if seen is None else seen.kind
    return _desired_with_used_ports(here, linux, {}, observed, kind), observed


def _can_reach_control(here: Local) -> bool:
    """Whether the control node is where WireGuard sends to now: it may be behind NAT, and have called us."""
    return (
        path_mtu.measure_echo_time(here.inventory.control_node.address, 100, wait_s=1.0, tries=1) is not None
    )


def _choose_tunnel_mtu(
    here: Local, endpoints: Mapping[str, Endpoint], observed: NodeState, directory: Path
) -> int:
    """The tunnel's, by the paths to all peers. Worker machines probe theirs; the control node has many."""
    if not here.settings.up:
        return TUNNEL_MTU
    known = {here.inventory.machine(name).public_key for name in endpoints}
    peers = observed.tunnel.peers if observed.tunnel else ()
    where = [peer.endpoint for peer in peers if peer.endpoint is not None and peer.public_key not in known]
    is_member = here.machine not in here.inventory.hubs
    found = path_mtu.find_path_mtus((*endpoints.values(), *where), probe=is_member, directory=directory)
    return compute_tunnel_mtu(found, most=here.settings.mtu)


def _desired_with_used_ports(
    here: Local,
    linux: Linux,
    endpoints: Mapping[str, Endpoint],
    observed: NodeState,
    kind: InterfaceKind | None = None,
) -> NodeState:
    """What this machine should be, and closed too what qmesh closed before and somebody listens on still.

    A worker that was renumbered, paused or taken out goes on at its old port until it is restarted.
    """
    mtu = _choose_tunnel_mtu(here, endpoints, observed, linux.directory)
    wanted = build_local_desired_state(here, kind or linux.backend.kind, endpoints, mtu=mtu)
    if not isinstance(wanted.guard, Guard):
        return wanted
    closed = linux.list_listened_ports(wanted.guard.ports).union(wanted.guard.ports)
    guard = msgspec.structs.replace(wanted.guard, ports=tuple(sorted(closed)))
    return msgspec.structs.replace(wanted, guard=guard)


def plan_local_steps(
    here: Local, linux: Linux, *, follow_roaming: bool = False, outline: Outline | None = None
) -> tuple[Step, ...]:
    """The steps that this machine needs to be as desired."""
    return plan_steps(*desired_and_observed(here, linux, follow_roaming=follow_roaming, outline=outline))


def plan_steps_without_dns(here: Local, linux: Linux) -> tuple[Step, ...]:
    """The same, endpoints left aside: it looks up no name, so that nothing waits for DNS."""
    observed = linux.observe()
    return plan_steps(_desired_with_used_ports(here, linux, {}, observed), observed)


def converge(
    here: Local, linux: Linux, *, follow_roaming: bool = False, outline: Outline | None = None
) -> tuple[Step, ...]:
    """Take the steps that this machine needs, see that it is as desired, and return them.

    outline: as `Linux.observe_with_counters` has it.
    Raises MachineRefused when a step is refused, or when the machine is not as desired afterwards.
    """
    outline = outline or linux.observe_outline()
    closed = _apply_guard_steps(here, linux, outline.node_state)
    wanted = plan_local_steps(here, linux, follow_roaming=follow_roaming, outline=None if closed else outline)
    steps = closed + apply_steps(linux, wanted)
    if steps:
        left = plan_local_steps(here, linux, follow_roaming=follow_roaming)
        if left:
            raise KernelRefused(
                f"all steps were taken, but the machine is still not as desired: {left[0].kind}"
                f" {left[0].subject}",
                hint="run `qmesh check`; another program may be changing this interface or table",
            )
    return steps


def _apply_guard_steps(here: Local, linux: Linux, observed: NodeState) -> tuple[Step, ...]:
    """Take the guard's steps alone: they do not wait for DNS."""
    wanted = msgspec.structs.replace(_desired_with_used_ports(here, linux, {}, observed), tunnel=None)
    steps = plan_steps(wanted, observed)
    return apply_steps(linux, tuple(step for step in steps if isinstance(step, LoadGuard | ReservePorts)))


def apply_steps(linux: Linux, steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """Take steps in order; returns them. Raises MachineRefused at the first that is refused."""
    linux.apply(*steps)
    for step in steps:
        log.debug("%s %s: %s", step.kind, step.subject, step.detail)
    return steps


def apply_state(linux: Linux, wanted: NodeState) -> None:
    """Take the machine to a state that is not (yet) its mesh's."""
    apply_steps(linux, plan_steps(wanted, linux.observe()))


@contextlib.contextmanager
def revert_on_failure(linux: Linux, *, back_to: NodeState) -> Iterator[None]:
    """When the block fails or is interrupted, the machine is put back to the state `back_to`."""
    try:
        yield
    except BaseException:
        log.info("restoring what this machine had before ...")
        try:
            apply_state(linux, back_to)
            if back_to.guard is None:
                linux.remove_partial_guard()
        except QmeshError as error:
            log.error("that failed too: %s (hint: %s)", error.message, error.hint)  # noqa: TRY400
        raise
