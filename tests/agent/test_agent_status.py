"""What `check` says of this machine's agent, and of the process that holds the guard."""

from __future__ import annotations

import contextlib
import os
import socket

import pytest

from qmesh import __version__
from qmesh.agent.audit import agent_status
from qmesh.host.firewall import holder
from qmesh.host.state.directory import State
from qmesh.host.system import agent_health, background
from qmesh.mesh.audit.surroundings import HOLDER

KNOWN = agent_health.Trouble(part=HOLDER, reason="of the agent", hint="", since=0.0)


@pytest.mark.parametrize("troubles", [(), (KNOWN,)])
def test_a1_a_holder_that_does_not_answer_is_named_once_and_before_the_agent_knows(
    tmp_path, monkeypatch, troubles
):
    state = State(tmp_path)
    said = agent_health.Health(
        process=os.getpid(), looked_s=1.0, troubles=troubles, restarts=(), version=__version__
    )
    monkeypatch.setattr(background, "is_agent_running", lambda _: True)
    monkeypatch.setattr(agent_health, "request_health", lambda *_, **__: said)
    monkeypatch.setattr(agent_status, "AGENT_ANSWER_S", 0.1)
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as silent:
        silent.bind(str(tmp_path / holder.SOCKET))
        silent.listen()
        status, _ = agent_status.read_agent_status(state)
    assert status is not None
    (trouble,) = status.troubles
    assert trouble.part == HOLDER
    assert trouble.reason == (
        "of the agent" if troubles else "the process that holds the guard does not answer: timed out"
    )
    status, _ = agent_status.read_agent_status(state)  # nothing listens any more: none is wanted here
    assert status is not None
    assert len(status.troubles) == len(troubles)
