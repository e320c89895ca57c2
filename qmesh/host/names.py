"""DNS: names of endpoints to addresses. The only look-ups that qmesh makes."""

from __future__ import annotations

import socket

from qmesh.mesh.model import Endpoint


def resolve(endpoint: Endpoint) -> Endpoint | None:
    """The endpoint with an IP address for its host; None when the name cannot be looked up now."""
    if endpoint.is_address:
        return endpoint
    try:
        found = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_DGRAM)
    except OSError:
        return None
    addresses = (str(entry[4][0]) for entry in found)
    # A link-local one is good on one interface only, which Python does not name in the address.
    usable = [address for address in addresses if not address.startswith("fe80:")]
    return Endpoint(usable[0], endpoint.port) if usable else None
