"""A host at which the whole network reaches a machine: an IP address or a DNS name."""

from __future__ import annotations

import ipaddress
from typing import Final

from qmesh.errors import BadInput
from qmesh.mesh.networks import SITE_NETWORKS
from qmesh.mesh.values import Endpoint, IPAddress, normalize_ip_address, parse_ip_address, quote_text

_GLOBAL_IPV6: Final = ipaddress.ip_network("2000::/3")
"""All that IANA has given out for the internet. Source: RFC 4291."""
_THIS_NETWORK: Final = ipaddress.ip_network("0.0.0.0/8")
_LOCAL_ZONES: Final = frozenset(
    {"localhost", "local", "internal", "intranet", "lan", "home", "corp", "private", "arpa"}
    | {"invalid", "test", "example"}
)
"""Last labels of names that the internet's DNS does not answer. Source: RFC 2606, 6761, 6762, 8375; ICANN."""
_USE: Final = "pass the address at which machines elsewhere reach it, such as 203.0.113.7 or node.example.org"


def parse_public_host(text: str) -> str:
    """The canonical text of an IP address or DNS name that the whole network reaches.

    Raises BadInput for everything else: with a port, private, loopback, wildcard, of a local zone.
    """
    host = _parse_host(text)
    reason = explain_private_host(host)
    if reason is None:
        return host
    raise BadInput(f"{quote_text(text)} cannot be announced: it is {reason}", hint=_USE)


def _parse_host(text: str) -> str:
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    if parse_ip_address(bare) is not None:
        return normalize_ip_address(bare)
    if any(character in text for character in "/:[]%"):
        raise BadInput(
            f"{quote_text(text)} is not an address alone",
            hint="leave port and protocol out: 203.0.113.7, 2001:db8::7 or node.example.org",
        )
    return Endpoint(text.lower().removesuffix("."), 1).host


def explain_private_host(host: str) -> str | None:
    """Why the network cannot reach a machine at a host, as the end of "it is"; None where it can."""
    address = parse_ip_address(host)
    if address is not None:
        return explain_private_address(address)
    zone = host.lower().rstrip(".").rpartition(".")
    if not zone[0]:
        return "a name without a domain"
    return f"a name of the local zone {zone[2]}" if zone[2] in _LOCAL_ZONES else None


def explain_private_address(address: IPAddress) -> str | None:
    """The same for an IP address."""
    if address.is_unspecified:
        return "every address of a machine"
    if address.is_loopback:
        return "an address at which a machine reaches only itself"
    if address.is_multicast:
        return "not the address of one machine"
    if any(address in network for network in SITE_NETWORKS):
        return "an address of a private network"
    is_usable = (
        address in _GLOBAL_IPV6
        if isinstance(address, ipaddress.IPv6Address)
        else not address.is_reserved and address not in _THIS_NETWORK
    )
    return None if is_usable else "not an address of the internet"
