"""How soon a worker that is killed is named, and what looking at many workers costs."""

from __future__ import annotations

import json
import statistics
import time

from benchmarks.measuring import Figure

from tests.support.lab.cluster import CONFIG, facts, make_control, make_member, qmesh, start_workers
from tests.support.lab.machines import Lab, Machine

MOST_S = 5


def figures(workers: int, times: int) -> list[Figure]:
    """From SIGKILL to the answer of `status --json` that names the core; and `status` of many workers."""
    with Lab() as lab:
        control = make_control(lab)
        member = make_member(lab, control, 201, workers)
        for machine in (control, member):
            qmesh(machine, "render-config", "--write", "--config", CONFIG)
        start_workers(control, "1..3")
        start_workers(member, f"5..{workers + 3}")
        taken = statistics.median(_named(control, member) for _ in range(times))
        began = time.monotonic()
        answering = facts(control, "status")["machines"][1]["workers"]["alive"]
        looked = 1000 * (time.monotonic() - began)
    assert answering == workers - 1
    return [
        Figure(
            "a killed worker is named",
            f"{workers + 3} workers",
            taken,
            None,
            "s",
            f"< {MOST_S} s",
            taken < MOST_S,
        ),
        Figure(
            "`qmesh status`, every worker dialled", f"{workers + 3} workers", looked, None, "ms", "", None
        ),
    ]


def _named(control: Machine, member: Machine) -> float:
    worker = start_workers(member, "4")
    began = time.monotonic()
    worker.kill()
    while True:
        status = json.loads(qmesh(control, "status", "--json").stdout)
        if [each["core"] for each in status["machines"][1]["workers"]["silent"]] == [4]:
            return time.monotonic() - began
