"""Observe, plan, apply, observe: once."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from qmesh.agent.local import Here, desired_here, endpoints_wanted, roamed, stale
from qmesh.errors import KernelRefused, MachineRefused, QmeshError
from qmesh.host.linux import Linux, Outline
from qmesh.host.network import path_mtu
from qmesh.mesh.model import TUNNEL_MTU, Endpoint, Guard, InterfaceKind, NodeState
from qmesh.mesh.plan import LoadGuard, ReservePorts, Step, plan
from qmesh.mesh.reaching import tunnel_mtu

log = logging.getLogger("qmesh")


def wanted_and_observed(
    here: Here, linux: Linux, *, follow_roaming: bool = False, outline: Outline | None = None
) -> tuple[NodeState, NodeState]:
    """What this machine should be, and what it is.

    follow_roaming: leave the endpoints of peers alone that shook hands a moment ago. The control
        node always does: where a worker machine says that it is reached is a hint, its packets are proof.
        Other machines first see whether the control node answers.
    outline: as `Linux.look` has it.
    """
    observed, counters = linux.look(outline)
    endpoints = endpoints_wanted(here, observed, stale(counters) if here.settings.control else frozenset())
    if observed.tunnel is not None:
        seen = roamed(here, counters)
        moved = {name: seen[name] for name in endpoints if name in seen and seen[name] != endpoints[name]}
        if moved and (follow_roaming or here.settings.control or _answers(here)):
            endpoints |= moved
    return _closing_on(here, linux, endpoints, observed), observed


def guard_wanted_and_observed(here: Here, linux: Linux) -> tuple[NodeState, NodeState]:
    """The same without a look at the tunnel: neither state names the right one."""
    observed = linux.observe_guard()
    seen = observed.loaded_guard
    try:
        kind = linux.backend.kind
    except MachineRefused:  # it is not known what the tunnel is, and that is no reason not to see the guard
        kind = "tun" if seen is None else seen.kind
    return _closing_on(here, linux, {}, observed, kind), observed


def _answers(here: Here) -> bool:
    """Whether the control node is where WireGuard sends to now: it may be behind NAT, and have called us."""
    return path_mtu.echo_time(here.inventory.control_node.address, 100, wait_s=1.0, tries=1) is not None


def _mtu(here: Here, endpoints: Mapping[str, Endpoint], observed: NodeState, directory: Path) -> int:
    """The tunnel's, by the paths to all peers. Worker machines probe theirs; the control node has many."""
    if not here.settings.up:
        return TUNNEL_MTU
    known = {here.inventory.machine(name).public_key for name in endpoints}
    peers = observed.tunnel.peers if observed.tunnel else ()
    where = [peer.endpoint for peer in peers if peer.endpoint is not None and peer.public_key not in known]
    is_member = here.machine not in here.inventory.hubs
    found = path_mtu.mtus((*endpoints.values(), *where), probe=is_member, directory=directory)
    return tunnel_mtu(found, most=here.settings.mtu)


def _closing_on(
    here: Here,
    linux: Linux,
    endpoints: Mapping[str, Endpoint],
    observed: NodeState,
    kind: InterfaceKind | None = None,
) -> NodeState:
    """What this machine should be, and closed too what qmesh closed before and somebody listens on still.

    A worker that was renumbered, paused or taken out goes on at its old port until it is restarted.
    """
    mtu = _mtu(here, endpoints, observed, linux.directory)
    wanted = desired_here(here, kind or linux.backend.kind, endpoints, mtu=mtu)
    if not isinstance(wanted.guard, Guard):
        return wanted
    closed = linux.still_listened(wanted.guard.ports).union(wanted.guard.ports)
    guard = msgspec.structs.replace(wanted.guard, ports=tuple(sorted(closed)))
    return msgspec.structs.replace(wanted, guard=guard)


def steps_for(
    here: Here, linux: Linux, *, follow_roaming: bool = False, outline: Outline | None = None
) -> tuple[Step, ...]:
    """The steps that this machine needs to be as desired."""
    return plan(*wanted_and_observed(here, linux, follow_roaming=follow_roaming, outline=outline))


def steps_without_names(here: Here, linux: Linux) -> tuple[Step, ...]:
    """The same, endpoints left aside: it looks up no name, so that nothing waits for DNS."""
    observed = linux.observe()
    return plan(_closing_on(here, linux, {}, observed), observed)


def converge(
    here: Here, linux: Linux, *, follow_roaming: bool = False, outline: Outline | None = None
) -> tuple[Step, ...]:
    """Take the steps that this machine needs, see that it is as desired, and return them.

    outline: as `Linux.look` has it.
    Raises MachineRefused when a step is refused, or when the machine is not as desired afterwards.
    """
    outline = outline or linux.outline()
    closed = _close(here, linux, outline.guarded)
    wanted = steps_for(here, linux, follow_roaming=follow_roaming, outline=None if closed else outline)
    steps = closed + take(linux, wanted)
    if steps:
        left = steps_for(here, linux, follow_roaming=follow_roaming)
        if left:
            raise KernelRefused(
                f"after all steps the machine is not as desired: {left[0].kind} {left[0].subject}",
                hint="does another program manage this interface or table? run `qmesh check`",
            )
    return steps


def _close(here: Here, linux: Linux, observed: NodeState) -> tuple[Step, ...]:
    """Take the guard's steps alone: they do not wait for DNS."""
    wanted = msgspec.structs.replace(_closing_on(here, linux, {}, observed), tunnel=None)
    steps = plan(wanted, observed)
    return take(linux, tuple(step for step in steps if isinstance(step, LoadGuard | ReservePorts)))


def take(linux: Linux, steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """Take steps in order; returns them. Raises MachineRefused at the first that is refused."""
    linux.apply(*steps)
    for step in steps:
        log.debug("%s %s: %s", step.kind, step.subject, step.detail)
    return steps


def reach(linux: Linux, wanted: NodeState) -> None:
    """Take the machine to a state that is not (yet) its mesh's."""
    take(linux, plan(wanted, linux.observe()))


@contextlib.contextmanager
def undone_on_failure(linux: Linux, *, back_to: NodeState) -> Iterator[None]:
    """When the block fails or is interrupted, the machine is put back to the state `back_to`."""
    try:
        yield
    except BaseException:
        log.info("putting this machine back as it was ...")
        try:
            reach(linux, back_to)
            if back_to.guard is None:
                linux.forget_guard()
        except QmeshError as error:
            log.error("that failed as well: %s (hint: %s)", error.message, error.hint)  # noqa: TRY400
        raise
