"""How long qmesh takes to start, as a table: medians of ten runs, taken in turn.

    .venv/bin/python scripts/bench.py

Each row is the wall time of a whole process. The first row is the measure: a command line that
answers as soon as Python has loaded typer. Exit code 0 when `qmesh --version` takes at most twice
that, else 1.
"""

from __future__ import annotations

import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

RUNS: Final = 10
MOST: Final = 2.0
"""How many times as long as the measure `qmesh --version` may take."""

QMESH: Final = str(Path(sys.executable).with_name("qmesh"))
MEASURE: Final = "python -c 'import typer'"
VERSION: Final = "qmesh --version"
COMMANDS: Final = {
    MEASURE: [sys.executable, "-c", "import typer"],
    VERSION: [QMESH, "--version"],
    "qmesh --help": [QMESH, "--help"],
    "qmesh status --help": [QMESH, "status", "--help"],
}


def seconds(command: list[str]) -> float:
    """Wall time of one run."""
    began = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - began


def medians() -> dict[str, float]:
    """The median of each command, in seconds."""
    for command in COMMANDS.values():
        seconds(command)  # the files are in memory after this
    taken: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(RUNS):
        # In turn, so that what else the machine does falls on all of them alike.
        for name, command in COMMANDS.items():
            taken[name].append(seconds(command))
    return {name: statistics.median(times) for name, times in taken.items()}


def machine() -> str:
    """What the figures hold for."""
    fields = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    ]
    processor = f"{len(fields)} x {fields[0]}" if fields else platform.machine()
    return f"{processor}, Linux {platform.release()}, Python {platform.python_version()}"


def main() -> int:
    """Measure, print, and say whether it is quick enough."""
    found = medians()
    measure = found[MEASURE]
    print(f"{machine()}; medians of {RUNS}\n")
    print(f"{'command':<26} {'wall time':>10} {'ratio':>6}")
    for name, median in found.items():
        print(f"{name:<26} {median * 1000:>7.0f} ms {median / measure:>6.2f}")
    ratio = found[VERSION] / measure
    kept = ratio <= MOST
    verdict = "kept" if kept else "NOT kept"
    print(f"\n{VERSION} takes {ratio:.2f} times as long as the measure; at most {MOST:.2f}: {verdict}")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
