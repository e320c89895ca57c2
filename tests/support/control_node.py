"""A control node as `init` leaves it in the files, for tests of what comes after."""

from __future__ import annotations

from pathlib import Path

from qmesh.agent.commands import init
from qmesh.host.state.directory import State
from qmesh.mesh.values import Profile


def make_control_node(
    state: State,
    *,
    endpoint: str = "192.0.2.1",
    network: str | None = "10.77.0.0/20",
    node: Profile = "1.4",
    config: Path | None = None,
) -> None:
    """Make a mesh with three workers there; its tunnel is never up."""
    wish = init.InitOptions(
        name=None,
        endpoints=(endpoint,),
        network=network,
        listen_port=None,
        workers=3,
        node=node,
        worker_base_port=None,
        config=config,
        interface=None,
    )
    init.init(state, wish, apply=False)
