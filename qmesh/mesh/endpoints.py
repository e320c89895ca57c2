"""The endpoints of another machine: which there are, which is nearest, and when another is tried."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from qmesh.mesh.values import Endpoint, parse_ip_address

MOST_ENDPOINTS: Final = 16
"""Of an invitation."""
NOISE_S: Final = 0.005
"""Seconds by which two ways may differ and still be equally near."""
ASK_S: Final = 8.0
"""Seconds without a packet from the control node after which it is asked for one."""
QUIET_S: Final = 20.0
"""Seconds without a packet from the control node, though it was asked, after which another endpoint is tried.

With a look every 5 s, and a probe at each from 8 s on, at least two probes had no answer by then, and neither
had WireGuard's new handshake after 15 s of silence.
"""
INITIATION: Final = 148
"""Octets of the message by which WireGuard begins a handshake. Source: its protocol's page."""

_PRIVATE: Final = tuple(
    map(
        ipaddress.ip_network,
        ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"),
    )
)
"""RFC 1918, RFC 6598, RFC 4193: good within a site only."""


def is_private(endpoint: Endpoint) -> bool:
    """Whether an endpoint is an address that is good within a site only."""
    address = parse_ip_address(endpoint.host)
    return address is not None and any(address in network for network in _PRIVATE)


def list_candidate_endpoints(
    given: Sequence[Endpoint], own: Iterable[str], listen_port: int
) -> tuple[Endpoint, ...]:
    """Where an invited machine is to look for the control node, best guess first.

    given: what its user said. own: its own addresses, of which the private ones are added; all, where
    its user said nothing. That they tell of its LAN is no matter: an invitation is a secret. At the
    joiner, such an address may be another machine's, which then gets one packet that it can't answer.
    """
    ways = (Endpoint(address, listen_port) for address in own)
    return tuple(dict.fromkeys((*given, *(way for way in ways if not given or is_private(way)))))[
        :MOST_ENDPOINTS
    ]


def sort_by_locality(endpoints: Iterable[Endpoint], attached: Iterable[str]) -> tuple[Endpoint, ...]:
    """First those in a network that this machine is itself in, last other sites' private ones.

    attached: networks, `192.168.0.0/24`. Otherwise the order stays.
    """
    networks = [ipaddress.ip_network(network) for network in attached]

    def rank(endpoint: Endpoint) -> int:
        address = parse_ip_address(endpoint.host)
        if address is not None and any(address in network for network in networks):
            return 0
        return 2 if is_private(endpoint) else 1

    return tuple(sorted(endpoints, key=rank))


def sort_by_latency(ways: Sequence[Endpoint], times: Mapping[Endpoint, float]) -> tuple[Endpoint, ...]:
    """The ways, the nearest first; those that did not answer stay behind, in their order.

    ways: in order of preference, which decides among the equally near. times: seconds of a round trip.
    """
    fastest = min(times.values(), default=0.0)
    nearest = [way for way in ways if times.get(way, fastest + 1) <= fastest + NOISE_S][:1]
    others = sorted((way for way in ways if way in times), key=lambda way: times[way])
    return tuple(dict.fromkeys((*nearest, *others, *ways)))


class ControlNodeActivity(msgspec.Struct, frozen=True):
    """When the control node last sent something.

    received_bytes: from it, as WireGuard counts; received_at_s: when that changed last, on a monotonic clock.
    tried_endpoints: how many other endpoints were tried since.
    """

    received_bytes: int
    received_at_s: float
    tried_endpoints: int = 0

    def record_received(self, octets: int, now_s: float) -> ControlNodeActivity:
        """The same after a look at the count. A smaller count means that the peer was added again.

        A peer that only begins handshakes receives nothing: that is no answer, as one direction is dead.
        """
        more = octets - self.received_bytes if octets >= self.received_bytes else octets
        if more % INITIATION:
            return ControlNodeActivity(octets, now_s)
        return msgspec.structs.replace(self, received_bytes=octets)

    def record_endpoint_change(self) -> ControlNodeActivity:
        """The same after another endpoint was taken: the peer is added again, and its count starts at 0."""
        return msgspec.structs.replace(self, received_bytes=0, tried_endpoints=self.tried_endpoints + 1)

    def is_probe_due(self, now_s: float) -> bool:
        """Whether it is time to ask for a packet."""
        return now_s - self.received_at_s >= ASK_S

    def is_lost(self, now_s: float) -> bool:
        """Whether it is time for another way."""
        return now_s - self.received_at_s >= QUIET_S


def choose_next_endpoint(ways: Sequence[Endpoint], now: Endpoint | None) -> Endpoint | None:
    """The way after the one that is taken now, round and round; None where there is no other."""
    if now not in ways:
        return next(iter(ways), None)
    following = ways[(ways.index(now) + 1) % len(ways)]
    return None if following == now else following


def move_endpoint_first(endpoints: Sequence[Endpoint], works: Endpoint) -> tuple[Endpoint, ...]:
    """The endpoints with the one that works first."""
    return tuple(dict.fromkeys((works, *endpoints)))
