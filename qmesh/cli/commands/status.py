"""`qmesh status`."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Annotated, Final

import typer

from qmesh.agent.commands.status import (
    CoreRange,
    ForeignStatus,
    MachineStatus,
    OtherKeysStatus,
    PortStatus,
    SilentAgent,
    Status,
    list_port_status,
    status,
)
from qmesh.cli.core_text import format_core_range
from qmesh.cli.output import STATE, JsonOption, StateOption, print_answer
from qmesh.cli.port_text import describe_machine_ports
from qmesh.cli.streams import find_stdout_failure
from qmesh.errors import BadInput
from qmesh.host.state.directory import State
from qmesh.mesh.node_processes.silence import SilenceReason
from qmesh.mesh.printable import escape_text
from qmesh.mesh.values import format_port_ranges

EXAMPLES = (
    "qmesh status",
    "qmesh status --watch",
    "qmesh status --ports",
    "qmesh status --bench",
    "qmesh status --json",
)

EVERY_S = 2.0
"""Seconds between two looks of `--watch`."""

_TITLES = (
    *("machine", "state", "tunnel address", "endpoint", "cores", "ports"),
    *("alive", "answer", "handshake", "in", "out"),
)


def command(
    watch: Annotated[
        bool, typer.Option("--watch", help="Show it again every 2 seconds, until Ctrl-C.")
    ] = False,
    ports: Annotated[
        bool, typer.Option("--ports", help="Show the ports that have to be open to the internet instead.")
    ] = False,
    bench: Annotated[
        bool, typer.Option("--bench", help="Measure a core of this machine, and show the speeds of all.")
    ] = False,
    state: StateOption = STATE,
    as_json: JsonOption = False,
) -> None:
    """Show every machine of the mesh, and which workers answer.

    The control node dials every worker, and knows all handshakes and counters; a worker machine knows
    only its own. `in` and `out` are what this machine received from that machine, and sent to it,
    through the tunnel.
    """
    if bench:
        if watch or ports:
            raise BadInput("--bench goes with neither --ports nor --watch", hint="use one of them")
        from qmesh.agent.machine_facts.bench import measure_machines  # noqa: PLC0415 - few runs need it
        from qmesh.cli.bench_text import render_bench  # noqa: PLC0415 - as above

        print_answer(measure_machines(State(state)), as_json=as_json, text=render_bench)
        return
    if ports:
        if watch:
            raise BadInput("--ports and --watch do not go together", hint="use one of the two")
        print_answer(list_port_status(State(state)), as_json=as_json, text=_render_ports)
    elif watch:
        _watch_status(State(state), as_json=as_json)
    else:
        print_answer(status(State(state)), as_json=as_json, text=_render_text)


def _render_ports(facts: PortStatus) -> str:
    return "\n".join(describe_machine_ports(machine, announces=facts.announces) for machine in facts.machines)


def _watch_status(state: State, *, as_json: bool) -> None:
    """In place on a terminal; elsewhere one answer after the other, in JSON a line each."""
    from rich.live import Live  # noqa: PLC0415 - a tenth of the time that `status` takes without
    from rich.text import Text  # noqa: PLC0415

    with contextlib.suppress(KeyboardInterrupt), ExitStack() as stack:
        screen = None
        if sys.stdout.isatty() and not as_json:
            screen = stack.enter_context(Live(auto_refresh=False))
        while find_stdout_failure() is None:
            facts = status(state)
            if screen is None:
                print_answer(facts, as_json=as_json, text=_render_text)
            else:
                screen.update(
                    Text(escape_text(_render_text(facts)), no_wrap=True, overflow="ellipsis"), refresh=True
                )
            time.sleep(EVERY_S)


def _render_text(facts: Status) -> str:
    """The table, then what is wrong with the node's processes and files, then advice."""
    rows = [_TITLES, *(_render_row(machine) for machine in facts.machines)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    head = f"mesh {facts.mesh}, revision {facts.revision}, node {facts.node}, control node {facts.control}"
    return "\n".join(
        (
            head,
            *lines,
            *_render_control_process(facts),
            *map(_render_silent_agent, facts.silent_agents),
            *_render_silent_workers(facts),
            *_render_troubled_workers(facts),
            *(_render_foreign_worker(each) for each in facts.foreign),
            *map(_render_other_keys, facts.other_keys),
            *(f"{each.code}: {each.subject}: {each.seen}; {each.cure}" for each in facts.errors),
            *(f"note: {line}" for line in facts.advice),
        )
    )


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
                yield f"{words}: core{'s' * (len(cores) > 1)} {format_port_ranges(cores)}{cure}"
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


_SILENCES: Final[dict[SilenceReason, str]] = {
    "": "no answer",
    "absent": "nothing listens",
    "elsewhere": "something listens at another address",
    "refused": "refused",
    "dropped": "dropped by a firewall, or hanging",
    "rejected": "rejected by a firewall",
    "unroutable": "no way from here",
    "down": "`qmesh down` was run there",
    "stopped": "stopped by a signal, or frozen",
}
_UNHEARD_S: Final = 180.0
"""Seconds after which a handshake is too old for packets to pass: WireGuard's own limit."""


def _render_silent_workers(facts: Status) -> Iterator[str]:
    """A line for each machine and reason. A restart is advised only where the workers may be dead."""
    for machine in facts.machines:
        silent = () if machine.workers is None else machine.workers.silent
        for why in dict.fromkeys(each.why for each in silent):
            found = [each for each in silent if each.why == why]
            cores = tuple(each.core for each in found)
            is_heard = machine.last_handshake is not None and machine.last_handshake < _UNHEARD_S
            reason, cure = _SILENCES[why], f"on {machine.name}: qmesh check"
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
    return f"no agent: {each.machine}'s has not asked for {_render_duration(each.silent_s)}; {each.cure}"


def _render_row(machine: MachineStatus) -> tuple[str, ...]:
    return (
        machine.name,
        machine.state,
        machine.address,
        machine.endpoint or "-",
        _render_cores(machine.cores, state=machine.state),
        format_port_ranges(machine.ports) or "-",
        "-" if machine.workers is None else f"{machine.workers.alive} of {len(machine.ports)}",
        _render_latency(machine),
        "-" if machine.last_handshake is None else f"{_render_duration(machine.last_handshake)} ago",
        "-" if machine.rx_bytes is None else _render_bytes(machine.rx_bytes),
        "-" if machine.tx_bytes is None else _render_bytes(machine.tx_bytes),
    )


def _render_latency(machine: MachineStatus) -> str:
    latency = None if machine.workers is None else machine.workers.latency
    return "-" if latency is None else f"{latency * 1000:.1f} ms"


def _render_cores(cores: CoreRange, *, state: str) -> str:
    if cores.count is None:
        return "-"
    if cores.first is None:
        return f"{cores.count} after {'resume' if state == 'paused' else 'join'}"
    return format_core_range(cores.first, cores.count)


def _render_duration(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _render_bytes(number: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"
