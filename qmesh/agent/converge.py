"""Gather facts, decide, plan, apply, and look again: once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import msgspec

from qmesh.agent.facts import gather_facts, gather_guard_facts, observe_again, with_path_mtus
from qmesh.agent.local import Local
from qmesh.errors import KernelRefused, MachineRefused, QmeshError
from qmesh.host.linux import Linux, Outline
from qmesh.host.log.events import report_event
from qmesh.mesh.desired import Facts
from qmesh.mesh.plan.compare import plan_steps
from qmesh.mesh.plan.steps import LoadGuard, ReservePorts, Step
from qmesh.mesh.state import NodeState


def desired_and_observed(here: Local, linux: Linux) -> tuple[NodeState, NodeState]:
    """What this machine should be, and what it is."""
    facts = gather_facts(here, linux, follow_roaming=False)
    return here.build_desired_state(facts), facts.observed


def desired_and_observed_guard(here: Local, linux: Linux) -> tuple[NodeState, NodeState]:
    """The same without a look at the tunnel: neither state names the right one."""
    observed = linux.observe_guard()
    seen = observed.loaded_guard
    try:
        kind = linux.backend.kind
    except MachineRefused:  # it is not known what the tunnel is, and that is no reason not to see the guard
        kind = "tun" if seen is None else seen.kind
    return here.build_desired_state(gather_guard_facts(here, linux, observed, kind=kind)), observed


def plan_local_steps(here: Local, linux: Linux, *, follow_roaming: bool = False) -> tuple[Step, ...]:
    """The steps that this machine needs to be as desired."""
    return _plan_steps(here, gather_facts(here, linux, follow_roaming=follow_roaming))


def plan_steps_without_dns(here: Local, linux: Linux) -> tuple[Step, ...]:
    """The same, endpoints left aside: it looks up no name, so that nothing waits for DNS."""
    facts = gather_guard_facts(here, linux, linux.observe())
    return _plan_steps(here, with_path_mtus(here, linux, facts))


def _plan_steps(here: Local, facts: Facts) -> tuple[Step, ...]:
    return plan_steps(here.build_desired_state(facts), facts.observed)


def converge(
    here: Local, linux: Linux, *, follow_roaming: bool = False, outline: Outline | None = None
) -> tuple[Step, ...]:
    """Take the steps that this machine needs, see that it is as desired, and return them.

    The guard's go first: they wait for nothing but this machine.
    follow_roaming: as `gather_facts` has it; outline: as `Linux.observe_with_counters` has it.
    Raises MachineRefused when a step is refused, or when the machine is not as desired afterwards.
    """
    outline = outline or linux.observe_outline()
    facts = gather_guard_facts(here, linux, outline.node_state)
    steps = apply_steps(linux, _plan_guard_steps(here, facts))
    facts = gather_facts(
        here, linux, follow_roaming=follow_roaming, outline=None if steps else outline, guard_facts=facts
    )
    steps += apply_steps(linux, _plan_steps(here, facts))
    if steps:
        left = _plan_steps(here, observe_again(here, linux, facts, follow_roaming=follow_roaming))
        left = _drop_refused_step(linux, left)
        if left:
            raise KernelRefused(
                f"all steps were taken, but the machine is still not as desired: {left[0].kind}"
                f" {left[0].subject}",
                hint="run `qmesh check`; another program may be changing this interface or table",
            )
    return steps


def _plan_guard_steps(here: Local, facts: Facts) -> tuple[Step, ...]:
    """The steps that close; what opens comes last, by the whole plan."""
    guarded = msgspec.structs.replace(here, settings=msgspec.structs.replace(here.settings, up=False))
    steps = _plan_steps(guarded, facts)
    return tuple(step for step in steps if isinstance(step, LoadGuard | ReservePorts))


def apply_steps(linux: Linux, steps: tuple[Step, ...]) -> tuple[Step, ...]:
    """Take steps in order; returns those taken. Raises MachineRefused at the first that is refused.

    Ports that cannot be reserved are left: see `Linux.refusal`.
    """
    linux.apply(*steps)
    return _drop_refused_step(linux, steps)


def _drop_refused_step(linux: Linux, steps: tuple[Step, ...]) -> tuple[Step, ...]:
    if linux.refusal is None:
        return steps
    return tuple(step for step in steps if not isinstance(step, ReservePorts))


def warn_of_refusal(linux: Linux) -> None:
    """Say that ports could not be reserved, where that is so, and what to do."""
    if linux.refusal is not None:
        refusal = linux.refusal
        report_event("ports-not-reserved", "%s; all else is done (hint: %s)", refusal.message, refusal.hint)


def apply_state(linux: Linux, wanted: NodeState) -> None:
    """Take the machine to a state that is not (yet) its mesh's."""
    apply_steps(linux, plan_steps(wanted, linux.observe()))


@contextlib.contextmanager
def revert_on_failure(linux: Linux, *, back_to: NodeState) -> Iterator[None]:
    """When the block fails or is interrupted, the machine is put back to the state `back_to`."""
    try:
        yield
    except BaseException:
        report_event("restore-begun", "restoring what this machine had before ...")
        try:
            apply_state(linux, back_to)
            if back_to.guard is None:
                linux.remove_partial_guard()
        except QmeshError as error:
            report_event("restore-failed", "that failed too: %s (hint: %s)", error.message, error.hint)
        raise
