"""The process that holds the guard: as little as can be, for it lives as long as its machine."""

from __future__ import annotations

from pathlib import Path

from qmesh.cli.refusals import ended, talk_on_standard_error
from qmesh.host import holder


def run(state: Path) -> int:
    """Hold the guard until a signal ends it; returns the exit code."""
    talk_on_standard_error(times=True)
    try:
        holder.run(state)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - printed as every command's are
        return ended(error, as_json=False)
    return 0
