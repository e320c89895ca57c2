"""The table of machines: the columns for which there is room, and a row for each machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from qmesh.agent.commands.status import MachineStatus
from qmesh.cli.screen.cells import cut_middle, measure_width, pad_text
from qmesh.cli.screen.spans import Line, Span, Style
from qmesh.cli.status_text.columns import COLUMNS, FACT_COLUMNS, Column

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


def build_table(
    machines: Sequence[MachineStatus],
    judged: Mapping[str, Style],
    *,
    width: int | None,
    gap: str,
    has_facts: bool,
) -> Iterator[Line]:
    """The titles, then a line for each machine; no line is wider than that.

    judged: how much of a look each machine needs, by name.
    width: cells of a line; None for as many as all columns take.
    has_facts: whether what machines tell of themselves may be shown too.
    """
    columns: tuple[Column, ...] = COLUMNS
    if has_facts and any(machine.facts is not None for machine in machines):
        columns += FACT_COLUMNS
    rows = [[column.render(machine) for column in columns] for machine in machines]
    widths = _choose_widths(columns, rows, width)
    yield _build_line(_UNMARKED, "plain", [Span(column.title, "heading") for column in columns], widths, gap)
    for machine, row in zip(machines, rows, strict=True):
        style = judged[machine.name]
        yield _build_line(
            MARKS.get(style, _UNMARKED), style, [row[0]._replace(style=style), *row[1:]], widths, gap
        )


def _choose_widths(
    columns: Sequence[Column], rows: Sequence[Sequence[Span]], width: int | None
) -> dict[int, int]:
    """The cells of each column that is shown, by its place; the name is the first to be cut."""
    wanted = [
        max(measure_width(text) for text in (column.title, *(row[place].text for row in rows)))
        for place, column in enumerate(columns)
    ]
    if width is None:
        return dict(enumerate(wanted))
    chosen = {0: min(wanted[0], _FEWEST)}
    left = width - len(_UNMARKED) - chosen[0]
    for importance in sorted({column.importance for column in columns[1:]}):
        places = [place for place, column in enumerate(columns) if column.importance == importance]
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
