"""The process that undoes a change which nobody confirms."""

from __future__ import annotations

from pathlib import Path

from qmesh.agent.undoing import run as run_undoing
from qmesh.cli.refusals import ended, talk_on_standard_error
from qmesh.host.state import State


def run(state: Path) -> int:
    """Wait for the deadline, and put back; returns the exit code."""
    talk_on_standard_error(times=True)
    try:
        run_undoing(State(state))
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - printed as every command's are
        return ended(error, as_json=False)
    return 0
