"""How long a command line takes to answer, against a Python that has loaded typer."""

from __future__ import annotations

import statistics
import subprocess
import sys
from pathlib import Path
from typing import Final

from benchmarks.measuring import Figure, seconds

QMESH: Final = str(Path(sys.executable).with_name("qmesh"))
MEASURE: Final = [sys.executable, "-c", "import typer"]
COMMANDS: Final = {
    "qmesh --version": ([QMESH, "--version"], 0.6),
    "qmesh --help": ([QMESH, "--help"], 1.2),
    "qmesh status --help": ([QMESH, "status", "--help"], 1.5),
}
"""Each with how many times as long as the measure it may take."""


def figures(runs: int) -> list[Figure]:
    """Each command in turn with the measure; medians of the whole process's wall time."""
    every = {"": MEASURE, **{name: words for name, (words, _) in COMMANDS.items()}}
    for words in every.values():
        run(words)  # the files are in memory after this
    taken = [
        {name: seconds(lambda c=command: run(c)) for name, command in every.items()} for _ in range(runs)
    ]
    medians = {name: statistics.median(each[name] for each in taken) for name in every}
    return [
        Figure(
            f"`{name}`, beside `import typer`",
            "",
            medians[name] * 1e3,
            medians[""] * 1e3,
            "ms",
            f"<= {most} x",
            medians[name] <= most * medians[""],
        )
        for name, (_, most) in COMMANDS.items()
    ]


def run(command: list[str]) -> None:
    """One run of a command."""
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
