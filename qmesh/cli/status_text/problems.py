"""What is wrong with a mesh, in a line each, with what fixes it; and which machines have something of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from qmesh.agent.commands.status import (
    ForeignStatus,
    MachineStatus,
    OtherKeysStatus,
    SilentAgent,
    Status,
)
from qmesh.cli.screen.spans import Style
from qmesh.cli.status_text.figures import format_duration
from qmesh.mesh.node_processes.silence import SILENCE_WORDS
from qmesh.mesh.ports.port_ranges import format_port_ranges
from qmesh.mesh.values import name_cores

UNHEARD_S: Final = 180.0
"""Seconds after which a handshake is too old for packets to pass: WireGuard's own limit."""


def list_problems(facts: Status) -> tuple[str, ...]:
    """The lines, each with a word and a colon before it; those of the node's processes first."""
    return (
        *_render_control_process(facts),
        *map(_render_silent_agent, facts.silent_agents),
        *_render_silent_workers(facts),
        *_render_troubled_workers(facts),
        *(_render_foreign_worker(each) for each in facts.foreign),
        *map(_render_other_keys, facts.other_keys),
        *(f"{each.code}: {each.subject}: {each.seen}; {each.cure}" for each in facts.errors),
    )


def judge_machines(facts: Status) -> dict[str, Style]:
    """How much of a look each machine needs, by name: `error`, `warning`, or `plain` for none."""
    named = {
        *(each.machine for each in facts.silent_agents),
        *(each.machine for each in facts.other_keys),
        *(each.subject for each in facts.errors if each.code == "versions-apart"),
    }
    return {each.name: "error" if each.name in named else judge_machine(each) for each in facts.machines}


def judge_machine(machine: MachineStatus) -> Style:
    """The same of what its own row shows."""
    worst = {judge_state(machine), judge_workers(machine), judge_handshake(machine)}
    return "error" if "error" in worst else "warning" if "warning" in worst else "plain"


def judge_state(machine: MachineStatus) -> Style:
    """Of its place in the mesh."""
    return "error" if machine.state == "removed" else "plain"


def judge_workers(machine: MachineStatus) -> Style:
    """Of its data workers: one that connects will be alive by itself."""
    health = machine.workers
    if health is None:
        return "plain"
    answering = len(machine.ports) - len(health.silent)
    is_unconnected = health.connected is not None and health.connected < answering
    if health.silent or is_unconnected or any(each.state != "connecting" for each in health.troubled):
        return "error"
    return "warning" if health.troubled else "plain"


def judge_handshake(machine: MachineStatus) -> Style:
    """Of its tunnel, where this machine has one to it."""
    if machine.rx_bytes is None or machine.state == "invited":
        return "plain"
    is_heard = machine.last_handshake is not None and machine.last_handshake < UNHEARD_S
    return "plain" if is_heard else "error"


def _render_control_process(facts: Status) -> Iterator[str]:
    control = facts.control_process
    if control is not None and control.state == "silent":
        missing = " and ".join(control.missing)
        yield f"control process: silent, nothing listens on {missing}; {control.restart}"
    elif control is not None and control.state == "stopped":
        yield f"control process: stopped by a signal; {control.restart}"
    elif control is not None and control.state == "outdated":
        yield f"control process: outdated, it was started before config.yml was changed; {control.restart}"


_WORDS: Final[dict[str, str]] = {
    "stopped": "stopped by a signal",
    "outdated": "outdated, started before a file was changed",
    "connecting": "connecting to the control process",
    "cut-off": "cut off from the control process",
    "not-the-node": "not the node, a program of another user",
}
"""Of the states of a worker that listens and is not as it should be."""


def _render_troubled_workers(facts: Status) -> Iterator[str]:
    """A line for each machine and state; on the control node also for machines that are not connected."""
    for machine in facts.machines:
        health = machine.workers
        if health is None:
            continue
        for state, words in _WORDS.items():
            found = [each for each in health.troubled if each.state == state]
            if found:
                cores = tuple(each.core for each in found)
                cure = "" if state == "connecting" else f"; {health.restarts[state]}"
                yield f"{words}: {name_cores(cores)}{cure}"
        answering = len(machine.ports) - len(health.silent)
        if health.connected is not None and health.connected < answering:
            yield (
                f"not connected: {answering - health.connected} of {machine.name}'s workers answer, and are"
                f" not connected to the control process; on {machine.name}: qmesh check; if that finds"
                " nothing, restart these workers: they wait for a control node that went without a word"
            )


def _render_foreign_worker(each: ForeignStatus) -> str:
    whose = "a core of no machine" if each.core is None else f"core {each.core}, which is {each.owner}'s"
    return f"foreign: {each.program or 'a program'} (process {each.process}) runs {whose}; {each.stop}"


def _render_other_keys(each: OtherKeysStatus) -> str:
    keys = ", ".join(each.keys)
    seen = f"{each.machine} has another {keys}, since {each.since}, and earns nothing"
    return f"other keys: {seen}; {each.fetch}"


def _render_silent_workers(facts: Status) -> Iterator[str]:
    """A line for each machine and reason. A restart is advised only where the workers may be dead."""
    for machine in facts.machines:
        silent = () if machine.workers is None else machine.workers.silent
        for why in dict.fromkeys(each.why for each in silent):
            found = [each for each in silent if each.why == why]
            cores = tuple(each.core for each in found)
            is_heard = machine.last_handshake is not None and machine.last_handshake < UNHEARD_S
            reason, cure = SILENCE_WORDS[why], f"on {machine.name}: qmesh check"
            if why in {"dropped", "rejected"} and not is_heard and machine.name != facts.control:
                reason = "nothing of the machine comes through the tunnel"
            elif why == "down":
                cure = f"on {machine.name}: qmesh apply"
            elif why not in {"dropped", "rejected", "unroutable", "stopped"}:
                assert machine.workers is not None
                cure = f"on {machine.name}: {machine.workers.restarts[why]}"
            yield (
                f"silent: core{'s' * (len(cores) > 1)} {format_port_ranges(cores)} of {machine.name}"
                f" ({reason}); {cure}"
            )


def _render_silent_agent(each: SilentAgent) -> str:
    if each.silent_s is None:
        return f"no agent: nothing fixes {each.machine}; {each.cure}"
    return f"no agent: {each.machine}'s has not asked for {format_duration(each.silent_s)}; {each.cure}"
