"""`qmesh hold`."""

from __future__ import annotations

import os
import sys

from qmesh.cli.answers import STATE, StateOption

EXAMPLES = ("qmesh hold", "systemctl status qmesh-hold    (where `init` or `join` installed it)")


def command(state: StateOption = STATE) -> None:
    """Hold the guard's second table, which no flush of the ruleset takes away.

    `init`, `join`, `apply` and the agent start it by themselves, with systemd where that runs. When
    it ends, the first table still closes the worker ports.
    """
    # Begun anew, without the libraries that have read the command line: see `qmesh.cli.main`.
    words = ["-m", "qmesh", "hold", "--state", str(state.absolute())]
    os.execv(sys.executable, [sys.executable, *words])  # noqa: S606 - no shell is wanted
