"""`qmesh hold`."""

from __future__ import annotations

from qmesh.cli.entrypoints import exec_resident
from qmesh.cli.output import STATE, StateOption

EXAMPLES = ("qmesh hold", "systemctl status qmesh-hold    (where `init` or `join` installed it)")


def command(state: StateOption = STATE) -> None:
    """Hold the guard's second table, so that no other program can remove it.

    `init`, `join`, `apply` and the agent start it, with systemd where that runs. When it ends, the
    first table still closes the worker ports.
    """
    exec_resident("hold", state)
