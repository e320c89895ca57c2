"""Clusters as the agent would show them to the page: small, large, and with faults."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

from qmesh.mesh.machine import Cores
from qmesh.mesh.machine_facts.facts import MachineFacts
from qmesh.mesh.view.cluster_view import (
    ClusterView,
    EventView,
    FindingView,
    GuardView,
    MachineView,
    TunnelView,
    WorkerView,
    WorkerViewState,
)

NOW: Final = 1_796_000_000.0
BASE_PORT: Final = 32500
SITES: Final = ("fra", "hel", "ams", "waw", "par", "lon", "mad", "vie")


def machine_names(count: int) -> list[str]:
    return [f"{SITES[number % len(SITES)]}-{number + 1}" for number in range(count)]


def build_view(
    workers: Sequence[int] = (3, 4, 4),
    *,
    seed: int = 1,
    at: float = NOW,
    silent: Sequence[int] = (),
    restarting: Sequence[int] = (),
    gone: Sequence[int] = (),
    findings: tuple[FindingView, ...] = (),
    guard: bool | None = True,
    names: Sequence[str] = (),
) -> ClusterView:
    """A control node and its members. workers: of each machine; seed: of the answer times.

    silent, restarting: cores. gone: places of machines whose tunnels are silent, and their workers with them.
    """
    draw = random.Random(f"{seed}")  # noqa: S311 - not for secrets
    names = names or machine_names(len(workers))
    first, machines = 1, []
    for place, count in enumerate(workers):
        ways = 0.0004 if place == 0 else 0.004 + 0.003 * (place % 9)
        machines.append(
            MachineView(
                name=names[place],
                role="worker" if place else "control",
                state="active",
                address=f"10.77.{place // 250}.{place % 250 + 1}",
                tunnel=build_tunnel(is_silent=place in gone, seed=place) if place else None,
                revision=12,
                agent_up=place not in gone,
                agent_silent_s=420.0 if place in gone else None,
                facts=build_facts(place, count),
                facts_at=at - 30,
                workers=tuple(
                    build_worker(
                        core,
                        "silent"
                        if place in gone or core in silent
                        else "restarting"
                        if core in restarting
                        else "alive",
                        ways * draw.uniform(0.8, 1.6),
                        why="dropped" if place in gone else "refused",
                    )
                    for core in Cores(first, count).numbers
                ),
            )
        )
        first += count
    return ClusterView(
        at=at,
        looked_at=at - 1,
        version="0.1.0",
        mesh="56a71c69d69f5698",
        name=names[0],
        role="control",
        control=names[0],
        node="2.1-rust",
        revision=12,
        machines=tuple(machines),
        guard=GuardView(is_whole=guard, dropped={"input": 1204}),
        findings=findings,
        checked_at=at - 40,
        events=build_events(names, NOW),
    )


def build_worker(core: int, state: WorkerViewState, answer_s: float, *, why: str = "") -> WorkerView:
    is_alive = state == "alive"
    return WorkerView(
        core=core,
        port=BASE_PORT + core - 1,
        state=state,
        answer_s=answer_s if is_alive else None,
        why="" if is_alive else why,  # type: ignore[arg-type]
    )


def build_facts(place: int, workers: int) -> MachineFacts:
    memory = (16 + 16 * (place % 3)) << 30
    return MachineFacts(
        qmesh="0.1.0",
        node="2.1.0.25",
        kernel="6.12.48+deb13-amd64",
        nft="1.1.3",
        cpu="AMD EPYC 7443P 24-Core Processor",
        cores=workers + 1,
        memory_bytes=memory,
        memory_available_bytes=memory // 3,
        disk_bytes=400 << 30,
        disk_free_bytes=211 << 30,
        load=workers * 0.9,
    )


def build_tunnel(*, is_silent: bool, seed: int) -> TunnelView:
    return TunnelView(
        handshake_s=431.0 if is_silent else 8.0 + 13 * (seed % 8),
        received_bytes=5_400_000_000 + 71_000_000 * seed,
        sent_bytes=1_100_000_000 + 33_000_000 * seed,
        is_silent=is_silent,
    )


def build_events(names: Sequence[str], at: float) -> tuple[EventView, ...]:
    def event(ago_s: float, what: str, machine: str | None, revision: int, user: str | None) -> EventView:
        command = {"joined": "join", "mesh-made": "init", "paused": "pause", "resumed": "resume"}[what]
        return EventView(
            at=int(at - ago_s), what=what, machine=machine, revision=revision, command=command, user=user
        )

    first = event(9 * 86400, "mesh-made", names[0], 1, "anna")
    joined = [event(8 * 86400 - 60 * n, "joined", name, n + 2, "anna") for n, name in enumerate(names[1:4])]
    last = names[min(2, len(names) - 1)]
    return (first, *joined, event(5400, "paused", last, 11, "ben"), event(3100, "resumed", last, 12, "ben"))


FAULTS: Final = (
    FindingView(
        code="worker-silent",
        severity="error",
        subject="core 6",
        wanted="a worker that answers at 10.77.0.2:32505",
        seen="refused",
        cure="on hel-2: systemctl restart qmesh-worker@6.service",
        link="docs/checks.md#worker-silent",
    ),
    FindingView(
        code="peer-silent",
        severity="warning",
        subject="ams-3",
        wanted="packets from ams-3, which sends one every 25 s",
        seen="nothing came for 7 min",
        cure="on ams-3: qmesh check",
        link="docs/checks.md#peer-silent",
    ),
)


def list_faulty_cores(workers: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    """Cores that are silent, cores that restart, and places of machines that are gone: a few of each."""
    first = [1 + sum(workers[:place]) for place in range(len(workers))]
    silent = [core + 2 for core in first[1::29]]
    restarting = [first[1] + 3, *(core for core in first[20::40])]
    gone = [2, *range(33, len(workers), 60)]
    return silent, restarting, gone
