"""What a change of the mesh asks for on its machines: steps, in order, that are enough.

A worker reads its own entries when it starts, the control process the whole list. A machine that loses cores
to another one stops its workers first, so that no core runs twice. Then workers and control process follow,
in the order that the node's version needs: see `CONTROL_FIRST`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Literal

import msgspec

from qmesh.mesh.inventory import Inventory
from qmesh.mesh.nodeconfig import build_desired_settings
from qmesh.mesh.systemd.instructions import (
    NodeHost,
    Verb,
    describe_control_action,
    describe_units_update,
    describe_workers_action,
)
from qmesh.mesh.systemd.node_restarts import workers_to_restart
from qmesh.mesh.values import CONTROL_FIRST, Profile

RENDER: Final = "qmesh render-config --write"
PROGRAM: Final = "PROGRAM"
"""Stands for the path of the node's new program."""


class NodeStep(msgspec.Struct, frozen=True, kw_only=True):
    """What to do on one machine, in the order of the fields.

    stop: the cores of workers to stop: all that the machine has.
    leaves: whether it is no longer in the mesh: its workers are not started at boot either.
    may_be_off: whether it may be off or out of reach.
    renders: whether its config.yml is written.
    units: whether its units are written again. program: the node's version that is new; None where it stays.
    control: whether something is done with its control process, and when: before its workers are started, or
        after. control_verb: what.
    copies_to: the machine to which it copies the node's directory.
    receives: whether it has another directory of the node's, which it is to remember.
    start: the cores of workers to start: all that it has then. do_run: whether they run, and are restarted.
    """

    machine: str
    stop: tuple[int, ...] = ()
    leaves: bool = False
    may_be_off: bool = False
    renders: bool = True
    units: bool = False
    program: Profile | None = None
    control: Literal["no", "first", "last"] = "no"
    control_verb: Verb = "restart"
    copies_to: str | None = None
    receives: bool = False
    start: tuple[int, ...] = ()
    do_run: bool = False


class StepText(msgspec.Struct, frozen=True):
    """A step in words.

    do: what to type or to do.
    without_systemd: the same where systemd does not run the node; empty where that is no question.
    by_hand: why no agent does it, also where agents may restart processes; empty where one does.
    """

    machine: str
    do: str
    without_systemd: str = ""
    by_hand: str = ""


def list_change_steps(before: Inventory, after: Inventory) -> tuple[NodeStep, ...]:
    """The steps that make the node's processes follow, in their order; none where nothing has to."""
    names = tuple(dict.fromkeys((*before.cores, *after.cores)))
    old = {name: set(before.core_numbers(name)) for name in names}
    new = {name: set(after.core_numbers(name)) for name in names}
    begun = {core for name in names for core in new[name] - old[name]}
    program = after.node if after.node != before.node else None
    first: list[NodeStep] = []
    workers: list[NodeStep] = []
    for name in names:
        lost = old[name] - new[name]
        if not new[name]:
            first.append(_build_last_step(name, before, after))
            continue
        if not (lost or _list_changed_cores(before, after, name)):
            continue
        had, has = tuple(sorted(old[name])), tuple(sorted(new[name]))
        step = NodeStep(
            machine=name, stop=() if had == has else had, program=program, start=has, do_run=had == has
        )
        if lost & begun:
            first.append(NodeStep(machine=name, stop=had, renders=False))
            step = msgspec.structs.replace(step, stop=())
        workers.append(step)
    if build_desired_settings(before, before.control) != build_desired_settings(after, after.control):
        workers = _add_control(workers, after, program)
    return (*first, *workers)


def list_handover_steps(before: Inventory, after: Inventory) -> tuple[NodeStep, ...]:
    """The steps that move the node itself after the control role has passed, in their order.

    The control process that was runs no longer when the other one starts: they have one identity.
    """
    was, now = before.control, after.control
    order: Literal["first", "last"] = "first" if after.node in CONTROL_FIRST else "last"
    leaves = NodeStep(machine=was, renders=False, control="last", control_verb="disable --now", copies_to=now)
    takes = NodeStep(
        machine=now,
        receives=True,
        units=True,
        control=order,
        control_verb="enable --now",
        start=tuple(after.core_numbers(now)),
        do_run=True,
    )
    others = [
        NodeStep(machine=name, start=tuple(after.core_numbers(name)), do_run=True)
        for name in after.cores
        if name != now and workers_to_restart(before, after, name)
    ]
    return (leaves, takes, *others) if order == "first" else (leaves, *others, takes)


