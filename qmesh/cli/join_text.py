"""Where a machine stands in its mesh, in words: the answer of `init` and `join`."""

from __future__ import annotations

from qmesh.agent.local import Standing
from qmesh.mesh.model import ranges_text


def in_words(standing: Standing) -> str:
    """Three lines that a user compares with what they meant."""
    cores = standing.cores
    numbers = (
        "no cores, as it is paused" if cores is None else f"cores {cores.numbers[0]}-{cores.numbers[-1]}"
    )
    return (
        f"{standing.name} is in mesh {standing.mesh}, at {standing.address} on {standing.interface}"
        f" (UDP port {standing.listen_port})\n"
        f"{numbers}, worker ports {ranges_text(standing.ports) or 'none'},"
        f" node {standing.node}\n"
        f"public key {standing.public_key}"
    )
