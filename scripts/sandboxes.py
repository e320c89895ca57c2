"""What systemd says of each unit, with and without its restrictions, as Markdown: see scripts/sandboxes."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.support.unit_scores import OF_NODE, SERVICES, find_analyzer, open_units, read_score, write_units


def main() -> int:
    """Print the table."""
    found = find_analyzer()
    if found is None:
        print("error: this machine has no systemd-analyze\nhint: apt-get install systemd", file=sys.stderr)
        return 3
    program, version = found
    with tempfile.TemporaryDirectory() as place:
        shut, opened, users = (Path(place, name) for name in ("shut", "opened", "users"))
        for each in (shut, opened, users):
            each.mkdir()
        write_units(shut)
        write_units(users, user="alice")
        open_units(shut, opened)
        print(f"As systemd {version} says it, of 0 to 10:\n")
        print("| unit | without restrictions | with them |\n|---|---:|---:|")
        for name in SERVICES:
            before, now = (read_score(program, directory / name) for directory in (opened, shut))
            print(f"| `{name.replace('@1', '@')}` | {before} | {now} |")
        scores = {read_score(program, users / name) for name in OF_NODE}
        print(f"\nWhere the node's directory is a user's, the last two are {' and '.join(sorted(scores))}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
