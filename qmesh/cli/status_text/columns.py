"""The columns of the table of machines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from qmesh.agent.commands.status import CoreRange, MachineStatus
from qmesh.cli.core_text import format_core_range
from qmesh.cli.screen.spans import Span
from qmesh.cli.status_text.figures import format_bytes, format_duration
from qmesh.cli.status_text.problems import judge_handshake, judge_state, judge_workers
from qmesh.mesh.machine_facts.facts import MachineFacts
from qmesh.mesh.ports.port_ranges import format_port_ranges


class Column(NamedTuple):
    """importance: the greater, the sooner it is left out; those of one importance go together."""

    title: str
    importance: int
    render: Callable[[MachineStatus], Span]


def _render_latency(machine: MachineStatus) -> str:
    latency = None if machine.workers is None else machine.workers.latency
    return "-" if latency is None else f"{latency * 1000:.1f} ms"


def format_cores(cores: CoreRange, *, state: str) -> str:
    """Their numbers, or how many there will be."""
    if cores.count is None:
        return "-"
    if cores.first is None:
        return f"{cores.count} after {'resume' if state == 'paused' else 'join'}"
    return format_core_range(cores.first, cores.count)


def _render_alive(machine: MachineStatus) -> Span:
    if machine.workers is None:
        return Span("-")
    return Span(f"{machine.workers.alive} of {len(machine.ports)}", judge_workers(machine))


def _render_handshake(machine: MachineStatus) -> Span:
    age_s = machine.last_handshake
    return Span("-" if age_s is None else f"{format_duration(age_s)} ago", judge_handshake(machine))


def _render_amount(number: int | None) -> Span:
    return Span("-" if number is None else format_bytes(number))


COLUMNS: Final = (
    Column("machine", 0, lambda machine: Span(machine.name)),
    Column("state", 2, lambda machine: Span(machine.state, judge_state(machine))),
    Column("tunnel address", 6, lambda machine: Span(machine.address)),
    Column("endpoint", 7, lambda machine: Span(machine.endpoint or "-")),
    Column("cores", 4, lambda machine: Span(format_cores(machine.cores, state=machine.state))),
    Column("ports", 9, lambda machine: Span(format_port_ranges(machine.ports) or "-")),
    Column("alive", 1, _render_alive),
    Column("answer", 5, lambda machine: Span(_render_latency(machine))),
    Column("handshake", 3, _render_handshake),
    Column("in", 8, lambda machine: _render_amount(machine.rx_bytes)),
    Column("out", 8, lambda machine: _render_amount(machine.tx_bytes)),
)


def _render_fact(render: Callable[[MachineFacts], str]) -> Callable[[MachineStatus], Span]:
    return lambda machine: Span((machine.facts is not None and render(machine.facts)) or "-")


def _render_share(left: int | None, whole: int | None) -> str:
    return "" if left is None or whole is None else f"{format_bytes(left)} of {format_bytes(whole)}"


def _render_processor(facts: MachineFacts) -> str:
    return f"{facts.cores} x {facts.cpu}" if facts.cores is not None and facts.cpu else facts.cpu


def _render_told(machine: MachineStatus) -> Span:
    return Span("-" if machine.facts_age is None else f"{format_duration(machine.facts_age)} ago")


FACT_COLUMNS: Final = (
    Column("load", 11, _render_fact(lambda facts: "" if facts.load is None else f"{facts.load:.1f}")),
    Column(
        *("memory free", 12),
        _render_fact(lambda facts: _render_share(facts.memory_available_bytes, facts.memory_bytes)),
    ),
    Column(
        "disk free", 13, _render_fact(lambda facts: _render_share(facts.disk_free_bytes, facts.disk_bytes))
    ),
    Column("node", 14, _render_fact(lambda facts: facts.node)),
    Column("qmesh", 15, _render_fact(lambda facts: facts.qmesh)),
    Column("processor", 16, _render_fact(_render_processor)),
    Column("kernel", 17, _render_fact(lambda facts: facts.kernel)),
    Column("told", 11, _render_told),
)
"""What machines tell of themselves, and how long ago: shown where there is room, or on request."""
