"""The agent's process. It lives as long as its machine: the command line's libraries stay out of it."""

from __future__ import annotations

import os
from pathlib import Path

from qmesh.agent.service import run as run_agent
from qmesh.cli.refusals import bug, interrupted, refuse, talk_on_standard_error
from qmesh.errors import QmeshError
from qmesh.host.state import State


def run(state: Path) -> int:
    """Be the agent until a signal ends it; returns the exit code."""
    talk_on_standard_error(times=True)
    try:
        run_agent(State(state))
    except QmeshError as error:
        return refuse(error, as_json=False)
    except KeyboardInterrupt:
        return interrupted(as_json=False)
    except Exception as error:
        if os.environ.get("QMESH_TRACEBACK"):
            raise
        return refuse(bug(error), as_json=False)
    return 0
