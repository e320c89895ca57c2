"""Where a machine's packets come from, by WireGuard's word."""

from __future__ import annotations

import contextlib

from qmesh.errors import QmeshError
from qmesh.host import wireguard
from qmesh.host.network import links
from qmesh.mesh.desired import host_network


def find_peer_endpoint(interface: str, address: str) -> str | None:
    """The endpoint, `HOST:PORT`, of the peer with that tunnel address; None where it is not known."""
    with contextlib.suppress(QmeshError, OSError):
        if links.read(interface) is None:
            return None
        device = wireguard.find_backend(interface).read(interface)
        for peer in device.peers:
            if host_network(address) in peer.allowed_ips:
                endpoint = device.counters[peer.public_key].endpoint
                return None if endpoint is None else str(endpoint)
    return None
