"""Facts of a machine of which everything is known."""

from __future__ import annotations

from typing import Final

from qmesh.mesh.machine_facts.facts import MachineFacts, WorkerFacts

FACTS: Final = MachineFacts(
    qmesh="0.1.0",
    node="2.1.0.25",
    node_digest="ab" * 32,
    kernel="6.12.118+deb13-amd64",
    architecture="x86_64",
    nft="1.1.3",
    cpu="AMD EPYC 7B13 64-Core Processor",
    cores=8,
    memory_bytes=33 * 10**9,
    memory_available_bytes=10**9,
    disk_bytes=10**12,
    disk_free_bytes=10**11,
    load=7.25,
    core_speed=9000,
    workers=(WorkerFacts(4, 1_900_000_000, 2), WorkerFacts(5)),
)
