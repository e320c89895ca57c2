"""Root of one member asks the control node's service as fast as it can, while the mesh changes once a second.

Nothing is what the same takes without it. The last kinds are of a user of the control machine, who asks for
its metrics.
"""

from __future__ import annotations

from benchmarks.measuring import Figure

from tests.support.lab.floods import (
    KINDS,
    METRICS_KINDS,
    MOST_GUARD_MS,
    MOST_HEARD_S,
    MOST_LOGGED,
    MOST_MB,
    MOST_SHARE,
    Flooded,
    Floods,
)
from tests.support.lab.machines import Lab


def figures(seconds: float, kinds: int) -> list[Figure]:
    """So many seconds of each kind, of so many of them."""
    with Lab() as lab:
        floods = Floods(lab)
        return [
            figure
            for kind in ("nothing", *KINDS, *METRICS_KINDS)[:kinds]
            for figure in of(floods.flood(kind, seconds))
        ]


def of(flooded: Flooded) -> list[Figure]:
    """What one kind did."""
    size, share, logged = flooded.kind.replace("_", " "), 100 * flooded.share, flooded.logged / 1e3
    return [
        Figure("connections that were begun", size, flooded.begun, None, "", "", None),
        Figure(
            "a change, until another member has it, the longest",
            size,
            flooded.heard_s,
            None,
            "s",
            f"< {MOST_HEARD_S:.0f} s",
            flooded.heard_s < MOST_HEARD_S,
        ),
        Figure(
            "a deleted guard is back, the longest",
            size,
            flooded.guard_ms,
            None,
            "ms",
            f"< {MOST_GUARD_MS:.0f} ms",
            flooded.guard_ms < MOST_GUARD_MS,
        ),
        Figure(
            "the agent's memory, at most",
            size,
            flooded.megabytes,
            None,
            "MB",
            f"< {MOST_MB:.0f} MB",
            flooded.megabytes < MOST_MB,
        ),
        Figure(
            "the agent, of one core", size, share, None, "%", f"< {MOST_SHARE:.0%}", share < 100 * MOST_SHARE
        ),
        Figure(
            "its log has grown by",
            size,
            logged,
            None,
            "kB",
            f"< {MOST_LOGGED / 1e3:.0f} kB",
            flooded.logged < MOST_LOGGED,
        ),
        *_figures_of_scrapes(flooded),
    ]


def _figures_of_scrapes(flooded: Flooded) -> list[Figure]:
    if flooded.scraped is None:
        return []
    what, size = "Prometheus, of its questions answered", flooded.kind.replace("_", " ")
    must_be = ("100%", flooded.scraped == 1) if flooded.kind == "metrics" else ("", None)
    return [Figure(what, size, 100 * flooded.scraped, None, "%", *must_be)]
