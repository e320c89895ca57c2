"""The guard while its rules are flushed and replaced, under attack; and how soon it is whole again."""

from __future__ import annotations

import json
import statistics

from benchmarks.measuring import Figure

from tests.support.lab.cluster import make_control, make_member
from tests.support.lab.machines import TOOLS, Lab
from tests.support.lab.storm import WORKER, storm

MOST_MS = 100
LEAST_PERCENT = 99.9


def figures(flushes: int, deletions: int) -> list[Figure]:
    """Rows of a storm with the agent and one without, and of a table that is deleted."""
    return [*of_storm(flushes, kill_agent=False), *of_storm(flushes, kill_agent=True), deleted(deletions)]


def of_storm(flushes: int, *, kill_agent: bool) -> list[Figure]:
    """So many flushes, and as many replacements of each table."""
    with Lab() as lab:
        counted = storm(lab, flushes, kill_agent=kill_agent)
    size = f"{flushes} flushes, " + ("agent killed" if kill_agent else "agent alive")
    through = counted.of_others(WORKER)
    tried = counted.tried[f"tcp {WORKER}"] + counted.tried[f"udp {WORKER}"]
    answered = counted.dialled["answered"]
    dialled = answered + counted.dialled.get("refused", 0)
    percent = 100 * answered / dialled
    return [
        Figure(f"of {tried:,} attempts got through", size, through, None, "", "0", through == 0),
        Figure(
            f"of the control node's {dialled:,} connections",
            size,
            percent,
            None,
            "%",
            f">= {LEAST_PERCENT} %",
            percent >= LEAST_PERCENT,
        ),
    ]


def deleted(times: int) -> Figure:
    """From the end of `nft delete table` to the table's return."""
    with Lab() as lab:
        member = make_member(lab, make_control(lab), 201, 4)
        done = member.run(["python", TOOLS / "siege.py", "delete", str(times)], timeout=120)
    taken = statistics.median(json.loads(done.stdout))
    return Figure(
        "a deleted table is back", f"{times} times", taken, None, "ms", f"< {MOST_MS} ms", taken < MOST_MS
    )
