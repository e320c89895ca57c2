"""Where a machine stands in its mesh, in words: the answer of `init` and `join`."""

from __future__ import annotations

from qmesh.agent.local import JoinResult
from qmesh.cli.core_text import describe_cores
from qmesh.cli.port_text import describe_own_ports
from qmesh.mesh.ports.port_ranges import format_port_ranges


def render_join_result(standing: JoinResult) -> str:
    """Lines that a user compares with what they meant."""
    cores = standing.cores
    numbers = "no cores, as it is paused" if cores is None else describe_cores(cores.first, cores.count)
    opened = "".join(f"\n{line}" for line in describe_own_ports(standing.open_ports))
    return (
        f"{standing.name} is in mesh {standing.mesh}, at {standing.address} on {standing.interface}"
        f" (UDP port {standing.listen_port})\n"
        f"{numbers}, worker ports {format_port_ranges(standing.ports) or 'none'},"
        f" node {standing.node}\n"
        f"public key {standing.public_key}{opened}"
    )
