"""The speeds of machines' cores as a table."""

from __future__ import annotations

from typing import Final

from qmesh.agent.machine_facts.bench import BenchStatus, MachineSpeed
from qmesh.cli.status_text.figures import format_duration

_TITLES: Final = ("machine", "core speed", "of the quickest", "told", "cores", "processor")
_UNIT: Final = "core speed: verifications of an Ed25519 signature in a second of one core"


def render_bench(found: BenchStatus) -> str:
    """A line for each machine, in the order of the mesh; `-` where nothing is known."""
    rows = [_TITLES, *(_render_row(each, is_here=each.machine == found.name) for each in found.machines)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "\n".join((*lines, _UNIT))


def _render_row(each: MachineSpeed, *, is_here: bool) -> tuple[str, ...]:
    age = "-" if each.age_s is None else f"{format_duration(each.age_s)} ago"
    return (
        each.machine,
        "-" if each.core_speed is None else str(each.core_speed),
        "-" if each.share is None else f"{each.share:.0%}",
        "measured now" if is_here else age,
        "-" if each.cores is None else str(each.cores),
        each.cpu or "-",
    )
