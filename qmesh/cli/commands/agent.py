"""`qmesh agent`."""

from __future__ import annotations

from qmesh.cli.entrypoints import exec_resident
from qmesh.cli.output import STATE, StateOption

EXAMPLES = ("qmesh agent", "systemctl status qmesh    (where `init` or `join` installed it)")


def command(state: StateOption = STATE) -> None:
    """Keep this machine as desired; on the control node, serve the members.

    It runs until SIGTERM or Ctrl-C; tunnel and guard stay as they are then. `init` and `join` start
    it, with systemd where that runs.
    """
    exec_resident("agent", state)
