"""What `drill` prints: who fired what, how many got through, and what should not have been so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from qmesh.mesh.drill.verdict import DrillLine, DrillReport, describe_counterexample
from qmesh.mesh.printable import escape_line

_WITHOUT: Final = "without"


def render_report(report: DrillReport) -> str:
    """Each side with what it fired, then what is wrong, and what it comes to."""
    return "\n".join(_list_lines(report))


def _list_lines(report: DrillReport) -> Iterator[str]:
    kind = "the control machine" if report.role == "control" else "a worker machine"
    yield f"{report.fired} packets were fired at a copy of {report.machine}, {kind}"
    side = ""
    for line in report.lines:
        if line.side != side:
            side = line.side
            yield f"{escape_line(side)}:"
        yield f"  {_render_line(line)}"
    for each in report.counterexamples:
        yield f"error: {escape_line(describe_counterexample(each))}"
    for unknown in report.unknown:
        yield f"warning: not known: {escape_line(unknown)}"
    if report.stand_ins:
        yield f"interfaces that others stood in for: {escape_line(', '.join(report.stand_ins))}"
    yield _summarize(report)


def _render_line(line: DrillLine) -> str:
    counts = {tables: count for tables, count in line.through.items() if tables != _WITHOUT}
    most, least = max(counts.values(), default=0), min(counts.values(), default=0)
    through = f"{most}" if most == least else f"{least} to {most}"
    words = f"{through} of {line.fired} got through"
    if _WITHOUT in line.through:
        words += f", {line.through[_WITHOUT]} without qmesh's tables"
    mark = "WRONG " if line.wrong else ""
    return f"{mark}{line.what}: {words} ({line.wanted})"


def _summarize(report: DrillReport) -> str:
    if report.passed is None:
        return "nothing was wrong, but not all of it could be tried"
    return "all of it ended as it should" if report.passed else "the drill FAILED"
