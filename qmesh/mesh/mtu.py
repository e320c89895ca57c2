"""The tunnel's MTU, from what the paths carry and what the user said."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from qmesh.errors import BadInput
from qmesh.mesh.values import TUNNEL_MTU, Endpoint, quote_text

LEAST_MTU: Final = 1280
"""Octets of an IPv6 packet that every link carries. Source: RFC 8200, section 5."""


LEAST_MTU_IPV4: Final = 576
"""Octets of an IPv4 packet that every machine takes. Source: RFC 791."""


def compute_tunnel_mtu(paths: Mapping[Endpoint, int], *, most: int | None = None) -> int:
    """The most bytes of a packet in the tunnel with which it fits all paths once WireGuard has wrapped it.

    paths: MTU of the path to each peer's endpoint. most: the limit that the user set.
    """
    rooms = (compute_room(endpoint, mtu) for endpoint, mtu in paths.items())
    fitting = max(LEAST_MTU, min(rooms, default=TUNNEL_MTU))
    return min(fitting, TUNNEL_MTU if most is None else most)


def compute_room(endpoint: Endpoint, path: int) -> int:
    """Bytes that WireGuard's packets to an endpoint have for a packet of the tunnel, on a path of that MTU.

    Source: 20 or 40 octets of IP, 8 of UDP, 32 of WireGuard.
    """
    return path - (80 if ":" in endpoint.host else 60)


def parse_mtu(text: str, network: str) -> int | None:
    """The MTU that a user said for a tunnel with addresses of that network; None for `auto`.

    Raises BadInput.
    """
    if text == "auto":
        return None
    least = LEAST_MTU if ":" in network else LEAST_MTU_IPV4
    if not re.fullmatch("[0-9]{1,5}", text) or not least <= int(text) <= TUNNEL_MTU:
        raise BadInput(
            f"{quote_text(text)} is not an MTU for this tunnel",
            hint=f"use a number from {least} to {TUNNEL_MTU}, or auto",
        )
    return int(text)
