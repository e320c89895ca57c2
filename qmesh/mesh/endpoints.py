"""The endpoints of another machine: which there are, which is nearest, and when another is tried."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Final

import msgspec

from qmesh.mesh.inventory import Inventory
from qmesh.mesh.machine import Machine
from qmesh.mesh.state import Counters, NodeState
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
ROUNDS: Final = 3
"""Times that a joining machine tries each of the control node's endpoints."""
_FEW: Final = 4
"""Endpoints for which there is time to wait twice as long."""
FRESH_S: Final = 180
"""Seconds that a handshake counts as fresh. Source: WireGuard's REJECT_AFTER_TIME."""

_IPV4_ONLY: Final = frozenset({bytes((192, 0, 0, 170)), bytes((192, 0, 0, 171))})
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


def find_translating_network(address: str) -> str | None:
    """The network of which one of the addresses of ipv4only.arpa is a translation; None where it is none.

    Only of networks of 96 bits, which nearly all are. Source: RFC 7050, RFC 6052.
    """
    octets = ipaddress.ip_address(address).packed
    if len(octets) == 16 and octets[12:] in _IPV4_ONLY:
        return str(ipaddress.ip_network((octets[:12] + bytes(4), 96)))
    return None


def translate_endpoint(endpoint: Endpoint, network: str) -> Endpoint:
    """An endpoint of IPv4 as a machine without IPv4 reaches it. network: the translating one, of 96 bits."""
    octets = ipaddress.ip_network(network).network_address.packed[:12]
    address = ipaddress.ip_address(octets + ipaddress.IPv4Address(endpoint.host).packed)
    return Endpoint(str(address), endpoint.port)


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


def index_addresses(found: Mapping[Endpoint, tuple[Endpoint, ...]]) -> dict[Endpoint, Endpoint]:
    """The addresses of endpoints, in their order, each with the first endpoint that it is of."""
    of: dict[Endpoint, Endpoint] = {}
    for endpoint, addresses in found.items():
        for address in addresses:
            of.setdefault(address, endpoint)
    return of


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


def attempt_wait_s(turn: int, number: int, among: int) -> float:
    """Seconds to wait for a connection. Once it is long enough for a control node behind NAT to call us.

    Its WireGuard repeats a handshake after 5.
    """
    if turn == ROUNDS - 1 and number == 0:
        return 6.0
    return 2.0 if turn and among <= _FEW else 1.0


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


def list_peer_endpoints(
    inventory: Inventory, name: str, control_endpoints: tuple[Endpoint, ...]
) -> list[tuple[Machine, tuple[Endpoint, ...]]]:
    """The machines that this one knows how to reach, each with its endpoints, best first.

    control_endpoints: the control node's, for a worker machine.
    """
    others = inventory.machines if inventory.machine(name) in inventory.hubs else inventory.hubs
    known = [
        (machine, machine.endpoints)
        for machine in others
        if machine.endpoints and machine.name not in {name, inventory.control}
    ]
    return known if inventory.control == name else [(inventory.control_node, control_endpoints), *known]


def list_lookups(
    peers: Iterable[tuple[Machine, tuple[Endpoint, ...]]],
    observed: NodeState,
    stale: AbstractSet[str] = frozenset(),
) -> list[tuple[tuple[Endpoint, ...], bool]]:
    """The endpoints to look up now, of each machine that is nowhere, or is not heard where it is.

    DNS that is slow, down or changing must not disturb a tunnel that works.
    peers: as `list_peer_endpoints` has them; stale: public keys of those that are not heard.
    Returns with each whether all of them are needed, not only the first that has an address.
    """
    seen = list_seen_endpoints(observed)
    wanted = ((endpoints, machine.public_key, seen.get(machine.public_key)) for machine, endpoints in peers)
    return [
        (endpoints, where is not None)
        for endpoints, key, where in wanted
        if where not in endpoints and (where is None or key in stale)
    ]


def choose_peer_endpoints(
    peers: Iterable[tuple[Machine, tuple[Endpoint, ...]]],
    observed: NodeState,
    resolved: Mapping[Endpoint, tuple[Endpoint, ...]],
    stale: AbstractSet[str] = frozenset(),
) -> dict[str, Endpoint]:
    """Where each machine is to be reached: where it is now, if that is one of its endpoints.

    resolved: the addresses of what was looked up; a machine left out stays where it is.
    """
    seen = list_seen_endpoints(observed)
    chosen = {
        machine.name: choose_peer_endpoint(
            endpoints, seen.get(machine.public_key), resolved, is_stale=machine.public_key in stale
        )
        for machine, endpoints in peers
    }
    return {name: endpoint for name, endpoint in chosen.items() if endpoint is not None}


def choose_peer_endpoint(
    endpoints: tuple[Endpoint, ...],
    seen: Endpoint | None,
    resolved: Mapping[Endpoint, tuple[Endpoint, ...]],
    *,
    is_stale: bool = False,
) -> Endpoint | None:
    """Where a machine with these endpoints, best first, is to be reached; None leaves it open.

    seen: where it is now. resolved: the addresses of what was looked up.
    """
    if seen in endpoints:
        return seen
    if seen is not None and not is_stale and not all(endpoint.is_address for endpoint in endpoints):
        return None
    found = [
        address
        for endpoint in endpoints
        for address in ((endpoint,) if endpoint.is_address else resolved.get(endpoint, ()))
    ]
    return seen if seen in found else next(iter(found), None)


def list_seen_endpoints(observed: NodeState) -> dict[str, Endpoint | None]:
    """Where each peer is now, by public key."""
    return {peer.public_key: peer.endpoint for peer in observed.tunnel.peers} if observed.tunnel else {}


def find_roamed_endpoints(
    inventory: Inventory, counters: Mapping[str, Counters], chosen: Mapping[str, Endpoint], at_s: float
) -> dict[str, Endpoint]:
    """Where peers with a fresh handshake are, other than chosen: WireGuard followed them, and was right to.

    chosen: by machine name. at_s: Unix time.
    """
    old = find_stale_keys(counters, at_s)
    seen = {
        machine.name: counters[machine.public_key].endpoint
        for machine in inventory.machines
        if machine.name in chosen and machine.public_key in counters and machine.public_key not in old
    }
    return {
        name: endpoint for name, endpoint in seen.items() if endpoint is not None and endpoint != chosen[name]
    }


def find_stale_keys(counters: Mapping[str, Counters], at_s: float) -> frozenset[str]:
    """The public keys of peers without a fresh handshake; none is fresh that is of the future.

    at_s: Unix time.
    """
    return frozenset(
        key
        for key, count in counters.items()
        if count.last_handshake_s is None or abs(at_s - count.last_handshake_s) >= FRESH_S
    )
