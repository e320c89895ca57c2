"""A packet of an example in one line."""

from __future__ import annotations

from qmesh.mesh.printable import escape_line
from qmesh.mesh.prover.examples import ExamplePacket


def describe_packet(packet: ExamplePacket) -> str:
    """Its protocol, ends, interfaces and connection."""
    came = f" by {packet.came_by}" if packet.came_by else ""
    goes = f", out by {packet.goes_by}" if packet.goes_by else ""
    flags = f" {','.join(packet.flags)}" if packet.flags else ""
    user = "" if packet.user is None else f", of user {packet.user}"
    ends = f"{_join(packet.source, packet.source_port)} to {_join(packet.target, packet.target_port)}"
    return escape_line(f"{packet.protocol}{flags} from {ends}{came}{goes}, connection: {packet.state}{user}")


def _join(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
