"""The crash matrix and failing disks, at every point, as Markdown: see scripts/faults."""

from __future__ import annotations

import argparse
import functools
import sys
import time

from tests.support.lab import disk
from tests.support.lab.crash import MATRICES
from tests.support.lab.machines import Lab

ROWS = {
    **{f"killed: {name}": matrix for name, matrix in MATRICES.items()},
    **{
        f"disk {fault}: {command.__name__}": functools.partial(command, fault=fault)
        for fault in disk.FAULTS
        for command in (disk.init, disk.join)
    },
}
WELL = (
    "At each point no worker was opened that had been closed, and the same command again ended as if nothing"
    " had happened."
)


def main() -> int:
    """Try all of it and print it."""
    parser = argparse.ArgumentParser(prog="scripts/faults", description=__doc__)
    parser.add_argument("rows", nargs="*", help=f"of: {'; '.join(ROWS)}")
    parser.add_argument("--every", type=int, default=1, help="try every so many points only")
    asked = parser.parse_args()
    if unknown := set(asked.rows) - ROWS.keys():
        parser.error(f"no such rows: {', '.join(sorted(unknown))}")
    chosen = {name: row for name, row in ROWS.items() if not asked.rows or name in asked.rows}
    print("| what | points | tried | not as it must be |\n|---|---:|---:|---:|", flush=True)
    wrong: list[str] = []
    for name, matrix in chosen.items():
        begun = time.monotonic()
        with Lab() as lab:
            result = matrix(lab, every=asked.every)
        print(f"| {name} | {result.points} | {result.tried} | {len(result.wrong)} |", flush=True)
        print(f"{name}: {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)
        wrong += [f"{name}, {each}" for each in result.wrong]
    print("\n" + "\n".join(wrong or [WELL]))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
