"""The agent at rest: memory, and its share of a processor core."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from benchmarks import sample
from benchmarks.measuring import Figure

from qmesh.agent.watching import audit_s

MOST_MB = 80
MOST_PERCENT = 0.5


def figures(sizes: Iterable[int]) -> list[Figure]:
    """Of a real agent process, over two of its audits."""
    return [figure for size in sizes for figure in at_rest(size)]


def at_rest(members: int) -> list[Figure]:
    """Start it, let it set everything up, and watch it do nothing."""
    with sample.control_node(members) as state:
        log = state.log_file
        with log.open("wb") as output:
            command = [sys.executable, "-m", "qmesh", "agent", "--state", str(state.directory)]
            agent = subprocess.Popen(command, stdout=output, stderr=output)
        try:
            await_text(log, "members are served")
            time.sleep(10)
            between = max(60.0, 2 * audit_s(members) + 10)
            before = processor_s(agent.pid)
            time.sleep(between)
            percent = 100 * (processor_s(agent.pid) - before) / between
            megabytes = resident_mb(agent.pid)
        finally:
            agent.send_signal(signal.SIGTERM)
            agent.wait()
    size = f"{members:,}"
    return [
        Figure(
            "agent at rest, memory",
            size,
            megabytes,
            None,
            "MB",
            f"< {MOST_MB} MB",
            megabytes < MOST_MB,
            "agent at rest, memory",
        ),
        Figure(
            "agent at rest, of one core",
            size,
            percent,
            None,
            "%",
            f"< {MOST_PERCENT} %",
            percent < MOST_PERCENT,
            "agent at rest, of one core",
        ),
    ]


def await_text(log: Path, text: str) -> None:
    """Wait for what the agent says when it has begun to serve."""
    end = time.monotonic() + 120
    while text not in log.read_text():
        if time.monotonic() > end:
            raise RuntimeError(log.read_text())
        time.sleep(0.2)


def processor_s(process: int) -> float:
    """Seconds of processor time, in user and kernel mode, of all its threads."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(process: int) -> float:
    """Megabytes of memory that it has for itself or shares."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    (resident,) = (line.split()[1] for line in lines if line.startswith("VmRSS:"))
    return int(resident) / 1000
