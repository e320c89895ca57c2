"""A drill of this machine: what its guard should be, and who else is there, fired at in a copy of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from qmesh.agent.converge import desired_and_observed_guard
from qmesh.agent.facts import gather_ports
from qmesh.agent.local import Local, with_tunnel_and_guard
from qmesh.errors import MachineRefused
from qmesh.host.drill.conduct import DrillOrder, conduct_drill
from qmesh.host.given_rules import GivenRules
from qmesh.host.linux import Linux
from qmesh.host.network import ports
from qmesh.mesh.drill.rows import DrillRow
from qmesh.mesh.drill.verdict import DrillReport, Tables, describe_counterexample, judge_rows
from qmesh.mesh.guard.render import render_table, render_unowned_table
from qmesh.mesh.state import Guard

Refute: TypeAlias = Callable[[Guard, GivenRules | None], tuple[tuple[DrillRow, ...], tuple[str, ...]]]
"""Rows of packets that get where none should under these rules, or the machine's; and what can't be fired."""


def drill_machine(
    here: Local,
    linux: Linux,
    *,
    ruleset: GivenRules | None = None,
    is_planned: bool = False,
    refute: Refute | None = None,
) -> DrillReport:
    """Fire at a copy of this machine; it is not changed.

    ruleset: rules in place of all that this machine has. is_planned: with the guard as `apply` would make it,
    in place of the one that is loaded. refute: what shows further packets. Raises MachineRefused where the
    copy can't be made, and BadInput where nft does not take the rules.
    """
    wanted, _ = desired_and_observed_guard(with_tunnel_and_guard(here), linux)
    guard = wanted.guard
    if not isinstance(guard, Guard):
        raise MachineRefused(
            f"{here.settings.name} has no guard to be drilled",
            hint="see what this machine should be with `qmesh plan`",
        )
    further, unfired = ((), ()) if refute is None else refute(guard, ruleset)
    scripts: dict[Tables, str] = {"first": render_table(guard), "held": render_unowned_table(guard)}
    order = DrillOrder(
        guard=guard,
        member=_find_member(here),
        listened=_list_open_ports(here, linux, guard),
        scripts=scripts if is_planned else None,
        ruleset=ruleset,
        further=further,
    )
    result = conduct_drill(order)
    return judge_rows(
        here.settings.name,
        guard.role,
        result.fired,
        closed=frozenset(guard.closed_ports),
        unknown=[*result.unknown, *unfired],
        counting=result.counting,
        stand_ins=result.stand_ins,
    )


def _find_member(here: Local) -> str | None:
    """The tunnel address of a member that is neither this machine nor the control node."""
    inventory = here.inventory
    others = {here.settings.name, inventory.control}
    return next(
        (each.address for each in inventory.machines if each.state == "active" and each.name not in others),
        None,
    )


def _list_open_ports(here: Local, linux: Linux, guard: Guard) -> tuple[int, ...]:
    """At which programs of this machine listen, and that the guard leaves alone: SSH's first."""
    of_mesh = {*guard.closed_ports, guard.service_port, guard.stream_port}
    found = [*sorted(gather_ports(here, linux).of_ssh), *(port for _, port in ports.list_listeners())]
    return tuple(dict.fromkeys(port for port in found if port not in of_mesh))


def refuse_failed_drill(here: Local, linux: Linux) -> tuple[str, ...]:
    """Raise MachineRefused where somebody would get through the guard that is about to be loaded.

    Returns what is not known.
    """
    report = drill_machine(here, linux, is_planned=True)
    if report.passed is False:
        found = describe_counterexample(report.counterexamples[0])
        raise MachineRefused(
            f"the drill failed, and nothing was changed: {found}",
            hint="see all of it with `qmesh drill`; without `--drill` the change is made all the same",
        )
    return report.unknown
