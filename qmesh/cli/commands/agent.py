"""`qmesh agent`."""

from __future__ import annotations

import os
import sys

from qmesh.cli.answers import STATE, StateOption

EXAMPLES = ("qmesh agent", "systemctl status qmesh    (where `init` or `join` installed it)")


def command(state: StateOption = STATE) -> None:
    """Keep this machine as desired, and serve members on the control node.

    Runs until SIGTERM or Ctrl-C; tunnel and guard stay as they are then. `init` and `join` start
    it by themselves, with systemd where that runs.
    """
    # Begun anew, without the libraries that have read the command line: see `qmesh.cli.main`.
    words = ["-m", "qmesh", "agent", "--state", str(state.absolute())]
    os.execv(sys.executable, [sys.executable, *words])  # noqa: S606 - no shell is wanted
