"""The agent at rest, over two of its audits: memory, and its share of a processor core."""

from __future__ import annotations

import os
import time
from pathlib import Path

from benchmarks import sample
from benchmarks.measuring import Figure, resident_mb

from qmesh.host import wireguard
from qmesh.host.system import background

MOST_MB = 80
MOST_PERCENT = 0.5
START_S = 120.0


def figures(members: int, rest_s: float) -> list[Figure]:
    """Start it, let it set everything up, and watch it do nothing.

    rest_s: seconds of that; before them, a tenth of it for what follows upon a start.
    """
    state = sample.control_node(members)
    agent = background.start_background_process(state, "agent", wait_s=START_S)
    assert agent is not None
    time.sleep(rest_s / 10)
    before = processor_s(agent)
    time.sleep(rest_s)
    percent = 100 * (processor_s(agent) - before) / rest_s
    megabytes = resident_mb(agent)
    assert len(wireguard.find_backend(sample.INTERFACE).read(sample.INTERFACE).peers) == members
    size, memory, share = f"{members:,}", "agent at rest, memory", "agent at rest, of one core"
    return [
        Figure(memory, size, megabytes, None, "MB", f"< {MOST_MB} MB", megabytes < MOST_MB, memory),
        Figure(share, size, percent, None, "%", f"< {MOST_PERCENT} %", percent < MOST_PERCENT, share),
    ]


def processor_s(process: int) -> float:
    """Seconds of processor time, in user and kernel mode, of all its threads."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
