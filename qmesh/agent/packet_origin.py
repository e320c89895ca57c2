"""Where machines' packets come from, by WireGuard's word."""

from __future__ import annotations

import contextlib
from functools import cached_property

from qmesh.errors import QmeshError
from qmesh.host import wireguard
from qmesh.host.network import links
from qmesh.mesh.desired import host_network


class PeerEndpoints:
    """The endpoints of an interface's peers, as they are when one is asked for first."""

    def __init__(self, interface: str) -> None:
        self._interface = interface

    def find(self, address: str) -> str | None:
        """The endpoint, `HOST:PORT`, of the peer with that tunnel address; None where it is not known."""
        return self._endpoints.get(host_network(address))

    @cached_property
    def _endpoints(self) -> dict[str, str | None]:
        with contextlib.suppress(QmeshError, OSError):
            if links.read(self._interface) is not None:
                device = wireguard.find_backend(self._interface).read(self._interface)
                ends = {key: each.endpoint for key, each in device.counters.items()}
                return {
                    network: None if (end := ends.get(peer.public_key)) is None else str(end)
                    for peer in device.peers
                    for network in peer.allowed_ips
                }
        return {}
