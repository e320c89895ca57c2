"""What `status --bench` prints."""

from __future__ import annotations

from qmesh.agent.machine_facts.bench import BenchStatus, MachineSpeed
from qmesh.cli.bench_text import render_bench


def test_speeds_are_a_table_in_the_order_of_the_mesh():
    found = BenchStatus(
        "m",
        "fra-1",
        (
            MachineSpeed("fra-1", "AMD EPYC", 8, 9000, 1.0, 0.0),
            MachineSpeed("hel-2", "Intel", 4, 4500, 0.5, 7200.0),
            MachineSpeed("nbg-3", "", None, None, None, None),
        ),
    )
    assert render_bench(found).splitlines() == [
        "machine  core speed  of the quickest  told          cores  processor",
        "fra-1    9000        100%             measured now  8      AMD EPYC",
        "hel-2    4500        50%              2 h ago       4      Intel",
        "nbg-3    -           -                -             -      -",
        "core speed: verifications of an Ed25519 signature in a second of one core",
    ]
