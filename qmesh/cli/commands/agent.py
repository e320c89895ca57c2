"""`qmesh agent`."""

from __future__ import annotations

import logging

from qmesh.agent.service import run
from qmesh.cli.answers import STATE, StateOption
from qmesh.host.state import State

EXAMPLES = ("qmesh agent", "systemctl status qmesh    (where `init` or `join` installed it)")


def command(state: StateOption = STATE) -> None:
    """Keep this machine as desired, and serve members on the control node.

    Runs until SIGTERM or Ctrl-C; tunnel and guard stay as they are then. `init` and `join` start
    it by themselves, with systemd where that runs.
    """
    for handler in logging.getLogger("qmesh").handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
    run(State(state))
