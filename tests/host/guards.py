"""The guard that tests of loading and keeping one have."""

from __future__ import annotations

from qmesh.mesh.state import Guard


def guard(*ports: int) -> Guard:
    """Of a worker machine with these ports."""
    return Guard(
        role="worker",
        interface="qmesh0",
        kind="tun",
        listen_port=51820,
        control_address="10.77.0.1",
        service_port=51820,
        ports=ports,
    )
