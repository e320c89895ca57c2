"""Which packets of the tunnel its path carries."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from qmesh.mesh.audit.findings import Finding, error_finding, warning_finding
from qmesh.mesh.audit.surroundings import AuditContext, BlackHole
from qmesh.mesh.mtu import LEAST_MTU, LEAST_MTU_IPV4, compute_room
from qmesh.mesh.state import Tunnel

_NO_ROOM: Final = (
    "find the link on that path whose MTU is too small, and raise it; `tracepath` helps to find it"
)


def black_hole_finding(interface: str, hole: BlackHole) -> Finding:
    """A path that swallows packets which fill the tunnel."""
    from_there = hole.direction == "from"
    wanted = f"packets of {hole.sent} bytes arrive {'from' if from_there else 'at'} {hole.to} via {hole.by}"
    if hole.passes is None:
        return error_finding("tunnel-mtu", interface, wanted, "only the smallest packets arrive", _NO_ROOM)
    ways = {"to": f" to {hole.to}", "from": f" from {hole.to}", "both": ""}
    seen = f"a black hole: packets above {hole.passes} bytes are lost on the path{ways[hole.direction]}"
    return error_finding("tunnel-mtu", interface, wanted, seen, f"qmesh apply --mtu {hole.passes}")


def narrow_path_findings(
    wanted: Tunnel | None, seen: Tunnel | None, around: AuditContext
) -> Iterator[Finding]:
    """A tunnel whose packets have to be sent in fragments, as WireGuard's own do not fit the path.

    That is so below 1340 bytes, as qmesh chooses no MTU below 1280. Where fragments are lost, the path is a
    black hole.
    """
    path = around.narrow_path
    if path is None or wanted is None or seen is None or around.black_hole is not None:
        return
    if seen.mtu != wanted.mtu:  # which is to be fixed first
        return
    room = compute_room(path.endpoint, path.mtu)
    outer = seen.mtu + path.mtu - room
    is_ipv6 = any(":" in address for address in seen.addresses)
    yield warning_finding(
        "tunnel-mtu",
        seen.interface,
        f"packets that fit the path of {path.mtu} bytes to {path.endpoint}",
        f"the tunnel's MTU of {seen.mtu} makes WireGuard's packets {outer} bytes: each is sent as two"
        " fragments, which many networks drop",
        f"qmesh apply --mtu {room}" if room >= (LEAST_MTU if is_ipv6 else LEAST_MTU_IPV4) else _NO_ROOM,
    )
