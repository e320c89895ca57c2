"""What two versions of qmesh do with each other, as Markdown: see scripts/versions."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
import traceback
from pathlib import Path

from tests.support.checkout import CHECKOUT
from tests.support.lab import fork_server
from tests.support.lab.mixed import COLUMNS, ROWS, Row, make_lab
from tests.support.versions import BEFORE, NoVersion, build_before


def try_row(row: Row, column: str, before: Path) -> str:
    """Seconds that it took, or that it failed; why is written to standard error."""
    began = time.monotonic()
    try:
        with make_lab(column, before) as lab:
            row.run(lab)
    except Exception:  # noqa: BLE001 - the others are tried all the same
        print(f"{row.name}, {column}:\n{traceback.format_exc()}", file=sys.stderr, flush=True)
        return "FAILS"
    return f"{time.monotonic() - began:.0f} s"


def main() -> int:
    """Try what was asked for, and print a row once it was tried."""
    parser = argparse.ArgumentParser(prog="scripts/versions")
    parser.add_argument("row", nargs="?", choices=["all", *(row.name for row in ROWS)], default="all")
    parser.add_argument("column", nargs="?", choices=list(COLUMNS))
    asked = parser.parse_args()
    try:
        before = build_before()
    except NoVersion as why:
        print(f"error: {why}\nhint: git fetch --unshallow", file=sys.stderr)
        return 3
    fork_server.enable()
    columns = [asked.column] if asked.column else list(COLUMNS)
    this = subprocess.run([CHECKOUT / "packaging/version"], check=True, capture_output=True, text=True).stdout
    number, commit = BEFORE  # the two may have one number: commits tell which is which
    print(f"| {this.strip()}; of {number}, {commit[:8]}: | {' | '.join(columns)} |")
    print("|---|" + "---:|" * len(columns), flush=True)
    failed = 0
    for row in ROWS:
        if asked.row in {"all", row.name}:
            found = [try_row(row, column, before) for column in columns]
            failed += found.count("FAILS")
            print(f"| {row.name} | {' | '.join(found)} |", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
