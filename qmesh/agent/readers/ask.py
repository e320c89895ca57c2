"""A command that only looks, typed by a user who is not root: it asks this machine's agent."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, TypeVar

from qmesh.errors import MachineRefused, NeedsRoot
from qmesh.host.log.events import report_event
from qmesh.host.readers.client import ask_agent
from qmesh.host.state.directory import State
from qmesh.mesh.decode import Malformed, decode_json
from qmesh.mesh.systemd.instructions import describe_agent_restart
from qmesh.mesh.values import STATE_DIRECTORY
from qmesh.mesh.view.questions import ROOT, ReaderQuestion

T = TypeVar("T")

_OLD_S: Final = 5.0
"""Seconds after which it is said how old an answer is."""


def is_reader(state: State) -> bool:
    """Whether this process is not root's, and can only ask.

    Raises NeedsRoot where such a user names a state directory: what is answered is of the agent's own.
    """
    if os.geteuid() == ROOT:
        return False
    if state.directory != Path(STATE_DIRECTORY):
        raise NeedsRoot(
            "only root may pass --state: other users are answered by this machine's agent",
            hint="run the same command without --state, or with `sudo` before it",
        )
    return True


def ask_as_reader(question: ReaderQuestion, kind: type[T]) -> T:
    """The agent's answer, as a value of a type. Raises as `ask_agent`."""
    answer = ask_agent(question)
    found = read_answer(answer.octets, kind)
    if question == "check" and answer.age_s >= _OLD_S:
        report_event("talk", "this machine was checked %.0f s ago", answer.age_s)
    return found


def read_answer(octets: bytes, kind: type[T]) -> T:
    """An answer as a value of a type. Raises MachineRefused where it is none."""
    try:
        return decode_json(octets, kind)
    except Malformed:
        raise MachineRefused(
            "this machine's agent answers in another format: it runs another version of qmesh",
            hint=f"have root restart it: `{describe_agent_restart()}`",
        ) from None


def read_metrics_as_reader() -> str:
    """The text for Prometheus. Raises as `ask_agent`."""
    return ask_agent("metrics").octets.decode("utf-8", "replace")
