"""Metrics of a control node with many members, each with a worker; and what its agent takes for them."""

from __future__ import annotations

import http.client
import time
from statistics import median

import msgspec
from benchmarks import sample
from benchmarks.agent import START_S, processor_s
from benchmarks.measuring import Figure, resident_mb, seconds

from qmesh.host.system import background
from qmesh.mesh.inventory import Inventory, list_workers
from qmesh.mesh.links.activity import LinkReport
from qmesh.mesh.machine import Machine
from qmesh.mesh.machine_facts.facts import MachineFacts, ToldFacts, WorkerFacts
from qmesh.mesh.metrics.families import build_families
from qmesh.mesh.metrics.snapshot import Snapshot, WorkerSample
from qmesh.mesh.metrics.text_format import render_metrics
from qmesh.mesh.state import Counters
from qmesh.mesh.values import Endpoint

PLACE = Endpoint("127.0.0.1", 9586)
MOST_S = 0.3
MOST_MB = 3.0
SCRAPE_S = 15.0
"""Seconds between two requests, as Prometheus is told on the page."""
KEPT_S = 2.5
"""Seconds after which a text that was made before is not handed out again."""
WAIT_S = 120.0


def figures(members: int, scrapes: int, rest_s: float) -> list[Figure]:
    """An agent that nobody asks, and the same one asked every 15 seconds; none of its members answers.

    rest_s: seconds of both. The text of members that all answer is made without them.
    """
    state = sample.control_node(members, workers=1)
    agent = background.start_background_process(state, "agent", wait_s=START_S)
    assert agent is not None
    time.sleep(rest_s / 10)
    off = measure_share(agent, rest_s, is_asked=False), resident_mb(agent)
    state.save_settings(msgspec.structs.replace(state.settings(), metrics=PLACE))
    wait_for_all(members + 1)
    slowest, used = 0.0, []
    for _ in range(scrapes):
        time.sleep(KEPT_S)
        before = processor_s(agent)
        slowest = max(slowest, scrape()[1])
        used.append(processor_s(agent) - before)
    on = measure_share(agent, rest_s, is_asked=True), resident_mb(agent)
    known = snapshot(sample.inventory(members, workers=1))
    megabytes = len(render_metrics(build_families(known))) / 1e6
    rendering = max(seconds(lambda: render_metrics(build_families(known))) for _ in range(scrapes))
    size = f"{members:,}"
    return [
        Figure("scrape, the slowest", size, slowest, None, "s", f"< {MOST_S} s", slowest < MOST_S),
        Figure("of the agent's processor, the median", size, median(used), None, "s", "", None),
        Figure("of that the text, all known", size, rendering, None, "s", "", None),
        Figure("text, all known", size, megabytes, None, "MB", f"< {MOST_MB:.0f} MB", megabytes < MOST_MB),
        Figure("agent with metrics, against without: memory", size, on[1], off[1], "MB", "", None),
        Figure("the same: share of one core", size, on[0], off[0], "%", "", None),
    ]


def snapshot(mesh: Inventory) -> Snapshot:
    """A control node that knows all of its mesh."""
    others = mesh.machines[1:]
    return Snapshot(
        name=mesh.control,
        version="0.1.0",
        inventory=mesh,
        interface=sample.INTERFACE,
        looked_at=1.7e9,
        guard_ok=True,
        dropped=dict.fromkeys(("answered", "asks_service", "closed_port", "through_tunnel"), 2**31),
        counters={each.public_key: Counters(1_700_000_000, 2**40, 2**40, None) for each in others},
        links=LinkReport(),
        unasked={},
        revisions={each.address: 1 for each in others},
        workers=tuple(WorkerSample(each.machine, each.core, 0.012345) for each in list_workers(mesh)),
        is_dialled=True,
        findings=(),
        checked_at=1.7e9,
        facts={each.address: ToldFacts(each.address, 1.7e9, facts_of(mesh, each)) for each in mesh.machines},
    )


def facts_of(mesh: Inventory, machine: Machine) -> MachineFacts:
    """A machine of which everything is known."""
    return MachineFacts(
        qmesh="0.1.0",
        node="2.1.0.25",
        kernel="6.12.118+deb13-amd64",
        architecture="x86_64",
        nft="1.1.3",
        cpu="AMD EPYC 7B13 64-Core Processor",
        cores=8,
        memory_bytes=33_554_432_000,
        memory_available_bytes=10_123_456_512,
        disk_bytes=1_000_204_886_016,
        disk_free_bytes=500_123_456_512,
        load=7.25,
        core_speed=9512,
        workers=tuple(WorkerFacts(core, 1_912_345_600) for core in mesh.core_numbers(machine.name)),
    )


def measure_share(agent: int, rest_s: float, *, is_asked: bool) -> float:
    """Percent of one core over that time."""
    before, until = processor_s(agent), time.monotonic() + rest_s
    while (left := until - time.monotonic()) > 0:
        if is_asked:
            scrape()
        time.sleep(min(SCRAPE_S, left))
    return 100 * (processor_s(agent) - before) / rest_s


def scrape() -> tuple[bytes, float]:
    """The text, and the seconds that it took."""
    began = time.perf_counter()
    connection = http.client.HTTPConnection(PLACE.host, PLACE.port, timeout=WAIT_S)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read()
    return text, time.perf_counter() - began


def wait_for_all(workers: int) -> None:
    """Until the text has every worker, and what the check found."""
    until = time.monotonic() + WAIT_S
    text = b""
    while text.count(b"\nqmesh_worker_up{") < workers or b"\nqmesh_findings_timestamp_seconds" not in text:
        if time.monotonic() > until:
            raise SystemExit("error: the agent's metrics are not complete")
        time.sleep(1.0)
        try:
            text, _ = scrape()
        except OSError:
            text = b""
