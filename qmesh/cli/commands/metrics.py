"""`qmesh metrics`."""

from __future__ import annotations

from qmesh.cli.output import STATE, StateOption
from qmesh.cli.terminal import print_stdout

EXAMPLES = ("qmesh metrics",)


def command(state: StateOption = STATE) -> None:
    """Print what this machine's agent knows, in the text format of Prometheus.

    Tunnels, workers, guard, findings and revisions; no secret and no endpoint is in it. docs/monitoring.md
    has each metric, and how Prometheus gets them without this command.
    """
    from qmesh.agent.commands.metrics import read_metrics
    from qmesh.host.state.directory import State

    print_stdout(read_metrics(State(state)).removesuffix("\n"))
