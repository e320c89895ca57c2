"""The table of machines: its columns, those of them for which there is room, and its rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from qmesh.agent.commands.status import CoreRange, MachineStatus
from qmesh.cli.core_text import format_core_range
from qmesh.cli.screen.cells import cut_middle, measure_width, pad_text
from qmesh.cli.screen.spans import Line, Span, Style
from qmesh.cli.status_text.figures import format_bytes, format_duration
from qmesh.cli.status_text.problems import judge_handshake, judge_state, judge_workers
from qmesh.mesh.values import format_port_ranges

MARKS: Final[Mapping[Style, str]] = {"error": "! ", "warning": "~ "}
"""What stands before a machine that needs a look, in colour or without."""
_UNMARKED: Final = "  "
_BETWEEN: Final = "  "
_FEWEST: Final = 8
"""Cells of a name, however long others are and however narrow the terminal."""
_ESSENTIAL: Final = 4
"""The greatest importance of a column for which a long name is cut."""
_MOST: Final = 47
"""Cells of any other text: an IPv6 address with a port has that many."""


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


def build_table(
    machines: Sequence[MachineStatus], judged: Mapping[str, Style], *, width: int | None, gap: str
) -> Iterator[Line]:
    """The titles, then a line for each machine; no line is wider than that.

    judged: how much of a look each machine needs, by name.
    width: cells of a line; None for as many as all columns take.
    """
    rows = [[column.render(machine) for column in COLUMNS] for machine in machines]
    widths = _choose_widths(rows, width)
    yield _build_line(_UNMARKED, "plain", [Span(column.title, "heading") for column in COLUMNS], widths, gap)
    for machine, row in zip(machines, rows, strict=True):
        style = judged[machine.name]
        yield _build_line(
            MARKS.get(style, _UNMARKED), style, [row[0]._replace(style=style), *row[1:]], widths, gap
        )


def _choose_widths(rows: Sequence[Sequence[Span]], width: int | None) -> dict[int, int]:
    """The cells of each column that is shown, by its place; the name is the first to be cut."""
    wanted = [
        max(measure_width(text) for text in (column.title, *(row[place].text for row in rows)))
        for place, column in enumerate(COLUMNS)
    ]
    if width is None:
        return dict(enumerate(wanted))
    chosen = {0: min(wanted[0], _FEWEST)}
    left = width - len(_UNMARKED) - chosen[0]
    for importance in sorted({column.importance for column in COLUMNS[1:]}):
        places = [place for place, column in enumerate(COLUMNS) if column.importance == importance]
        cells = {place: min(wanted[place], _MOST) for place in places}
        taken = sum(len(_BETWEEN) + each for each in cells.values())
        is_essential = importance <= _ESSENTIAL
        # What is looked at first takes its room before long names do; all else after them.
        longer = 0 if is_essential else wanted[0] - chosen[0]
        if taken + longer <= left:
            chosen |= cells
            left -= taken
        elif is_essential:
            break
    chosen[0] = min(wanted[0], chosen[0] + left)
    return chosen


def _build_line(mark: str, style: Style, row: Sequence[Span], widths: Mapping[int, int], gap: str) -> Line:
    spans = [Span(mark, style)]
    last = max(widths)
    for place in sorted(widths):
        text = cut_middle(row[place].text, widths[place], gap=gap)
        spans.append(Span(text, row[place].style))
        if place != last:
            spans.append(Span(pad_text("", widths[place] - measure_width(text)) + _BETWEEN))
    return tuple(spans)
