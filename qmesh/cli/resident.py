"""The agent's process. It lives as long as its machine: the command line's libraries stay out of it."""

from __future__ import annotations

from pathlib import Path

from qmesh.agent.service import run as run_agent
from qmesh.cli.refusals import ended, talk_on_standard_error
from qmesh.host.state import State


def run(state: Path) -> int:
    """Be the agent until a signal ends it; returns the exit code."""
    talk_on_standard_error(times=True)
    try:
        run_agent(State(state))
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - printed as every command's are
        return ended(error, as_json=False)
    return 0
