"""Paired timings, what a process takes, and the tables that all of it is printed in."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

Work = Callable[[], object]


class Figure(NamedTuple):
    """One line: medians in `unit`, at a size; `kept` is None where there is no promise to keep.

    size: of the mesh; what is compared from size to size has a name in `growing`.
    theirs: of what a user would use instead, measured in turn with ours; None where nothing does it.
    unit: empty where something was counted.
    """

    work: str
    size: str
    ours: float
    theirs: float | None
    unit: str
    must_be: str
    kept: bool | None
    growing: str = ""

    @property
    def ratio(self) -> float | None:
        """Ours to theirs."""
        return self.ours / self.theirs if self.theirs else None


def seconds(work: Work) -> float:
    """Wall time of one run, without garbage of the runs before."""
    gc.collect()
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def paired(runs: int, ours: Callable[[int], float], theirs: Callable[[int], float]) -> tuple[float, float]:
    """Medians of `runs` measurements each, in turn: what else the machine does falls on both alike."""
    pairs = [(ours(run), theirs(run)) for run in range(runs)]
    return statistics.median(pair[0] for pair in pairs), statistics.median(pair[1] for pair in pairs)


def percentile(values: list[float], percent: int) -> float:
    """The least value that so many percent are not above."""
    return sorted(values)[max(0, -(-len(values) * percent // 100) - 1)]


def resident_mb(process: int) -> float:
    """Megabytes of memory that a process has for itself or shares."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    (resident,) = (line.split()[1] for line in lines if line.startswith("VmRSS:"))
    return int(resident) * 1024 / 1e6


def table(figures: list[Figure]) -> str:
    """The figures as Markdown."""
    lines = [
        "| work | size | qmesh | instead | ratio | must be | |",
        "|---|---:|---:|---:|---:|---|---|",
    ]
    for each in figures:
        theirs = "" if each.theirs is None else shown(each.theirs, each.unit)
        ratio = "" if each.ratio is None else f"{each.ratio:.2g}" if each.ratio < 0.1 else f"{each.ratio:.2f}"
        ours = shown(each.ours, each.unit)
        must_be, said = each.must_be, VERDICTS[each.kept]
        lines.append(f"| {each.work} | {each.size} | {ours} | {theirs} | {ratio} | {must_be} | {said} |")
    return "\n".join(lines)


VERDICTS = {None: "", True: "kept", False: "NOT kept"}
NOISE = 1.25
"""By how much a figure of a shared machine may be off."""


def growth(figures: list[Figure], times: float, *, judged: bool) -> tuple[str, bool]:
    """As Markdown, how each figure grows with a mesh that is `times` larger; and whether none does by more.

    Of one change, time must stay as it is; of all else it may grow as the mesh does.
    """
    lines = ["| work | qmesh | instead | must be | |", "|---|---:|---:|---|---|"]
    all_kept = True
    by_work: dict[str, list[Figure]] = {}
    for figure in figures:
        by_work.setdefault(figure.growing, []).append(figure)
    for work, found in by_work.items():
        if not work or len(found) != 2:
            continue
        small, large = found
        ours = f"{large.ours / small.ours:.1f} x" if small.ours else ""
        theirs = f"{large.theirs / small.theirs:.1f} x" if small.theirs and large.theirs else ""
        most = 1.0 if work.startswith("one member") else times
        kept = large.ours <= most * NOISE * small.ours
        all_kept &= kept or not judged
        said = VERDICTS[kept if judged else None]
        lines.append(f"| {work} | {ours} | {theirs} | <= {most:.0f} x | {said} |")
    return "\n".join(lines), all_kept


def shown(value: float, unit: str) -> str:
    """Three digits that count; what has no unit was counted."""
    if not unit:
        return f"{value:,.0f}"
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f} {unit}"
