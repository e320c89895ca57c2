"""`metrics`: what this machine's agent knows, as Prometheus reads it."""

from __future__ import annotations

from typing import Final

from qmesh.agent.metrics.collector import gather_metrics
from qmesh.agent.preconditions import check_user, load_checked
from qmesh.agent.readers.ask import is_reader, read_metrics_as_reader
from qmesh.host.readers.client import ask_agent
from qmesh.host.state.directory import State
from qmesh.host.system import background

ANSWER_S: Final = 60.0
"""Seconds that the agent has: the first time it checks its machine, and dials every worker."""


def read_metrics(state: State) -> str:
    """The text. Of the agent, where one runs; else all is looked at here. Raises MachineRefused, BadInput."""
    if is_reader(state):
        return read_metrics_as_reader()
    check_user("metrics")
    load_checked(state, "metrics")
    if background.is_agent_running(state):
        return ask_agent("metrics", wait_s=ANSWER_S, directory=state.directory).octets.decode()
    return gather_metrics(state).decode()
