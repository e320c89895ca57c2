"""Whether the guard lets an address in, as its rules do."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from ipaddress import IPv4Network, IPv6Network

from qmesh.mesh.state import Guard


def can_reach_port(
    guard: Guard,
    port: int,
    source: str,
    *,
    own: AbstractSet[str],
    members: Iterable[IPv4Network | IPv6Network] = (),
) -> bool:
    """Whether the guard lets an address in to a closed port; its packets must still come its way.

    own: the machine's addresses. members: the networks that its tunnel leads to.
    """
    guarded = port in guard.guarded_ports
    if (guarded or guard.role == "control") and (source in own or ipaddress.ip_address(source).is_loopback):
        return True
    if port in guard.mesh_ports:
        return any(ipaddress.ip_address(source) in network for network in members)
    return (
        guard.role == "worker"
        and source == guard.control_address
        and (not guarded or port in guard.control_ports)
    )
