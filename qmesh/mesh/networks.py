"""The tunnel network: one that is free on a machine, and its addresses."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable
from functools import lru_cache
from typing import TypeAlias

import msgspec

from qmesh.errors import BadInput
from qmesh.mesh.values import parse_ip_address

IPNetwork: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

SITE_NETWORKS = tuple(
    ipaddress.ip_network(text)
    for text in (
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",
        "169.254.0.0/16",
        "fc00::/7",
        "fe80::/10",
    )
)
"""Where no router of the internet leads. Source: RFC 1918, 3927, 4193, 4291, 6598."""

CLOUD_NETWORKS = tuple(
    ipaddress.ip_network(text) for text in ("10.0.0.0/8", "100.64.0.0/10", "172.31.0.0/16", "192.168.0.0/16")
)
"""What clouds, VPNs and LANs route as a whole, though a machine in them sees a part of it only.

A machine that has one address or route of it leaves all of it alone.
"""

CANDIDATE_NETWORKS = (
    *(f"10.{octet}.0.0/20" for octet in range(77, 256)),
    *(f"172.{octet}.16.0/20" for octet in (*range(30, 18, -1), 16)),
)
"""Networks that `init` tries in this order: room for 4,094 machines each.

Left out are 172.17 and 172.18, of container runtimes, 172.31, of clouds, and 192.168, of LANs.
"""


class OccupiedNetwork(msgspec.Struct, frozen=True):
    """A network that a machine has a use for.

    by: what uses it, in words. is_routed: whether the machine has an address in it, or its own route to it.
    """

    network: str
    by: str
    is_routed: bool = True

    @property
    def ip_network(self) -> IPNetwork:
        """The network."""
        return parse_ip_network(self.network)


def find_lowest_free_address(network: str, taken: Collection[str]) -> str:
    """The lowest address of `network` that is not taken.

    The first and last address of an IPv4 network are left out, and an IPv6 network's first.
    Raises BadInput when all are taken.
    """
    hosts = ipaddress.ip_network(network)
    for number in range(1, network_capacity(hosts) + 1):
        address = str(hosts.network_address + number)
        if address not in taken:
            return address
    raise BadInput(
        f"every address of the tunnel network {network} is taken",
        hint="remove machines, or make a new mesh with a larger --network",
    )


def refuse_small_network(network: str) -> None:
    """Raise BadInput when a tunnel network has no room for two machines."""
    if network_capacity(ipaddress.ip_network(network)) < 2:
        raise BadInput(
            f"the tunnel network {network} has no room for two machines",
            hint="use a larger one, such as 10.77.0.0/20",
        )


def choose_network(occupied: Collection[OccupiedNetwork]) -> str:
    """The first candidate network that overlaps with none of `occupied`, nor with a cloud's that one is in.

    Raises BadInput when all do.
    """
    routed = [each for each in occupied if each.is_routed]
    clouds = tuple(
        OccupiedNetwork(str(cloud), "a cloud")
        for cloud in CLOUD_NETWORKS
        if find_overlap(str(cloud), routed) is not None
    )
    for candidate in CANDIDATE_NETWORKS:
        if find_overlap(candidate, (*occupied, *clouds)) is None:
            return candidate
    raise BadInput(
        "all private networks that qmesh tries are in use on this machine",
        hint="pass a network that is free with --network, such as fd12:3456:789a::/64",
    )


def refuse_collision(network: str, occupied: Iterable[OccupiedNetwork], *, hint: str) -> None:
    """Raise BadInput when `network` overlaps with one of `occupied`, naming both."""
    other = find_overlap(network, occupied)
    if other is not None:
        raise BadInput(
            f"the tunnel network {network} collides with {other.network} of this machine: {other.by}",
            hint=hint,
        )


def find_overlap(network: str, occupied: Iterable[OccupiedNetwork]) -> OccupiedNetwork | None:
    """The first of `occupied` that shares an address with `network`; a default route never does."""
    wanted = ipaddress.ip_network(network)
    for other in occupied:
        there = other.ip_network
        if there.prefixlen > 0 and there.version == wanted.version and there.overlaps(wanted):
            return other
    return None


def refuse_endpoint_inside(network: str, host: str) -> None:
    """Raise BadInput when an endpoint's host is an address of the tunnel network itself."""
    address = parse_ip_address(host)
    if address is not None and address in parse_ip_network(network):
        raise BadInput(
            f"endpoint {host} is an address of the tunnel network {network}",
            hint="pass the address at which other machines reach this one outside the tunnel",
        )


@lru_cache(1 << 10)
def parse_ip_network(text: str) -> IPNetwork:
    """A network of canonical text, parsed. Of thousands of machines each is asked about the same few."""
    return ipaddress.ip_network(text)


def network_capacity(network: IPNetwork) -> int:
    """How many machines fit: all but the network's first address, and IPv4's broadcast."""
    return int(network.num_addresses) - (2 if network.version == 4 else 1)


@lru_cache(1 << 15)
def is_host_address(text: str, network: str) -> bool:
    """Whether a machine can have an address in a network of canonical text.

    Of thousands of machines each is asked about whenever one comes.
    """
    address, within = parse_ip_address(text), parse_ip_network(network)
    if address is None or (":" in text) != (within.version == 6):
        return False
    return 1 <= int(address) - int(within.network_address) <= network_capacity(within)
