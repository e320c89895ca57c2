"""In the agent's place a process that says it is well, serves members, and mends nothing: `idle_agent.py`.

Prints `held` once it has that place.
"""

# ruff: noqa: T201  # a program of the lab, it prints its answer

from __future__ import annotations

import os
from pathlib import Path

from qmesh import __version__
from qmesh.agent.daemon.loop_events import LookRequests
from qmesh.agent.daemon.membership.api import ControlNode
from qmesh.agent.local import load_local
from qmesh.host.api.server import Service
from qmesh.host.state.directory import State
from qmesh.host.system import agent_health, agent_notify, processes


def serve(state: State) -> None:
    """Answer members, as the control node's agent does."""
    here = load_local(state)
    Service(
        ControlNode(state, changed=lambda: None, turns=LookRequests(lambda: None)),
        address=here.machine.address,
        port=here.inventory.service_port,
        interface=here.settings.interface,
        told=agent_notify.listen(state.directory),
    ).start()


def main() -> None:
    """Hold the place until killed."""
    state = State(Path("/var/lib/qmesh"))
    well = agent_health.Health(
        process=os.getpid(), looked_s=0.0, troubles=(), restarts=(), version=__version__
    )
    with (
        processes.acquire_process_lock(state.agent_lock_file) as alone,
        agent_health.listen(state.directory) as listening,
    ):
        assert alone
        if state.settings().control:
            serve(state)
        print("held", flush=True)
        while True:
            agent_health.send_health(listening.accept()[0], well)


if __name__ == "__main__":
    main()
