"""The page on metrics, the alert rules and the dashboard: they name what there is, and all of it."""

from __future__ import annotations

from qmesh.mesh.metrics.families import METRICS
from tests.support.checkout import CHECKOUT

PAGE = CHECKOUT / "docs/monitoring.md"


def table_rows(first: str) -> list[tuple[str, ...]]:
    """The cells of a table of the page whose header begins with that word, row by row."""
    _, _, rest = PAGE.read_text(encoding="utf-8").partition(f"\n| {first} |")
    lines = rest.split("\n")[2:]
    rows = lines[: next(at for at, line in enumerate(lines) if not line.startswith("|"))]
    return [tuple(cell.strip() for cell in row.strip("|").split("|")) for row in rows]


def test_the_page_has_each_metric_as_it_is():
    assert table_rows("metric") == [
        (f"`{each.name}`", each.kind, ", ".join(f"`{label}`" for label in each.labels), each.on, each.help)
        for each in METRICS
    ]