def _build_last_step(name: str, before: Inventory, after: Inventory) -> NodeStep:
    """The step of a machine that has no cores any more."""
    leaves = name not in {machine.name for machine in after.machines}
    stop = tuple(before.core_numbers(name))
    return NodeStep(machine=name, stop=stop, leaves=leaves, renders=not leaves, may_be_off=True)


def _list_changed_cores(before: Inventory, after: Inventory, name: str) -> tuple[int, ...]:
    if not before.core_numbers(name):
        return tuple(after.core_numbers(name))
    return workers_to_restart(before, after, name)


def _add_control(workers: list[NodeStep], after: Inventory, program: Profile | None) -> list[NodeStep]:
    """The steps with the control process's, which is one with that of its machine's workers."""
    order: Literal["first", "last"] = "first" if after.node in CONTROL_FIRST else "last"
    own = next((step for step in workers if step.machine == after.control), None)
    step = msgspec.structs.replace(own or NodeStep(machine=after.control, program=program), control=order)
    others = [each for each in workers if each is not own]
    return [step, *others] if order == "first" else [*others, step]


def describe_step(step: NodeStep, host: NodeHost, *, units: str) -> StepText:
    """The step in words for its machine. units: the directory of systemd's units."""
    plain = _join_actions(step, NodeHost(has_units=False, directory=host.directory), units)
    by_hand = _explain_by_hand(step)
    if not host.has_units:
        return StepText(step.machine, plain, "", by_hand)
    commands = _join_actions(step, NodeHost(has_units=True), units)
    return StepText(step.machine, commands, plain if host.is_other else "", by_hand)


def _join_actions(step: NodeStep, host: NodeHost, units: str) -> str:
    between = " && " if host.has_units else ", then "
    notes = "".join(f" ({note})" for note in _list_notes(step, host))
    return between.join(_list_actions(step, host, units)) + notes


def _list_notes(step: NodeStep, host: NodeHost) -> Iterator[str]:
    if step.program is not None and host.has_units:
        yield f"{PROGRAM}: the path of the program of node {step.program}"
    if step.copies_to is not None:
        yield f"then copy the node's directory, with config.yml, keys.yml and the store, to {step.copies_to}"
    if step.receives:
        yield "DIR: the directory that was copied"
    if step.may_be_off:
        yield "if it is off: when it runs again"


def _list_actions(step: NodeStep, host: NodeHost, units: str) -> Iterator[str]:
    """One after the other: commands where systemd runs the node, else words."""
    if step.leaves:
        yield describe_workers_action(
            "disable --now" if host.has_units else "stop", step.stop, host, are_all=True
        )
    elif step.stop:
        yield describe_workers_action("stop", step.stop, host, are_all=True)
    if step.renders:
        render = RENDER + (" --config DIR" if step.receives else "")
        yield render if host.has_units else f"run `{render}`"
    if host.has_units and (step.units or step.program is not None):
        yield describe_units_update(units, None if step.program is None else PROGRAM)
    elif step.program is not None:
        yield f"put the program of node {step.program} in place"
    if step.control == "first":
        yield describe_control_action(step.control_verb, host)
    if step.start:
        # Of a unit that does not run, systemd makes a start of a restart.
        verb: Verb = "restart" if step.do_run or host.has_units else "start"
        yield describe_workers_action(verb, step.start, host, are_all=True)
    if step.control == "last":
        yield describe_control_action(step.control_verb, host)


def _explain_by_hand(step: NodeStep) -> str:
    if step.leaves or step.control_verb != "restart":
        return "no agent does this"
    if step.program is not None:
        return f"no agent does this: it needs the program of node {step.program}"
    if step.start and not step.do_run and not step.stop:
        return "no agent starts workers that were stopped by hand"
    return ""
