"""The page in Chromium: what is sent, the first picture, and the time from news to their paint."""

from __future__ import annotations

import statistics

from benchmarks.measuring import Figure
from page_pictures import Cluster, measure

from qmesh.host.page.news import encode_event
from qmesh.host.page.page_files import read_page_files
from qmesh.mesh.page.picture import build_page_picture
from tests.support.browser import start_browser
from tests.support.page_views import build_view

MOST_MS = 1000.0
MOST_WORKERS = 2048
"""Up to which that is promised."""


def figures(machines: int, workers: int, runs: int) -> list[Figure]:
    """The server and its browser share the machine. workers: of each machine; runs: their median counts."""
    cluster = Cluster(f"{machines:,} machines, {machines * workers:,} workers", (workers,) * machines)
    with start_browser() as browser:
        found = [measure(browser, cluster, run) for run in range(runs)]
    first, complete, update = (statistics.median(each) for each in zip(*found, strict=True))
    files = sum(len(each.octets) for name, each in read_page_files().items() if name) / 1000
    picture = len(encode_event("view", build_page_picture(build_view(cluster.workers)))) / 1000
    size, is_judged = cluster.title, machines * workers <= MOST_WORKERS
    must_be = f"< {MOST_MS:,.0f} ms" if is_judged else ""
    return [
        Figure("files of the page, sent once", size, files, None, "kB", "", None),
        Figure("a picture of the cluster", size, picture, None, "kB", "", None),
        Figure("first picture", size, first, None, "ms", must_be, first < MOST_MS if is_judged else None),
        Figure(
            "all of it, with plots and table",
            size,
            complete,
            None,
            "ms",
            must_be,
            complete < MOST_MS if is_judged else None,
        ),
        Figure("from news to paint", size, update, None, "ms", "", None),
    ]
