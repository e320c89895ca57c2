"""What the commands that change the mesh answer, in words."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final

from qmesh.agent.mesh_change import ChangeResult
from qmesh.cli.core_text import describe_cores
from qmesh.cli.output import print_outcome
from qmesh.cli.port_text import describe_machine_ports
from qmesh.mesh.changes import RenumberedMachine
from qmesh.mesh.machine import Cores
from qmesh.mesh.reachability.open_ports import MachinePorts
from qmesh.mesh.systemd.change_steps import StepText

log = logging.getLogger("qmesh")


_BY_HAND: Final = "Then do this, in this order:"
_BY_AGENTS: Final = (
    "Their agents do this, where systemd runs the node's units and config.yml has the mesh's list; elsewhere,"
    " and where it says so, do it yourself, in this order:"
)


def print_change(changed: ChangeResult, *, as_json: bool, done: str) -> None:
    """Print what was done, which machines have other cores and ports to the internet, and what to do."""
    facts = {
        name: getattr(changed, name) for name in ("revision", "renumbered", "restart", "steps", "open_ports")
    }
    head = done if changed.is_another else "nothing to do, the mesh is like that already"
    lines = [f"{head}: revision {changed.revision}", *map(_render_renumbering, changed.renumbered)]
    print_outcome(facts, as_json=as_json, text=lambda _: "\n".join(lines))
    log_open_ports(changed.open_ports, announces=changed.announces)
    log_steps(changed.steps, restarts_by_itself=changed.restarts_by_itself)


def log_open_ports(machines: Sequence[MachinePorts], *, announces: bool) -> None:
    """Say which ports of these machines have to be open to the internet; nothing where there are none."""
    if machines:
        log.info("ports to be open to the internet, at the provider too:")
    for each in machines:
        log.info("  %s", describe_machine_ports(each, announces=announces))


def log_steps(steps: Sequence[StepText], *, restarts_by_itself: bool) -> None:
    """Say what to do on the machines, in order; nothing where there is no step."""
    if not steps:
        return
    log.info("the members know of it in a second or so. %s", _BY_AGENTS if restarts_by_itself else _BY_HAND)
    for step in steps:
        why = f" ({step.by_hand})" if restarts_by_itself and step.by_hand else ""
        log.info("  on %s%s: %s", step.machine, why, step.do)
        if step.without_systemd:
            log.info("    without systemd there: %s", step.without_systemd)


def _render_renumbering(each: RenumberedMachine) -> str:
    return f"  {each.machine}: {_render_cores(each.was)} -> {_render_cores(each.now)}"


def _render_cores(cores: Cores | None) -> str:
    return "no cores" if cores is None else describe_cores(cores.first, cores.count)
