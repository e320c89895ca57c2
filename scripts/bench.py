"""Every figure of docs/performance.md as a table: see scripts/bench.

Runs as process 1 of network, mount and process namespaces of its own: what it makes ends with it.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks import (
    agent,
    config,
    edits,
    guard,
    handover,
    joins,
    news,
    packets,
    rendering,
    startup,
    storm,
    tunnel,
    watching,
)
from benchmarks.measuring import Figure, growth, table

SIZES = (500, 5000)
ROWS: dict[str, Callable[[], list[Figure]]] = {
    "startup": startup.figures,
    "edits": edits.figures,
    "render": config.figures,
    "rendering": lambda: rendering.figures(SIZES),
    "tunnel": lambda: tunnel.figures(SIZES),
    "guard": lambda: guard.figures(SIZES),
    "packets": packets.figures,
    "storm": storm.figures,
    "watching": watching.figures,
    "join": joins.one_by_one,
    "joins": joins.at_once,
    "news": news.at_the_service,
    "informed": news.with_tunnels,
    "handover": handover.figures,
    "agent": lambda: agent.figures(SIZES),
}


def furnish() -> None:
    """Make the namespaces a machine: an empty /run, loopback."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "none", "/run"], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def machine() -> str:
    """What the figures hold for."""
    fields = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    ]
    return "\n".join(
        [
            f"{len(os.sched_getaffinity(0))} x {fields[0] if fields else platform.machine()}",
            f"Linux {platform.release()}, Python {platform.python_version()}",
            *(version(command) for command in (["wg", "--version"], ["nft", "--version"])),
            *(version(command) for command in (["wireguard-go", "--version"],) if shutil.which(command[0])),
        ]
    )


def version(command: list[str]) -> str:
    """The first line of what a program says of itself."""
    said = subprocess.run(command, check=False, capture_output=True, text=True)
    return (said.stdout or said.stderr).splitlines()[0]


def main() -> int:
    """Measure, print, and say whether every promise was kept."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROWS", help=f"some of: {', '.join(ROWS)}")
    chosen = parser.parse_args().rows or list(ROWS)
    unknown = set(chosen) - set(ROWS)
    if unknown:
        parser.error(f"no such rows: {', '.join(sorted(unknown))}")
    furnish()
    gc.freeze()  # as the agent does
    print(machine(), end="\n\n", flush=True)
    figures: list[Figure] = []
    for name in chosen:
        print(f"measuring: {name} ...", file=sys.stderr, flush=True)
        figures += ROWS[name]()
    print(table(figures), end="\n\n")
    grown, is_linear = growth(figures, SIZES[1] / SIZES[0])
    print(f"From {SIZES[0]} to {SIZES[1]:,}:\n\n{grown}", flush=True)
    return 0 if is_linear and all(each.kept is not False for each in figures) else 1


if __name__ == "__main__":
    sys.exit(main())
