"""The walk of a packet through rules and tables, as the kernel's. Source: ip-rule(8), net/core/fib_rules.c.

The kernel's own answer is what counts. It does not tell why, and not what would be if a route were added.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final

import msgspec

from qmesh.mesh.networks import parse_ip_network
from qmesh.mesh.routes.tables import PolicyRule, RouteKind, TableRoute
from qmesh.mesh.values import parse_ip_address

_ENDS: Final[frozenset[RouteKind]] = frozenset({"blackhole", "unreachable", "prohibit"})
_TCP: Final = 6


class SentPacket(msgspec.Struct, frozen=True):
    """A packet of a socket on this machine that has no mark and is bound to no interface.

    source: None where the kernel chooses it. user: the socket's owner. port: of TCP, at its destination; None
    where any is meant.
    """

    destination: str
    source: str | None = None
    user: int = 0
    port: int | None = None


class RouteVerdict(msgspec.Struct, frozen=True):
    """Where a packet goes. rule, route: what says so; None where nothing does, or the rule alone."""

    rule: PolicyRule | None
    route: TableRoute | None

    @property
    def is_sent(self) -> bool:
        """Whether the packet leaves this machine, or arrives on it."""
        return self.route is not None and self.route.kind not in _ENDS


class RouteLookup:
    """Rules and routes of one family, whose networks are parsed once, for as many packets as there are.

    rules: in their order. routes: at least those that lead to the packets' destinations; of equal ones the
    first counts.
    """

    def __init__(self, rules: Iterable[PolicyRule], routes: Iterable[TableRoute]) -> None:
        self._rules = tuple(rules)
        self._tables: dict[int, _Table] = {}
        for route in routes:
            self._tables.setdefault(route.table, _Table()).add(route)

    def find_verdict(self, packet: SentPacket) -> RouteVerdict:
        """What the first rule that has something to say makes of a packet."""
        least = 0  # after a jump, the priority to go on at
        for rule in self._rules:
            if rule.priority < least or not is_rule_met(rule, packet):
                continue
            if rule.action == "goto":
                least = rule.target
            elif rule.action in _ENDS:
                return RouteVerdict(rule, None)
            elif rule.action == "lookup" and rule.table in self._tables:
                route = self._tables[rule.table].find_best_route(packet.destination)
                if route is not None and not _is_suppressed(rule, route):
                    return RouteVerdict(rule, route)
        return RouteVerdict(None, None)


class _Table:
    """The routes of a table, those that count, by the length of their networks and the networks' bits."""

    def __init__(self) -> None:
        self._routes: dict[int, dict[int, TableRoute]] = {}

    def add(self, route: TableRoute) -> None:
        network = ipaddress.ip_network(route.network)
        alike = self._routes.setdefault(network.prefixlen, {})
        bits = int(network.network_address) >> network.max_prefixlen - network.prefixlen
        if bits not in alike or route.metric < alike[bits].metric:
            alike[bits] = route

    def find_best_route(self, destination: str) -> TableRoute | None:
        to = parse_ip_address(destination)
        assert to is not None, "packets are sent to addresses"
        for length in sorted(self._routes, reverse=True):
            route = self._routes[length].get(int(to) >> to.max_prefixlen - length)
            if route is not None:
                # One that is thrown leads back to the rules.
                return None if route.kind == "throw" else route
        return None


def is_rule_met(rule: PolicyRule, packet: SentPacket) -> bool:
    """Whether a rule is for this packet."""
    return _are_conditions_met(rule, packet) != rule.is_inverted


def _are_conditions_met(rule: PolicyRule, packet: SentPacket) -> bool:
    if rule.is_other or rule.outgoing is not None or rule.source_ports is not None:
        return False
    if rule.mark & rule.mask or rule.incoming not in {None, "lo"}:
        return False
    return (
        _is_inside(packet.destination, rule.destination)
        and _is_inside(packet.source, rule.source)
        and _is_between(packet.user, rule.users)
        and _is_between(packet.port, rule.ports)
        and rule.protocol in {0, _TCP if packet.port is not None else 0}
    )


def _is_inside(address: str | None, network: str | None) -> bool:
    """A source that is not chosen yet is the address of no bits, as to the kernel."""
    if network is None:
        return True
    if address is None:
        return False
    return parse_ip_address(address) in parse_ip_network(network)


def _is_between(number: int | None, span: tuple[int, int] | None) -> bool:
    return span is None or (number is not None and span[0] <= number <= span[1])


def _is_suppressed(rule: PolicyRule, route: TableRoute) -> bool:
    """Only what would be sent: an end is an end."""
    return (
        rule.suppress is not None
        and route.kind not in _ENDS
        and parse_ip_network(route.network).prefixlen <= rule.suppress
    )
